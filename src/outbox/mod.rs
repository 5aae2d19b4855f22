//! The transactional outbox: messages that were stored with what caused them, waiting to be relayed.
//!
//! It has two lanes. A unit of work's messages wait in its own commit row, found by a thin mark
//! that costs the commit next to nothing. Rows of their own are used for records that are saved
//! without a saga, for records that are due later, for timeouts that are due, and for what is left of a commit once some
//! of its messages were acknowledged. Reading merges the two.

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use sqlx::{Database, Transaction};

use crate::envelope::{self, Envelope, MAX_LABEL_BYTES};
use crate::error::Result;
use crate::ids::{MAX_INSTANCE_ID_BYTES, check_name};
use crate::lock::ClientId;
use crate::saga::SagaStream;
use crate::timestamp::Timestamp;

mod dead_letter;
mod find;
mod id;
mod lanes;
mod marked_columns;
mod stats;
pub(crate) mod subscription;

pub use dead_letter::{DamagedDeadLetter, DeadLetter, DeadLetters};
pub(crate) use dead_letter::{DeadLetterTables, DeadPage, Failure, Next};
pub(crate) use find::{Damage, Found, OrderKey, WaitingPage, find};
pub use id::OutboxId;
pub(crate) use lanes::{LeftOver, Marked, MarkedPage, OutboxTables, Selection, settle};
pub(crate) use marked_columns::MarkedColumns;
pub use stats::{OutboxStats, PartitionLag};
pub use subscription::{
    LOCK_MAX_DURATION, LockRelease, MAX_DISPATCHERS, SUBS_EXPIRATION_AFTER, Subscribed, Subscription,
};

/// Into how many partitions dispatchers can divide the outbox. All records of one stream are in
/// one partition.
pub const OUTBOX_PARTITIONS: i64 = 64;

/// A record in the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutboxRecord {
    /// Its identity and place.
    pub id: OutboxId,
    /// What kind of thing it is about: a saga's persistence key, or what the caller gave. Empty for
    /// a stream that no saga owns.
    pub aggregate_type: String,
    /// Which one: a saga's instance id, or what the caller gave.
    pub aggregate_id: String,
    /// The message.
    pub envelope: Envelope,
    /// How many deliveries of it failed so far.
    pub attempts: u32,
}

impl OutboxRecord {
    /// A record of which no delivery failed yet, for outboxes and tests of emitters of one's own.
    pub fn new(
        id: OutboxId,
        aggregate_type: impl Into<String>,
        aggregate_id: impl Into<String>,
        envelope: Envelope,
    ) -> Self {
        Self { id, aggregate_type: aggregate_type.into(), aggregate_id: aggregate_id.into(), envelope, attempts: 0 }
    }

    /// The partition that it is in; all records of one stream are in one.
    pub(crate) fn partition(&self) -> i64 {
        partition_of_row(self.id.stream, &self.aggregate_type, &self.aggregate_id)
    }

    /// Name of the message's type.
    pub fn event_type(&self) -> &str {
        &self.envelope.type_name
    }

    /// The encoded message.
    pub fn payload(&self) -> &[u8] {
        &self.envelope.payload
    }

    /// When the message was made.
    pub fn created_at(&self) -> Timestamp {
        self.envelope.created_at
    }

    /// What a broker's message should carry beside the payload. The same at every attempt.
    pub fn headers(&self) -> BTreeMap<String, String> {
        let message = &self.envelope;
        let mut headers = message.metadata.clone();
        let fixed = [
            (envelope::HEADER_MESSAGE_ID, message.message_id.to_string()),
            (envelope::HEADER_CAUSATION_ID, message.causation_id.to_string()),
            (envelope::HEADER_CORRELATION_ID, message.correlation_id.to_string()),
            (envelope::HEADER_TYPE, message.type_name.as_ref().to_owned()),
            (envelope::HEADER_TYPE_VERSION, message.type_version.to_string()),
            (envelope::HEADER_CONTENT_TYPE, message.content_type.as_ref().to_owned()),
            (envelope::HEADER_CREATED_AT, message.created_at.to_string()),
        ];
        headers.extend(fixed.map(|(name, value)| (name.to_owned(), value)));
        headers.extend(
            message.destination.as_ref().map(|to| (envelope::HEADER_DESTINATION.to_owned(), to.as_ref().to_owned())),
        );
        headers
    }
}

