//! The load.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use fastrand::Rng;
use sagastore::dispatcher::Dispatcher;
use sagastore::emitter::emitter_fn;
use sagastore::{
    ConflictRetry, Envelope, Executed, Inbound, Inbox, InstanceId, MessageId, OutboxRecord, Persister, Saga,
    message_types, migrate,
};
use serde::{Deserialize, Serialize};
use sqlx::Pool;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::ask::Ask;
use super::deliveries::Deliveries;
use super::held::Held;
use super::purge;
use super::window::Window;

pub(crate) const INSTANCES: u32 = 1_000_000;
const CLIENTS: u64 = 8;
const CONNECTIONS: u32 = 12;
const WINDOWS: u32 = 10;
/// One unit of work in so many is loaded once more, which is timed alone.
const LOADS: u32 = 20;
/// How many times as long a load or an append may take at the end as in the first window, at the median.
const SLOWER: f64 = 4.0;
pub(crate) const CONSUMER: &str = "scale";

struct Parcel;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum ParcelEvent {
    Moved { number: u32, to: String },
}
message_types!(ParcelEvent { Moved: "ParcelMoved" 1 });

impl Saga for Parcel {
    type Data = u64;
    type Event = ParcelEvent;

    fn persistence_key(&self) -> &str {
        "parcel"
    }

    fn new_data(&self) -> u64 {
        0
    }

    fn apply_event(&self, moves: &mut u64, _: &ParcelEvent, _: &Envelope) {
        *moves += 1;
    }
}

fn id(number: u32) -> InstanceId {
    InstanceId::new(number.to_string()).unwrap()
}

pub(crate) async fn run<DB: Ask>(length: Duration) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let name = format!("sagastore_scale_{}", uuid::Uuid::now_v7().simple());
    let database = match DB::VARIABLE {
        Some(_) => name,
        None => folder.path().join("scale.db").to_str().context("a path")?.to_owned(),
    };
    DB::create(&database).await?;
    let pool = DB::connect(&database, CONNECTIONS).await?;
    let _ = migrate(&pool).await?;
    let done = all(&pool, length).await;
    pool.close().await;
    DB::remove(&database).await?;
    done
}

async fn all<DB: Ask>(pool: &Pool<DB>, length: Duration) -> anyhow::Result<()> {
    let deliveries = Arc::new(Deliveries::new());
    let emitter = emitter_fn({
        let deliveries = Arc::clone(&deliveries);
        move |record: OutboxRecord| std::future::ready(deliveries.take(&record).map_err(io::Error::other))
    });
    let dispatcher = Dispatcher::new(pool.clone(), emitter);
    let (stop, stopped) = oneshot::channel::<()>();
    let relay = tokio::spawn(async move { dispatcher.run(async { drop(stopped.await) }).await });
    let (appends, first) = windows(pool, length).await?;
    purge::half(pool, length / WINDOWS).await?;
    let repeated = deliveries.until_all(pool).await?;
    drop(stop);
    let relayed = relay.await?;
    ensure!(relayed.dead == 0 && relayed.damaged == 0, "not all was delivered: {relayed:?}");
    println!(
        "scale: {}: {appends} units of work, {} messages delivered, {repeated} deliveries repeated, 0 lost, 0 out of order",
        DB::KIND,
        relayed.delivered
    );
    Held::by(pool)?.check_flat(&first)?;
    let instances = DB::number(pool, "SELECT COUNT(*) FROM saga_stream").await?;
    println!("scale: {}: {instances} instances, of {INSTANCES}, have events", DB::KIND);
    let findings = purge::findings(pool).await?;
    ensure!(findings == 0, "the check finds {findings} faults");
    Ok(())
}

/// Gives the number of units of work, and what the program held after the first window.
async fn windows<DB: Ask>(pool: &Pool<DB>, length: Duration) -> anyhow::Result<(usize, Held)> {
    let (mut total, mut first): (usize, Option<(f64, f64, Held)>) = (0, None);
    for number in 1..=WINDOWS {
        let began = Instant::now();
        let mut window = together(pool, u64::from(number), length / WINDOWS).await?;
        total += window.appends.count();
        let rate = window.appends.count() as f64 / began.elapsed().as_secs_f64();
        let (append, load, held) = (window.appends.at(500), window.loads.at(500), Held::by(pool)?);
        println!(
            "scale: {}: {total} units of work: {rate:.0}/s; append {append:.2} ms (p99 {:.2}), load {load:.2} ms \
             (p99 {:.2}); {} KiB, {} files, {} connections",
            DB::KIND,
            window.appends.at(990),
            window.loads.at(990),
            held.memory_kib,
            held.files,
            held.connections
        );
        let (first_append, first_load, first_held) = *first.get_or_insert((append, load, held));
        held.check_flat(&first_held)?;
        ensure!(append <= first_append * SLOWER, "an append takes {append} ms after {first_append} ms");
        ensure!(load <= first_load * SLOWER, "a load takes {load} ms after {first_load} ms");
    }
    let (_, _, first) = first.context("there is no window")?;
    Ok((total, first))
}

pub(crate) async fn together<DB: Ask>(pool: &Pool<DB>, seed: u64, length: Duration) -> anyhow::Result<Window> {
    let until = Instant::now() + length;
    let clients = (0..CLIENTS).map(|client| work(pool.clone(), Rng::with_seed(seed * CLIENTS + client), until));
    let mut clients: JoinSet<_> = clients.collect();
    let mut all = Window::default();
    while let Some(done) = clients.join_next().await {
        all = all.and(done??);
    }
    Ok(all)
}

async fn work<DB: Ask>(pool: Pool<DB>, mut random: Rng, until: Instant) -> anyhow::Result<Window> {
    let retry = ConflictRetry { retries: 50, ..ConflictRetry::default() };
    let (persister, mut window) = (Persister::<DB>::new().with_conflict_retry(retry), Window::default());
    let inbox = Inbox::new(CONSUMER)?;
    while Instant::now() < until {
        let (number, message) = (random.u32(0..INSTANCES), MessageId::new());
        let to: String = (0..150).map(|_| random.alphanumeric()).collect();
        let (id, start) = (id(number), Instant::now());
        let unit = |unit: &mut sagastore::UnitOfWork<'_, Parcel>| {
            let number = u32::try_from(unit.instance().data).unwrap() + 1;
            unit.publish(ParcelEvent::Moved { number, to: to.clone() }).map(drop)
        };
        let executed = persister.execute(&pool, &Parcel, &id, Some(Inbound::from(message)), unit).await?;
        window.appends.add(start.elapsed());
        let Executed::Done { conflicts, .. } = executed else { bail!("a new message was handled before") };
        window.lost_tries += u64::from(conflicts);
        let start = Instant::now();
        let mut tx = persister.begin(&pool).await?;
        ensure!(!inbox.receive(&mut tx, message).await?.is_repeated(), "a new message is known");
        tx.commit().await?;
        window.receives.add(start.elapsed());
        if random.u32(0..LOADS) == 0 {
            let (mut conn, start) = (pool.acquire().await?, Instant::now());
            let loaded = persister.load_instance(&Parcel, &mut conn, &id).await?;
            window.loads.add(start.elapsed());
            let unit = loaded.context("what was saved is not there")?;
            ensure!(unit.instance().data == unit.instance().revision.get(), "the state is not that of its events");
        }
    }
    Ok(window)
}
