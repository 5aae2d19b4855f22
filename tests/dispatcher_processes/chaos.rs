//! A run: processes come, are paused, go on and are killed.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use sagastore::{OutboxRepository, migrate};
use sqlx::Pool;

use super::disturbed::Disturbed;
use super::journal::{Reading, Told};
use super::producer::Producing;
use super::scaled;
use super::site::Site;

/// How long the rest may take once nobody is disturbed any more, on a machine that is busy with other things.
const RELAYED_WITHIN: Duration = Duration::from_secs(600);
/// Of this time, how long it may stay as much as it is.
const STANDSTILL: Duration = Duration::from_secs(120);
const TICK: Duration = Duration::from_millis(500);

pub(crate) async fn run<DB: Site>() -> anyhow::Result<()> {
    with_database::<DB, _>(|database, journal| async move {
        let pool = DB::connect(&database, 4).await?;
        let _ = migrate(&pool).await?;
        let mut course = Course::<DB>::start(pool, &database, &journal)?;
        let done = course.run().await;
        let told = course.to_string();
        println!("dispatcher processes: {}: {told}", DB::KIND);
        done.context(told)
    })
    .await
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

/// One run, as far as it has come.
struct Course<DB: Site> {
    pool: Pool<DB>,
    began: Instant,
    disturbed: Disturbed,
    reading: Reading,
    producing: Option<Producing>,
    committed: HashMap<String, i64>,
}

impl<DB: Site> Course<DB> {
    fn start(pool: Pool<DB>, database: &str, journal: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            began: Instant::now(),
            disturbed: Disturbed::start::<DB>(scaled(4, 8), database, journal)?,
            reading: Reading::open(journal)?,
            producing: Some(Producing::start(pool.clone(), scaled(100, 1000))),
            committed: HashMap::new(),
            pool,
        })
    }

    async fn run(&mut self) -> anyhow::Result<()> {
        self.disturb().await?;
        self.until_relayed().await?;
        self.disturbed.end();
        self.reading.finish(&self.committed)?;
        self.pool.close().await;
        Ok(())
    }

    /// For as long as is wanted, and until enough was seen to have come of it.
    async fn disturb(&mut self) -> anyhow::Result<()> {
        let least = Duration::from_secs(scaled(12, 60));
        let most = Duration::from_secs(scaled(300, 900));
        let producing = self.producing.take().context("it ran before")?;
        while !producing.has_ended() {
            tokio::time::sleep(TICK).await;
            self.disturbed.step::<DB>()?;
            let told = self.reading.go_on()?;
            match self.disturbed.missing().or_else(|| missing(told)) {
                None if self.began.elapsed() >= least => break,
                Some(missing) if self.began.elapsed() >= most => bail!("{missing} within {most:?}"),
                _ => {}
            }
        }
        // Who is paused may hold what the producers wait for.
        self.disturbed.calm()?;
        self.committed = producing.finish().await?;
        Ok(())
    }

    async fn until_relayed(&mut self) -> anyhow::Result<()> {
        let (store, began) = (DB::Store::default(), Instant::now());
        let (mut least, mut fell) = (u64::MAX, Instant::now());
        loop {
            self.disturbed.ensure_running()?;
            self.reading.go_on()?;
            let mut conn = self.pool.acquire().await?;
            let waiting = store.stats(&mut conn).await?.pending;
            let dead = store.dead_letters(&mut conn, None, 1).await?;
            ensure!(dead.is_empty(), "a message ran out of attempts");
            if waiting == 0 {
                return Ok(());
            }
            if waiting < least {
                (least, fell) = (waiting, Instant::now());
            }
            ensure!(fell.elapsed() < STANDSTILL, "{waiting} messages wait, not less than {STANDSTILL:?} ago");
            ensure!(began.elapsed() < RELAYED_WITHIN, "{waiting} messages still wait after {RELAYED_WITHIN:?}");
            drop(conn);
            tokio::time::sleep(TICK).await;
        }
    }
}

/// What has not come of the disturbance yet.
fn missing(told: Told) -> Option<&'static str> {
    if told.takeovers == 0 {
        Some("no stream went to another process")
    } else if told.repeats == 0 {
        Some("nothing was delivered twice: nobody was disturbed at the wrong moment")
    } else {
        None
    }
}

impl<DB: Site> std::fmt::Display for Course<DB> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (seconds, messages) = (self.began.elapsed().as_secs(), self.committed.values().sum::<i64>());
        write!(f, "{messages} messages, {}, {:?}, after {seconds} s", self.disturbed, self.reading.told())
    }
}
