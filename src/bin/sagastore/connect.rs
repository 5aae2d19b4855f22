//! Which database it is, and how it is opened.

use std::time::Duration;

use sqlx::Pool;
use sqlx::sqlite::SqliteConnectOptions;

use crate::verdict::Failure;

/// How long a connection may take to open.
const CONNECT_WITHIN: Duration = Duration::from_secs(15);
/// How long SQLite waits for another writer.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections at once.
const CONNECTIONS: u32 = 1;

/// What the verb does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    /// Writes, also into a file that is not there yet.
    Create,
}

/// A database of one of the kinds that are built in.
pub(crate) enum Connected {
    Sqlite(Pool<sqlx::Sqlite>),
    #[cfg(feature = "postgres")]
    Postgres(Pool<sqlx::Postgres>),
    #[cfg(feature = "mysql")]
    MySql(Pool<sqlx::MySql>),
}

/// Does the same with a pool of any kind.
macro_rules! with_pool {
    ($connected:expr, $pool:ident => $done:expr) => {
        match $connected {
            $crate::connect::Connected::Sqlite($pool) => $done,
            #[cfg(feature = "postgres")]
            $crate::connect::Connected::Postgres($pool) => $done,
            #[cfg(feature = "mysql")]
            $crate::connect::Connected::MySql($pool) => $done,
        }
    };
}
pub(crate) use with_pool;

pub(crate) async fn to(url: Option<&str>, access: Access) -> Result<Connected, Failure> {
    let url = url.ok_or_else(|| Failure::usage("no database is named; give --database-url, or set DATABASE_URL"))?;
    match url.split_once(':').map_or("", |(scheme, _)| scheme) {
        "sqlite" => sqlite(url, access).await.map(Connected::Sqlite),
        "postgres" | "postgresql" => postgres(url).await,
        "mysql" | "mariadb" => mysql(url).await,
        _ => Err(Failure::usage("the URL of the database does not begin with sqlite:, postgres: or mysql:")),
    }
}

fn no_url(_: sqlx::Error) -> Failure {
    Failure::usage("the URL of the database cannot be read; check how it is written")
}

fn refused(fault: sqlx::Error) -> Failure {
    match fault {
        sqlx::Error::PoolTimedOut => Failure::failed(format!(
            "connecting to the database took longer than {} s; check that it runs and can be reached",
            CONNECT_WITHIN.as_secs()
        )),
        fault => Failure::failed(format!("connecting to the database failed: {fault}")),
    }
}

async fn sqlite(url: &str, access: Access) -> Result<Pool<sqlx::Sqlite>, Failure> {
    let options: SqliteConnectOptions = url.parse().map_err(no_url)?;
    let options = options
        .create_if_missing(access == Access::Create)
        .read_only(access == Access::Read)
        .busy_timeout(BUSY_TIMEOUT);
    // Who only looks leaves the file's journal as it is.
    let pool = sagastore::sqlite::pool_options().max_connections(CONNECTIONS).acquire_timeout(CONNECT_WITHIN);
    pool.connect_with(options).await.map_err(refused)
}

#[cfg(feature = "postgres")]
async fn postgres(url: &str) -> Result<Connected, Failure> {
    // Without settings of a session, so that a pooler may be in between.
    let options: sqlx::postgres::PgConnectOptions = url.parse().map_err(no_url)?;
    let pool = sagastore::postgres::pool_options().max_connections(CONNECTIONS).acquire_timeout(CONNECT_WITHIN);
    pool.connect_with(options).await.map(Connected::Postgres).map_err(refused)
}

#[cfg(not(feature = "postgres"))]
async fn postgres(_: &str) -> Result<Connected, Failure> {
    Err(Failure::usage("this sagastore was built without PostgreSQL; build it with the feature postgres"))
}

#[cfg(feature = "mysql")]
async fn mysql(url: &str) -> Result<Connected, Failure> {
    let options: sqlx::mysql::MySqlConnectOptions = url.parse().map_err(no_url)?;
    let pool = sagastore::mysql::pool_options().max_connections(CONNECTIONS).acquire_timeout(CONNECT_WITHIN);
    pool.connect_with(sagastore::mysql::connect_options(options)).await.map(Connected::MySql).map_err(refused)
}

#[cfg(not(feature = "mysql"))]
async fn mysql(_: &str) -> Result<Connected, Failure> {
    Err(Failure::usage("this sagastore was built without MySQL and MariaDB; build it with the feature mysql"))
}
