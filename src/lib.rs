#![doc = include_str!("docs/crate.md")]
#![warn(missing_docs)]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::indexing_slicing, clippy::as_conversions))]

mod backend;
mod codec;
mod commit;
#[cfg_attr(not(feature = "sqlite"), allow(dead_code, unreachable_pub, reason = "only SQLite commits in groups"))]
mod commit_queue;
mod contents;
mod envelope;
mod error;
mod event_stream;
mod global_order;
mod guarded_connection;
mod handler;
mod head;
mod ids;
mod inbox;
mod instance_cache;
mod limits;
mod load_answer;
mod mapper;
mod message;
mod message_store;
mod migrate;
mod outbox;
mod owned_commit;
mod persister;
mod recorder;
mod retry;
mod row;
mod saga;
mod slow_lane;
mod snapshot;
mod source;
mod stream_name;
mod streams;
mod timeout;
mod timestamp;
mod unit_of_work;
mod upcast;
mod waker;

pub mod check;
pub mod dispatcher;
pub mod docs;
pub mod emitter;
pub mod inspect;
pub mod lock;
#[cfg(feature = "mysql")]
pub mod mysql;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub mod pool;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(feature = "testkit")]
pub mod testkit;
#[cfg(feature = "export")]
pub mod transfer;
pub mod verify_replay;

pub use backend::Backend;
pub use codec::{BINCODE_CONTENT_TYPE, Codec, Codecs, JSON_CONTENT_TYPE, ReadValue};
#[cfg(feature = "bincode")]
pub use codec::{Bincode, MAX_BINCODE_DECODE_BYTES, MAX_BINCODE_LEVELS};
#[cfg(feature = "json")]
pub use codec::{Json, MAX_JSON_LEVELS};
pub use commit::{EncodedCommit, StoredCommit};
pub use envelope::{Envelope, Inbound, MAX_LABEL_BYTES, Metadata, RecordedEvent};
pub use error::{Cause, Error, Result};
pub use event_stream::{DEFAULT_FETCH_SIZE, EventStream, STREAM_POLL_INTERVAL};
pub use global_order::{GlobalEvent, GlobalPosition, GlobalTail, GloballyOrderedStore, MAX_CONSUMER_NAME_BYTES};
pub use handler::{
    DEFAULT_PARKING_DELAY, DEFAULT_TRIES_BEFORE_PARKING, HandleMessage, Handlers, Handling, InTransaction,
    MAX_PARKED_ERROR_BYTES, MAX_PARKED_PAGE, MAX_REFRESH_FAILURES, MessageHandler, NotFound, ParkAfter, ParkedFilter,
    ParkedId, ParkedMessage, REFRESH_PAGE, Refreshed, Retried, SAGA_INBOX_PREFIX, discard_parked, parked_messages,
};
pub use ids::{CommitNumber, InstanceId, MAX_INSTANCE_ID_BYTES, MessageId, Offset, Revision};
pub use inbox::{DEFAULT_INBOX_RETENTION, INBOX_FORGET_STEP, Inbox, MAX_INBOX_CONSUMER_BYTES, Receipt};
pub use limits::{Limits, MAX_MESSAGE_BYTES, MAX_UNIT_BYTES, MAX_UNIT_MESSAGES};
pub use mapper::{CorrelationKey, KeySet, MAX_CORRELATION_KEY_BYTES, MAX_CORRELATION_KEYS, Mapped, Mapper};
pub use message::{MessageKind, MessageType, StoredForm, TypeTag};
pub use message_store::{
    CommitPage, Head, HeadTrust, LoadFrom, LoadRequest, Loaded, MessageStore, PAGE_BYTES, PAGE_COMMITS, SnapshotChange,
    StreamRow, UnitCommit,
};
pub use migrate::{MIGRATIONS_TABLE, Migrated, check_schema, drop_schema, migrate, migrate_from};
pub use outbox::{
    BatchCallback, DamagedDeadLetter, DeadLetter, DeadLetters, LOCK_MAX_DURATION, LockRelease, MAX_DISPATCHERS,
    NewOutboxRecord, OUTBOX_PARTITIONS, OutboxId, OutboxRecord, OutboxRepository, OutboxStats, PartitionLag,
    SUBS_EXPIRATION_AFTER, Subscribed, Subscription,
};
pub use persister::{Attempt, Begun, Executed, Finished, Persister};
pub use recorder::{Outbox, Recorder, Sender};
pub use retry::{ConflictRetry, DEFAULT_CONFLICT_DELAY, DEFAULT_CONFLICT_DELAY_CAP, DEFAULT_CONFLICT_RETRIES};
pub use saga::{Instance, Saga, SagaStream};
pub use snapshot::{
    DEFAULT_KEPT_SNAPSHOTS, DEFAULT_SNAPSHOT_FREQUENCY, Snapshot, SnapshotFrequency, SnapshotRepository,
};
pub use stream_name::{MAX_PERSISTENCE_KEY_BYTES, MAX_STREAM_NAME_BYTES, StreamName};
pub use timeout::{
    Due, MAX_TIMEOUT_CHANGES, MAX_TIMEOUT_NAME_BYTES, PendingTimeout, TIMEOUT_INSTANCE, TIMEOUT_NAME, TIMEOUT_SAGA,
    TimeoutChange, TimeoutStats,
};
pub use timestamp::Timestamp;
pub use unit_of_work::{Handled, LoadReport, Saved, SnapshotFault, UnitOfWork};
pub use upcast::{MAX_UPCAST_STEPS, Upcast, UpcastError, WideInteger, upcast};
pub use waker::OutboxWaker;

/// Keeps the README's code compiling.
#[cfg(all(doctest, feature = "sqlite", feature = "json"))]
#[doc = include_str!("../README.md")]
struct Readme;
