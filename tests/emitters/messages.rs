//! Messages from an outbox, and ways to send them.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sagastore::emitter::{Emitter, deliveries};
use sagastore::sqlite::SqliteStore;
use sagastore::{Envelope, MessageKind, NewOutboxRecord, OutboxRecord, OutboxRepository};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long a message that failed waits until it is sent again.
const RETRY_DELAY: Duration = Duration::from_millis(100);
/// How long one batch may take, whatever the broker does: longer than all time limits of an emitter together.
pub(crate) const BATCH_WITHIN: Duration = Duration::from_secs(30);

/// A message with its id, its payload (stream and number) and metadata.
pub(crate) fn message(type_name: &str, payload: impl Into<Vec<u8>>, metadata: &[(&str, &str)]) -> Envelope {
    let payload: Vec<u8> = payload.into();
    let mut envelope = Envelope::new(MessageKind::Event, type_name, 3, "application/x-test", payload).unwrap();
    envelope.destination = Some("billing".into());
    envelope.metadata.extend(metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    envelope
}

/// The records of an outbox with these messages, each of a stream of its own.
pub(crate) async fn records(messages: impl IntoIterator<Item = Envelope>) -> anyhow::Result<Vec<OutboxRecord>> {
    let record = |(number, message)| NewOutboxRecord::new("test", format!("{number}"), message);
    records_of(messages.into_iter().enumerate().map(record).collect()).await
}

async fn records_of(new: Vec<NewOutboxRecord>) -> anyhow::Result<Vec<OutboxRecord>> {
    let options: SqliteConnectOptions = "sqlite::memory:".parse()?;
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
    let _ = sagastore::migrate(&pool).await?;
    let (store, mut tx) = (SqliteStore::default(), pool.begin().await?);
    store.save(&mut tx, &new).await?;
    let records = store.find_batch(&mut tx, None, u32::MAX).await?;
    ensure!(records.len() == new.len(), "the outbox has {} of {} records", records.len(), new.len());
    Ok(records)
}

/// Small messages in so many streams, each stream's in its order.
pub(crate) async fn streams(streams: usize, length: usize) -> anyhow::Result<Vec<Vec<OutboxRecord>>> {
    let mut all = Vec::new();
    for stream in 0..streams {
        let message = |number| message("Numbered", format!("{stream}:{number}"), &[]);
        let new = (0..length).map(|number| NewOutboxRecord::new("test", format!("{stream}"), message(number)));
        all.push(records_of(new.collect()).await?);
    }
    Ok(all)
}

/// Sends a batch, and gives what became of each message: `Ok`, or the error with its sources.
pub(crate) async fn emit(
    emitter: &impl Emitter,
    batch: &[OutboxRecord],
) -> anyhow::Result<BTreeMap<String, Result<(), String>>> {
    let (deliveries, mut reports) = deliveries(batch.iter().cloned());
    tokio::time::timeout(BATCH_WITHIN, emitter.emit(deliveries)).await?;
    let mut outcomes = BTreeMap::new();
    while let Some((id, outcome)) = reports.next().await {
        let record = batch.iter().find(|record| record.id == id).unwrap();
        let outcome = outcome.map_err(|failure| failure.to_string());
        ensure!(outcomes.insert(id_of(record), outcome).is_none(), "two reports on {id}");
    }
    ensure!(outcomes.len() == batch.len(), "{} reports on {} messages", outcomes.len(), batch.len());
    Ok(outcomes)
}

/// Sends a message and gives the error that it must fail with.
pub(crate) async fn failure(emitter: &impl Emitter, record: &OutboxRecord) -> anyhow::Result<String> {
    let outcome = emit(emitter, std::slice::from_ref(record)).await?.remove(&id_of(record)).unwrap();
    outcome.err().ok_or_else(|| anyhow::anyhow!("the message was reported as delivered"))
}

/// Sends messages until each was reported as delivered, as a dispatcher does. Gives the number of failures.
pub(crate) async fn deliver(
    emitter: &impl Emitter,
    mut waiting: Vec<OutboxRecord>,
    within: Duration,
) -> anyhow::Result<usize> {
    let (began, mut failures) = (Instant::now(), 0);
    loop {
        let outcomes = emit(emitter, &waiting).await?;
        waiting.retain(|record| outcomes[&id_of(record)].is_err());
        failures += waiting.len();
        let Some(failed) = waiting.first() else { return Ok(failures) };
        ensure!(began.elapsed() < within, "{} messages fail: {:?}", waiting.len(), outcomes[&id_of(failed)]);
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

/// Between two messages of a stream, so that they are not all sent before the trouble begins.
const PACE: Duration = Duration::from_millis(20);

/// Sends streams side by side, the messages of each one after another, and the last one of each once the trouble is over. Gives
/// the number of failures.
pub(crate) async fn deliver_in_order<E: Emitter + Clone + 'static>(
    emitter: &E,
    streams: &[Vec<OutboxRecord>],
    within: Duration,
    mut disturb: impl AsyncFnMut() -> anyhow::Result<()>,
) -> anyhow::Result<usize> {
    let (mut sending, (trouble, is_over)) = (JoinSet::new(), watch::channel(false));
    for stream in streams {
        let (emitter, mut stream, mut is_over) = (emitter.clone(), stream.clone(), is_over.clone());
        let last = stream.pop().context("an empty stream")?;
        sending.spawn(async move {
            let mut failures = 0;
            for record in stream {
                tokio::time::sleep(PACE).await;
                failures += deliver(&emitter, vec![record], within).await?;
            }
            is_over.wait_for(|over| *over).await?;
            anyhow::Ok(failures + deliver(&emitter, vec![last], within).await?)
        });
    }
    disturb().await?;
    trouble.send_replace(true);
    let mut failures = 0;
    while let Some(sent) = sending.join_next().await {
        failures += sent??;
    }
    Ok(failures)
}

pub(crate) fn id_of(record: &OutboxRecord) -> String {
    record.envelope.message_id.to_string()
}

/// What a broker holds: message id and payload, in its order.
pub(crate) type Held = Vec<(String, Vec<u8>)>;

/// Checks that every message is there, each stream in order, and nothing else. Gives the number of duplicates.
pub(crate) fn check_streams(held: &Held, streams: &[Vec<OutboxRecord>]) -> anyhow::Result<usize> {
    let sent: BTreeMap<String, &OutboxRecord> =
        streams.iter().flatten().map(|record| (id_of(record), record)).collect();
    let mut seen = HashSet::new();
    let mut first_arrivals: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (id, payload) in held {
        let Some(record) = sent.get(id) else { anyhow::bail!("message {id} was not sent") };
        ensure!(record.payload() == payload, "message {id} has another payload");
        if seen.insert(id) {
            first_arrivals.entry(&record.aggregate_id).or_default().push(id.clone());
        }
    }
    ensure!(seen.len() == sent.len(), "{} of {} messages are there", seen.len(), sent.len());
    for stream in streams {
        let expected: Vec<String> = stream.iter().map(id_of).collect();
        ensure!(first_arrivals[stream[0].aggregate_id.as_str()] == expected, "a stream is out of order");
    }
    Ok(held.len() - seen.len())
}
