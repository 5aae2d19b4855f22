//! What the clauses need of a database beyond sagastore itself.

use std::future::Future;

use anyhow::Context;
use sagastore::Backend;
use sqlx::Pool;
use sqlx::pool::PoolOptions;

use super::mode::{Kind, Mode};

/// The values of one row, as text; `None` for NULL.
pub(crate) type TextRow = Vec<Option<String>>;

/// A database under test.
pub(crate) trait Subject: Backend {
    /// Which one it is.
    const KIND: Kind;

    /// Creates an empty database, or a schema, of a clause's own, under any name.
    fn create(mode: Mode, name: String) -> impl Future<Output = anyhow::Result<Home<Self>>> + Send;

    /// Readies the migrated database for its mode.
    fn set_up(_: &Pool<Self>, _: Mode) -> impl Future<Output = anyhow::Result<()>> + Send {
        std::future::ready(Ok(()))
    }

    /// The built-in store, as the mode has it.
    fn store(_: Mode) -> <Self as Backend>::Store {
        <Self as Backend>::Store::default()
    }

    /// Connects to it once more.
    fn connect(home: &Home<Self>, connections: u32) -> impl Future<Output = anyhow::Result<Pool<Self>>> + Send;

    /// Connects to it by way of another port of this machine. Servers only.
    fn connect_by(
        home: &Home<Self>,
        port: u16,
        connections: u32,
    ) -> impl Future<Output = anyhow::Result<Pool<Self>>> + Send;

    /// Options as the library advises them.
    fn advised(
        options: <Self::Connection as sqlx::Connection>::Options,
    ) -> (<Self::Connection as sqlx::Connection>::Options, PoolOptions<Self>);

    /// On which port of this machine the server is.
    fn port(home: &Home<Self>) -> u16;

    /// Where it is, for another process.
    fn address(home: &Home<Self>) -> String;

    /// What another process said that it was.
    fn at_address(address: &str) -> anyhow::Result<Home<Self>>;

    /// As [`connect`](Self::connect), in a role that may read and write rows, and nothing else. Servers only.
    fn connect_restricted(home: &Home<Self>) -> impl Future<Output = anyhow::Result<Pool<Self>>> + Send;

    /// The server ends all connections to it. Servers only.
    fn cut_connections(home: &Home<Self>) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Removes it.
    fn remove(home: &Home<Self>) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// What is left on the server of transactions and locks; empty if all is quiet. `pool` is that
    /// of the clause.
    fn leftovers(home: &Home<Self>, pool: &Pool<Self>) -> impl Future<Output = anyhow::Result<Vec<String>>> + Send;

    /// Runs statements, and says how many rows they changed.
    fn execute(conn: &mut Self::Connection, sql: String) -> impl Future<Output = anyhow::Result<u64>> + Send;

    /// Runs a query.
    fn rows(conn: &mut Self::Connection, sql: String) -> impl Future<Output = anyhow::Result<Vec<TextRow>>> + Send;

    /// Runs a statement that is prepared, and kept so.
    fn run_prepared(conn: &mut Self::Connection, sql: String) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// A literal of a byte string.
    fn bytes(bytes: &[u8]) -> String;

    /// A literal of a text.
    fn text(text: &str) -> String {
        format!("'{}'", text.replace('\'', "''"))
    }

    /// Counts the messages that wait in the outbox's fast lane.
    const COUNT_FAST_LANE: &'static str;
}

/// Where the database of a clause is.
pub(crate) struct Home<DB: Subject> {
    pub(crate) mode: Mode,
    /// How to connect to it.
    pub(crate) options: <DB::Connection as sqlx::Connection>::Options,
    /// Its name on the server; empty if it has none.
    pub(crate) name: String,
    /// The folder of its file.
    pub(crate) folder: Option<tempfile::TempDir>,
}

/// Whether this build has the database.
pub(crate) fn is_built_in(kind: Kind) -> bool {
    match kind {
        Kind::Sqlite => true,
        Kind::Postgres => cfg!(feature = "postgres"),
        Kind::Mysql => cfg!(feature = "mysql"),
    }
}

/// Connects once, to see whether a server is there.
pub(crate) async fn ping(kind: Kind, url: &str) -> anyhow::Result<()> {
    match kind {
        Kind::Sqlite => Ok(()),
        #[cfg(feature = "postgres")]
        Kind::Postgres => super::postgres::ping(url).await,
        #[cfg(feature = "mysql")]
        Kind::Mysql => super::mysql::ping(url).await,
        #[allow(unreachable_patterns, reason = "a build may have all databases, or not")]
        _ => anyhow::bail!("this build lacks the database of {url}"),
    }
}

/// The URL of a server's superuser.
pub(crate) fn server_url(kind: Kind) -> anyhow::Result<String> {
    let variable = kind.url_variable().context("a file needs no server")?;
    std::env::var(variable).context(variable)
}

/// A name that no other clause uses.
pub(crate) fn unique_name() -> String {
    // Short enough for the name of a role, too.
    format!("sagas_{}", &uuid::Uuid::now_v7().simple().to_string()[..26])
}

/// Implements the raw SQL verbs of [`Subject`], which are written alike for each database.
macro_rules! raw_sql_verbs {
    () => {
        async fn execute(conn: &mut Self::Connection, sql: String) -> anyhow::Result<u64> {
            let done = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(conn).await?;
            Ok(done.rows_affected())
        }

        async fn run_prepared(conn: &mut Self::Connection, sql: String) -> anyhow::Result<()> {
            sqlx::query(sqlx::AssertSqlSafe(sql)).execute(conn).await?;
            Ok(())
        }

        async fn rows(conn: &mut Self::Connection, sql: String) -> anyhow::Result<Vec<TextRow>> {
            let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).fetch_all(conn).await?;
            rows.iter().map(|row| (0..sqlx::Row::len(row)).map(|at| as_text(row, at)).collect()).collect()
        }
    };
}
pub(crate) use raw_sql_verbs;

/// Defines how any column of a row becomes text.
macro_rules! as_text {
    ($row:ty) => {
        fn as_text(row: &$row, at: usize) -> anyhow::Result<Option<String>> {
            use sqlx::Row;
            if let Ok(text) = row.try_get::<Option<String>, _>(at) {
                return Ok(text);
            }
            if let Ok(number) = row.try_get::<Option<i64>, _>(at) {
                return Ok(number.map(|number| number.to_string()));
            }
            if let Ok(number) = row.try_get::<Option<i32>, _>(at) {
                return Ok(number.map(|number| number.to_string()));
            }
            let bytes = row.try_get_unchecked::<Option<Vec<u8>>, _>(at)?;
            Ok(bytes.map(String::from_utf8).transpose()?)
        }
    };
}
pub(crate) use as_text;
