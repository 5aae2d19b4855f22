//! The store on MySQL and MariaDB.

use std::fmt::Write;
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::error::DatabaseError;
use sqlx::mysql::MySqlDatabaseError;
use sqlx::{MySql, MySqlConnection, Transaction};

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
mod fence;
mod global_order;
#[cfg(feature = "export")]
mod import;
mod inbox;
mod inspect;
mod lease;
mod load;
mod mapper;
mod outbox;
mod outbox_stats;
mod parking;
mod pool;
mod read;
mod schema;
mod server;
mod snapshot;
mod timeout;
mod timeout_due;

pub use pool::{after_release, connect_options, pool_options};

/// Streams, snapshots and outbox in MySQL or MariaDB, on InnoDB.
///
/// Writing transactions should run at READ COMMITTED, as those of
/// [`Persister::begin`](crate::Persister::begin) do. REPEATABLE READ, the default of these databases,
/// is safe too, but what is loaded again in the same transaction, as after a conflict, is then what it
/// was at the first load. Sessions at READ UNCOMMITTED, or with `autocommit = 0`, are refused, as far as the store asks: see
/// [transactions](crate::docs::transactions). After [`Error::Contention`] the whole transaction is gone, after
/// [`Error::Timeout`] it is still there: roll it back.
///
/// The server takes no packet above its `max_allowed_packet` (MariaDB: 16 MiB by default, which is room
/// for the default [`Limits`]). The store asks for it before its first write, and refuses what would
/// not fit with [`Error::TooLarge`]; [`check_packet_limit`](Self::check_packet_limit) tells at start.
///
/// Where calls may be dropped half-way, give the pool [`after_release`], which [`pool_options`] has.
///
/// What a store and its clones have learned from the server they remember: use one per database.
#[derive(Clone, Debug, Default)]
pub struct MySqlStore {
    limits: Limits,
    globally_ordered: bool,
    server: Arc<server::Server>,
}

impl MySqlStore {
    /// A store with these limits.
    pub fn with_limits(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }
}

impl Backend for MySql {
    type Store = MySqlStore;
}

#[cfg(feature = "testkit")]
crate::testkit::faults::faulty!(MySql);

const TOO_MANY_CONNECTIONS: u16 = 1040;
const DATABASE_ACCESS_DENIED: u16 = 1044;
const ACCESS_DENIED: u16 = 1045;
const NO_SUCH_DATABASE: u16 = 1049;
const SERVER_SHUTDOWN: u16 = 1053;
const DUPLICATE_ENTRY: u16 = 1062;
const HOST_NOT_PRIVILEGED: u16 = 1130;
const TABLE_ACCESS_DENIED: u16 = 1142;
const COLUMN_ACCESS_DENIED: u16 = 1143;
const NO_SUCH_TABLE: u16 = 1146;
const ABORTING_CONNECTION: u16 = 1152;
const PACKET_TOO_LARGE: u16 = 1153;
const NETWORK_READ_ERROR: u16 = 1158;
const NETWORK_WRITE_INTERRUPTED: u16 = 1161;
const TOO_MANY_USER_CONNECTIONS: u16 = 1203;
const LOCK_WAIT_TIMEOUT: u16 = 1205;
const LOCK_DEADLOCK: u16 = 1213;
/// Such as of connections, which a user may have been given fewer of than all others.
const USER_LIMIT_REACHED: u16 = 1226;
const PRIVILEGE_MISSING: u16 = 1227;
const LOGIN_NOT_SUPPORTED: u16 = 1251;
const QUERY_INTERRUPTED: u16 = 1317;
/// A transaction's snapshot is older than a change of the table.
const TABLE_DEFINITION_CHANGED: u16 = 1412;
const NEEDS_NEW_PREPARE: u16 = 1615;
/// MariaDB with `innodb_snapshot_isolation`: the row changed since the transaction's snapshot.
const RECORD_CHANGED: u16 = 1020;
/// MariaDB's `max_statement_time`.
const STATEMENT_TIMEOUT: u16 = 1969;
/// MySQL's `max_execution_time`.
const QUERY_TIMEOUT: u16 = 3024;
/// MariaDB's answer to the statement that finds its session killed.
const CONNECTION_KILLED: u16 = 1927;
/// The server has `require_secure_transport`, and the connection has no TLS.
const TLS_REQUIRED: u16 = 3159;
/// MySQL closed an idle session.
const CLIENT_INTERACTION_TIMEOUT: u16 = 4031;

