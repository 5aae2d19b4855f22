//! SQLite.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sagastore::{Persister, sqlite};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Pool, Sqlite};
use tokio::task::JoinSet;

use super::load::Load;
use super::place::Place;
use super::site::{Patience, Site, raw_sql_verbs};

/// Shorter than others hold the file at times.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);
const CONNECTIONS: u32 = 6;
/// More pages than any run fills.
const MOST_PAGES: u32 = 1_000_000_000;

/// While it is set, the database may not grow.
pub(crate) static FULL: AtomicBool = AtomicBool::new(false);
/// While it is set, nothing that was written goes from the log into the file by itself.
pub(crate) static KEEPS_LOG: AtomicBool = AtomicBool::new(false);

impl Site for Sqlite {
    const KIND: &'static str = "sqlite";
    const FOR_UPDATE: &'static str = "";
    /// The log is to become large.
    const PADDING: usize = 4_000;

    async fn connect(place: &Place, _: Option<u16>, patience: Patience) -> anyhow::Result<Pool<Self>> {
        let file = SqliteConnectOptions::new().filename(&place.database).create_if_missing(true);
        let mut options = sqlite::connect_options(file);
        if patience != Patience::Advised {
            options = options.busy_timeout(BUSY_TIMEOUT);
            if KEEPS_LOG.load(Ordering::SeqCst) {
                options = options.pragma("wal_autocheckpoint", "0");
            }
        }
        let pool = sqlite::pool_options().max_connections(CONNECTIONS).before_acquire(|conn, _| {
            Box::pin(async move {
                let most = if FULL.load(Ordering::SeqCst) { 1 } else { MOST_PAGES };
                // It does not become less than there are.
                let limit = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {most}"));
                sqlx::raw_sql(limit).execute(conn).await.map(|_| true)
            })
        });
        Ok(pool.connect_with(options).await?)
    }

    raw_sql_verbs!();

    fn grouped(persister: Persister<Self>, pool: &Pool<Self>) -> Persister<Self> {
        persister.with_group_commit(pool)
    }

    fn own_clients(_: &Load<Self>, _: &mut JoinSet<anyhow::Result<()>>) {}
}
