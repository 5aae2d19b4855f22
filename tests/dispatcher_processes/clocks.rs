//! A run whose processes have clocks that step, by hours and days, while time goes on.
//!
//! On a server nothing comes of it, since only the database's clock counts. SQLite has no other clock than that of the
//! process, so there it may not last: leases expire and timeouts come when the clock says so, and no message is lost.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use fastrand::Rng;
use sagastore::{OutboxRepository, migrate};

use super::chaos;
use super::clocked::{DUE, Files, has_clock_of_process};
use super::journal::Reading;
use super::process::{Process, Role};
use super::scaled;
use super::site::Site;

/// The library that gives a process another clock, which `tests/run` finds: libfaketimeMT.so.1.
pub(crate) const LIBRARY: &str = "SAGASTORE_TEST_FAKETIME";
const PROCESSES: usize = 3;
/// Where a clock goes, in seconds from the true time.
const STEPS: [&str; 6] = ["+0", "+3600", "-3600", "+7300", "-86400", "+2592000"];
/// Beyond all of them, and beyond what is due by any of them.
const LAST_STEP: &str = "+31536000";
const STEP_EVERY: Duration = Duration::from_millis(200);
/// Least steps, forwards and back, that a process must have noticed.
const NOTICED: u32 = 3;
const NOTICED_SECONDS: f64 = 3_000.0;
/// On a machine that is busy with other things.
const ENDS_WITHIN: Duration = Duration::from_secs(300);
/// Of a timeout, in seconds: much less than a step.
const LATEST: f64 = 240.0;
/// What the ticks of the clocks that are compared come to, in seconds.
const TICKS: f64 = 0.05;

pub(crate) async fn run<DB: Site>() -> anyhow::Result<()> {
    chaos::with_database::<DB, _>(|database, journal| async move {
        let pool = DB::connect(&database, 2).await?;
        let _ = migrate(&pool).await?;
        let mut course = Course::start::<DB>(&database, &journal)?;
        course.step_until_noticed().await?;
        course.set_all(if has_clock_of_process::<DB>() { LAST_STEP } else { "+3600" })?;
        fs::write(course.files.stop(), "")?;
        let began = Instant::now();
        loop {
            course.look()?;
            let stats = DB::Store::default().stats(&mut *pool.acquire().await?).await?;
            if course.notes.is_finished() && course.notes.waits_for_none() && stats.pending == 0 {
                break;
            }
            let waiting = course.notes.scheduled.len() - course.notes.due.len();
            let waiting = format!("{waiting} timeouts and {} messages wait", stats.pending);
            ensure!(began.elapsed() < ENDS_WITHIN, "{waiting}: {}", course.notes);
            tokio::time::sleep(STEP_EVERY).await;
        }
        course.processes.clear();
        course.reading.finish(&course.notes.committed)?;
        pool.close().await;
        course.check::<DB>()
    })
    .await
}

struct Course {
    files: Files,
    clocks: Vec<PathBuf>,
    processes: Vec<Process>,
    reading: Reading,
    notes: Notes,
    random: Rng,
}

impl Course {
    fn start<DB: Site>(database: &str, journal: &Path) -> anyhow::Result<Self> {
        let clocks: Vec<_> = (0..PROCESSES).map(|n| journal.with_extension(format!("clock{n}"))).collect();
        let mut processes = Vec::new();
        for clock in &clocks {
            set(clock, "+0")?;
            processes.push(Process::start_with::<DB>(Role::Clocked, database, journal, faked(clock)?)?);
        }
        let (files, reading) = (Files::beside(journal), Reading::open(journal)?);
        let random = Rng::with_seed(super::seed());
        Ok(Self { files, clocks, processes, reading, notes: Notes::default(), random })
    }

    /// Reads on what the processes say.
    fn look(&mut self) -> anyhow::Result<()> {
        self.processes.iter_mut().try_for_each(Process::ensure_running)?;
        self.reading.go_on()?;
        match fs::read_to_string(self.files.notes()) {
            Ok(text) => self.notes.read(&text),
            // Nobody has said anything yet.
            Err(_) => Ok(()),
        }
    }

    fn set_all(&self, to: &str) -> anyhow::Result<()> {
        self.clocks.iter().try_for_each(|clock| set(clock, to))
    }

    async fn step_until_noticed(&mut self) -> anyhow::Result<()> {
        let (began, least) = (Instant::now(), Duration::from_secs(scaled(6, 60)));
        loop {
            set(&self.clocks[self.random.usize(..PROCESSES)], STEPS[self.random.usize(..STEPS.len())])?;
            tokio::time::sleep(STEP_EVERY).await;
            self.look()?;
            let enough = self.notes.forwards.min(self.notes.backwards) >= NOTICED && self.notes.tokens.len() > 1;
            if enough && !self.notes.due.is_empty() && began.elapsed() >= least {
                return Ok(());
            }
            ensure!(began.elapsed() < ENDS_WITHIN, "not enough was seen: {}", self.notes);
        }
    }

