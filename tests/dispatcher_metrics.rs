//! What a dispatcher counts and measures. A program of its own, because a process has one recorder of metrics.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, NoopRecorder, Recorder, SharedString, Unit};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use sagastore::dispatcher::{DeliveryRetry, Dispatcher, DispatcherSettings};
use sagastore::emitter::emitter_fn;
use sagastore::sqlite::SqliteStore;
use sagastore::{Envelope, MessageKind, NewOutboxRecord, OutboxRecord, OutboxRepository, migrate};
use sqlx::sqlite::SqlitePoolOptions;
use sqlx::{Sqlite, SqlitePool};
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
    let dispatcher = Dispatcher::new(pool.clone(), emitter).with_settings(settings);
    let relayed = async {
        let (began, store) = (Instant::now(), SqliteStore::default());
        while began.elapsed() < Duration::from_secs(30) {
            let mut conn = pool.acquire().await.expect("connects");
            let stats = store.stats(&mut conn).await.expect("answers");
            drop(conn);
            if (stats.pending, stats.dead_letters) == (0, 3) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Measuring comes after it.
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    dispatcher.run(relayed).await;

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

/// Keeps the gauges of how much is pending. A `DebuggingRecorder` forgets what it has shown.
#[derive(Clone, Default)]
struct Pending(Arc<Mutex<HashMap<Key, Arc<Shown>>>>);

#[derive(Default)]
struct Shown(Mutex<f64>);

impl GaugeFn for Shown {
    fn increment(&self, value: f64) {
        *self.0.lock().expect("sound") += value;
    }

    fn decrement(&self, value: f64) {
        *self.0.lock().expect("sound") -= value;
    }

    fn set(&self, value: f64) {
        *self.0.lock().expect("sound") = value;
    }
}

impl Recorder for Pending {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        if key.name() != "sagastore_outbox_partition_pending" {
            return Gauge::noop();
        }
        Gauge::from_arc(Arc::clone(self.0.lock().expect("sound").entry(key.clone()).or_default()))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

impl Pending {
    /// Those above zero.
    fn count(&self) -> usize {
        self.0.lock().expect("sound").values().filter(|shown| *shown.0.lock().expect("sound") > 0.0).count()
    }
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

/// As another process would, whose numbers are its own.
fn run_unseen(dispatcher: Dispatcher<Sqlite>, stop: oneshot::Receiver<()>) {
    let _guard = metrics::set_default_local_recorder(&NoopRecorder);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("builds");
    runtime.block_on(dispatcher.run(async { drop(stop.await) }));
}

/// They kept what they showed last, for as long as the process ran.
#[tokio::test]
async fn partitions_that_are_handed_over_leave_no_number_behind() {
    let shown = Pending::default();
    let _guard = metrics::set_default_local_recorder(&shown);

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
        // Shares are looked at anew a few times in it.
        let settings = settings.with_lease(Duration::from_secs(3)).expect("valid");
        Dispatcher::new(pool.clone(), emitter_fn(async |_| Ok::<_, std::io::Error>(()))).with_settings(settings)
    };
    let ((one, stop_one), (two, stop_two)) = (oneshot::channel::<()>(), oneshot::channel::<()>());
    let (first, second) = (dispatcher(), dispatcher());
    let clause = async {
        until("the first measurement", || shown.count() == 64).await;
        let other = std::thread::spawn(|| run_unseen(second, stop_two));
        until("half of them", || shown.count() == 32).await;
        drop((one, two));
        tokio::task::spawn_blocking(|| other.join()).await.expect("joins").expect("ends");
    };
    tokio::join!(first.run(async { drop(stop_one.await) }), clause);
    assert_eq!(shown.count(), 0, "nobody holds any");
}
