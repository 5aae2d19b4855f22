//! A run: processes come, are paused, go on and are killed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sagastore::{OutboxRepository, migrate};
use sqlx::Pool;

use super::process::{LEASE, Process, Role};
use super::site::Site;
use super::{journal, producer, scaled};

/// How long the rest may take once nobody is disturbed any more.
const QUIET_WITHIN: Duration = Duration::from_secs(60);
/// Of a pause, beyond the lease.
const PAUSE_EXCESS: Duration = Duration::from_millis(1500);
const TICK: Duration = Duration::from_millis(500);
/// After so many ticks one process is killed.
const KILL_TICKS: u32 = 2;

pub(crate) async fn run<DB: Site>() -> anyhow::Result<()> {
    with_database::<DB, _>(|database, journal| async move { disturb::<DB>(&database, &journal).await }).await
}

/// Does something with a database and an empty file, both of which are removed afterwards.
pub(crate) async fn with_database<DB: Site, F>(body: impl FnOnce(String, PathBuf) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let folder = tempfile::tempdir()?;
    let (journal, file) = (folder.path().join("journal"), folder.path().join("sagas.db"));
    let database = match DB::VARIABLE {
        None => file.to_str().context("the folder's name is no text")?.to_owned(),
        Some(_) => format!("saga_processes_{}", &uuid::Uuid::now_v7().simple().to_string()[..20]),
    };
    File::create(&journal)?;
    DB::create(&database).await?;
    let done = body(database.clone(), journal).await;
    // All processes are gone.
    DB::remove(&database).await?;
    done
}

async fn disturb<DB: Site>(database: &str, journal: &Path) -> anyhow::Result<()> {
    let (count, streams) = (scaled(4, 8), scaled(100, 1000));
    let length = Duration::from_secs(scaled(12, 60));
    let pool = DB::connect(database, 4).await?;
    let _ = migrate(&pool).await?;
    let mut processes = Vec::new();
    for _ in 0..count {
        processes.push(Process::start::<DB>(Role::Disturbed, database, journal)?);
    }
    let producing = tokio::spawn(producer::produce(pool.clone(), streams, Instant::now() + length));
    let (mut tick, mut kills, mut pauses) = (0_u32, 0, 0);
    while !producing.is_finished() {
        tokio::time::sleep(TICK).await;
        tick += 1;
        for process in &mut processes {
            process.go_on(Instant::now())?;
            ensure!(process.is_running()?, "a dispatcher ended by itself");
        }
        let victim = fastrand::usize(..processes.len());
        if !processes.iter().any(Process::is_paused) {
            processes[victim].pause(LEASE * 2 + PAUSE_EXCESS)?;
            pauses += 1;
        } else if tick % KILL_TICKS == 0 && !processes[victim].is_paused() {
            processes[victim] = Process::start::<DB>(Role::Disturbed, database, journal)?;
            kills += 1;
        }
    }
    let committed = producing.await??;
    let later = Instant::now() + Duration::from_secs(3600);
    processes.iter_mut().try_for_each(|process| process.go_on(later))?;
    until_relayed(&pool).await?;
    drop(processes);

    let told = journal::check(&fs::read_to_string(journal)?, &committed)?;
    let messages: i64 = committed.values().sum();
    println!("{}: {messages} messages, {kills} killed, {pauses} paused, {told:?}", DB::KIND);
    ensure!(kills > 2 && pauses > 1, "{kills} processes were killed, {pauses} paused");
    ensure!(told.takeovers > 0, "no stream went to another process");
    ensure!(told.repeats > 0, "nothing was delivered twice: nobody was disturbed at the wrong moment");
    pool.close().await;
    Ok(())
}

async fn until_relayed<DB: Site>(pool: &Pool<DB>) -> anyhow::Result<()> {
    let (store, began) = (DB::Store::default(), Instant::now());
    loop {
        let mut conn = pool.acquire().await?;
        let waiting = store.stats(&mut conn).await?.pending;
        let dead = store.dead_letters(&mut conn, None, 1).await?;
        ensure!(dead.is_empty(), "a message ran out of attempts");
        if waiting == 0 {
            return Ok(());
        }
        ensure!(began.elapsed() < QUIET_WITHIN, "{waiting} messages are still not delivered");
        drop(conn);
        tokio::time::sleep(TICK).await;
    }
}
