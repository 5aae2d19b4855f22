//! The load as a process of its own, which is killed; for a database that lives in the process.

use std::env;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::load;
use super::place::Place;
use super::sqlite::{FULL, KEEPS_LOG};

/// Makes this program the load of a run, on this database.
const DATABASE: &str = "SAGASTORE_FAULTS_DATABASE";
const FOLDER: &str = "SAGASTORE_FAULTS_FOLDER";
/// Set: nothing goes from the log into the file by itself.
const KEEP_LOG: &str = "SAGASTORE_FAULTS_KEEP_LOG";
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub(crate) fn asked_for() -> Option<Place> {
    Some(Place { database: env::var(DATABASE).ok()?, folder: env::var_os(FOLDER)?.into() })
}

/// Runs the load until it is told to finish.
pub(crate) async fn run(place: Place) -> anyhow::Result<()> {
    KEEPS_LOG.store(env::var_os(KEEP_LOG).is_some(), Ordering::SeqCst);
    let (full, finish) = (place.full(), place.finish());
    tokio::spawn(async move {
        loop {
            FULL.store(full.exists(), Ordering::SeqCst);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
    load::run::<sqlx::Sqlite>(place, None, until_there(&finish)).await
}

async fn until_there(file: &Path) {
    while !file.exists() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A load that was started; killed when this is dropped.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(place: &Place, keep_log: bool) -> anyhow::Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.env(DATABASE, &place.database).env(FOLDER, &place.folder).stdin(Stdio::null());
        if keep_log {
            command.env(KEEP_LOG, "1");
        }
        Ok(Self(command.spawn().context("starting the load")?))
    }

    pub(crate) fn check_running(&mut self) -> anyhow::Result<()> {
        ensure!(self.0.try_wait()?.is_none(), "the load ended by itself");
        Ok(())
    }

    /// By SIGKILL.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }

    /// Waits for its end.
    pub(crate) async fn ended(mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let began = Instant::now();
        while began.elapsed() < within {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        bail!("the load did not come to its end within {within:?}")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
