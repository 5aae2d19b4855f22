//! Two sagas, a transfer with compensation and an order with a timeout, run in two ways: by hand, and with
//! `MessageHandler`. The sagas are the same; only what is around them differs. (`tests/sagas.rs` tests them a third way,
//! without a database.) Every message that comes from outside comes twice.
//!
//! `cargo run --example sagas [-- DATABASE_URL]`; by default in a temporary SQLite file.
use anyhow::Result;
use sagastore::migrate;

#[allow(dead_code, unused_imports, reason = "shared with larger examples")]
#[path = "../support/mod.rs"]
mod support;
mod town;

use support::{Connect, Scheme, temporary_database};

#[tokio::main]
async fn main() -> Result<()> {
    let (_folder, url) = match std::env::args().nth(1) {
        Some(url) => (None, url),
        None => temporary_database().map(|(folder, url)| (Some(folder), url))?,
    };
    match Scheme::of(&url)? {
        Scheme::Sqlite => run::<sqlx::Sqlite>(&url).await,
        #[cfg(feature = "postgres")]
        Scheme::Postgres => run::<sqlx::Postgres>(&url).await,
        #[cfg(feature = "mysql")]
        Scheme::MySql => run::<sqlx::MySql>(&url).await,
    }
}

async fn run<DB: Connect>(url: &str) -> Result<()> {
    let pool = DB::connect(url).await?;
    let _ = migrate(&pool).await?;
    town::run(&pool).await?;
    pool.close().await;
    Ok(())
}
