//! SQLite.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sagastore::{Persister, sqlite};
use sqlx::error::DatabaseError;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{Pool, Sqlite};
use tokio::task::JoinSet;

use super::load::Load;
use super::place::Place;
use super::site::{Patience, Site, raw_sql_verbs};

/// Shorter than others hold the file at times.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);
const CONNECTIONS: u32 = 6;
/// What says that others hold the file, or that the disk is full, and how long it is tried again when it is to be opened.
const PASSING: [&str; 4] = ["5", "10", "13", "14"];
const OPENED_WITHIN: Duration = Duration::from_secs(30);
const OPENED_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// More pages than any run fills.
const MOST_PAGES: u32 = 1_000_000_000;

/// While it is set, the database may not grow.
pub(crate) static FULL: AtomicBool = AtomicBool::new(false);
/// While it is set, nothing that was written goes from the log into the file by itself.
pub(crate) static KEEPS_LOG: AtomicBool = AtomicBool::new(false);

impl Site for Sqlite {
    const KIND: &'static str = "sqlite";
    const FOR_UPDATE: &'static str = "";
    const FULL: &'static [&'static str] = &["13", "10"];
    const DUPLICATE: &'static str = "19";
    const PROVOKED: &'static [(&'static str, &'static str)] =
        &[("Contention(5)", "times busy"), ("Storage(13)", "times full")];
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
        // Half of the clients have a pool as programs may have it.
        let pool = if patience == Patience::ForStatements { SqlitePoolOptions::new() } else { sqlite::pool_options() };
        let pool = pool.max_connections(CONNECTIONS).before_acquire(|conn, _| {
            Box::pin(async move {
                let most = if FULL.load(Ordering::SeqCst) { 1 } else { MOST_PAGES };
                // It does not become less than there are.
                let limit = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {most}"));
                sqlx::raw_sql(limit).execute(conn).await.map(|_| true)
            })
        });
        let began = Instant::now();
        loop {
            match pool.clone().connect_with(options.clone()).await {
                // The load may be started while the file is held, while another connection recovers it, or while the
                // disk is full.
                Err(sqlx::Error::Database(error))
                    if PASSING.contains(&Self::code(&*error).as_str()) && began.elapsed() < OPENED_WITHIN =>
                {
                    tokio::time::sleep(OPENED_AGAIN_AFTER).await;
                }
                opened => return Ok(opened?),
            }
        }
    }

    /// Without what extends it.
    fn code(error: &dyn DatabaseError) -> String {
        error
            .code()
            .and_then(|code| code.parse::<u32>().ok())
            .map_or_else(String::new, |code| (code & 0xff).to_string())
    }

    raw_sql_verbs!();

    fn grouped(persister: Persister<Self>, pool: &Pool<Self>) -> Persister<Self> {
        persister.with_group_commit(pool)
    }

    fn own_clients(_: &Load<Self>, _: &mut JoinSet<anyhow::Result<()>>) {}
}