/// A record to be saved in a business transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewOutboxRecord {
    /// What kind of thing it is about.
    pub aggregate_type: String,
    /// Which one. Records of one aggregate are delivered in the order in which they were saved.
    pub aggregate_id: String,
    /// The message.
    pub envelope: Envelope,
    /// Not to be delivered before, by the database's clock; at once if `None`. All records that wait for their time are passed
    /// over at each look at the outbox; [timeouts](crate::UnitOfWork::schedule) are not.
    pub due_at: Option<Timestamp>,
}

impl NewOutboxRecord {
    /// A record that is due at once.
    pub fn new(aggregate_type: impl Into<String>, aggregate_id: impl Into<String>, envelope: Envelope) -> Self {
        let (aggregate_type, aggregate_id) = (aggregate_type.into(), aggregate_id.into());
        Self { aggregate_type, aggregate_id, envelope, due_at: None }
    }

    pub(crate) fn of_saga(stream: &SagaStream, envelope: Envelope) -> Self {
        Self::new(stream.persistence_key.as_str(), stream.instance_id.as_str(), envelope)
    }

    pub(crate) fn check(&self) -> Result<()> {
        check_name("aggregate type", &self.aggregate_type, MAX_LABEL_BYTES)?;
        check_name("aggregate id", &self.aggregate_id, MAX_INSTANCE_ID_BYTES)?;
        self.envelope.check()
    }

    /// The same for all records of one aggregate.
    pub(crate) fn partition(&self) -> i64 {
        partition_of(&self.aggregate_type, &self.aggregate_id)
    }
}

/// As [`OutboxRecord::partition`].
pub(crate) fn partition_of_row(stream: i64, aggregate_type: &str, aggregate_id: &str) -> i64 {
    if stream > 0 { stream % OUTBOX_PARTITIONS } else { partition_of(aggregate_type, aggregate_id) }
}

fn partition_of(aggregate_type: &str, aggregate_id: &str) -> i64 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(aggregate_type.as_bytes());
    crc.update(&[0]);
    crc.update(aggregate_id.as_bytes());
    i64::from(crc.finalize()) % OUTBOX_PARTITIONS
}

/// A callback that is given one batch after the other; see [`OutboxRepository::find_in_batches`].
pub type BatchCallback<'a> = dyn FnMut(Vec<OutboxRecord>) -> BoxFuture<'a, Result<()>> + Send + 'a;

/// Keeps the outbox.
#[async_trait]
pub trait OutboxRepository<DB: Database>: Send + Sync {
    /// Records messages in the caller's transaction, for any business transaction.
    ///
    /// # Errors
    /// [`Error::InvalidInput`](crate::Error::InvalidInput) or [`Error::TooLarge`](crate::Error::TooLarge)
    /// before any SQL; the database's.
    async fn save(&self, tx: &mut Transaction<'_, DB>, records: &[NewOutboxRecord]) -> Result<()>;

    /// The next records after `after` in delivery order, at most `limit`, of those that are due. Fewer if they are large:
    /// only an empty batch is the end. What is committed meanwhile may lie before `after`: who relays while others
    /// write begins at `None` each time, or uses [`find_in_batches`](Self::find_in_batches).
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt) if a commit is damaged; the database's.
    async fn find_batch(
        &self,
        conn: &mut DB::Connection,
        after: Option<OutboxId>,
        limit: u32,
    ) -> Result<Vec<OutboxRecord>>;

