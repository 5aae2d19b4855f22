//! A long backlog: what a dispatcher holds of it in memory.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sagastore::{Envelope, MessageKind, NewOutboxRecord, OutboxRepository, migrate};
use sqlx::Pool;

use super::process::{Process, Role};
use super::site::Site;
use super::{chaos, scaled};

const PAYLOAD_BYTES: usize = 8 * 1024;
/// How many records are saved in a transaction.
const SAVED_AT_ONCE: u32 = 1_000;
/// Much less than the backlog's payloads.
const MOST_MEMORY_KIB: u64 = 100 * 1024;
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The first delivery, on a machine that is busy with other things.
const AT_WORK_WITHIN: Duration = Duration::from_secs(120);

pub(crate) async fn run<DB: Site>() -> anyhow::Result<()> {
    chaos::with_database::<DB, _>(|database, journal| async move {
        let (messages, length) = (scaled(20_000, 1_000_000), Duration::from_secs(scaled(3, 10)));
        let pool = DB::connect(&database, 4).await?;
        let _ = migrate(&pool).await?;
        fill(&pool, messages).await?;

        let mut process = Process::start::<DB>(Role::Slow, &database, &journal)?;
        until_at_work(&pool, messages, &mut process).await?;
        let began = Instant::now();
        while began.elapsed() < length {
            tokio::time::sleep(LOOK_EVERY).await;
            process.ensure_running()?;
        }
        let memory = most_memory(process.id())?;
        drop(process);

        let waiting = waiting(&pool).await?;
        let delivered = u64::from(messages).saturating_sub(waiting);
        println!(
            "dispatcher processes: {}: {delivered} of {messages} delivered, at most {memory} KiB of memory",
            DB::KIND
        );
        ensure!(waiting > 0, "it was not at work all the time");
        ensure!(memory < MOST_MEMORY_KIB, "the dispatcher needed {memory} KiB of memory");
        pool.close().await;
        Ok(())
    })
    .await
}

async fn waiting<DB: Site>(pool: &Pool<DB>) -> anyhow::Result<u64> {
    Ok(DB::Store::default().stats(&mut *pool.acquire().await?).await?.pending)
}

/// Waits until something was delivered.
async fn until_at_work<DB: Site>(pool: &Pool<DB>, messages: u32, process: &mut Process) -> anyhow::Result<()> {
    let began = Instant::now();
    while waiting(pool).await? >= u64::from(messages) {
        process.ensure_running()?;
        ensure!(began.elapsed() < AT_WORK_WITHIN, "nothing was delivered within {AT_WORK_WITHIN:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Records of as many aggregates.
async fn fill<DB: Site>(pool: &Pool<DB>, messages: u32) -> anyhow::Result<()> {
    let store = DB::Store::default();
    for first in (0..messages).step_by(SAVED_AT_ONCE as usize) {
        let records: Result<Vec<_>, _> = (first..messages.min(first + SAVED_AT_ONCE)).map(record).collect();
        let mut tx = pool.begin().await?;
        store.save(&mut tx, &records?).await?;
        tx.commit().await?;
    }
    Ok(())
}

fn record(number: u32) -> sagastore::Result<NewOutboxRecord> {
    let message = Envelope::new(MessageKind::Event, "Happened", 1, "text/plain", "x".repeat(PAYLOAD_BYTES))?;
    Ok(NewOutboxRecord::new("thing", number.to_string(), message))
}

/// The most that a process has had in memory so far, in KiB, as Linux tells it.
pub(crate) fn most_memory(process: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("the status lacks VmHWM")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
