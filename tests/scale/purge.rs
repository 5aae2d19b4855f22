//! Half of an inbox is forgotten while the load goes on.

use std::time::Duration;

use anyhow::ensure;
use sagastore::Inbox;
use sagastore::check::check_data;
use sqlx::Pool;

use super::ask::Ask;
use super::load::{CONSUMER, together};

/// How long anything may take meanwhile, in milliseconds.
const STALL_MS: f64 = 5_000.0;
/// One try of so many may be lost: two clients seldom meet at one instance.
const LOST_ONE_IN: u64 = 1_000;
/// Seeds of the load.
const SEED: u64 = 1_000;

pub(crate) async fn half<DB: Ask>(pool: &Pool<DB>, length: Duration) -> anyhow::Result<()> {
    let before = DB::number(pool, "SELECT COUNT(*) FROM saga_inbox").await?;
    let age = DB::number(pool, "SELECT MAX(handled_at) - MIN(handled_at) FROM saga_inbox").await?;
    let retention = Duration::from_micros(u64::try_from(age / 2)?);
    let inbox = Inbox::new(CONSUMER)?;
    let (forgotten, window) = tokio::join!(inbox.forget(pool, retention), together(pool, SEED, length));
    let (forgotten, mut window) = (forgotten?, window?);
    let (appends, lost) = (u64::try_from(window.appends.count())?, window.lost_tries);
    let [append, receive, load] = [&mut window.appends, &mut window.receives, &mut window.loads].map(|t| t.at(1000));
    println!(
        "scale: {}: {forgotten} of {before} rows of the inbox forgotten under load; at most an append took {append:.1} ms, a \
         note in the inbox {receive:.1}, a load {load:.1}; {lost} tries of {appends} lost",
        DB::KIND
    );
    ensure!(i64::try_from(forgotten)? > before * 2 / 5, "only {forgotten} of {before} rows were forgotten");
    ensure!(append.max(receive).max(load) < STALL_MS, "something took {STALL_MS} ms while the inbox was purged");
    ensure!(lost * LOST_ONE_IN <= appends, "{lost} tries of {appends} were lost while the inbox was purged");
    Ok(())
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
