//! An outbox with faults.

use std::fmt;
use std::sync::Arc;

use sqlx::Database;

use super::plan::Faults;
use crate::outbox::OutboxRepository;

/// An [`OutboxRepository`] around another one, whose calls fail or stall as [`Faults`] say.
pub struct FaultyOutbox<DB: Database> {
    pub(crate) inner: Arc<dyn OutboxRepository<DB>>,
    pub(crate) faults: Faults,
}

impl<DB: Database> FaultyOutbox<DB> {
    /// Wraps an outbox.
    pub fn new(inner: Arc<dyn OutboxRepository<DB>>, faults: &Faults) -> Self {
        Self { inner, faults: faults.clone() }
    }
}

/// Implements the trait for one database. An implementation for all would overlap, for all that the compiler knows, with
/// that of the built-in stores.
macro_rules! faulty_outbox {
    ($db:ty) => {
        const _: () = {
            use async_trait::async_trait;
            use sqlx::{Database, Transaction};
            use $crate::envelope::Envelope;
            use $crate::error::Result;
            use $crate::lock::ClientId;
            use $crate::outbox::{
                DamagedDeadLetter, DeadLetter, DeadLetters, LockRelease, NewOutboxRecord, OutboxId, OutboxRecord,
                OutboxRepository, OutboxStats, PartitionLag, Subscribed, Subscription,
            };
            use $crate::testkit::FaultyOutbox;
            use $crate::testkit::Verb;

            #[async_trait]
            impl OutboxRepository<$db> for FaultyOutbox<$db> {
                async fn save(&self, tx: &mut Transaction<'_, $db>, records: &[NewOutboxRecord]) -> Result<()> {
                    self.faults.around(Verb::SaveRecords, self.inner.save(tx, records)).await
                }

                async fn find_batch(
                    &self,
                    conn: &mut <$db as Database>::Connection,
                    after: Option<OutboxId>,
                    limit: u32,
                ) -> Result<Vec<OutboxRecord>> {
                    self.faults.around(Verb::FindBatch, self.inner.find_batch(conn, after, limit)).await
                }

                async fn delete_in_batches(
                    &self,
                    tx: &mut Transaction<'_, $db>,
                    batch_size: u32,
                    ids: &[OutboxId],
                ) -> Result<u64> {
                    self.faults.around(Verb::DeleteInBatches, self.inner.delete_in_batches(tx, batch_size, ids)).await
                }

                async fn acquire_lock(
                    &self,
                    conn: &mut <$db as Database>::Connection,
                    dispatcher: &ClientId,
                ) -> Result<bool> {
                    self.faults.around(Verb::AcquireLock, self.inner.acquire_lock(conn, dispatcher)).await
                }

                async fn release_lock(
                    &self,
                    conn: &mut <$db as Database>::Connection,
                    dispatcher: &ClientId,
                ) -> Result<LockRelease> {
                    self.faults.around(Verb::ReleaseLock, self.inner.release_lock(conn, dispatcher)).await
                }

                async fn subscribe_dispatcher(
                    &self,
                    conn: &mut <$db as Database>::Connection,
                    dispatcher: &ClientId,
                    max_dispatchers: u32,
                ) -> Result<Subscribed> {
                    let call = self.inner.subscribe_dispatcher(conn, dispatcher, max_dispatchers);
                    self.faults.around(Verb::SubscribeDispatcher, call).await
                }

                async fn update_subscription(
                    &self,
                    conn: &mut <$db as Database>::Connection,
                    subscription: &Subscription,
                ) -> Result<bool> {
                    self.faults
                        .around(Verb::UpdateSubscription, self.inner.update_subscription(conn, subscription))
                        .await
                }

                async fn unsubscribe(
                    &self,
                    conn: &mut <$db as Database>::Connection,
                    subscription: &Subscription,
                ) -> Result<bool> {
                    self.faults.around(Verb::Unsubscribe, self.inner.unsubscribe(conn, subscription)).await
                }

                async fn dead_letters(
                    &self,
                    conn: &mut <$db as Database>::Connection,
                    after: Option<OutboxId>,
                    limit: u32,
                ) -> Result<Vec<DeadLetter>> {
                    self.faults.around(Verb::DeadLetters, self.inner.dead_letters(conn, after, limit)).await
                }

                async fn damaged_dead_letters(
                    &self,
                    conn: &mut <$db as Database>::Connection,
                    after: Option<OutboxId>,
                    limit: u32,
                ) -> Result<Vec<DamagedDeadLetter>> {
                    let call = self.inner.damaged_dead_letters(conn, after, limit);
                    self.faults.around(Verb::DamagedDeadLetters, call).await
                }

                async fn retry_dead_letters(
                    &self,
                    tx: &mut Transaction<'_, $db>,
                    which: DeadLetters<'_>,
                ) -> Result<u64> {
                    self.faults.around(Verb::RetryDeadLetters, self.inner.retry_dead_letters(tx, which)).await
                }

                async fn discard_dead_letters(
                    &self,
                    tx: &mut Transaction<'_, $db>,
                    which: DeadLetters<'_>,
                ) -> Result<u64> {
                    self.faults.around(Verb::DiscardDeadLetters, self.inner.discard_dead_letters(tx, which)).await
                }

                async fn edit_and_retry_dead_letter(
                    &self,
                    tx: &mut Transaction<'_, $db>,
                    id: OutboxId,
                    message: &Envelope,
                ) -> Result<bool> {
                    let call = self.inner.edit_and_retry_dead_letter(tx, id, message);
                    self.faults.around(Verb::EditAndRetryDeadLetter, call).await
                }

                async fn stats(&self, conn: &mut <$db as Database>::Connection) -> Result<OutboxStats> {
                    self.faults.around(Verb::Stats, self.inner.stats(conn)).await
                }

                async fn lag(&self, conn: &mut <$db as Database>::Connection) -> Result<Vec<PartitionLag>> {
                    self.faults.around(Verb::Lag, self.inner.lag(conn)).await
                }
            }
        };
    };
}
pub(crate) use faulty_outbox;

impl<DB: Database> fmt::Debug for FaultyOutbox<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyOutbox").field("faults", &self.faults).finish_non_exhaustive()
    }
}
