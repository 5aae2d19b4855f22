//! One process: a dispatcher, and the parent's hold on it.

use std::env;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use sagastore::OutboxRecord;
use sagastore::dispatcher::{DeliveryRetry, Dispatcher, DispatcherSettings};
use sagastore::emitter::emitter_fn;

use super::journal::Entry;
use super::site::Site;
use super::{clocked, long_history, scaled};

/// Makes this program a process of a run, and says with which database.
const KIND: &str = "SAGASTORE_DISPATCHER_PROCESS";
const DATABASE: &str = "SAGASTORE_DISPATCHER_DATABASE";
const JOURNAL: &str = "SAGASTORE_DISPATCHER_JOURNAL";
const ROLE: &str = "SAGASTORE_DISPATCHER_ROLE";

/// Each process is replaced once this has gone by without a sign of it.
pub(crate) const LEASE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(100);
/// Also of processes that were killed and whose slots have not expired.
const SLOTS: u32 = 32;
const BATCH: u32 = 25;
const CONNECTIONS: u32 = 6;
/// One of so many deliveries is refused.
const REFUSALS: u32 = 50;

/// What a process is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Relays with a journal, and is paused and killed.
    Disturbed,
    /// Relays as by default, taking its time over each message.
    Slow,
    /// Replays a long history.
    Replaying,
    /// Has a clock that steps.
    Clocked,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Disturbed => "disturbed",
            Self::Slow => "slow",
            Self::Replaying => "replaying",
            Self::Clocked => "clocked",
        }
    }
}

pub(crate) fn asked_for() -> Option<String> {
    env::var(KIND).ok()
}

pub(crate) async fn run(kind: &str) -> anyhow::Result<()> {
    match kind {
        "sqlite" => play::<sqlx::Sqlite>().await,
        #[cfg(feature = "postgres")]
        "postgres" => play::<sqlx::Postgres>().await,
        #[cfg(feature = "mysql")]
        "mysql" => play::<sqlx::MySql>().await,
        _ => bail!("this build lacks {kind}"),
    }
}

async fn play<DB: Site>() -> anyhow::Result<()> {
    let role = env::var(ROLE)?;
    if role == Role::Slow.name() {
        relay_slowly::<DB>().await
    } else if role == Role::Replaying.name() {
        long_history::replay::<DB>(&env::var(DATABASE)?, env::var(JOURNAL)?.into()).await
    } else if role == Role::Clocked.name() {
        clocked::work::<DB>(&env::var(DATABASE)?, env::var(JOURNAL)?.as_ref()).await
    } else {
        relay::<DB>().await
    }
}

/// Relays until it is killed.
async fn relay_slowly<DB: Site>() -> anyhow::Result<()> {
    let pool = DB::connect(&env::var(DATABASE)?, CONNECTIONS).await?;
    // So slow that some of the backlog is left.
    let pause = Duration::from_millis(scaled(200, 10));
    let emitter = emitter_fn(move |_: OutboxRecord| async move {
        tokio::time::sleep(pause).await;
        Ok::<_, io::Error>(())
    });
    Dispatcher::new(pool, emitter).run(std::future::pending()).await;
    Ok(())
}

/// Relays until it is killed, and writes down what it delivers.
async fn relay<DB: Site>() -> anyhow::Result<()> {
    let journal = OpenOptions::new().append(true).open(env::var(JOURNAL)?)?;
    let (pool, journal) = (DB::connect(&env::var(DATABASE)?, CONNECTIONS).await?, Arc::new(journal));
    let emitter = emitter_fn(move |record: OutboxRecord| {
        let journal = Arc::clone(&journal);
        async move {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(..4))).await;
            if fastrand::u32(..REFUSALS) == 0 {
                return Err(io::Error::other("refused"));
            }
            // One write for each line: none is torn by a kill.
            (&*journal).write_all(Entry::of(&record, std::process::id()).to_string().as_bytes())
        }
    });
    let pause = Duration::from_millis(50);
    let settings = DispatcherSettings::default()
        .with_dispatchers(SLOTS)?
        .with_lease(LEASE)?
        .with_poll_interval(POLL)?
        .with_batch(BATCH)?
        .with_retry(DeliveryRetry::new(10_000, 1, pause, pause, 0.0)?);
    Dispatcher::new(pool, emitter).with_settings(settings).run(std::future::pending()).await;
    Ok(())
}

/// A process that was started; killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    /// What it says on stderr: nothing, unless it fails.
    words: File,
    paused_until: Option<Instant>,
}

impl Process {
    pub(crate) fn start<DB: Site>(role: Role, database: &str, journal: &Path) -> anyhow::Result<Self> {
        Self::start_with::<DB>(role, database, journal, Vec::new())
    }

    /// In this environment, beside the one that is there.
    pub(crate) fn start_with<DB: Site>(
        role: Role,
        database: &str,
        journal: &Path,
        environment: Vec<(&'static str, String)>,
    ) -> anyhow::Result<Self> {
        let words = tempfile::tempfile()?;
        let child = Command::new(env::current_exe()?)
            .env(KIND, DB::KIND)
            .env(DATABASE, database)
            .env(JOURNAL, journal)
            .env(ROLE, role.name())
            .envs(environment)
            .stdin(Stdio::null())
            .stderr(words.try_clone()?)
            .spawn()
            .context("starting a process")?;
        Ok(Self { child, words, paused_until: None })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused_until.is_some()
    }

    /// It never ends by itself.
    pub(crate) fn ensure_running(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let mut words = String::new();
            self.words.rewind()?;
            self.words.read_to_string(&mut words)?;
            bail!("process {} ended by itself: {status}\n{words}", self.id());
        }
        Ok(())
    }

    pub(crate) fn pause(&mut self, length: Duration) -> anyhow::Result<()> {
        self.signal("STOP")?;
        self.paused_until = Some(Instant::now() + length);
        Ok(())
    }

    /// Lets it go on if its pause is over.
    pub(crate) fn go_on(&mut self, at: Instant) -> anyhow::Result<()> {
        if self.paused_until.is_some_and(|until| until <= at) { self.go_on_now() } else { Ok(()) }
    }

    pub(crate) fn go_on_now(&mut self) -> anyhow::Result<()> {
        if self.paused_until.take().is_some() {
            self.signal("CONT")?;
        }
        Ok(())
    }

    fn signal(&self, name: &str) -> anyhow::Result<()> {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status()?;
        ensure!(sent.success(), "a dispatcher could not be sent SIG{name}");
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
