//! Orders and subscriptions in their thousands, driven from many tasks with messages of which some
//! come twice; then the database is reopened, and every instance checked against what was sent.
//!
//! `cargo run --release --example order_fulfilment -- --help`
use std::num::NonZeroUsize;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use indicatif::HumanCount;
use sagastore::{Persister, migrate};

mod check;
mod drive;
mod expected;
mod messages;
mod saga;
#[path = "../support/mod.rs"]
mod support;

use check::{Found, pending, reload_all};
use drive::{Driver, Tally};
use messages::Plan;
use support::{Connect, Progress, Scheme, temporary_database};

/// Messages that are delivered once more after the database was reopened: one in so many.
const LATE_REPEATS: usize = 50;

#[derive(Parser)]
#[command(about = "Drives thousands of order sagas, and checks every one of them after a restart")]
struct Args {
    /// sqlite:, postgres: or mysql: URL; by default a temporary SQLite file
    #[arg(long)]
    database_url: Option<String>,
    /// Sagas; one in 400 is a long subscription
    #[arg(long, default_value_t = 4_000)]
    instances: u32,
    /// Another seed gives other orders
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Tasks that deliver messages at the same time
    #[arg(long, default_value = "64")]
    workers: NonZeroUsize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let (_folder, url) = match &args.database_url {
        Some(url) => (None, url.clone()),
        None => temporary_database().map(|(folder, url)| (Some(folder), url))?,
    };
    match Scheme::of(&url)? {
        Scheme::Sqlite => run::<sqlx::Sqlite>(&url, &args).await,
        #[cfg(feature = "postgres")]
        Scheme::Postgres => run::<sqlx::Postgres>(&url, &args).await,
        #[cfg(feature = "mysql")]
        Scheme::MySql => run::<sqlx::MySql>(&url, &args).await,
    }
}

async fn run<DB: Connect>(url: &str, args: &Args) -> Result<()> {
    let mut plan = Plan::generate(args.instances, args.seed)?;
    let (messages, deliveries) = (plan.distinct_messages(), plan.deliveries());

    let pool = DB::connect(url).await?;
    let _ = migrate(&pool).await?;
    let (persister, pending_before) = (Persister::<DB>::new(), pending(&pool).await?);
    let progress = Progress::new("delivering", deliveries);
    let driver = Driver { persister: persister.clone(), pool: pool.clone(), progress: progress.clone() };
    let (openings, lanes) = (std::mem::take(&mut plan.openings), std::mem::take(&mut plan.lanes));
    let driven = driver.drive(openings, args.workers.get()).await? + driver.drive(lanes, args.workers.get()).await?;
    let took = progress.finish();
    ensure!(
        (driven.units, driven.repeats) == (messages, deliveries - messages),
        "of {messages} messages in {deliveries} deliveries {} took effect, and {} were repeats",
        driven.units,
        driven.repeats,
    );
    pool.close().await;

    let pool = DB::connect(url).await?;
    let found = reload_all(&pool, &persister, &plan.conversations).await?;
    let late = Driver { pool: pool.clone(), ..driver };
    let mut tally = driven;
    for sent in plan.conversations.iter().flat_map(|conversation| &conversation.messages).step_by(LATE_REPEATS) {
        tally = tally + late.deliver_once(sent).await?;
    }
    ensure!(tally.units == messages, "{} messages took effect again after a restart", tally.units - messages);
    let waiting = pending(&pool).await? - pending_before;
    let sent = found.events + found.commands;
    ensure!(waiting == sent, "{waiting} messages wait in the outbox, {sent} were recorded");
    pool.close().await;

    let second = Duration::from_secs(1).as_micros();
    let rate = u128::from(messages) * second / took.as_micros().max(1);
    print(&found, tally, waiting, u64::try_from(rate)?, took);
    Ok(())
}

fn print(found: &Found, tally: Tally, pending: u64, rate: u64, took: Duration) {
    let counts = [
        ("instances", found.instances),
        ("events", found.events),
        ("events of the longest", found.longest),
        ("loaded from snapshots", found.snapshots),
        ("outbox records pending", pending),
        ("repeats ignored", tally.repeats),
        ("conflicts retried", tally.conflicts),
        ("units of work", tally.units),
        ("units of work per second", rate),
    ];
    println!("every instance is what its messages make of it, also after reopening the database");
    for (name, value) in counts {
        println!("  {name:<26}{:>10}", HumanCount(value).to_string());
    }
    for (name, time) in [("load p50", found.load_percentile(50)), ("load p99", found.load_percentile(99))] {
        println!("  {name:<26}{:>7} µs", time.as_micros());
    }
    println!("  {:<26}{:>8.1} s", "delivered in", took.as_secs_f64());
}
