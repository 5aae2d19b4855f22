//! The verb `outbox`.

use sagastore::{Backend, MessageStore, OutboxRepository, OutboxStats, PartitionLag, TimeoutStats};
use serde_json::json;
use sqlx::Pool;

use crate::connect::{Connected, with_pool};
use crate::output::{Output, age};
use crate::verdict::{Failure, Outcome, Verdict};

pub(crate) async fn run(connected: &Connected, output: &mut Output) -> Outcome {
    with_pool!(connected, pool => tell(pool, output).await)
}

pub(crate) fn refused<DB: Backend>(store: &DB::Store, error: sqlx::Error) -> Failure {
    store.classify("taking a connection", error).into()
}

async fn tell<DB: Backend>(pool: &Pool<DB>, output: &mut Output) -> Outcome {
    let store = DB::Store::default();
    let mut conn = pool.acquire().await.map_err(|error| refused::<DB>(&store, error))?;
    let stats = store.stats(&mut conn).await?;
    let lag = store.lag(&mut conn).await?;
    let timeouts = store.timeout_stats(&mut conn).await?;
    if output.is_json() {
        output.object(&json!({
            "pending": stats.pending,
            "oldest": stats.oldest.map(|oldest| oldest.to_string()),
            "oldest_age_seconds": stats.oldest_age.map(|age| age.as_secs_f64()),
            "dead_letters": stats.dead_letters,
            "timeouts": timeouts.pending,
            "timeouts_overdue": timeouts.overdue,
            "first_timeout_due": timeouts.first_due.map(|due| due.to_string()),
            "partitions": lag.iter().map(partition).collect::<Vec<_>>(),
        }))?;
    } else {
        print(&stats, &timeouts, &lag, output)?;
    }
    output.flush()?;
    Ok(Verdict::Fine)
}

fn partition(lag: &PartitionLag) -> serde_json::Value {
    json!({
        "partition": lag.partition,
        "pending": lag.pending,
        "oldest_age_seconds": lag.oldest_age.as_secs_f64(),
    })
}

fn print(
    stats: &OutboxStats,
    timeouts: &TimeoutStats,
    lag: &[PartitionLag],
    output: &mut Output,
) -> std::io::Result<()> {
    output.line(format_args!("messages that wait:  {}", stats.pending))?;
    if let (Some(oldest), Some(span)) = (stats.oldest, stats.oldest_age) {
        output.line(format_args!("the oldest:          {oldest}, {} ago", age(span)))?;
    }
    output.line(format_args!("dead letters:        {}", stats.dead_letters))?;
    output.line(format_args!("timeouts that wait:  {}, {} of them overdue", timeouts.pending, timeouts.overdue))?;
    if lag.is_empty() {
        return Ok(());
    }
    let mut rows = vec![vec!["PARTITION".to_owned(), "DUE".to_owned(), "OLDEST".to_owned()]];
    rows.extend(lag.iter().map(|lag| vec![lag.partition.to_string(), lag.pending.to_string(), age(lag.oldest_age)]));
    output.table(&rows)
}