    fn check<DB: Site>(&self) -> anyhow::Result<()> {
        let (notes, told) = (&self.notes, self.reading.told());
        println!("dispatcher processes: {}: {notes}, {told:?}", DB::KIND);
        let distinct: HashSet<_> = notes.tokens.iter().collect();
        ensure!(distinct.len() == notes.tokens.len(), "a token was given twice: {:?}", notes.tokens);
        if has_clock_of_process::<DB>() {
            return Ok(());
        }
        ensure!(notes.tokens.is_sorted(), "the tokens do not rise: {:?}", notes.tokens);
        ensure!(told.repeats == 0, "messages were delivered twice: a dispatcher lost its lease early");
        ensure!(notes.due_again.is_empty(), "timeouts were delivered twice: {:?}", notes.due_again);
        for elapsed in notes.due.values() {
            let seconds = DUE.as_secs_f64() - TICKS..LATEST;
            ensure!(seconds.contains(elapsed), "a timeout was moved: it was delivered after {elapsed} s");
        }
        Ok(())
    }
}

/// The environment of a process that has the clock of a file.
fn faked(clock: &Path) -> anyhow::Result<Vec<(&'static str, String)>> {
    let on = || "1".to_owned();
    Ok(vec![
        ("LD_PRELOAD", std::env::var(LIBRARY).context(LIBRARY)?),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().context("the folder's name is no text")?.to_owned()),
        ("FAKETIME_NO_CACHE", on()),
        // It has had both names.
        ("FAKETIME_DONT_FAKE_MONOTONIC", on()),
        ("DONT_FAKE_MONOTONIC", on()),
        ("NO_FAKE_STAT", on()),
    ])
}

/// Sets a clock, which is read at any time.
fn set(clock: &Path, to: &str) -> anyhow::Result<()> {
    let new = clock.with_extension("new");
    fs::write(&new, format!("{to}\n"))?;
    Ok(fs::rename(new, clock)?)
}

/// What the processes noted.
#[derive(Default)]
struct Notes {
    lines: usize,
    /// The last time that each process told, less the time since the machine was started.
    clocks: HashMap<String, f64>,
    forwards: u32,
    backwards: u32,
    tokens: Vec<i64>,
    committed: HashMap<String, i64>,
    scheduled: HashSet<String>,
    /// After so many seconds, the first time.
    due: HashMap<String, f64>,
    /// Delivered once more.
    due_again: Vec<String>,
    finished: usize,
}

impl Notes {
    /// From the line on that was not read yet.
    fn read(&mut self, text: &str) -> anyhow::Result<()> {
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        for line in whole.lines().skip(self.lines) {
            self.lines += 1;
            match *line.split(' ').collect::<Vec<_>>().as_slice() {
                ["clock", process, time] => self.step(process, time.parse()?),
                ["token", token] => self.tokens.push(token.parse()?),
                ["committed", stream, count] => drop(self.committed.insert(stream.to_owned(), count.parse()?)),
                ["scheduled", timer] => drop(self.scheduled.insert(timer.to_owned())),
                ["due", timer, elapsed] => self.deliver(timer, elapsed.parse()?),
                ["finished"] => self.finished += 1,
                _ => bail!("a torn line: {line:?}"),
            }
        }
        Ok(())
    }

    fn deliver(&mut self, timer: &str, elapsed: f64) {
        match self.due.entry(timer.to_owned()) {
            Entry::Vacant(first) => drop(first.insert(elapsed)),
            Entry::Occupied(_) => self.due_again.push(timer.to_owned()),
        }
    }

    fn step(&mut self, process: &str, time: f64) {
        let before = self.clocks.insert(process.to_owned(), time).unwrap_or(time);
        self.forwards += u32::from(time - before > NOTICED_SECONDS);
        self.backwards += u32::from(before - time > NOTICED_SECONDS);
    }

    fn is_finished(&self) -> bool {
        self.finished == PROCESSES
    }

    fn waits_for_none(&self) -> bool {
        self.scheduled.iter().all(|timer| self.due.contains_key(timer))
    }
}

impl std::fmt::Display for Notes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let latest = self.due.values().copied().fold(0.0, f64::max);
        let (forwards, backwards, tokens) = (self.forwards, self.backwards, self.tokens.len());
        let (messages, due) = (self.committed.values().sum::<i64>(), self.due.len());
        write!(f, "clocks stepped {forwards} times forwards and {backwards} back; {messages} messages committed, ")?;
        write!(f, "{due} timeouts delivered, the latest after {latest} s, {tokens} leases granted")
    }
}
