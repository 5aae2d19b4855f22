//! Databases of a trial's own.

use std::future::Future;

use sagastore::Backend;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Pool, Sqlite};
use tempfile::TempDir;

/// A kind of database on which the program is run.
pub(crate) trait Site: Backend {
    /// As in SAGASTORE_TEST_ONLY.
    const KIND: &'static str;
    /// The environment variable with the URL of its server.
    const VARIABLE: Option<&'static str>;

    /// Makes an empty database, and says how to connect to it.
    fn create() -> impl Future<Output = anyhow::Result<Place>> + Send;

    fn connect(place: &Place) -> impl Future<Output = anyhow::Result<Pool<Self>>> + Send;

    fn remove(place: Place) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Runs a statement.
    fn execute(pool: &Pool<Self>, sql: &str) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// Where a database is.
pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) folder: TempDir,
    pub(crate) name: String,
}

impl Place {
    fn new(url: impl FnOnce(&TempDir, &str) -> String) -> anyhow::Result<Self> {
        let (folder, name) =
            (tempfile::tempdir()?, format!("sagas_{}", &uuid::Uuid::now_v7().simple().to_string()[..26]));
        Ok(Self { url: url(&folder, &name), folder, name })
    }

    /// A file in a folder of the trial's own.
    pub(crate) fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }
}

macro_rules! execute {
    () => {
        async fn execute(pool: &Pool<Self>, sql: &str) -> anyhow::Result<()> {
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(pool).await?;
            Ok(())
        }
    };
}

impl Site for Sqlite {
    const KIND: &'static str = "sqlite";
    const VARIABLE: Option<&'static str> = None;

    async fn create() -> anyhow::Result<Place> {
        Place::new(|folder, _| format!("sqlite://{}", folder.path().join("sagas.db").display()))
    }

    async fn connect(place: &Place) -> anyhow::Result<Pool<Self>> {
        let options: SqliteConnectOptions = place.url.parse()?;
        Ok(Pool::connect_with(options.create_if_missing(true)).await?)
    }

    async fn remove(_: Place) -> anyhow::Result<()> {
        Ok(())
    }

    execute!();
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
fn server<DB: Site>() -> anyhow::Result<String> {
    let variable = DB::VARIABLE.unwrap_or_default();
    Ok(std::env::var(variable)?)
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
fn on_server(server: &str, name: &str) -> String {
    let (base, query) = server.split_once('?').map_or((server, ""), |(base, query)| (base, query));
    let host = base.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
    let query = if query.is_empty() { String::new() } else { format!("?{query}") };
    format!("{host}/{name}{query}")
}

macro_rules! on_a_server {
    ($database:ty, $kind:literal, $variable:literal) => {
        impl Site for $database {
            const KIND: &'static str = $kind;
            const VARIABLE: Option<&'static str> = Some($variable);

            async fn create() -> anyhow::Result<Place> {
                let url = server::<Self>()?;
                let place = Place::new(|_, name| on_server(&url, name))?;
                let pool = Pool::<Self>::connect(&url).await?;
                Self::execute(&pool, &format!("CREATE DATABASE {}", place.name)).await?;
                pool.close().await;
                Ok(place)
            }

            async fn connect(place: &Place) -> anyhow::Result<Pool<Self>> {
                Ok(Pool::connect(&place.url).await?)
            }

            async fn remove(place: Place) -> anyhow::Result<()> {
                let pool = Pool::<Self>::connect(&server::<Self>()?).await?;
                Self::execute(&pool, &format!("DROP DATABASE {}", place.name)).await?;
                pool.close().await;
                Ok(())
            }

            execute!();
        }
    };
}

#[cfg(feature = "postgres")]
on_a_server!(sqlx::Postgres, "postgres", "SAGASTORE_TEST_POSTGRES_URL");
#[cfg(feature = "mysql")]
on_a_server!(sqlx::MySql, "mysql", "SAGASTORE_TEST_MYSQL_URL");