/// The server's error number; zero if the answer is not the server's.
fn number(error: &(dyn DatabaseError + 'static)) -> u16 {
    error.try_downcast_ref::<MySqlDatabaseError>().map_or(0, MySqlDatabaseError::number)
}

/// Turns a driver's error into ours.
fn classify(doing: &'static str, error: sqlx::Error) -> Error {
    from_driver::<MySql>(doing, error)
}

impl Judge for MySql {
    fn judge(answer: &(dyn DatabaseError + 'static)) -> Fault {
        match number(answer) {
            NO_SUCH_TABLE => Fault::SchemaMissing,
            LOCK_DEADLOCK
            | RECORD_CHANGED
            | TABLE_DEFINITION_CHANGED
            | NEEDS_NEW_PREPARE
            | TOO_MANY_CONNECTIONS
            | TOO_MANY_USER_CONNECTIONS
            | USER_LIMIT_REACHED => Fault::Contention,
            LOCK_WAIT_TIMEOUT | STATEMENT_TIMEOUT | QUERY_TIMEOUT | QUERY_INTERRUPTED => Fault::Timeout,
            SERVER_SHUTDOWN
            | ABORTING_CONNECTION
            | NETWORK_READ_ERROR..=NETWORK_WRITE_INTERRUPTED
            | CONNECTION_KILLED
            | CLIENT_INTERACTION_TIMEOUT => Fault::Disconnected,
            DATABASE_ACCESS_DENIED
            | ACCESS_DENIED
            | NO_SUCH_DATABASE
            | HOST_NOT_PRIVILEGED
            | TABLE_ACCESS_DENIED
            | COLUMN_ACCESS_DENIED
            | PRIVILEGE_MISSING
            | LOGIN_NOT_SUPPORTED
            | TLS_REQUIRED => Fault::Denied,
            // Of a class of which all else is a lost connection.
            PACKET_TOO_LARGE => Fault::Other,
            _ => by_class(answer.code().as_deref().unwrap_or_default()),
        }
    }
}

/// Judges what has another number by the class of its SQLSTATE.
fn by_class(state: &str) -> Fault {
    match state.get(..2) {
        // connection exception
        Some("08") => Fault::Disconnected,
        // invalid authorization specification
        Some("28") => Fault::Denied,
        // transaction rollback
        Some("40") => Fault::Contention,
        _ => Fault::Other,
    }
}

/// True if the row is there already. The statement is undone then, the transaction is still usable.
fn is_duplicate(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|answer| number(answer) == DUPLICATE_ENTRY)
}

fn is_missing_table(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|answer| number(answer) == NO_SUCH_TABLE)
}

/// A name as `UNHEX` reads it, for the JSON of a statement: from a string that has escaped characters, older releases of MariaDB
/// take these as they are written (MDEV-27412).
fn hex(name: &str) -> String {
    name.bytes().fold(String::with_capacity(2 * name.len()), |mut hex, byte| {
        let _ = write!(hex, "{byte:02X}");
        hex
    })
}

/// Reads a name, which is stored as its bytes.
fn text(bytes: Vec<u8>) -> sqlx::Result<String> {
    String::from_utf8(bytes).map_err(|fault| sqlx::Error::Decode(fault.into()))
}

#[async_trait]
impl StreamTables<MySql> for MySqlStore {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    async fn append(
        &self,
        tx: &mut Transaction<'_, MySql>,
        stream: &StreamName,
        offset: Offset,
        encoded: &EncodedCommit,
    ) -> Result<bool> {
        append::append(self, tx, stream, offset, encoded).await
    }

