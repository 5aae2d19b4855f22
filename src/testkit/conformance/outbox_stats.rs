//! How much waits.

use sqlx::Database;

use super::bench::{Finding, ensure, same};
use super::outbox_find::OutboxBench;

pub(super) async fn the_statistics_count_what_waits<DB: Database>(bench: &OutboxBench<DB>) -> Finding {
    bench.drain().await?;
    let before = bench.subject.stats(&mut *bench.conn().await?).await?;
    bench.fill(7, 3).await?;
    let stats = bench.subject.stats(&mut *bench.conn().await?).await?;
    same("number that waits", stats.pending, before.pending + 7)?;
    ensure(stats.oldest.is_some() && stats.oldest_age.is_some(), "the oldest has no time or age")?;
    bench.drain().await?;
    let after = bench.subject.stats(&mut *bench.conn().await?).await?;
    same("number that waits after all were acknowledged", after.pending, before.pending)
}

pub(super) async fn the_lag_counts_what_is_due<DB: Database>(bench: &OutboxBench<DB>) -> Finding {
    bench.fill(9, 4).await?;
    let lag = bench.subject.lag(&mut *bench.conn().await?).await?;
    same("number that is due in all partitions", lag.iter().map(|lag| lag.pending).sum::<u64>(), 9)?;
    ensure(lag.iter().all(|lag| lag.pending > 0), "a partition is listed that has none")?;
    bench.drain().await?;
    let lag = bench.subject.lag(&mut *bench.conn().await?).await?;
    same("partitions that lag after all were acknowledged", lag, Vec::new())
}
