//! Messages of several streams, a timeout that is due and a record without a saga are relayed. One message always fails:
//! it is tried again, and becomes a dead letter, behind which the next one of its stream waits.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use sagastore::dispatcher::{DeliveryRetry, Dispatcher, DispatcherSettings};
use sagastore::emitter::emitter_fn;
use sagastore::lock::ClientId;
use sagastore::{Envelope, MessageKind, NewOutboxRecord, Outbox, OutboxRecord, OutboxRepository};

use super::Moment;
use crate::desk::{Desk, message_id, publish};
use crate::saga::{OrderCommand, OrderEvent, instance};
use crate::site::Site;

const STREAMS: [&str; 2] = ["first", "second"];
const FAILING: &str = "failing";
/// The number in the message that always fails.
const POISON: u32 = 666;
const UNITS: u32 = 2;
/// Three messages of each unit of work, the first of the failing stream, two timeouts and a record.
const DELIVERED: usize = 16;
const ATTEMPTS: u32 = 2;
const BATCH: u32 = 5;
/// Nothing is renewed meanwhile.
const LONG: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_secs(60);

pub(super) async fn prepare<DB: Site>(desk: &Desk<DB>) -> anyhow::Result<()> {
    let persister = desk.persister();
    let mut tx = persister.begin(&desk.pool).await?;
    for number in 1..=UNITS {
        for id in STREAMS {
            let mut unit = persister.begin_unit_of_work(&desk.saga, &mut tx, Outbox, &instance(id)).await?;
            unit.publish(OrderEvent::Stepped { number })?;
            unit.publish(OrderEvent::Stepped { number })?;
            unit.execute(&OrderCommand::Ship { number })?;
            if number == 1 {
                unit.schedule("due", &OrderCommand::Remind { number }, Duration::ZERO)?;
            }
            ensure!(persister.save(&mut tx, unit).await?.is_changed(), "nothing was saved");
        }
    }
    let mut unit = persister.begin_unit_of_work(&desk.saga, &mut tx, Outbox, &instance(FAILING)).await?;
    for number in [1, POISON, 2] {
        unit.publish(OrderEvent::Stepped { number })?;
    }
    ensure!(persister.save(&mut tx, unit).await?.is_changed(), "nothing was saved");
    let mut message = Envelope::new(MessageKind::Event, "Told", 1, "text/plain", "x")?;
    message.message_id = message_id("dispatcher record");
    DB::Store::default().save(&mut tx, &[NewOutboxRecord::new("teller", "1", message)]).await?;
    Ok(tx.commit().await?)
}

fn is_poison(payload: &[u8]) -> bool {
    String::from_utf8_lossy(payload).contains(&POISON.to_string())
}

pub(super) async fn work<DB: Site>(desk: &Desk<DB>) -> anyhow::Result<()> {
    let journal = Arc::clone(&desk.journal);
    let emitter = emitter_fn(move |record: OutboxRecord| {
        let journal = Arc::clone(&journal);
        async move {
            if is_poison(record.payload()) {
                return Err(io::Error::other("refused"));
            }
            publish(&journal, &record)
        }
    });
    let settings = DispatcherSettings::default()
        .with_workers(1)?
        .with_lease(LONG)?
        .with_poll_interval(POLL)?
        .with_batch(BATCH)?
        .with_retry(DeliveryRetry::new(ATTEMPTS, ATTEMPTS, Duration::ZERO, Duration::ZERO, 0.0)?);
    let dispatcher = Dispatcher::new(desk.pool.clone(), emitter).with_settings(settings);
    let dispatched = dispatcher.with_id(ClientId::new("relay")?).dispatch_once().await?;
    ensure!(dispatched.damaged == 0, "commits could not be read");
    Ok(())
}

pub(super) async fn check<DB: Site>(desk: &Desk<DB>, moment: Moment) -> anyhow::Result<()> {
    let (store, mut conn) = (DB::Store::default(), desk.pool.acquire().await?);
    let dead = store.dead_letters(&mut conn, None, 10).await?;
    let poison = dead.iter().filter(|dead| is_poison(dead.record.payload())).count();
    ensure!(poison == dead.len() && poison <= 1, "dead letters: {dead:?}");
    if moment == Moment::Killed {
        return Ok(());
    }
    ensure!(poison == 1, "the message that always fails is not among the dead letters");
    ensure!(dead[0].record.attempts == ATTEMPTS, "it had {} attempts", dead[0].record.attempts);
    let stats = store.stats(&mut conn).await?;
    ensure!(stats.pending == 1, "{} messages wait, and not the one behind the dead letter alone", stats.pending);
    drop(conn);
    ensure!(desk.count("saga_timeout").await? == 0, "timeouts are still pending");
    let published = desk.journal.noted("published")?;
    ensure!(published.contains(&message_id("dispatcher record").to_string()), "the record was not delivered");
    let delivered: HashSet<_> = published.iter().collect();
    ensure!(delivered.len() == DELIVERED, "{} messages were delivered: {delivered:?}", delivered.len());
    Ok(())
}
