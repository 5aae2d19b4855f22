//! What the larger examples share: the choice of a database by its URL, and a progress display.
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sagastore::{Backend, sqlite};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Pool, Sqlite};
use tempfile::TempDir;

mod progress;

pub(crate) use progress::Progress;

#[cfg(any(feature = "postgres", feature = "mysql"))]
const SERVER_CONNECTIONS: u32 = 16;
/// How long a writer waits for the others before it gives up.
const SQLITE_BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// The databases that this build can run on.
pub(crate) enum Scheme {
    Sqlite,
    #[cfg(feature = "postgres")]
    Postgres,
    #[cfg(feature = "mysql")]
    MySql,
}

impl Scheme {
    pub(crate) fn of(url: &str) -> Result<Self> {
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        match scheme {
            "sqlite" => {
                let in_memory = url.contains(":memory:") || url.contains("mode=memory");
                ensure!(!in_memory, "{url:?} is gone once it is closed, and this example reopens it; name a file");
                Ok(Self::Sqlite)
            }
            #[cfg(feature = "postgres")]
            "postgres" | "postgresql" => Ok(Self::Postgres),
            #[cfg(not(feature = "postgres"))]
            "postgres" | "postgresql" => bail!("this was built without PostgreSQL; build it with --features postgres"),
            #[cfg(feature = "mysql")]
            "mysql" | "mariadb" => Ok(Self::MySql),
            #[cfg(not(feature = "mysql"))]
            "mysql" | "mariadb" => bail!("this was built without MySQL and MariaDB; build it with --features mysql"),
            _ => bail!("no database has URLs with the scheme {scheme:?}; use sqlite:, postgres: or mysql:"),
        }
    }
}

/// A database that can be connected to by its URL.
pub(crate) trait Connect: Backend {
    async fn connect(url: &str) -> Result<Pool<Self>>;
}

impl Connect for Sqlite {
    async fn connect(url: &str) -> Result<Pool<Self>> {
        let file = sqlite::connect_options(SqliteConnectOptions::from_str(url)?.create_if_missing(true));
        let pool = sqlite::pool_options().connect_with(file.busy_timeout(SQLITE_BUSY_TIMEOUT));
        pool.await.with_context(|| format!("connecting to {url:?}"))
    }
}

#[cfg(feature = "postgres")]
impl Connect for sqlx::Postgres {
    async fn connect(url: &str) -> Result<Pool<Self>> {
        use sagastore::postgres;
        let server = postgres::connect_options(url.parse().context("reading the URL")?);
        // The URL may hold a password, so the error does not repeat it.
        let pool = postgres::pool_options().max_connections(SERVER_CONNECTIONS).connect_with(server);
        pool.await.context("connecting to PostgreSQL")
    }
}

#[cfg(feature = "mysql")]
impl Connect for sqlx::MySql {
    async fn connect(url: &str) -> Result<Pool<Self>> {
        use sagastore::mysql;
        let server = mysql::connect_options(url.parse().context("reading the URL")?);
        let pool = mysql::pool_options().max_connections(SERVER_CONNECTIONS).connect_with(server);
        pool.await.context("connecting to MySQL or MariaDB")
    }
}

/// The URL of a new SQLite file in a folder that is removed with the value beside it.
pub(crate) fn temporary_database() -> Result<(TempDir, String)> {
    let folder = tempfile::tempdir().context("making a temporary folder")?;
    let url = format!("sqlite://{}", folder.path().join("sagas.db").display());
    Ok((folder, url))
}