    /// Acknowledges records: they are delivered and leave the outbox. Also out of order, and also a
    /// part of what one unit of work recorded; what is left of it keeps its place. Sends at
    /// most `batch_size` ids with a statement. Ids that are not there are passed over. Says how many left.
    ///
    /// # Errors
    /// The database's.
    async fn delete_in_batches(&self, tx: &mut Transaction<'_, DB>, batch_size: u32, ids: &[OutboxId]) -> Result<u64>;

    /// Acquires the lock of the outbox for [`LOCK_MAX_DURATION`], for those who relay the simple way: one at a time, by
    /// [`find_in_batches`](Self::find_in_batches) and [`delete_in_batches`](Self::delete_in_batches). Whoever holds it
    /// acquires it again to keep it. False if another holds it. A [`Dispatcher`](crate::dispatcher::Dispatcher) does not
    /// need it, and does not heed it.
    ///
    /// # Errors
    /// The database's.
    async fn acquire_lock(&self, conn: &mut DB::Connection, dispatcher: &ClientId) -> Result<bool>;

    /// Releases the lock of the outbox, if this dispatcher holds it.
    ///
    /// # Errors
    /// The database's.
    async fn release_lock(&self, conn: &mut DB::Connection, dispatcher: &ClientId) -> Result<LockRelease>;

    /// Gives a dispatcher the lowest free slot of `1..=max_dispatchers`, or its own if it has one. A slot is held for
    /// [`SUBS_EXPIRATION_AFTER`] from the last heartbeat. Of two who race for a slot one gets it.
    ///
    /// # Errors
    /// [`Error::InvalidInput`](crate::Error::InvalidInput) unless there may be between one and [`MAX_DISPATCHERS`]; the
    /// database's.
    async fn subscribe_dispatcher(
        &self,
        conn: &mut DB::Connection,
        dispatcher: &ClientId,
        max_dispatchers: u32,
    ) -> Result<Subscribed>;

    /// A heartbeat. False tells that the subscription has expired, and that its slot may be another's.
    ///
    /// # Errors
    /// The database's.
    async fn update_subscription(&self, conn: &mut DB::Connection, subscription: &Subscription) -> Result<bool>;

    /// Frees a dispatcher's slot. False if it had expired.
    ///
    /// # Errors
    /// The database's.
    async fn unsubscribe(&self, conn: &mut DB::Connection, subscription: &Subscription) -> Result<bool>;

    /// Dead letters after `after`, in delivery order; at most `limit`, fewer if they are large, and none at the end. Those that
    /// cannot be read are [elsewhere](Self::damaged_dead_letters).
    ///
    /// # Errors
    /// The database's.
    async fn dead_letters(
        &self,
        conn: &mut DB::Connection,
        after: Option<OutboxId>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>>;

    /// Dead letters after `after` that cannot be read, in delivery order; at most `limit`, and none at the end. Reads all dead
    /// letters on the way to them.
    ///
    /// # Errors
    /// The database's.
    async fn damaged_dead_letters(
        &self,
        conn: &mut DB::Connection,
        after: Option<OutboxId>,
        limit: u32,
    ) -> Result<Vec<DamagedDeadLetter>>;

    /// Lets dead letters be delivered again, with all their attempts. Says how many.
    ///
    /// # Errors
    /// The database's.
    async fn retry_dead_letters(&self, tx: &mut Transaction<'_, DB>, which: DeadLetters<'_>) -> Result<u64>;

    /// Deletes dead letters: they are never delivered. Says how many.
    ///
    /// # Errors
    /// The database's.
    async fn discard_dead_letters(&self, tx: &mut Transaction<'_, DB>, which: DeadLetters<'_>) -> Result<u64>;

    /// Replaces the message of a dead letter, and lets it be delivered. Keep its message id, so that consumers still
    /// recognise it. False if there is no such dead letter.
    ///
    /// # Errors
    /// [`Error::TooLarge`](crate::Error::TooLarge) before any SQL; the database's.
    async fn edit_and_retry_dead_letter(
        &self,
        tx: &mut Transaction<'_, DB>,
        id: OutboxId,
        message: &Envelope,
    ) -> Result<bool>;

    /// How much waits, and for how long.
    ///
    /// # Errors
    /// The database's.
    async fn stats(&self, conn: &mut DB::Connection) -> Result<OutboxStats>;

    /// How much is due in each partition that has any, and for how long. Reads all marks: not for every second.
    ///
    /// # Errors
    /// The database's.
    async fn lag(&self, conn: &mut DB::Connection) -> Result<Vec<PartitionLag>>;

    /// Calls `callback` with batches of at most `batch_size` records in delivery order, until
    /// `limit` records were given (`None`: all). Holds no cursor and no transaction of its own. An error
    /// of the callback ends it and is returned. Gives the number of records. The built-in stores give what was
    /// recorded before the call, and leave to the next one what is recorded meanwhile.
    ///
    /// # Errors
    /// As [`find_batch`](Self::find_batch), and the callback's.
    async fn find_in_batches(
        &self,
        conn: &mut DB::Connection,
        batch_size: u32,
        limit: Option<u64>,
        callback: &mut BatchCallback<'_>,
    ) -> Result<u64> {
        find_recorded_by(self, conn, i64::MAX, (batch_size, limit), callback).await
    }
}

/// Batches of at most so many records, and so many in all, of what was recorded `then` at the latest.
async fn find_recorded_by<DB: Database, T: OutboxRepository<DB> + ?Sized>(
    outbox: &T,
    conn: &mut DB::Connection,
    then: i64,
    (batch_size, limit): (u32, Option<u64>),
    callback: &mut BatchCallback<'_>,
) -> Result<u64> {
    let (mut after, mut given, batch_size) = (None, 0_u64, batch_size.max(1));
    loop {
        let left = limit.map_or(u64::MAX, |limit| limit.saturating_sub(given));
        let size = u32::try_from(left).unwrap_or(u32::MAX).min(batch_size);
        let mut batch = if size == 0 { Vec::new() } else { outbox.find_batch(conn, after, size).await? };
        batch.retain(|record| record.id.recorded_at <= then);
        let Some(last) = batch.last() else { return Ok(given) };
        after = Some(last.id);
        given = given.saturating_add(u64::try_from(batch.len()).unwrap_or(u64::MAX));
        callback(batch).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MessageKind;

    #[test]
    fn headers_carry_identity_causes_type_and_time_and_keep_the_callers_own() {
        let mut envelope = Envelope::new(MessageKind::Command, "Pay", 2, "application/json", "{}").expect("valid");
        envelope.destination = Some("billing".into());
        envelope.metadata.insert("traceparent".into(), "00-1".into());
        let id = envelope.message_id.to_string();
        let record = OutboxRecord {
            id: OutboxId::START,
            aggregate_type: "order".into(),
            aggregate_id: "1".into(),
            envelope,
            attempts: 0,
        };
        let headers = record.headers();
        assert_eq!(headers["message-id"], id);
        assert_eq!(headers["correlation-id"], id);
        assert_eq!((&*headers["type"], &*headers["type-version"]), ("Pay", "2"));
        assert_eq!((&*headers["destination"], &*headers["traceparent"]), ("billing", "00-1"));
        assert_eq!(headers["created-at"].parse::<Timestamp>().expect("a time"), record.created_at());
    }

    #[test]
    fn all_records_of_an_aggregate_share_a_partition() {
        let record = |kind: &str, id: &str| {
            let envelope = Envelope::new(MessageKind::Event, "E", 1, "text/plain", "").expect("valid");
            NewOutboxRecord::new(kind, id, envelope).partition()
        };
        assert_eq!(record("a", "b"), record("a", "b"));
        let used: std::collections::HashSet<_> = (0..1000).map(|n| record("a", &n.to_string())).collect();
        assert!(used.len() > 60 && used.iter().all(|p| (0..OUTBOX_PARTITIONS).contains(p)));
    }
}
