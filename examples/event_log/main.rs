//! Replays an event log: each line `{"case","seq","activity","timestamp","attrs"}` is one message for
//! the saga instance `case`, which publishes one event. Then every instance is loaded again in a
//! fresh pool, and a summary can be written. Feeding the same file again changes nothing.
//!
//! `cargo run --release --example event_log -- --help`
use std::fs::File;
use std::io::{BufWriter, Write};
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use indicatif::HumanCount;
use sagastore::{InstanceId, Persister, SnapshotFrequency, migrate};
use sqlx::Pool;

mod feed;
mod relay;
mod saga;
#[path = "../support/mod.rs"]
mod support;

pub(crate) use feed::Fed;
use relay::Relay;
use saga::Case;
use support::{Connect, Scheme, temporary_database};

#[derive(Parser)]
#[command(about = "Replays an event log, one JSON object a line, as one saga instance per case")]
pub(crate) struct Options {
    /// The log
    pub(crate) file: PathBuf,
    /// sqlite:, postgres: or mysql: URL; by default a temporary SQLite file
    #[arg(long)]
    pub(crate) database_url: Option<String>,
    /// Revisions from one snapshot of an instance to the next
    #[arg(long, default_value = "1000")]
    pub(crate) snapshot_frequency: NonZeroU64,
    /// Tasks that handle lines at the same time, each those of its own cases
    #[arg(long, default_value = "8")]
    pub(crate) workers: NonZeroUsize,
    /// Dispatchers that relay the events meanwhile; without any, they stay in the outbox
    #[arg(long, default_value = "0")]
    pub(crate) dispatchers: u32,
    /// Where to write a line per case, in byte order of the cases: the case, its revision, and the 64-bit
    /// FNV-1a hash of its activities in the order of `seq`, each followed by a newline; tabs between
    #[arg(long)]
    pub(crate) summary: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    replay(&Options::parse()).await.map(drop)
}

pub(crate) async fn replay(options: &Options) -> Result<Fed> {
    let (_folder, url) = match &options.database_url {
        Some(url) => (None, url.clone()),
        None => temporary_database().map(|(folder, url)| (Some(folder), url))?,
    };
    match Scheme::of(&url)? {
        Scheme::Sqlite => replay_into::<sqlx::Sqlite>(&url, options).await,
        #[cfg(feature = "postgres")]
        Scheme::Postgres => replay_into::<sqlx::Postgres>(&url, options).await,
        #[cfg(feature = "mysql")]
        Scheme::MySql => replay_into::<sqlx::MySql>(&url, options).await,
    }
}

async fn replay_into<DB: Connect>(url: &str, options: &Options) -> Result<Fed> {
    let frequency = SnapshotFrequency::Every(options.snapshot_frequency);
    let persister = Persister::<DB>::new().with_snapshot_frequency(frequency);

    let pool = DB::connect(url).await?;
    let _ = migrate(&pool).await?;
    let begun = Instant::now();
    let relay = (options.dispatchers > 0).then(|| Relay::start(&pool, options.dispatchers)).transpose()?;
    let fed = feed::feed(&options.file, &persister, &pool, options.workers).await?;
    let took = begun.elapsed().as_secs_f64();
    if let Some(relay) = relay {
        let relayed = relay.finish(&pool).await?;
        ensure!(relayed >= fed.stored, "{relayed} events arrived of {} that were stored", fed.stored);
        let (relayed, took) = (HumanCount(relayed), begun.elapsed().as_secs_f64());
        println!("{relayed} events relayed in the order of each case, {took:.1} s after the start");
    }
    pool.close().await;
    let [cases, stored, repeated] = [u64::try_from(fed.cases.len())?, fed.stored, fed.repeated].map(HumanCount);
    println!("{cases} cases: {stored} events stored, {repeated} repeats ignored, {took:.1} s");

    let pool = DB::connect(url).await?;
    let begun = Instant::now();
    let events = reload(&pool, &persister, &fed, options.summary.as_deref()).await?;
    let took = begun.elapsed().as_secs_f64();
    pool.close().await;
    println!("{cases} cases reloaded: {} events, {took:.1} s", HumanCount(events));
    Ok(fed)
}

/// Loads every case again, and writes its line of the summary. Gives the number of events.
async fn reload<DB: Connect>(
    pool: &Pool<DB>,
    persister: &Persister<DB>,
    fed: &Fed,
    summary: Option<&Path>,
) -> Result<u64> {
    let named = |path: &Path| format!("writing {}", path.display());
    let file = summary.map(|path| File::create(path).with_context(|| named(path))).transpose()?;
    let (mut file, mut events, mut conn) = (file.map(BufWriter::new), 0, pool.acquire().await?);
    for (case, acknowledged) in &fed.cases {
        let found = persister.load_instance(&Case, &mut conn, &InstanceId::new(case)?).await?;
        let unit = found.with_context(|| format!("case {case:?} was stored, and is not there"))?;
        let (revision, data) = (unit.instance().revision, &unit.instance().data);
        ensure!(revision >= *acknowledged, "case {case:?} was at revision {acknowledged}, and is at {revision}");
        events += revision.get();
        if let (Some(file), Some(path)) = (&mut file, summary) {
            writeln!(file, "{case}\t{revision}\t{}", data.fingerprint()).with_context(|| named(path))?;
        }
    }
    if let (Some(mut file), Some(path)) = (file, summary) {
        file.flush().with_context(|| named(path))?;
    }
    Ok(events)
}
