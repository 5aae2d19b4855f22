//! Flaws of outboxes.

use async_trait::async_trait;
use sagastore::lock::ClientId;
use sagastore::{
    BatchCallback, DamagedDeadLetter, DeadLetter, DeadLetters, Envelope, LockRelease, NewOutboxRecord, OutboxId,
    OutboxRecord, OutboxRepository, OutboxStats, PartitionLag, Result, Subscribed, Subscription,
};
use sqlx::{Sqlite, SqliteConnection, Transaction};

use super::{Broken, Flaw, Part, finds};

#[async_trait]
impl OutboxRepository<Sqlite> for Broken {
    async fn save(&self, tx: &mut Transaction<'_, Sqlite>, records: &[NewOutboxRecord]) -> Result<()> {
        let mut records = records.to_vec();
        if self.has(Flaw::DeliversBeforeDue) {
            records.iter_mut().for_each(|record| record.due_at = None);
        }
        if self.has(Flaw::ReversesTheOrder) {
            records.reverse();
        }
        if self.has(Flaw::ConfusesAggregates) {
            records.iter_mut().for_each(|record| record.aggregate_id = record.aggregate_id.to_lowercase());
        }
        self.inner.save(tx, &records).await
    }

    async fn find_batch(
        &self,
        conn: &mut SqliteConnection,
        after: Option<OutboxId>,
        limit: u32,
    ) -> Result<Vec<OutboxRecord>> {
        if self.has(Flaw::ForgetsWhereAPageEnds) && after.is_some() {
            // It goes on two records later than it should.
            let next = self.inner.find_batch(conn, after, 1).await?;
            let after = next.last().map(|record| record.id).or(after);
            return self.inner.find_batch(conn, after, limit).await;
        }
        self.inner.find_batch(conn, after, limit).await
    }

    async fn delete_in_batches(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        batch_size: u32,
        ids: &[OutboxId],
    ) -> Result<u64> {
        if self.has(Flaw::AcknowledgesNothing) {
            return Ok(ids.len().try_into().unwrap());
        }
        if self.has(Flaw::AcknowledgesTooMuch) {
            // All up to the last one, as by a cursor.
            let all = self.inner.find_batch(tx, None, 1000).await?;
            let last = ids.iter().max();
            let upto: Vec<_> = all.iter().map(|record| record.id).filter(|id| Some(id) <= last).collect();
            return self.inner.delete_in_batches(tx, batch_size, &upto).await;
        }
        self.inner.delete_in_batches(tx, batch_size, ids).await
    }

    async fn acquire_lock(&self, conn: &mut SqliteConnection, dispatcher: &ClientId) -> Result<bool> {
        let acquired = self.inner.acquire_lock(conn, dispatcher).await?;
        Ok(acquired || self.has(Flaw::SharesTheLock))
    }

    async fn release_lock(&self, conn: &mut SqliteConnection, dispatcher: &ClientId) -> Result<LockRelease> {
        self.inner.release_lock(conn, dispatcher).await
    }

    async fn subscribe_dispatcher(
        &self,
        conn: &mut SqliteConnection,
        dispatcher: &ClientId,
        max_dispatchers: u32,
    ) -> Result<Subscribed> {
        let most = if self.has(Flaw::SharesSlots) && self.remembers() { max_dispatchers + 1 } else { max_dispatchers };
        let mut subscribed = self.inner.subscribe_dispatcher(conn, dispatcher, most).await?;
        if let Subscribed::Slot(own) = &mut subscribed
            && self.has(Flaw::MovesDispatchers)
            && own.slot == 2
            && max_dispatchers == 2
            && self.remembers()
        {
            own.slot = 1;
        }
        Ok(subscribed)
    }

    async fn update_subscription(&self, conn: &mut SqliteConnection, subscription: &Subscription) -> Result<bool> {
        let alive = self.inner.update_subscription(conn, subscription).await?;
        Ok(alive || self.has(Flaw::FeelsHeartbeatsForEver))
    }

    async fn unsubscribe(&self, conn: &mut SqliteConnection, subscription: &Subscription) -> Result<bool> {
        self.inner.unsubscribe(conn, subscription).await
    }

