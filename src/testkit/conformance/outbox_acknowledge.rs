//! Acknowledging what was delivered.

use sqlx::Database;

use super::bench::{Finding, found, same};
use super::outbox_find::{OutboxBench, numbers};
use crate::error::Cause;
use crate::outbox::{DeadLetters, OutboxId};

impl<DB: Database> OutboxBench<DB> {
    /// Acknowledges in a transaction of its own.
    async fn acknowledge(&self, batch_size: u32, ids: &[OutboxId]) -> Result<u64, Cause> {
        let mut tx = self.begin().await?;
        let left = self.subject.delete_in_batches(&mut tx, batch_size, ids).await?;
        tx.commit().await?;
        Ok(left)
    }

    /// The ids of all that is due.
    async fn ids(&self) -> Result<Vec<OutboxId>, Cause> {
        Ok(self.all().await?.iter().map(|record| record.id).collect())
    }
}

pub(super) async fn what_is_acknowledged_leaves_and_nothing_else<DB: Database>(bench: &OutboxBench<DB>) -> Finding {
    bench.fill(10, 3).await?;
    let records = bench.all().await?;
    let (leaving, staying) = records.split_at(4);
    let ids: Vec<_> = leaving.iter().map(|record| record.id).collect();
    same("number that left", bench.acknowledge(100, &ids).await?, 4)?;
    same("what is left", bench.all().await?, staying.to_vec())?;
    same("number that left of none", bench.acknowledge(100, &[]).await?, 0)
}

pub(super) async fn records_are_acknowledged_out_of_order<DB: Database>(bench: &OutboxBench<DB>) -> Finding {
    bench.fill(10, 1).await?;
    let ids = bench.ids().await?;
    let odd: Vec<_> = ids.iter().skip(1).step_by(2).rev().copied().collect();
    same("number that left", bench.acknowledge(100, &odd).await?, 5)?;
    same("what is left", numbers(&bench.all().await?)?, vec![0, 2, 4, 6, 8])
}

pub(super) async fn what_is_acknowledged_twice_counts_once<DB: Database>(bench: &OutboxBench<DB>) -> Finding {
    bench.fill(4, 1).await?;
    let ids = bench.ids().await?;
    let first = [*found("the first record", ids.first())?];
    same("number that left", bench.acknowledge(100, &first).await?, 1)?;
    same("number that left again", bench.acknowledge(100, &first).await?, 0)?;
    same("number that left of all", bench.acknowledge(100, &ids).await?, 3)?;
    same("number of records left", bench.all().await?.len(), 0)
}

pub(super) async fn acknowledging_in_small_batches_acknowledges_all<DB: Database>(bench: &OutboxBench<DB>) -> Finding {
    for batch_size in [1, 3, 10] {
        bench.fill(10, 3).await?;
        let ids = bench.ids().await?;
        same("number that left", bench.acknowledge(batch_size, &ids).await?, 10)?;
        same("number of records left", bench.all().await?.len(), 0)?;
    }
    Ok(())
}

pub(super) async fn an_acknowledgement_that_is_rolled_back_did_not_happen<DB: Database>(
    bench: &OutboxBench<DB>,
) -> Finding {
    bench.fill(5, 2).await?;
    let records = bench.all().await?;
    let ids: Vec<_> = records.iter().map(|record| record.id).collect();
    let mut tx = bench.begin().await?;
    bench.subject.delete_in_batches(&mut tx, 100, &ids).await?;
    tx.rollback().await?;
    same("what is left", bench.all().await?, records)
}

pub(super) async fn what_waits_is_no_dead_letter<DB: Database>(bench: &OutboxBench<DB>) -> Finding {
    bench.fill(3, 1).await?;
    let before = bench.all().await?;
    let record = found("the first record", before.first())?.clone();
    let letters = bench.subject.dead_letters(&mut *bench.conn().await?, None, 100).await?;
    let waiting = letters.iter().filter(|letter| before.contains(&letter.record)).count();
    same("number of waiting records among the dead letters", waiting, 0)?;
    let (aggregate_type, aggregate_id) = (&*record.aggregate_type, &*record.aggregate_id);
    let mut tx = bench.begin().await?;
    for which in [DeadLetters::One(record.id), DeadLetters::Of { aggregate_type, aggregate_id }] {
        same("number retried", bench.subject.retry_dead_letters(&mut tx, which).await?, 0)?;
        same("number discarded", bench.subject.discard_dead_letters(&mut tx, which).await?, 0)?;
    }
    let edited = bench.subject.edit_and_retry_dead_letter(&mut tx, record.id, &record.envelope).await?;
    tx.commit().await?;
    same("an edit of a record that waits", edited, false)?;
    same("what waits", bench.all().await?, before)
}
