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
use sagastore::{MessageId, OutboxRecord, OutboxRepository};
use sqlx::Pool;

use super::place::Place;
use super::site::Site;

/// How many dispatchers share the outbox.
pub(crate) const DISPATCHERS: u32 = 3;
/// A dispatcher that is killed is replaced by itself, under its name, so this is about those that are cut off.
const LEASE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(200);
/// No message may become a dead letter, however long the outage.
const ATTEMPTS: u32 = 100_000;
/// One of so many deliveries is refused.
const REFUSALS: u32 = 50;
/// How long the rest may take once nothing fails any more.
pub(crate) const DRAINED_WITHIN: Duration = Duration::from_secs(120);

/// A dispatcher that writes down what it delivers.
pub(crate) fn dispatcher<DB: Site>(place: &Place, pool: Pool<DB>, number: u32) -> anyhow::Result<Dispatcher<DB>> {
    let journal = Arc::new(OpenOptions::new().create(true).append(true).open(place.journal())?);
    let emitter = emitter_fn(move |record: OutboxRecord| {
        let journal = Arc::clone(&journal);
        async move {
            if fastrand::u32(..REFUSALS) == 0 {
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

/// Waits until nothing is left to be delivered.
pub(crate) async fn until_drained<DB: Site>(pool: &Pool<DB>) -> anyhow::Result<()> {
    let (store, began) = (DB::Store::default(), std::time::Instant::now());
    loop {
        let waiting = match pool.acquire().await {
            Ok(mut conn) => store.stats(&mut conn).await.map(|stats| stats.pending),
            Err(fault) => Err(sagastore::MessageStore::classify(&store, "waiting", fault)),
        };
        match waiting {
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
