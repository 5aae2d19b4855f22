//! The path of a message on embedded SQLite: a unit of work records it, the dispatcher relays it to an emitter of this
//! process, in order per instance; one that cannot be delivered becomes a dead letter and is put right.
use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sagastore::dispatcher::{DeliveryRetry, Dispatcher, DispatcherSettings};
use sagastore::emitter::{ChannelEmitter, default_topic};
use sagastore::{
    DeadLetters, Envelope, Error, InstanceId, OutboxRepository, OutboxWaker, Persister, Saga, message_types, migrate,
    sqlite,
};
use serde::{Deserialize, Serialize};
use sqlx::Sqlite;
use sqlx::sqlite::SqliteConnectOptions;

const PARCELS: usize = 20;
const SCANS: u32 = 5;

#[derive(Serialize, Deserialize)]
enum Event {
    Scanned { place: u32 },
}
message_types!(Event { Scanned: "ParcelScanned" 1 });

/// Where a parcel was seen last.
struct Parcel;
impl Saga for Parcel {
    type Data = u32;
    type Event = Event;
    fn persistence_key(&self) -> &str {
        "parcel"
    }
    fn new_data(&self) -> u32 {
        0
    }
    fn apply_event(&self, place: &mut u32, event: &Event, _: &Envelope) {
        let Event::Scanned { place: seen } = event;
        *place = *seen;
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = SqliteConnectOptions::new().filename(folder.path().join("parcels.db")).create_if_missing(true);
    let pool = sqlite::pool_options().connect_with(sqlite::connect_options(file)).await?;
    let _ = migrate(&pool).await?;

    // A dispatcher of this process, woken by each commit.
    let (waker, (emitter, mut received)) = (OutboxWaker::new(), ChannelEmitter::new(100));
    let retry = DeliveryRetry::new(3, 1, Duration::from_millis(20), Duration::from_secs(1), 0.2)?;
    let settings = DispatcherSettings::default().with_retry(retry).with_poll_interval(Duration::from_millis(200))?;
    let dispatcher = Dispatcher::new(pool.clone(), emitter).with_settings(settings).with_waker(waker.clone());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(async move { dispatcher.run(async { drop(stopped.await) }).await });

    let persister = Persister::<Sqlite>::new().with_waker(waker.clone());
    for place in 1..=SCANS {
        for parcel in 0..PARCELS {
            let parcel = InstanceId::new(format!("parcel-{parcel}"))?;
            let scanned = persister.execute(&pool, &Parcel, &parcel, None, |unit| {
                unit.publish(Event::Scanned { place })?;
                Ok::<_, Error>(())
            });
            let _ = scanned.await?;
        }
    }

    // Parcel 7 cannot be delivered until somebody repairs the other side.
    let (mut places, mut refused, mut repaired) = (HashMap::<String, Vec<u32>>::new(), 0, false);
    while places.values().map(Vec::len).sum::<usize>() < PARCELS * SCANS as usize {
        let waiting = tokio::time::timeout(Duration::from_secs(if repaired { 20 } else { 3 }), received.recv());
        let Ok(Some(delivery)) = waiting.await else {
            ensure!(!repaired, "the outbox is stuck");
            let store = sagastore::sqlite::SqliteStore::default();
            let letters = store.dead_letters(&mut *pool.acquire().await?, None, 10).await?;
            let letter = letters.first().context("no dead letter")?;
            println!("dead letter of {}: {}", letter.record.aggregate_id, letter.last_error);
            let mut tx = persister.begin(&pool).await?;
            store.retry_dead_letters(&mut tx, DeadLetters::One(letter.record.id)).await?;
            tx.commit().await?;
            (repaired, _) = (true, waker.wake());
            continue;
        };
        if delivery.record().aggregate_id == "parcel-7" && !repaired {
            refused += 1;
            delivery.failed("the other side is broken");
            continue;
        }
        let Event::Scanned { place } = serde_json::from_slice(delivery.record().payload())?;
        ensure!(default_topic(delivery.record()) == "outbox-parcel-scanned");
        places.entry(delivery.record().aggregate_id.clone()).or_default().push(place);
        delivery.delivered();
    }
    drop(stop);
    let dispatched = running.await?;
    println!("{dispatched:?}");
    ensure!(refused == 3, "{refused} refusals");
    ensure!(places.len() == PARCELS && places.values().all(|places| places.is_sorted()));
    ensure!(dispatched.delivered == (PARCELS as u64) * u64::from(SCANS) && dispatched.dead == 1);
    Ok(())
}
