//! The store on SQLite.
//!
//! Statements say `LIMIT +?1`, and the like where a bound value bounds a range, because SQLite looks at a bare parameter there
//! when it plans, and so plans the statement anew at every call. The plus hides the parameter.

use async_trait::async_trait;
use sqlx::error::DatabaseError;
use sqlx::sqlite::SqliteError;
use sqlx::{Sqlite, SqliteConnection, Transaction};
use tokio::sync::OwnedMutexGuard;

use crate::backend::Backend;
use crate::commit::EncodedCommit;
use crate::error::{Error, Fault, Judge, Result, from_driver};
use crate::ids::{CommitNumber, Offset};
use crate::limits::Limits;
use crate::message_store::{CommitPage, Head, LoadRequest, Loaded, UnitCommit};
use crate::stream_name::StreamName;
use crate::streams::StreamTables;
use turn::Turn;

mod acknowledge;
mod append;
mod check;
mod commit;
mod commit_rows;
mod dead_letter;
mod global_order;
mod group_commit;
#[cfg(feature = "export")]
mod import;
mod inbox;
mod inspect;
mod lease;
mod load;
mod mapper;
mod marked;
mod outbox;
mod outbox_stats;
mod packed;
mod parking;
mod pool;
mod read;
mod schema;
mod snapshot;
mod timeout;
mod timeout_due;
mod turn;

pub use crate::commit_queue::{MAX_GROUP_BYTES, MAX_GROUP_CALLERS, MAX_GROUP_UNITS};
pub use pool::{FILE_CONNECTIONS, after_release, connect_options, pool_options};

/// Streams, snapshots and outbox in SQLite.
///
/// SQLite has one writer at a time: writing transactions should begin with `BEGIN IMMEDIATE`, as
/// those of [`Persister::begin`](crate::Persister::begin) do. In a deferred transaction that read
/// first, a write that finds the database changed is a conflict.
///
/// Units of work that the store commits by itself ([`MessageStore::commit_alone`](crate::MessageStore::commit_alone)) wait for each other in
/// order, for 100 ms at the most, before they wait for the file. So a store, and a persister with it, should serve one file.
#[derive(Clone, Debug, Default)]
pub struct SqliteStore {
    limits: Limits,
    /// Of those who write a unit of work alone.
    turn: Turn,
}

impl SqliteStore {
    /// A store with these limits.
    pub fn with_limits(limits: Limits) -> Self {
        Self { limits, turn: Turn::default() }
    }
}

impl Backend for Sqlite {
    type Store = SqliteStore;
}

#[cfg(feature = "testkit")]
crate::testkit::faults::faulty!(Sqlite);

const BUSY: i32 = 5;
const BUSY_RECOVERY: i32 = 261;
const LOCKED: i32 = 6;
/// A deferred transaction read before another wrote.
const BUSY_SNAPSHOT: i32 = 517;

/// The result code of SQLite, with its extension.
fn code(error: &(dyn DatabaseError + 'static)) -> i32 {
    error.code().and_then(|code| code.parse().ok()).unwrap_or_default()
}

/// Turns a driver's error into ours. A missing table has no code of its own in SQLite; see [`explain`].
fn classify(doing: &'static str, error: sqlx::Error) -> Error {
    from_driver::<Sqlite>(doing, error)
}

impl Judge for Sqlite {
    fn judge(answer: &(dyn DatabaseError + 'static)) -> Fault {
        match code(answer) & 0xff {
            BUSY | LOCKED => Fault::Contention,
            _ => Fault::Other,
        }
    }
}

/// As [`classify`]; finds out whether a table is missing by looking for it.
async fn explain(conn: &mut SqliteConnection, doing: &'static str, error: sqlx::Error) -> Error {
    const GENERIC: i32 = 1;
    if error.as_database_error().is_some_and(|answer| code(answer) == GENERIC) && !schema::is_complete(conn).await {
        return Error::SchemaMissing { doing };
    }
    classify(doing, error)
}

/// True if another connection has kept the file busy for the whole `busy_timeout`, also while it recovers the log.
pub(crate) fn has_waited(error: &sqlx::Error) -> bool {
    let answer = error.as_database_error();
    answer.is_some_and(|answer| {
        answer.try_downcast_ref::<SqliteError>().is_some() && matches!(code(answer), BUSY | BUSY_RECOVERY)
    })
}

/// True if the write found that the database changed since the transaction's first read.
fn is_stale_read(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|answer| code(answer) == BUSY_SNAPSHOT)
}

#[async_trait]
impl StreamTables<Sqlite> for SqliteStore {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    async fn append(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        stream: &StreamName,
        offset: Offset,
        encoded: &EncodedCommit,
    ) -> Result<bool> {
        append::append(tx, stream, offset, encoded).await
    }

    async fn end(&self, conn: &mut SqliteConnection, stream: &StreamName) -> Result<Option<Offset>> {
        read::end(conn, stream).await
    }

    async fn commit_reaching(
        &self,
        conn: &mut SqliteConnection,
        stream: &StreamName,
        offset: Offset,
    ) -> Result<Option<CommitNumber>> {
        read::commit_reaching(conn, stream, offset).await
    }

    async fn commits(
        &self,
        conn: &mut SqliteConnection,
        stream: &StreamName,
        from: CommitNumber,
        limit: u32,
    ) -> Result<CommitPage> {
        read::commits(conn, stream, from, limit).await
    }

    async fn load(&self, conn: &mut SqliteConnection, request: &LoadRequest<'_>) -> Result<Loaded> {
        load::load(conn, request).await
    }

    async fn commit(&self, conn: &mut SqliteConnection, unit: &UnitCommit<'_>) -> Result<Option<Head>> {
        commit::commit(conn, unit).await
    }

    fn is_one_statement(&self, unit: &UnitCommit<'_>) -> bool {
        commit::is_one_statement(unit)
    }

    async fn turn(&self) -> Option<OwnedMutexGuard<()>> {
        self.turn.wait().await
    }

    async fn commit_together(
        &self,
        conn: &mut SqliteConnection,
        units: &[UnitCommit<'_>],
    ) -> Option<Vec<Result<Option<Head>>>> {
        group_commit::commit_together(conn, units).await
    }

    fn begin_statement(&self) -> Option<&'static str> {
        Some("BEGIN IMMEDIATE")
    }

    fn classify(&self, doing: &'static str, error: sqlx::Error) -> Error {
        classify(doing, error)
    }
}
