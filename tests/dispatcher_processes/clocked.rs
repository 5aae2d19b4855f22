//! A process whose clock steps while it commits messages and timeouts, relays them, and holds a lease now and then.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail, ensure};
use sagastore::dispatcher::{DeliveryRetry, Dispatcher, DispatcherSettings};
use sagastore::emitter::emitter_fn;
use sagastore::lock::{ClientId, DatabaseLock, ExponentialBackoff, Lock, ResourceId};
use sagastore::{Error, Executed, InstanceId, MessageId, OutboxRecord, Persister, message_types};
use serde::{Deserialize, Serialize};
use sqlx::Pool;

use super::journal::Entry;
use super::producer::{Tally, TallyEvent};
use super::site::Site;

const CONNECTIONS: u32 = 6;
const STREAMS: u32 = 10;
/// Much less than a step, and much more than a busy machine keeps a process waiting.
const LEASE: Duration = Duration::from_secs(30);
/// After which a timeout is due.
pub(crate) const DUE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(30);
/// One of so many deliveries is refused, and retried after a pause.
const REFUSALS: u32 = 20;
/// What the waiting for a lease comes to: as long as the run.
const TRIES: u32 = 100_000;

#[derive(Serialize, Deserialize)]
enum Timer {
    /// When it was asked for, in seconds of [`uptime`].
    Due { asked: f64 },
}
message_types!(Timer { Due: "TimerDue" 1 });

/// The database has no other clock than that of each process.
pub(crate) fn has_clock_of_process<DB: Site>() -> bool {
    DB::VARIABLE.is_none()
}

/// Seconds by a clock that no step moves, and that all processes share.
fn uptime() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/uptime")?;
    Ok(text.split(' ').next().context("no uptime")?.parse()?)
}

/// The files of a run.
#[derive(Clone)]
pub(crate) struct Files {
    /// Deliveries of messages.
    journal: PathBuf,
}

impl Files {
    pub(crate) fn beside(journal: &Path) -> Self {
        Self { journal: journal.to_owned() }
    }

    /// Everything else that is told, a line each.
    pub(crate) fn notes(&self) -> PathBuf {
        self.journal.with_extension("notes")
    }

    /// There once nothing more is to be committed.
    pub(crate) fn stop(&self) -> PathBuf {
        self.journal.with_extension("stop")
    }

    /// There while somebody holds the lease.
    fn held(&self) -> PathBuf {
        self.journal.with_extension("held")
    }

    /// One write, which no other process's tears.
    fn note(&self, line: &str) -> io::Result<()> {
        OpenOptions::new().append(true).create(true).open(self.notes())?.write_all(format!("{line}\n").as_bytes())
    }
}

/// Works until it is killed.
pub(crate) async fn work<DB: Site>(database: &str, journal: &Path) -> anyhow::Result<()> {
    let (pool, files) = (DB::connect(database, CONNECTIONS).await?, Files::beside(journal));
    let committing = async {
        commit(&pool, &files).await?;
        std::future::pending::<anyhow::Result<()>>().await
    };
    tokio::try_join!(relay(&pool, &files), committing, hold(&pool, &files), tell_the_time(&files)).map(drop)
}

async fn tell_the_time(files: &Files) -> anyhow::Result<()> {
    loop {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64() - uptime()?;
        files.note(&format!("clock {} {now:.0}", std::process::id()))?;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn relay<DB: Site>(pool: &Pool<DB>, files: &Files) -> anyhow::Result<()> {
    let journal = Arc::new(OpenOptions::new().append(true).open(&files.journal)?);
    let files = files.clone();
    let emitter = emitter_fn(move |record: OutboxRecord| {
        let (journal, files) = (Arc::clone(&journal), files.clone());
        async move {
            if fastrand::u32(..REFUSALS) == 0 {
                return Err(io::Error::other("refused"));
            }
            deliver(&record, &journal, &files)
        }
    });
    let settings = DispatcherSettings::default()
        .with_lease(LEASE)?
        .with_poll_interval(PAUSE * 3)?
        .with_retry(DeliveryRetry::new(10_000, 1, PAUSE, PAUSE, 0.0)?);
    Dispatcher::new(pool.clone(), emitter).with_settings(settings).run(std::future::pending()).await;
    Ok(())
}

fn deliver(record: &OutboxRecord, mut journal: &File, files: &Files) -> io::Result<()> {
    if record.event_type() != "TimerDue" {
        return journal.write_all(Entry::of(record, std::process::id()).to_string().as_bytes());
    }
    let Timer::Due { asked } = serde_json::from_slice(record.payload())?;
    let elapsed = uptime().map_err(io::Error::other)? - asked;
    files.note(&format!("due {} {elapsed:.2}", record.envelope.message_id))
}

/// Until it is told to stop.
async fn commit<DB: Site>(pool: &Pool<DB>, files: &Files) -> anyhow::Result<()> {
    let persister = Persister::<DB>::new();
    while !files.stop().exists() {
        let stream = format!("{}-{}", std::process::id(), fastrand::u32(..STREAMS));
        let id = InstanceId::new(&stream)?;
        let asked = uptime()?;
        let done = persister.execute(pool, &Tally, &id, None, |unit| {
            let number = unit.instance().data;
            unit.publish(TallyEvent::Added { number })?;
            let timer = unit.schedule(&format!("timer {number}"), &Timer::Due { asked }, DUE)?;
            Ok::<(i64, MessageId), Error>((number + 1, timer))
        });
        let Executed::Done { value: (count, timer), .. } = done.await? else { bail!("it was handled before") };
        files.note(&format!("committed {stream} {count}"))?;
        files.note(&format!("scheduled {timer}"))?;
        tokio::time::sleep(PAUSE / 3).await;
    }
    files.note("finished")?;
    Ok(())
}

/// Where the clock is the database's, not the process's, a lease is held by one at a time, and never lost.
async fn hold<DB: Site>(pool: &Pool<DB>, files: &Files) -> anyhow::Result<()> {
    let lock = DatabaseLock::new(pool.clone()).with_length(LEASE)?;
    let (resource, client) = (ResourceId::new("one")?, ClientId::new(std::process::id().to_string())?);
    let backoff = ExponentialBackoff::new(PAUSE, 1.0, TRIES)?;
    loop {
        let obtained = match lock.obtain_with_backoff(&resource, &client, &backoff).await {
            Err(error) if error.is_transient() => continue,
            obtained => obtained?,
        };
        let Some(lease) = obtained.lease() else { continue };
        if has_clock_of_process::<DB>() {
            files.note(&format!("token {}", lease.sequence))?;
            tokio::time::sleep(PAUSE).await;
            lock.release(&lease).await?;
            continue;
        }
        let marked = OpenOptions::new().write(true).create_new(true).open(files.held());
        marked.with_context(|| format!("lease {} was granted while another was held", lease.sequence))?;
        files.note(&format!("token {}", lease.sequence))?;
        tokio::time::sleep(PAUSE * fastrand::u32(1..10)).await;
        let renewed = lock.renew(&lease).await?.context("a lease was lost early: it could not be renewed")?;
        let mut tx = pool.begin().await?;
        renewed.fence(&mut tx).await.context("a lease was lost early: its fence refused")?;
        tx.commit().await?;
        fs::remove_file(files.held())?;
        ensure!(lock.release(&renewed).await?, "a lease was lost early: it was not held when it was released");
        tokio::time::sleep(PAUSE).await;
    }
}
