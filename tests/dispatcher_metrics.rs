//! What a dispatcher counts and measures. A program of its own, because a process has one recorder of metrics.

use std::collections::HashMap;
use std::time::Duration;

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use sagastore::dispatcher::{DeliveryRetry, Dispatcher, DispatcherSettings};
use sagastore::emitter::emitter_fn;
use sagastore::sqlite::SqliteStore;
use sagastore::{Envelope, MessageKind, NewOutboxRecord, OutboxRecord, OutboxRepository, migrate};
use sqlx::SqlitePool;
use sqlx::sqlite::SqlitePoolOptions;
use tokio::sync::oneshot;

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

/// Those above zero among the partitions whose number of messages has a gauge.
fn pending(snapshotter: &Snapshotter) -> usize {
    let snapshot = snapshotter.snapshot().into_vec();
    let of_partitions = snapshot.iter().filter(|(key, ..)| key.key().name() == "sagastore_outbox_partition_pending");
    of_partitions.filter(|(.., value)| matches!(value, DebugValue::Gauge(gauge) if gauge.into_inner() > 0.0)).count()
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain for {what}");
}

/// They kept what they showed last, for as long as the process ran.
#[tokio::test]
async fn partitions_that_are_handed_over_leave_no_number_behind() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);

    let pool = pool_with_ten_messages().await;
    // A message in each partition, which nobody can read.
    sqlx::query(
        "WITH RECURSIVE n (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < 63)
        INSERT INTO saga_outbox_message (
            partition_no, recorded_at, stream_id, commit_no, message_index, available_at,
            aggregate_type, aggregate_id, contents, body
        )
        SELECT n, 0, 0, 0, 0, 0, 'damaged', n, '', x'' FROM n",
    )
    .execute(&pool)
    .await
    .expect("inserts");
    let dispatcher = || {
        let settings = DispatcherSettings::default().with_poll_interval(Duration::from_millis(20)).expect("valid");
        Dispatcher::new(pool.clone(), emitter_fn(async |_| Ok::<_, std::io::Error>(()))).with_settings(settings)
    };
    let ((one, stop_one), (two, stop_two)) = (oneshot::channel::<()>(), oneshot::channel::<()>());
    let (first, second) = (dispatcher(), dispatcher());
    let clause = async {
        until("the first measurement", || pending(&snapshotter) == 64).await;
        let other = second.run(async { drop(stop_two.await) });
        let handed_over = async {
            until("half of them", || pending(&snapshotter) == 32).await;
            drop((one, two));
        };
        tokio::join!(other, handed_over);
    };
    tokio::join!(first.run(async { drop(stop_one.await) }), clause);
    assert_eq!(pending(&snapshotter), 0, "nobody holds any");
}
