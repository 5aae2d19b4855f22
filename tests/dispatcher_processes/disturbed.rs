//! Dispatchers that are paused, continued and killed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::process::{LEASE, Process, Role};
use super::site::Site;

/// Of a pause, beyond the lease.
const PAUSE_EXCESS: Duration = Duration::from_millis(1500);
/// After so many steps one process is killed.
const KILL_STEPS: u32 = 2;
/// Least that must have been done to them.
const KILLS: u32 = 3;
const PAUSES: u32 = 2;

/// As many processes at any time; one that is killed is replaced at once.
pub(crate) struct Disturbed {
    database: String,
    journal: PathBuf,
    processes: Vec<Process>,
    steps: u32,
    kills: u32,
    pauses: u32,
    random: Rng,
}

impl Disturbed {
    pub(crate) fn start<DB: Site>(count: usize, database: &str, journal: &Path) -> anyhow::Result<Self> {
        let one = |_| Process::start::<DB>(Role::Disturbed, database, journal);
        let processes = (0..count).map(one).collect::<anyhow::Result<_>>()?;
        let (database, journal) = (database.to_owned(), journal.to_owned());
        let random = Rng::with_seed(super::seed());
        Ok(Self { database, journal, processes, steps: 0, kills: 0, pauses: 0, random })
    }

    /// Pauses one if none is paused, or kills one now and then.
    pub(crate) fn step<DB: Site>(&mut self) -> anyhow::Result<()> {
        self.steps += 1;
        for process in &mut self.processes {
            process.go_on(Instant::now())?;
            process.ensure_running()?;
        }
        let none_paused = !self.processes.iter().any(Process::is_paused);
        let victim = self.random.usize(..self.processes.len());
        let victim = &mut self.processes[victim];
        if none_paused {
            victim.pause(LEASE * 2 + PAUSE_EXCESS)?;
            self.pauses += 1;
        } else if self.steps.is_multiple_of(KILL_STEPS) && !victim.is_paused() {
            *victim = Process::start::<DB>(Role::Disturbed, &self.database, &self.journal)?;
            self.kills += 1;
        }
        Ok(())
    }

    /// Lets all go on.
    pub(crate) fn calm(&mut self) -> anyhow::Result<()> {
        self.processes.iter_mut().try_for_each(Process::go_on_now)
    }

    pub(crate) fn ensure_running(&mut self) -> anyhow::Result<()> {
        self.processes.iter_mut().try_for_each(Process::ensure_running)
    }

    /// What has not yet been done to them often enough.
    pub(crate) fn missing(&self) -> Option<&'static str> {
        if self.kills < KILLS {
            Some("too few were killed")
        } else if self.pauses < PAUSES {
            Some("too few were paused")
        } else {
            None
        }
    }

    /// Kills all.
    pub(crate) fn end(&mut self) {
        self.processes.clear();
    }
}

impl fmt::Display for Disturbed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} killed, {} paused", self.kills, self.pauses)
    }
}
