//! The store on PostgreSQL.

use async_trait::async_trait;
use sqlx::error::DatabaseError;
use sqlx::postgres::{PgDatabaseError, PgSeverity};
use sqlx::{PgConnection, Postgres, Transaction};

use crate::backend::Backend;
use crate::commit::EncodedCommit;
use crate::error::{Error, Fault, Judge, Result, from_driver};
use crate::ids::{CommitNumber, Offset};
use crate::limits::Limits;
use crate::message_store::{CommitPage, Head, LoadRequest, Loaded, UnitCommit};
use crate::stream_name::StreamName;
use crate::streams::StreamTables;

mod acknowledge;
mod append;
mod check;
mod commit;
mod dead_letter;
mod epoch;
mod global_order;
#[cfg(feature = "export")]
mod import;
mod inbox;
mod inspect;
mod lease;
mod load;
mod mapper;
mod notify;
mod outbox;
mod outbox_stats;
mod parking;
mod pool;
mod read;
mod schema;
pub mod session;
mod snapshot;
mod timeout;
mod timeout_due;

pub use notify::{NOTIFY_CHANNEL, NOTIFY_DEBOUNCE, OutboxNotifier};
pub use pool::{connect_options, pool_options};

/// Streams, snapshots and outbox in PostgreSQL, at READ COMMITTED or above.
///
/// At REPEATABLE READ and SERIALIZABLE a lost race is [`Error::Contention`], not a conflict: the
/// server aborts the transaction.
#[derive(Clone, Debug, Default)]
pub struct PostgresStore {
    limits: Limits,
}

impl PostgresStore {
    /// A store with these limits.
    pub fn with_limits(limits: Limits) -> Self {
        Self { limits }
    }
}

impl Backend for Postgres {
    type Store = PostgresStore;
}

#[cfg(feature = "testkit")]
crate::testkit::faults::faulty!(Postgres);

/// Turns a driver's error into ours.
fn classify(doing: &'static str, error: sqlx::Error) -> Error {
    from_driver::<Postgres>(doing, error)
}

/// By its SQLSTATE (PostgreSQL manual, appendix A).
impl Judge for Postgres {
    fn judge(answer: &(dyn DatabaseError + 'static)) -> Fault {
        // All sessions end, and what was being committed may be there: it may have been written just before.
        if answer.try_downcast_ref::<PgDatabaseError>().is_some_and(|answer| answer.severity() == PgSeverity::Panic) {
            return Fault::Disconnected;
        }
        match answer.code().as_deref().unwrap_or_default() {
            // undefined_table, undefined_column, undefined_function, invalid_schema_name
            "42P01" | "42703" | "42883" | "3F000" => Fault::SchemaMissing,
            // serialization_failure, deadlock_detected, too_many_connections, cannot_connect_now
            "40001" | "40P01" | "53300" | "57P03" => Fault::Contention,
            // query_canceled, lock_not_available, idle and transaction timeouts
            "57014" | "55P03" | "25P03" | "25P04" => Fault::Timeout,
            // admin_shutdown, crash_shutdown, idle_session_timeout
            "57P01" | "57P02" | "57P05" => Fault::Disconnected,
            code if code.starts_with("08") => Fault::Disconnected,
            // invalid_catalog_name, insufficient_privilege, and the class of invalid_authorization_specification
            "3D000" | "42501" => Fault::Denied,
            code if code.starts_with("28") => Fault::Denied,
            _ => Fault::Other,
        }
    }
}

#[async_trait]
impl StreamTables<Postgres> for PostgresStore {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    async fn append(
        &self,
        tx: &mut Transaction<'_, Postgres>,
        stream: &StreamName,
        offset: Offset,
        encoded: &EncodedCommit,
    ) -> Result<bool> {
        append::append(tx, stream, offset, encoded).await
    }

    async fn end(&self, conn: &mut PgConnection, stream: &StreamName) -> Result<Option<Offset>> {
        read::end(conn, stream).await
    }

    async fn commit_reaching(
        &self,
        conn: &mut PgConnection,
        stream: &StreamName,
        offset: Offset,
    ) -> Result<Option<CommitNumber>> {
        read::commit_reaching(conn, stream, offset).await
    }

    async fn commits(
        &self,
        conn: &mut PgConnection,
        stream: &StreamName,
        from: CommitNumber,
        limit: u32,
    ) -> Result<CommitPage> {
        read::commits(conn, stream, from, limit).await
    }

    async fn load(&self, conn: &mut PgConnection, request: &LoadRequest<'_>) -> Result<Loaded> {
        load::load(conn, request).await
    }

    async fn commit(&self, conn: &mut PgConnection, unit: &UnitCommit<'_>) -> Result<Option<Head>> {
        commit::commit(conn, unit).await
    }

    fn is_one_statement(&self, unit: &UnitCommit<'_>) -> bool {
        commit::is_one_statement(unit)
    }

    fn begin_statement(&self) -> Option<&'static str> {
        None
    }

    /// sqlx counts a transaction only once the server has answered.
    fn survives_dropped_calls(&self) -> bool {
        false
    }

    fn classify(&self, doing: &'static str, error: sqlx::Error) -> Error {
        classify(doing, error)
    }
}
