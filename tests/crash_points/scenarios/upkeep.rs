//! Old things are purged: what an inbox remembers, leases, snapshots. Dead letters are retried, discarded and edited. What
//! is due is relayed by hand, under the lock of the outbox.

use std::time::Duration;

use anyhow::{Context, ensure};
use sagastore::lock::{ClientId, DatabaseLock, Lock, ResourceId};
use sagastore::{
    DeadLetters, Envelope, Inbox, LockRelease, MessageKind, MessageStore, NewOutboxRecord, Outbox, OutboxRepository,
    SnapshotRepository, Subscribed,
};

use super::Moment;
use crate::desk::{Desk, message_id, publish};
use crate::saga::{KEY, OrderCommand, OrderEvent, instance};
use crate::site::Site;

const ID: &str = "upkeep";
const CONSUMER: &str = "crash-consumer";
const RECEIVED: u32 = 3;
/// Records of which each but the last is a dead letter at first.
const RECORDS: [&str; 4] = ["retried", "discarded", "edited", "pending"];
const PAGE: u32 = 2;

pub(super) async fn prepare<DB: Site>(desk: &Desk<DB>) -> anyhow::Result<()> {
    let (persister, store) = (desk.persister(), DB::Store::default());
    let lock = DatabaseLock::new(desk.pool.clone());
    for name in ["old-1", "old-2"] {
        let (resource, client) = (ResourceId::new(name)?, ClientId::new("worker")?);
        let lease = lock.obtain_no_wait(&resource, &client).await?.lease().context("it is held")?;
        ensure!(lock.release(&lease).await?, "it was lost");
    }
    let mut tx = persister.begin(&desk.pool).await?;
    DB::run(&mut tx, "UPDATE saga_lease SET expires_at = expires_at - 3600000000".to_owned()).await?;
    for number in 1..=RECEIVED {
        let received = Inbox::new(CONSUMER)?.receive(&mut tx, message_id(&format!("{ID} {number}"))).await?;
        ensure!(!received.is_repeated(), "it was received before");
    }
    for name in RECORDS {
        let mut message = Envelope::new(MessageKind::Event, "Told", 1, "text/plain", name)?;
        message.message_id = message_id(name);
        store.save(&mut tx, &[NewOutboxRecord::new("teller", name, message)]).await?;
    }
    let dead = "UPDATE saga_outbox_message
        SET dead_at = recorded_at, attempts = 1, last_error = 'refused'
        WHERE aggregate_id <> 'pending'";
    DB::run(&mut tx, dead.to_owned()).await?;
    let mut unit = persister.begin_unit_of_work(&desk.saga, &mut tx, Outbox, &instance(ID)).await?;
    for number in 1..=4 {
        unit.publish(OrderEvent::Stepped { number })?;
    }
    unit.schedule("due", &OrderCommand::Remind { number: 1 }, Duration::ZERO)?;
    ensure!(persister.save(&mut tx, unit).await?.is_changed(), "nothing was saved");
    Ok(tx.commit().await?)
}

pub(super) async fn work<DB: Site>(desk: &Desk<DB>) -> anyhow::Result<()> {
    let (persister, store) = (desk.persister(), DB::Store::default());
    Inbox::new(CONSUMER)?.forget::<DB>(&desk.pool, Duration::ZERO).await?;
    DatabaseLock::new(desk.pool.clone()).purge().await?;
    let mut tx = persister.begin(&desk.pool).await?;
    store.delete_saga_snapshots(&mut tx, KEY, &instance(ID)).await?;
    tx.commit().await?;

    bury_and_revive(desk).await?;
    let mut tx = persister.begin(&desk.pool).await?;
    store.release_due_timeouts(&mut tx, PAGE).await?;
    tx.commit().await?;
    relay(desk).await?;

    let (mut conn, client) = (desk.pool.acquire().await?, ClientId::new("slot")?);
    let subscribed = store.subscribe_dispatcher(&mut conn, &client, 1).await?;
    let Subscribed::Slot(subscription) = subscribed else { anyhow::bail!("no slot is free") };
    ensure!(store.update_subscription(&mut conn, &subscription).await?, "the slot is lost");
    ensure!(store.unsubscribe(&mut conn, &subscription).await?, "the slot is lost");
    Ok(())
}

