//! A run on SQLite: a load in a process of its own, which is killed, and of which the file is held by another.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sagastore::check::check_data;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, Sqlite, SqliteConnection};

use super::deck::Deck;
use super::disk::Disk;
use super::done::Done;
use super::place::Place;
use super::process::Process;
use super::report::{self, FILLED, Report};
use super::site::{Patience, Site};
use super::{journal, ledger, length, load, scaled, seed};

/// How long this process waits for the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// At least one log is to be so large when the load is killed.
const LARGE_LOG: u64 = 4 * 1024 * 1024;
/// So long it is given to become so.
const LARGE_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Kill,
    Busy,
    Full,
    Fill,
}

/// Injects faults, and counts them.
struct Injector {
    place: Place,
    disk: Option<Disk>,
    deck: Deck<Fault>,
    load: Process,
    /// Sees the file as it was, so that the log cannot start anew.
    reader: Option<SqliteConnection>,
    largest_log: u64,
    done: Done,
}

const KILLS: &str = "kills";
const HELD: &str = "times the file held";
const FULL: &str = "times the database full";

pub(crate) async fn run(folder: PathBuf) -> anyhow::Result<()> {
    let (seed, length, disk) = (seed()?, length()?, Disk::of_this_run());
    println!("server faults: sqlite: {} s, seed {seed}", length.as_secs());
    // What the clients were told must not be on the disk that becomes full.
    let home = match &disk {
        Some(disk) => tempfile::tempdir_in(&disk.folder)?,
        None => tempfile::tempdir()?,
    };
    let file = home.path().join("sagas.db");
    let database = file.to_str().context("the folder's name is no text")?.to_owned();
    let place = Place { database, folder };
    load::prepare::<Sqlite>(&place).await?;

    let mut kinds = vec![Fault::Kill, Fault::Kill, Fault::Busy, Fault::Busy, Fault::Full];
    kinds.extend(disk.as_ref().map(|_| Fault::Fill));
    let (deck, load) = (Deck::new(kinds, seed), Process::start(&place, true)?);
    let done = Done::of([KILLS, HELD, FULL].into_iter().chain(disk.as_ref().map(|_| FILLED)));
    let mut injector = Injector { place, disk, deck, load, reader: None, largest_log: 0, done };
    injector.inject(length).await?;
    injector.conclude(seed, length).await
}

impl Injector {
    async fn inject(&mut self, length: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        while began.elapsed() < length || !self.deck.has_shown_all() {
            tokio::time::sleep(self.deck.millis(scaled(500, 2_000), scaled(3_000, 12_000))).await;
            self.load.check_running()?;
            let (fault, began) = (self.deck.draw(), ledger::now());
            self.one(fault).await.with_context(|| format!("injecting {fault:?}"))?;
            self.done.end(&self.place, &format!("{fault:?}"), began)?;
        }
        Ok(())
    }

    async fn one(&mut self, fault: Fault) -> anyhow::Result<()> {
        match fault {
            Fault::Kill => self.kill().await,
            Fault::Busy => {
                let mut conn = self.connect().await?;
                Sqlite::execute(&mut conn, "BEGIN IMMEDIATE".to_owned()).await?;
                self.done.add(HELD, 1);
                // Up to longer than the load waits.
                tokio::time::sleep(self.deck.millis(1_300, 2_500)).await;
                Sqlite::execute(&mut conn, "ROLLBACK".to_owned()).await?;
                Ok(conn.close().await?)
            }
            Fault::Full => {
                File::create(self.place.full())?;
                self.done.add(FULL, 1);
                tokio::time::sleep(self.deck.millis(1_000, 2_500)).await;
                Ok(std::fs::remove_file(self.place.full())?)
            }
            Fault::Fill => {
                let disk = self.disk.clone().context("there is no small disk")?;
                let _full = tokio::task::block_in_place(|| disk.fill())?;
                self.done.add(FILLED, 1);
                tokio::time::sleep(self.deck.millis(1_000, 2_500)).await;
                Ok(())
            }
        }
    }

    /// Kills the load, with all that its log holds, and starts it again.
    async fn kill(&mut self) -> anyhow::Result<()> {
        let (began, mut log) = (Instant::now(), 0);
        while log < LARGE_LOG && began.elapsed() < LARGE_WITHIN {
            tokio::time::sleep(LOOK_EVERY).await;
            log = size_of_log(Path::new(&self.place.database));
        }
        self.largest_log = self.largest_log.max(log);
        if self.deck.rng.bool() {
            self.reader = None;
        }
        let keep_log = self.deck.rng.bool();
        self.load = self.replaced(keep_log).await?;
        self.done.add(KILLS, 1);
        self.reader = None;
        if !keep_log {
            // A reader that never ends keeps the log from starting anew, too.
            let mut reader = self.connect().await?;
            Sqlite::texts(&mut reader, "BEGIN; SELECT resource FROM guarded".to_owned()).await?;
            self.reader = Some(reader);
        }
        Ok(())
    }

    async fn replaced(&mut self, keep_log: bool) -> anyhow::Result<Process> {
        self.load.kill()?;
        // Nobody writes now: what is there must be in order.
        if self.deck.rng.bool() {
            self.check().await?;
        }
        Process::start(&self.place, keep_log)
    }

    async fn check(&self) -> anyhow::Result<()> {
        let pool = Sqlite::connect(&self.place, None, Patience::Advised).await?;
        let mut first = None;
        let checked = check_data(&pool, &mut |finding| _ = first.get_or_insert(finding)).await?;
        ensure!(checked.findings == 0, "after a kill the check found {} faults: {first:?}", checked.findings);
        pool.close().await;
        Ok(())
    }

    async fn connect(&self) -> anyhow::Result<SqliteConnection> {
        let options = SqliteConnectOptions::new().filename(&self.place.database).busy_timeout(BUSY_TIMEOUT);
        Ok(options.connect().await?)
    }

    async fn conclude(mut self, seed: u64, length: Duration) -> anyhow::Result<()> {
        self.reader = None;
        report::until_all_went(&self.place).await?;
        File::create(self.place.finish())?;
        let ended = self.load.ended(journal::DRAINED_WITHIN * 2).await?;
        ensure!(ended.success(), "the load ended with {ended}");
        let not_run = self.disk.is_none().then_some(report::NO_DISK);
        let log = self.largest_log;
        ensure!(log >= LARGE_LOG, "the largest log at a kill had {log} bytes");
        let notes = vec![format!("largest log at a kill {} MiB", log / 1024 / 1024)];
        report::conclude::<Sqlite>(Report { seed, length, done: self.done, not_run, notes }, &self.place).await
    }
}

fn size_of_log(database: &Path) -> u64 {
    let mut log = PathBuf::from(database).into_os_string();
    log.push("-wal");
    std::fs::metadata(log).map_or(0, |file| file.len())
}
