//! What a dispatcher counts and measures. A program of its own, because a process has one recorder of metrics.

use std::collections::HashMap;
use std::time::Duration;

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use sagastore::dispatcher::{DeliveryRetry, Dispatcher, DispatcherSettings};
use sagastore::emitter::emitter_fn;
use sagastore::sqlite::SqliteStore;
use sagastore::{Envelope, MessageKind, NewOutboxRecord, OutboxRecord, OutboxRepository, migrate};
use sqlx::SqlitePool;
use sqlx::sqlite::SqlitePoolOptions;

async fn pool_with_ten_messages() -> SqlitePool {
    let pool = SqlitePoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
    let pool = pool.connect("sqlite::memory:").await.expect("opens");
    let _ = migrate(&pool).await.expect("migrates");
    let record = |number: u32| {
        let message = Envelope::new(MessageKind::Event, "Happened", 1, "text/plain", number.to_string());
        NewOutboxRecord::new("thing", number.to_string(), message.expect("valid"))
    };
    let records: Vec<_> = (0..10).map(record).collect();
    let mut tx = pool.begin().await.expect("begins");
    SqliteStore::default().save(&mut tx, &records).await.expect("saves");
    tx.commit().await.expect("commits");
    pool
}

#[tokio::test]
async fn deliveries_failures_and_age_of_the_oldest_are_counted_and_measured() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    recorder.install().expect("the only recorder");

    let pool = pool_with_ten_messages().await;
    let emitter = emitter_fn(async |record: OutboxRecord| {
        let bad = ["2", "5", "8"].contains(&record.aggregate_id.as_str());
        if bad { Err(std::io::Error::other("bad")) } else { Ok(()) }
    });
    let retry = DeliveryRetry::new(2, 1, Duration::ZERO, Duration::ZERO, 0.0).expect("valid");
    let settings = DispatcherSettings::default().with_retry(retry);
    let dispatcher = Dispatcher::new(pool, emitter).with_settings(settings);
    dispatcher.run(tokio::time::sleep(Duration::from_secs(1))).await;

    let snapshot = snapshotter.snapshot().into_vec();
    let value = |(key, _, _, value): (metrics_util::CompositeKey, _, _, DebugValue)| {
        let number = match value {
            DebugValue::Counter(count) => count as f64,
            DebugValue::Gauge(gauge) => gauge.into_inner(),
            DebugValue::Histogram(_) => f64::NAN,
        };
        (key.key().name().to_owned(), number)
    };
    let partitions = snapshot.iter().filter(|(key, ..)| key.key().name() == "sagastore_outbox_partition_lag_seconds");
    assert_eq!(partitions.count(), 64, "a gauge for each partition that is held");
    let values: HashMap<_, _> = snapshot.into_iter().map(value).collect();
    let counted = ["delivered", "failed", "dead"].map(|what| values[&format!("sagastore_outbox_{what}_total")]);
    assert_eq!(counted, [7.0, 3.0, 3.0]);
    let oldest = values["sagastore_outbox_oldest_age_seconds"];
    assert!((0.0..60.0).contains(&oldest), "{oldest}");
}
