//! What the databases do differently.

use sagastore::{Backend, Persister};
use sqlx::Pool;
use sqlx::error::DatabaseError;
use tokio::task::JoinSet;

use super::load::Load;
use super::place::Place;

/// How long clients are made to wait by their sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Locks are waited for for a second only.
    ForLocks,
    /// Statements take two and a half seconds at most.
    ForStatements,
    /// As the library advises.
    Advised,
}

/// A database under load.
pub(crate) trait Site: Backend {
    /// As in SAGASTORE_TEST_ONLY.
    const KIND: &'static str;
    /// After a `SELECT`: locks the rows, where that is needed.
    const FOR_UPDATE: &'static str;
    /// What the database says when it is full.
    const FULL: &'static [&'static str];
    /// What it says when a row is there already.
    const DUPLICATE: &'static str;
    /// Errors that must be seen, as they are written down, with what to call them.
    const PROVOKED: &'static [(&'static str, &'static str)];
    /// Bytes that each event has for nothing.
    const PADDING: usize;

    /// Connects, on a server also by way of another port of this machine.
    fn connect(
        place: &Place,
        port: Option<u16>,
        patience: Patience,
    ) -> impl Future<Output = anyhow::Result<Pool<Self>>> + Send;

    /// The database's own number of an error.
    fn code(error: &dyn DatabaseError) -> String;

    /// Runs statements.
    fn execute(conn: &mut Self::Connection, sql: String) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Runs a query whose columns are all texts that are not null.
    fn texts(conn: &mut Self::Connection, sql: String) -> impl Future<Output = sqlx::Result<Vec<Vec<String>>>> + Send;

    /// Commits units of work in groups, where that can be had.
    fn grouped(persister: Persister<Self>, pool: &Pool<Self>) -> Persister<Self>;

    /// Clients of what only this database has.
    fn own_clients(load: &Load<Self>, clients: &mut JoinSet<anyhow::Result<()>>);
}

/// Implements the raw SQL verbs of [`Site`], which are written alike for each database.
macro_rules! raw_sql_verbs {
    () => {
        async fn execute(conn: &mut Self::Connection, sql: String) -> sqlx::Result<()> {
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(conn).await.map(drop)
        }

        async fn texts(conn: &mut Self::Connection, sql: String) -> sqlx::Result<Vec<Vec<String>>> {
            use sqlx::Row;
            let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).fetch_all(conn).await?;
            let text = |row: &<Self as sqlx::Database>::Row, at| {
                row.try_get::<String, _>(at).map(|text| text.trim_end().to_owned())
            };
            rows.iter().map(|row| (0..row.len()).map(|at| text(row, at)).collect()).collect()
        }
    };
}
pub(crate) use raw_sql_verbs;
