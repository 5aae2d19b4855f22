//! Exports and imports, whole and cut off.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::ensure;
use sagastore::{Envelope, MessageKind, MessageStore, Offset, StreamName};
use sqlx::Pool;

use crate::command::{command, fine, run};
use crate::fill::{complete, note};
use crate::secrets::SECRET;
use crate::site::{Place, Site};

/// How long a program may take to begin.
const PATIENCE: Duration = Duration::from_secs(30);

async fn empty<DB: Site>() -> anyhow::Result<(Place, Pool<DB>)> {
    let place = DB::create().await?;
    fine(&place.url, &["migrate"])?;
    let pool = DB::connect(&place).await?;
    Ok((place, pool))
}

/// Streams of several pages.
async fn fill<DB: Site>(pool: &Pool<DB>) -> anyhow::Result<()> {
    let store = DB::Store::default();
    let mut conn = pool.acquire().await?;
    let mut tx = store.begin(&mut conn).await?;
    for number in 0..260 {
        let name = StreamName::new(format!("stream {number}"))?;
        for at in 0..6 {
            let event = Envelope::new(MessageKind::Event, "Happened", 1, "text/plain", vec![b'x'; 2000])?;
            store.append_messages(&mut tx, &name, Offset::of(at), &[event]).await?;
        }
    }
    tx.commit().await?;
    note(pool, "1", SECRET).await?;
    complete(pool, "1").await
}

/// Runs it, and kills it as soon as `begun`.
fn kill_once(url: &str, arguments: &[&str], mut begun: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let mut child = command(url, arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let started = Instant::now();
    while child.try_wait()?.is_none() && !begun()? {
        ensure!(started.elapsed() < PATIENCE, "{arguments:?} does not begin");
        std::thread::sleep(Duration::from_millis(1));
    }
    // It may have been faster.
    let _ = child.kill();
    child.wait()?;
    Ok(())
}

pub(crate) async fn killed<DB: Site>() -> anyhow::Result<()> {
    let (from, pool) = empty::<DB>().await?;
    fill(&pool).await?;
    let (whole, cut) = (from.file("whole"), from.file("cut"));
    fine(&from.url, &["export", &whole])?;
    let text = std::fs::read(&whole)?;
    let length = |file: &str| std::fs::metadata(file).map_or(0, |data| data.len());
    let mut before = 0;
    for _ in 0..3 {
        kill_once(&from.url, &["export", &cut], || Ok(length(&cut) > before))?;
        before = length(&cut);
    }
    // As if it had been killed within a line, whatever it was.
    std::fs::OpenOptions::new().write(true).open(&cut)?.set_len(before.saturating_sub(7).max(1))?;
    let done = fine(&from.url, &["export", &cut])?;
    ensure!(done.out.contains("261 streams") && done.out.contains("not in it: what waits in the outbox"), "{done:?}");
    ensure!(std::fs::read(&cut)? == text, "the export that was cut off is another");
    fine(&from.url, &["export", &cut])?;
    ensure!(std::fs::read(&cut)? == text, "a finished export stays as it is");

    let (to, other) = empty::<DB>().await?;
    let started = Instant::now();
    kill_once(&to.url, &["import", &cut], || Ok(started.elapsed() > Duration::from_millis(150)))?;
    let done = fine(&to.url, &["import", &cut, "--json"])?.objects();
    let (commits, skipped) = (&done[0]["imported"]["commits"], &done[0]["imported"]["skipped"]);
    ensure!(commits.as_u64().unwrap() + skipped.as_u64().unwrap() == 260 * 6 + 2, "{done:?}");
    let again = fine(&to.url, &["import", &cut, "--json"])?.objects();
    ensure!(again[0]["imported"]["commits"] == 0, "{again:?}");
    fine(&to.url, &["check"])?;
    let back = from.file("back");
    fine(&to.url, &["export", &back])?;
    ensure!(std::fs::read(&back)? == text, "what was imported is another");
    pool.close().await;
    other.close().await;
    DB::remove(to).await?;
    DB::remove(from).await
}

pub(crate) async fn verified<DB: Site>() -> anyhow::Result<()> {
    let (from, pool) = empty::<DB>().await?;
    note(&pool, "1", "a").await?;
    let file = from.file("export");
    fine(&from.url, &["export", &file])?;
    let verify = || run(&from.url, &["verify-replay", &file]);
    let verified = verify()?;
    ensure!(verified.status == 0 && verified.out.contains("1 streams with 1 commits and 2 messages"), "{verified:?}");
    let text = std::fs::read_to_string(&file)?;

    std::fs::write(&file, &text[..text.len() - 5])?;
    let cut = verify()?;
    ensure!(cut.status == 1 && cut.err.contains("not finished"), "{cut:?}");
    let cut = run(&from.url, &["import", &file])?;
    ensure!(cut.status == 1 && cut.err.contains("resume the export"), "{cut:?}");
    std::fs::write(&file, text.replace("SendMail", "SendMeal"))?;
    let damaged = verify()?;
    ensure!(damaged.status == 1 && damaged.err.contains("line 3 of the export is damaged"), "{damaged:?}");

    let broken: [&[u8]; 2] = [b"{", b"\"\xff\""];
    let store = DB::Store::default();
    let mut conn = pool.acquire().await?;
    let mut tx = store.begin(&mut conn).await?;
    for (offset, payload) in (0_u32..).zip(broken) {
        let event = Envelope::new(MessageKind::Event, "Broken", 1, "application/json", payload.to_vec())?;
        store.append_messages(&mut tx, &StreamName::new("broken")?, Offset::of(offset), &[event]).await?;
    }
    tx.commit().await?;
    drop(conn);
    std::fs::remove_file(&file)?;
    fine(&from.url, &["export", &file])?;
    let found = verify()?;
    ensure!(found.status == 1, "{found:?}");
    for commit in ["stream \"broken\", commit 1", "stream \"broken\", commit 2"] {
        ensure!(found.out.contains(commit), "{found:?}");
    }
    pool.close().await;
    DB::remove(from).await
}

/// A step of the way; says aloud what is left out.
async fn onto<DB: Site>(export: &str, text: &[u8]) -> anyhow::Result<()> {
    if DB::VARIABLE.is_some_and(|variable| std::env::var(variable).is_err()) {
        println!("not run: {}, of which no URL is set", DB::KIND);
        return Ok(());
    }
    let (to, pool) = empty::<DB>().await?;
    fine(&to.url, &["import", export])?;
    fine(&to.url, &["check"])?;
    // The next one is given what this one exports.
    std::fs::remove_file(export)?;
    fine(&to.url, &["export", export])?;
    ensure!(std::fs::read(export)? == text, "{} changed something", DB::KIND);
    pool.close().await;
    DB::remove(to).await
}

pub(crate) async fn through_all() -> anyhow::Result<()> {
    let (from, pool) = empty::<sqlx::Sqlite>().await?;
    fill(&pool).await?;
    let file = from.file("export");
    fine(&from.url, &["export", &file])?;
    let text = std::fs::read(&file)?;
    #[cfg(feature = "postgres")]
    onto::<sqlx::Postgres>(&file, &text).await?;
    #[cfg(feature = "mysql")]
    onto::<sqlx::MySql>(&file, &text).await?;
    onto::<sqlx::Sqlite>(&file, &text).await
}
