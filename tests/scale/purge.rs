//! Half of an inbox is forgotten while the load goes on.

use std::time::Duration;

use anyhow::ensure;
use sagastore::Inbox;
use sagastore::check::check_data;
use sqlx::Pool;

use super::ask::Ask;
use super::load::{CONSUMER, together};

/// How long an append may take meanwhile, in milliseconds.
const STALL_MS: f64 = 5_000.0;
/// Seeds of the load.
const SEED: u64 = 1_000;

/// Gives how many rows were forgotten, and how long an append took at most, in milliseconds.
pub(crate) async fn half<DB: Ask>(pool: &Pool<DB>, length: Duration) -> anyhow::Result<(u64, f64)> {
    let before = DB::number(pool, "SELECT COUNT(*) FROM saga_inbox").await?;
    let age = DB::number(pool, "SELECT MAX(handled_at) - MIN(handled_at) FROM saga_inbox").await?;
    let retention = Duration::from_micros(u64::try_from(age / 2)?);
    let inbox = Inbox::new(CONSUMER)?;
    let (forgotten, window) = tokio::join!(inbox.forget(pool, retention), together(pool, SEED, length));
    let (forgotten, mut window) = (forgotten?, window?);
    ensure!(i64::try_from(forgotten)? > before / 4, "only {forgotten} of {before} rows were forgotten");
    let longest = window.appends.at(1000);
    ensure!(longest < STALL_MS, "an append took {longest} ms while the inbox was purged");
    Ok((forgotten, longest))
}

pub(crate) async fn findings<DB: Ask>(pool: &Pool<DB>) -> anyhow::Result<u32> {
    let mut found = 0;
    check_data(pool, &mut |finding| {
        println!("scale: {}: found: {finding:?}", DB::KIND);
        found += 1;
    })
    .await?;
    Ok(found)
}
