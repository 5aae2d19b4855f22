//! Where the processes find their database.

use std::future::Future;
use std::time::Duration;

use sagastore::Backend;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Pool, Sqlite};

/// A process that is paused may hold the only writing transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

/// How long connecting may take, on a machine that is busy with other things.
const CONNECT_WITHIN: Duration = Duration::from_secs(300);

/// A database that several processes share.
pub(crate) trait Site: Backend {
    /// As in SAGASTORE_TEST_ONLY.
    const KIND: &'static str;
    /// The environment variable with the URL of its server.
    const VARIABLE: Option<&'static str>;

    /// Makes an empty database of this name.
    fn create(name: &str) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Connects to it.
    fn connect(name: &str, connections: u32) -> impl Future<Output = anyhow::Result<Pool<Self>>> + Send;

    /// Removes it.
    fn remove(name: &str) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// The name is that of the file.
impl Site for Sqlite {
    const KIND: &'static str = "sqlite";
    const VARIABLE: Option<&'static str> = None;

    async fn create(_: &str) -> anyhow::Result<()> {
        Ok(())
    }

    async fn connect(name: &str, connections: u32) -> anyhow::Result<Pool<Self>> {
        let options = SqliteConnectOptions::new()
            .filename(name)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(BUSY_TIMEOUT);
        Ok(SqlitePoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(CONNECT_WITHIN)
            .connect_with(options)
            .await?)
    }

    async fn remove(_: &str) -> anyhow::Result<()> {
        Ok(())
    }
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
fn url<DB: Site>() -> anyhow::Result<String> {
    use anyhow::Context;

    let variable = DB::VARIABLE.context("a file needs no server")?;
    std::env::var(variable).context(variable)
}

#[cfg(feature = "postgres")]
impl Site for sqlx::Postgres {
    const KIND: &'static str = "postgres";
    const VARIABLE: Option<&'static str> = Some("SAGASTORE_TEST_POSTGRES_URL");

    async fn create(name: &str) -> anyhow::Result<()> {
        let server = sqlx::PgPool::connect(&url::<Self>()?).await?;
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&server).await?;
        server.close().await;
        Ok(())
    }

    async fn connect(name: &str, connections: u32) -> anyhow::Result<Pool<Self>> {
        let options = url::<Self>()?.parse::<sqlx::postgres::PgConnectOptions>()?.database(name);
        Ok(sqlx::postgres::PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(CONNECT_WITHIN)
            .connect_with(options)
            .await?)
    }

    async fn remove(name: &str) -> anyhow::Result<()> {
        let server = sqlx::PgPool::connect(&url::<Self>()?).await?;
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).execute(&server).await?;
        server.close().await;
        Ok(())
    }
}

#[cfg(feature = "mysql")]
impl Site for sqlx::MySql {
    const KIND: &'static str = "mysql";
    const VARIABLE: Option<&'static str> = Some("SAGASTORE_TEST_MYSQL_URL");

    async fn create(name: &str) -> anyhow::Result<()> {
        let server = sqlx::MySqlPool::connect(&url::<Self>()?).await?;
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&server).await?;
        server.close().await;
        Ok(())
    }

    async fn connect(name: &str, connections: u32) -> anyhow::Result<Pool<Self>> {
        let options = url::<Self>()?.parse::<sqlx::mysql::MySqlConnectOptions>()?.database(name);
        Ok(sqlx::mysql::MySqlPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(CONNECT_WITHIN)
            .connect_with(options)
            .await?)
    }

    async fn remove(name: &str) -> anyhow::Result<()> {
        let server = sqlx::MySqlPool::connect(&url::<Self>()?).await?;
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("DROP DATABASE {name}"))).execute(&server).await?;
        server.close().await;
        Ok(())
    }
}
