//! The one error type. Kinds are told apart by variant, never by text.

use std::fmt::Display;

mod driver;
mod shared;
#[cfg(test)]
mod tests;
mod waited;

use crate::ids::{InstanceId, MessageId, Offset};
use crate::lock::FencingToken;
use crate::stream_name::StreamName;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) use driver::from_driver;
pub(crate) use driver::{Fault, Judge};

/// What most calls of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A cause from elsewhere, kept whole.
pub type Cause = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Why a call failed, and what to do about it.
///
/// Expected outcomes (an unknown instance, a message that was handled before) are values, not errors.
/// After any error from a write the caller rolls its transaction back; after [`Error::Conflict`]
/// the transaction is still usable on every database.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another writer was faster. Nothing was written. Load again, decide again.
    #[error(
        "writing to stream {stream:?} at offset {expected} conflicts with another writer: the stream ends at \
         {actual}; load the instance again and retry"
    )]
    Conflict {
        /// The stream that both wanted to extend.
        stream: StreamName,
        /// Where the loser believed the end to be.
        expected: Offset,
        /// Where the end is, as the loser's transaction sees it. Equal to `expected` if the winner
        /// wrote no event, or if the transaction's isolation hides the winner's events.
        actual: Offset,
    },

    /// A row belongs to another saga than the one that asked for it.
    #[error("instance {instance:?} belongs to {found:?}, not to {asked:?}; check the persistence keys")]
    ForeignInstance {
        /// The instance that was asked for.
        instance: InstanceId,
        /// The persistence key that was asked with.
        asked: String,
        /// The persistence key in the row.
        found: String,
    },

    /// A stored row cannot be what was written: its checksum, density or form is wrong.
    #[error("stream {stream:?} is damaged at offset {offset}: {detail}; restore the row from a backup")]
    Corrupt {
        /// The stream with the damaged row.
        stream: StreamName,
        /// The offset of the event, or of the first event of the commit, that cannot be trusted.
        offset: Offset,
        /// What is wrong.
        detail: String,
    },

    /// A stored event is of a type that the saga does not know, and that no upcaster translates.
    #[error(
        "stream {stream:?} holds at offset {offset} the message {message_id} of unknown type {name:?} version \
         {version}; add the type, or an upcaster for it"
    )]
    UnknownType {
        /// The stream of the event.
        stream: StreamName,
        /// The offset of the event.
        offset: Offset,
        /// The id of the event's message.
        message_id: MessageId,
        /// The stored type name.
        name: String,
        /// The stored type version.
        version: u32,
    },

    /// A stored payload does not decode as its type and content type say.
    #[error("message {message_id} at offset {offset} of stream {stream:?} does not decode as {content_type}: {source}")]
    Undecodable {
        /// The stream of the event.
        stream: StreamName,
        /// The offset of the event.
        offset: Offset,
        /// The id of the event's message.
        message_id: MessageId,
        /// The stored content type.
        content_type: String,
        /// What the codec said.
        source: Cause,
    },

    /// A message or state cannot be encoded. Nothing was recorded, nothing was written.
    #[error("{what} cannot be encoded: {source}")]
    Unencodable {
        /// The type of the message or state.
        what: String,
        /// What the codec said.
        source: Cause,
    },

    /// Something is over a limit. Nothing was written.
    #[error("{what} of {size} is over the limit of {limit}; make it smaller or raise the limit")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size, in bytes or in pieces as `what` says.
        size: u64,
        /// The limit, in the same unit.
        limit: u64,
    },

    /// An argument is not usable on every database. Nothing was written.
    #[error("{what} is not usable: {detail}")]
    InvalidInput {
        /// The argument.
        what: &'static str,
        /// Why.
        detail: String,
    },

    /// One append holds a message id twice. Nothing was written.
    #[error("message {message_id} stands twice in one append to stream {stream:?}; give each message its own id")]
    DuplicateMessage {
        /// The id.
        message_id: MessageId,
        /// The stream.
        stream: StreamName,
    },

    /// Events were published on an instance that is completed. Nothing was written.
    #[error("instance {instance:?} is completed and takes no further events")]
    Completed {
        /// The instance.
        instance: InstanceId,
    },

    /// The tables of this crate are not (all) there.
    #[error("the database lacks tables of this crate, found while {doing}; run the migrations")]
    SchemaMissing {
        /// What was tried.
        doing: &'static str,
    },

    /// The database was migrated by a newer release. Nothing was changed.
    #[error("the database has schema version {found}, this release knows up to {known}; use a newer release")]
    SchemaNewer {
        /// The newest version that the database has.
        found: i64,
        /// The newest version that this release knows.
        known: i64,
    },

    /// Migrating failed.
    #[error("migrating the schema failed: {source}")]
    Migration {
        /// The cause.
        source: Cause,
    },

    /// This database, or the store as it was set up, does not offer what was asked for.
    #[error("{what} is not supported here: {detail}")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
        /// Why not, and what would help.
        detail: &'static str,
    },

    /// Global positions no longer fit the transaction counter: the data came from another cluster.
    #[error("the data was restored into another database cluster; run the migrations to rebase its global order")]
    GlobalOrderRestored,

    /// Deadlock, serialization failure or a busy file. The transaction is lost; retry it as a whole.
    #[error("{doing} met contention: {source}; roll back and retry the transaction")]
    Contention {
        /// What was tried.
        doing: &'static str,
        /// The driver's error.
        source: Cause,
    },

    /// A lock or statement took longer than the server allows.
    #[error("{doing} ran into a timeout of the database: {source}; roll back, then retry")]
    Timeout {
        /// What was tried.
        doing: &'static str,
        /// The driver's error.
        source: Cause,
    },

    /// No connection became free in time. Nothing was sent.
    #[error("{doing} found no free connection in time; enlarge the pool or shorten the transactions")]
    PoolTimeout {
        /// What was tried.
        doing: &'static str,
    },

    /// The connection pool, or the locker, was closed.
    #[error("{doing} found its pool or locker closed; open a new one")]
    Closed {
        /// What was tried.
        doing: &'static str,
    },

    /// The connection was lost or refused, or what came through it is not what a database says. A commit in flight may or
    /// may not have happened; handle the message again under the same id to find out safely.
    #[error("{doing} lost the connection to the database: {source}")]
    Disconnected {
        /// What was tried.
        doing: &'static str,
        /// The driver's error.
        source: Cause,
    },

    /// The database did not let this program in, or its role lacks a right: a wrong name or password, no such database, no
    /// TLS where the server or the certificate demands it, a missing GRANT. Trying again does not help.
    #[error("{doing} was denied: {source}; check the address with its role, password and TLS, and the role's rights")]
    Denied {
        /// What was tried.
        doing: &'static str,
        /// The driver's error.
        source: Cause,
    },

    /// Any other failure of the database.
    #[error("{doing} failed in the database: {source}")]
    Storage {
        /// What was tried.
        doing: &'static str,
        /// The driver's error.
        source: Cause,
    },

    /// The framework's own [`Sender`](crate::Sender) refused a message. Nothing was recorded.
    #[error("the sender refused message {message_id}: {source}")]
    Sender {
        /// The refused message.
        message_id: MessageId,
        /// The sender's error.
        source: Cause,
    },

    /// A saga failed to handle a message. Nothing of that unit of work was stored.
    #[error("instance {instance:?} of saga {saga:?} failed to handle message {message_id}: {source}")]
    Handler {
        /// The saga.
        saga: String,
        /// The instance.
        instance: InstanceId,
        /// The message.
        message_id: MessageId,
        /// What the saga, or what runs in its transaction, said.
        source: Cause,
    },

    /// A message that starts no instance is for one that is not there, where that was declared an error. It was
    /// sent too early, too late or astray; nothing was stored.
    #[error("saga {saga:?} has no instance for message {message_id} of type {type_name:?}; deliver it again later")]
    InstanceNotFound {
        /// The saga.
        saga: String,
        /// The message.
        message_id: MessageId,
        /// Its type.
        type_name: String,
    },

    /// A message that came in does not decode as its type and content type say. Nothing was stored.
    #[error("message {message_id} of type {type_name:?} does not decode as {content_type}: {source}")]
    UndecodableMessage {
        /// The message.
        message_id: MessageId,
        /// Its type.
        type_name: String,
        /// Its content type.
        content_type: String,
        /// What the codec said.
        source: Cause,
    },

    /// A unit of work would give an instance a correlation key that another instance of its saga has. Nothing was stored.
    #[error("instance {instance:?} of saga {saga:?} cannot have the key {key:?}: another instance has it")]
    KeyHeld {
        /// The saga.
        saga: String,
        /// The instance that was to be given the key.
        instance: InstanceId,
        /// The key.
        key: String,
    },

    /// A fenced write came too late: its lock was released, taken over or removed. Nothing may be committed.
    #[error(
        "a write fenced by token {token} of {resource:?} came too late: the lock was released, taken over or removed; \
         roll back, and obtain it again before going on"
    )]
    Fenced {
        /// What the lock is on.
        resource: String,
        /// The token that is not, or no longer, current.
        token: FencingToken,
    },

    /// A lock that was held is lost: its connection died or its row is another's.
    #[error("the lock on {resource:?} is lost: {detail}; stop what it protects and obtain it again")]
    LockLost {
        /// What the lock is on; a locker's own name if all that it held are lost.
        resource: String,
        /// How it was lost.
        detail: String,
    },

    /// A lock to be released is not held by who releases it. Nothing was changed.
    #[error("the lock on {resource:?} cannot be released: it is not held here (any more)")]
    NotReleased {
        /// What the lock is on.
        resource: String,
    },

    /// No more waits for locks can be served at present. Nothing was locked.
    #[error("waiting for the lock on {resource:?} is refused: all {limit} connections for waiting are in use")]
    LockerBusy {
        /// What the lock is on.
        resource: String,
        /// How many waits can be served at once.
        limit: u32,
    },

    /// A locker was used before it was started.
    #[error("{doing} needs a locker that was started; call start first")]
    NeverStarted {
        /// What was tried.
        doing: &'static str,
    },

    /// Others held a lock through all tries: the maximum number of retries is reached. Nothing was locked.
    #[error("locking {resource:?} reached the maximum number of retries: others held it through all {tries} tries")]
    MaxRetries {
        /// What the lock is on.
        resource: String,
        /// How often it was tried.
        tries: u32,
    },

    /// Unlocking failed through all tries, or until the lock expired. It may still be held; it becomes free when it expires.
    #[error("unlocking {resource:?} failed {tries} times; it becomes free when it expires; the last time: {source}")]
    UnlockFailed {
        /// What the lock is on.
        resource: String,
        /// How often it was tried.
        tries: u32,
        /// The last failure.
        source: Box<Error>,
    },
}

impl Error {
    /// Another writer won; loading and deciding again can succeed.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }

    /// A trouble of the database that passes: the same call can succeed later without anything being mended.
    ///
    /// A lost connection counts too: the outcome of what was in flight is then unknown. What does not count, though a later call
    /// may succeed as well, are answers that are no trouble of the database: [`Error::Conflict`]
    /// ([`is_conflict`](Self::is_conflict)), after which the instance is to be loaded again; [`Error::InstanceNotFound`], as long as
    /// the message that starts the instance may still come; [`Error::KeyHeld`], until the other instance gives the key up;
    /// [`Error::LockerBusy`] and [`Error::MaxRetries`], as long as others hold or want a lock.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Contention { .. } | Self::Timeout { .. } | Self::PoolTimeout { .. } | Self::Disconnected { .. }
        )
    }

    pub(crate) fn invalid(what: &'static str, detail: impl Display) -> Self {
        Self::InvalidInput { what, detail: detail.to_string() }
    }

    pub(crate) fn corrupt(stream: &StreamName, offset: Offset, detail: impl Display) -> Self {
        Self::Corrupt { stream: stream.clone(), offset, detail: detail.to_string() }
    }
}