    async fn dead_letters(
        &self,
        conn: &mut SqliteConnection,
        after: Option<OutboxId>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>> {
        self.inner.dead_letters(conn, after, limit).await
    }

    async fn damaged_dead_letters(
        &self,
        conn: &mut SqliteConnection,
        after: Option<OutboxId>,
        limit: u32,
    ) -> Result<Vec<DamagedDeadLetter>> {
        self.inner.damaged_dead_letters(conn, after, limit).await
    }

    async fn retry_dead_letters(&self, tx: &mut Transaction<'_, Sqlite>, which: DeadLetters<'_>) -> Result<u64> {
        let retried = self.inner.retry_dead_letters(tx, which).await?;
        Ok(retried + u64::from(self.has(Flaw::BuriesAlive)))
    }

    async fn discard_dead_letters(&self, tx: &mut Transaction<'_, Sqlite>, which: DeadLetters<'_>) -> Result<u64> {
        self.inner.discard_dead_letters(tx, which).await
    }

    async fn edit_and_retry_dead_letter(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        id: OutboxId,
        message: &Envelope,
    ) -> Result<bool> {
        self.inner.edit_and_retry_dead_letter(tx, id, message).await
    }

    async fn stats(&self, conn: &mut SqliteConnection) -> Result<OutboxStats> {
        let stats = self.inner.stats(conn).await?;
        Ok(if self.has(Flaw::CountsNothing) { OutboxStats::default() } else { stats })
    }

    async fn lag(&self, conn: &mut SqliteConnection) -> Result<Vec<PartitionLag>> {
        let lag = self.inner.lag(conn).await?;
        Ok(if self.has(Flaw::CountsNothing) { Vec::new() } else { lag })
    }

    async fn find_in_batches(
        &self,
        conn: &mut SqliteConnection,
        batch_size: u32,
        limit: Option<u64>,
        callback: &mut BatchCallback<'_>,
    ) -> Result<u64> {
        let (mut after, mut given) = (None, 0);
        loop {
            let left = limit.map_or(u64::MAX, |limit| limit - given);
            let size = u32::try_from(left).unwrap_or(u32::MAX).min(batch_size);
            let batch = if size == 0 { Vec::new() } else { self.find_batch(conn, after, size).await? };
            let Some(last) = batch.last() else { return Ok(given) };
            (after, given) = (Some(last.id), given + u64::try_from(batch.len()).unwrap());
            let called = callback(batch).await;
            if !self.has(Flaw::IgnoresTheCallback) {
                called?;
            }
        }
    }
}

#[tokio::test]
async fn an_outbox_that_acknowledges_too_much_is_found() {
    let clauses = ["records_are_acknowledged_out_of_order"];
    finds(Flaw::AcknowledgesTooMuch, Part::Outbox, &clauses).await;
}

#[tokio::test]
async fn an_outbox_that_acknowledges_nothing_is_found() {
    let report = super::report(Flaw::AcknowledgesNothing, Part::Outbox).await;
    assert!(report.failed().contains(&"what_is_acknowledged_leaves_and_nothing_else"), "{report}");
}

#[tokio::test]
async fn an_outbox_that_delivers_before_due_is_found() {
    finds(Flaw::DeliversBeforeDue, Part::Outbox, &["a_record_is_not_given_before_it_is_due"]).await;
}

#[tokio::test]
async fn an_outbox_that_reverses_the_order_is_found() {
    let clauses = [
        "saved_records_come_back_whole",
        "records_of_one_aggregate_keep_their_order",
        "records_are_acknowledged_out_of_order",
    ];
    finds(Flaw::ReversesTheOrder, Part::Outbox, &clauses).await;
}

#[tokio::test]
async fn an_outbox_whose_lock_is_not_exclusive_is_found() {
    let clauses = ["one_dispatcher_at_a_time_holds_the_lock", "the_lock_is_released_by_its_holder_only"];
    finds(Flaw::SharesTheLock, Part::Outbox, &clauses).await;
}

#[tokio::test]
async fn an_outbox_with_too_many_slots_is_found() {
    let clauses =
        ["slots_are_given_from_the_first_up_to_the_maximum", "a_number_of_dispatchers_out_of_bounds_is_refused"];
    finds(Flaw::SharesSlots, Part::Outbox, &clauses).await;
}

#[tokio::test]
async fn an_outbox_that_skips_between_pages_is_found() {
    let clauses = ["pages_give_every_record_once", "batches_give_every_record_once_and_keep_to_the_limit"];
    finds(Flaw::ForgetsWhereAPageEnds, Part::Outbox, &clauses).await;
}

/// Flaws that one or few clauses find.
#[tokio::test]
async fn what_else_an_outbox_can_do_wrong_is_found() {
    for (flaw, clauses) in [
        (Flaw::CountsNothing, &["the_statistics_count_what_waits", "the_lag_counts_what_is_due"][..]),
        (Flaw::BuriesAlive, &["what_waits_is_no_dead_letter"]),
        (Flaw::IgnoresTheCallback, &["an_error_of_the_callback_ends_the_batches"]),
        (Flaw::MovesDispatchers, &["a_dispatcher_gets_the_slot_that_it_has"]),
        (Flaw::FeelsHeartbeatsForEver, &["a_slot_that_is_given_up_is_free_and_takes_no_heartbeats"]),
        (Flaw::ConfusesAggregates, &["names_that_differ_in_a_byte_are_different_aggregates"]),
    ] {
        finds(flaw, Part::Outbox, clauses).await;
    }
}
