//! What was delivered, in order: a file to which all dispatchers append.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use sagastore::dispatcher::{DeliveryRetry, Dispatcher, DispatcherSettings};
use sagastore::emitter::emitter_fn;
use sagastore::lock::ClientId;
use sagastore::{DeadLetters, MessageId, MessageStore, OutboxRecord, OutboxRepository};
use sqlx::Pool;

use super::clients::guarded;
use super::place::Place;
use super::site::Site;

/// How many dispatchers share the outbox.
pub(crate) const DISPATCHERS: u32 = 3;
/// A dispatcher that is killed is replaced by itself, under its name, so this is about those that are cut off.
const LEASE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(200);
/// Then a message is a dead letter, however short the outage.
const ATTEMPTS: u32 = 8;
/// One of so many deliveries is refused.
const REFUSALS: u32 = 50;
/// One of so many messages is refused nearly always, and becomes a dead letter again and again.
const POISON: u128 = 300;
const POISON_TAKEN: u32 = 12;
/// How long the rest may take once nothing fails any more.
pub(crate) const DRAINED_WITHIN: Duration = Duration::from_secs(120);

/// A dispatcher that writes down what it delivers.
pub(crate) fn dispatcher<DB: Site>(place: &Place, pool: Pool<DB>, number: u32) -> anyhow::Result<Dispatcher<DB>> {
    let journal = Arc::new(OpenOptions::new().create(true).append(true).open(place.journal())?);
    let emitter = emitter_fn(move |record: OutboxRecord| {
        let journal = Arc::clone(&journal);
        async move {
            let is_poison = record.envelope.message_id.as_uuid().as_u128().is_multiple_of(POISON);
            if fastrand::u32(..REFUSALS) == 0 || is_poison && fastrand::u32(..POISON_TAKEN) > 0 {
                return Err(io::Error::other("refused"));
            }
            write_down(&journal, &record)
        }
    });
    let pause = Duration::from_millis(50);
    let settings = DispatcherSettings::default()
        .with_dispatchers(DISPATCHERS)?
        .with_lease(LEASE)?
        .with_poll_interval(POLL)?
        .with_retry(DeliveryRetry::new(ATTEMPTS, 1, pause, pause, 0.0)?);
    Ok(Dispatcher::new(pool, emitter).with_id(ClientId::new(format!("dispatcher-{number}"))?).with_settings(settings))
}

/// One write for each line: none is torn by a kill.
fn write_down(mut journal: &File, record: &OutboxRecord) -> io::Result<()> {
    journal.write_all(format!("{}\n", record.envelope.message_id).as_bytes())
}

/// Lets all dead letters be delivered again.
pub(crate) async fn revive<DB: Site>(pool: &Pool<DB>) -> sagastore::Result<u64> {
    let (store, mut tx) = (DB::Store::default(), guarded::begin(pool).await?);
    let revived = store.retry_dead_letters(&mut tx, DeadLetters::All).await?;
    tx.commit().await.map_err(|error| MessageStore::classify(&store, "retrying dead letters", error))?;
    Ok(revived)
}

/// What is left to be delivered; dead letters may be from now on.
pub(crate) async fn waiting<DB: Site>(pool: &Pool<DB>) -> sagastore::Result<u64> {
    let store = DB::Store::default();
    revive(pool).await?;
    let conn = pool.acquire().await;
    let mut conn = conn.map_err(|fault| MessageStore::classify(&store, "waiting", fault))?;
    let stats = store.stats(&mut conn).await?;
    Ok(stats.pending + stats.dead_letters)
}

/// Waits until nothing is left to be delivered.
pub(crate) async fn until_drained<DB: Site>(pool: &Pool<DB>) -> anyhow::Result<()> {
    let began = std::time::Instant::now();
    loop {
        match waiting(pool).await {
            Ok(0) => return Ok(()),
            Ok(waiting) => {
                ensure!(began.elapsed() < DRAINED_WITHIN, "{waiting} messages are still not delivered");
            }
            // A connection that was lost before is noticed only now.
            Err(error) => ensure!(error.is_transient() && began.elapsed() < DRAINED_WITHIN, "{error}"),
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What was delivered, in order.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<MessageId>> {
    let text = std::fs::read_to_string(path).context("reading the journal")?;
    text.lines().map(|line| line.parse().with_context(|| format!("line {line:?} of the journal"))).collect()
}