/// Does with each dead letter what its name says.
async fn bury_and_revive<DB: Site>(desk: &Desk<DB>) -> anyhow::Result<()> {
    let (persister, store) = (desk.persister(), DB::Store::default());
    let dead = store.dead_letters(&mut *desk.pool.acquire().await?, None, 10).await?;
    for dead in dead {
        let (id, name) = (dead.record.id, dead.record.aggregate_id.as_str());
        let mut tx = persister.begin(&desk.pool).await?;
        let done = match name {
            "retried" => store.retry_dead_letters(&mut tx, DeadLetters::One(id)).await? == 1,
            "discarded" => {
                let which = DeadLetters::Of { aggregate_type: "teller", aggregate_id: name };
                store.discard_dead_letters(&mut tx, which).await? == 1
            }
            _ => {
                let mut message = dead.record.envelope.clone();
                message.payload = "edited better".into();
                store.edit_and_retry_dead_letter(&mut tx, id, &message).await?
            }
        };
        ensure!(done, "the dead letter {name:?} was not there");
        tx.commit().await?;
    }
    Ok(())
}

async fn relay<DB: Site>(desk: &Desk<DB>) -> anyhow::Result<()> {
    let (persister, store, client) = (desk.persister(), DB::Store::default(), ClientId::new("by-hand")?);
    ensure!(store.acquire_lock(&mut *desk.pool.acquire().await?, &client).await?, "the outbox is locked");
    loop {
        let records = store.find_batch(&mut *desk.pool.acquire().await?, None, PAGE).await?;
        if records.is_empty() {
            break;
        }
        for record in &records {
            publish(&desk.journal, record)?;
        }
        let ids: Vec<_> = records.iter().map(|record| record.id).collect();
        let mut tx = persister.begin(&desk.pool).await?;
        let gone = store.delete_in_batches(&mut tx, PAGE, &ids).await?;
        ensure!(gone == u64::try_from(ids.len())?, "{gone} of {} records left the outbox", ids.len());
        tx.commit().await?;
    }
    let released = store.release_lock(&mut *desk.pool.acquire().await?, &client).await?;
    ensure!(released == LockRelease::Released, "the lock of the outbox was lost: {released:?}");
    Ok(())
}

pub(super) async fn check<DB: Site>(desk: &Desk<DB>, moment: Moment) -> anyhow::Result<()> {
    let (store, mut conn) = (DB::Store::default(), desk.pool.acquire().await?);
    let published = desk.journal.noted("published")?;
    let dead = store.dead_letters(&mut conn, None, 10).await?;
    let waiting = store.find_batch(&mut conn, None, 100).await?;
    drop(conn);
    for name in RECORDS {
        let id = message_id(name);
        let dead = dead.iter().filter(|dead| dead.record.envelope.message_id == id).count();
        let waits = waiting.iter().filter(|record| record.envelope.message_id == id).count();
        let delivered = published.contains(&id.to_string());
        ensure!(dead + waits <= 1, "the record {name:?} is there twice");
        ensure!(name != "discarded" || waits == 0 && !delivered, "a record came back that was discarded");
        ensure!(name == "discarded" || dead + waits > 0 || delivered, "the record {name:?} is lost");
    }
    if moment == Moment::Finished {
        ensure!(dead.is_empty() && waiting.is_empty(), "left over: {dead:?}, {waiting:?}");
        for table in ["saga_inbox", "saga_timeout", "saga_snapshot", "saga_outbox_message"] {
            let rows = desk.count(table).await?;
            ensure!(rows == 0, "{table} has {rows} rows");
        }
        let leases = DatabaseLock::new(desk.pool.clone()).statuses(None, 10).await?;
        ensure!(leases.is_empty(), "not purged: {leases:?}");
    }
    Ok(())
}