    async fn end(&self, conn: &mut MySqlConnection, stream: &StreamName) -> Result<Option<Offset>> {
        read::end(conn, stream).await
    }

    async fn commit_reaching(
        &self,
        conn: &mut MySqlConnection,
        stream: &StreamName,
        offset: Offset,
    ) -> Result<Option<CommitNumber>> {
        read::commit_reaching(conn, stream, offset).await
    }

    async fn commits(
        &self,
        conn: &mut MySqlConnection,
        stream: &StreamName,
        from: CommitNumber,
        limit: u32,
    ) -> Result<CommitPage> {
        read::commits(conn, stream, from, limit).await
    }

    async fn load(&self, conn: &mut MySqlConnection, request: &LoadRequest<'_>) -> Result<Loaded> {
        load::load(conn, request).await
    }

    async fn commit(&self, conn: &mut MySqlConnection, unit: &UnitCommit<'_>) -> Result<Option<Head>> {
        commit::commit(self, conn, unit).await
    }

    fn is_one_statement(&self, unit: &UnitCommit<'_>) -> bool {
        commit::is_one_statement(self, unit)
    }

    fn begin_statement(&self) -> Option<&'static str> {
        Some("SET TRANSACTION ISOLATION LEVEL READ COMMITTED; START TRANSACTION")
    }

    /// sqlx counts a transaction only once the server has answered, and forgets which answers to a
    /// statement that is being prepared are still to come.
    fn survives_dropped_calls(&self) -> bool {
        false
    }

    fn classify(&self, doing: &'static str, error: sqlx::Error) -> Error {
        classify(doing, error)
    }
}

#[cfg(test)]
mod tests {
    use sqlx::ConnectOptions;
    use sqlx::mysql::MySqlConnectOptions;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    /// What comes of a login that the server refuses with this number and these words.
    async fn refused(number: u16, words: &str) -> Error {
        let mut answer = vec![0xff];
        answer.extend(number.to_le_bytes());
        answer.extend(words.as_bytes());
        let length = u8::try_from(answer.len()).expect("it is short");
        let packet = [vec![length, 0, 0, 0], answer].concat();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let server = async {
            let (mut client, _) = listener.accept().await.expect("a client");
            client.write_all(&packet).await.expect("it reads");
        };
        let options = MySqlConnectOptions::new().host("127.0.0.1").port(port);
        let ((), connected) = tokio::join!(server, options.connect());
        classify("connecting", connected.expect_err("it is refused"))
    }

    /// Some were `Storage`: an operator was not told that a right is missing.
    #[tokio::test]
    async fn whatever_the_server_does_not_let_in_is_denied() {
        let socket = "#28000Access denied for user 'root'@'localhost'";
        let host = "Host '10.0.0.1' is not allowed to connect to this MariaDB server";
        for (number, words) in [(1045, socket), (1698, socket), (1130, host)] {
            let error = refused(number, words).await;
            assert!(matches!(error, Error::Denied { .. }), "{number}: {error:?}");
        }
    }

    /// Were `Storage`: a cluster that changed its primary, or certified another's transaction, was not tried again.
    #[tokio::test]
    async fn what_a_cluster_says_by_its_class_alone_is_worth_trying_again() {
        let large = refused(1153, "#08S01Got a packet bigger than 'max_allowed_packet' bytes").await;
        assert!(matches!(large, Error::Storage { .. }), "{large:?}");
        let cut = refused(1047, "#08S01WSREP has not yet prepared node for application use").await;
        assert!(matches!(cut, Error::Disconnected { .. }) && cut.is_transient(), "{cut:?}");
        let lost = refused(3101, "#40000Plugin instructed the server to rollback the current transaction").await;
        assert!(matches!(lost, Error::Contention { .. }) && lost.is_transient(), "{lost:?}");
    }

    #[tokio::test]
    async fn a_server_with_no_connection_left_is_worth_trying_again() {
        for number in [1040, 1203, 1226] {
            let full = refused(number, "#08004Too many connections").await;
            assert!(matches!(full, Error::Contention { .. }) && full.is_transient(), "{number}: {full:?}");
        }
    }
}
