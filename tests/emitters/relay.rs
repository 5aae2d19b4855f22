//! Dispatcher processes that are killed between publishing and acknowledging.

use std::collections::BTreeMap;
use std::env;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, ensure};
use async_trait::async_trait;
use futures_util::future::join;
use sagastore::dispatcher::{Dispatcher, DispatcherSettings};
use sagastore::emitter::{Delivery, Emitter, deliveries};
use sagastore::sqlite::SqliteStore;
use sagastore::{NewOutboxRecord, OutboxRecord, OutboxRepository};
use sqlx::SqlitePool;
use sqlx::sqlite::SqliteConnectOptions;

use crate::broker::Kind;
use crate::messages::message;
use crate::{nats, rabbitmq};

/// Names the job of a process that only relays: broker, URL, place at the broker, file, and after how many
/// confirmed messages it is to be killed; each on a line of its own.
const JOB: &str = "SAGASTORE_TEST_RELAY";
const STREAMS: usize = 20;
const LENGTH: usize = 12;
/// How many processes are killed before one may finish.
const KILLS: u32 = 4;
/// Small, so that some messages are acknowledged before a process is killed.
const BATCH: u32 = 10;

/// Passes records on, and kills this process once so many were confirmed, before the dispatcher hears of the last.
struct Deadly<E> {
    emitter: E,
    left: AtomicU32,
}

#[async_trait]
impl<E: Emitter> Emitter for Deadly<E> {
    async fn emit(&self, batch: Vec<Delivery>) {
        let (passed_on, mut reports) = deliveries(batch.iter().map(|delivery| delivery.record().clone()));
        let mut waiting: BTreeMap<_, _> = batch.into_iter().map(|delivery| (delivery.record().id, delivery)).collect();
        let reporting = async {
            while let Some((id, outcome)) = reports.next().await {
                let delivery = waiting.remove(&id).unwrap();
                match outcome {
                    Err(failure) => delivery.failed(failure),
                    Ok(()) => {
                        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
                            kill_myself();
                        }
                        delivery.delivered();
                    }
                }
            }
        };
        join(self.emitter.emit(passed_on), reporting).await;
    }
}

fn kill_myself() -> ! {
    let _ = Command::new("kill").args(["-KILL", &std::process::id().to_string()]).status();
    unreachable!("a killed process goes on");
}

/// Does the job of this process, if it has one.
pub(crate) fn job() -> Option<ExitCode> {
    let job = env::var(JOB).ok()?;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match runtime.block_on(relay(&job)) {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(fault) => {
            eprintln!("{fault:?}");
            Some(ExitCode::FAILURE)
        }
    }
}

async fn relay(job: &str) -> anyhow::Result<()> {
    let [kind, url, place, file, confirmed]: [&str; 5] =
        job.lines().collect::<Vec<_>>().try_into().ok().context("not a job")?;
    let pool = open(Path::new(file)).await?;
    let settings = DispatcherSettings::default().with_batch(BATCH)?;
    let left = AtomicU32::new(confirmed.parse()?);
    let dispatcher = if kind == Kind::Nats.name() {
        Dispatcher::new(pool, Deadly { emitter: nats::emitter_to(url, place).await?, left })
    } else {
        Dispatcher::new(pool, Deadly { emitter: rabbitmq::emitter_to(url, place), left })
    };
    dispatcher.with_settings(settings).dispatch_once().await?;
    Ok(())
}

async fn open(file: &Path) -> anyhow::Result<SqlitePool> {
    let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
    Ok(SqlitePool::connect_with(options.journal_mode(sqlx::sqlite::SqliteJournalMode::Wal)).await?)
}

/// Records messages, and has them relayed by one process after the other, all but the last of which are killed. Gives
/// what was recorded, stream by stream.
pub(crate) async fn through_killed_processes(
    kind: Kind,
    url: &str,
    place: &str,
) -> anyhow::Result<Vec<Vec<OutboxRecord>>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("outbox.db");
    let pool = open(&file).await?;
    let _ = sagastore::migrate(&pool).await?;
    let (store, mut tx) = (SqliteStore::default(), pool.begin_with("BEGIN IMMEDIATE").await?);
    for number in 0..LENGTH {
        let new = |stream| {
            let message = message("Numbered", format!("{stream}:{number}"), &[]);
            NewOutboxRecord::new("test", format!("{stream}"), message)
        };
        store.save(&mut tx, &(0..STREAMS).map(new).collect::<Vec<_>>()).await?;
    }
    tx.commit().await?;
    let records = store.find_batch(&mut *pool.acquire().await?, None, u32::MAX).await?;
    for killed in 0..=KILLS {
        let confirmed = if killed < KILLS { 35 + 6 * killed } else { u32::MAX };
        let job = [kind.name(), url, place, &file.to_string_lossy(), &confirmed.to_string()].join("\n");
        let mut process = Command::new(env::current_exe()?);
        let process = tokio::task::spawn_blocking(move || process.env(JOB, job).status());
        ensure!(process.await??.success() == (killed == KILLS), "process {killed} ended in another way");
        // As time would do it.
        sqlx::query("UPDATE saga_lease SET expires_at = 0").execute(&pool).await?;
    }
    let left = store.stats(&mut *pool.acquire().await?).await?.pending;
    ensure!(left == 0, "{left} messages are left");
    let mut streams: BTreeMap<String, Vec<OutboxRecord>> = BTreeMap::new();
    for record in records {
        streams.entry(record.aggregate_id.clone()).or_default().push(record);
    }
    Ok(streams.into_values().collect())
}
