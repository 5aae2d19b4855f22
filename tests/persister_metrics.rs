//! What a persister and a message handler count and measure. A program of its own, because a process has one recorder of
//! metrics.

use std::collections::BTreeMap;

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use sagastore::{
    Cause, Envelope, Error, HandleMessage, InstanceId, MessageHandler, MessageKind, Outbox, ParkAfter, Persister, Saga,
    SnapshotFrequency, UnitOfWork, message_types, migrate,
};
use serde::{Deserialize, Serialize};
use sqlx::Sqlite;
use sqlx::sqlite::SqlitePoolOptions;

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Step {
    Taken,
    Missed,
}
message_types!(Step { Taken: "StepTaken" 1, Missed: "StepMissed" 1 });

struct Walk(u32);

impl Saga for Walk {
    type Data = u32;
    type Event = Step;

    fn persistence_key(&self) -> &str {
        "walk"
    }

    fn new_data(&self) -> u32 {
        0
    }

    fn apply_event(&self, steps: &mut u32, _: &Step, _: &Envelope) {
        *steps += 1;
    }

    fn data_version(&self) -> u32 {
        self.0
    }
}

impl HandleMessage for Walk {
    type Message = Step;

    fn is_trigger(&self, _: &Step) -> bool {
        true
    }

    fn handle(&self, unit: &mut UnitOfWork<'_, Self>, message: &Step) -> Result<(), Cause> {
        match message {
            Step::Taken => unit.publish(Step::Taken).map(|_| ()).map_err(Into::into),
            Step::Missed => Err("stumbled".into()),
        }
    }
}

fn message(step: &Step) -> Envelope {
    let name = if matches!(step, Step::Taken) { "StepTaken" } else { "StepMissed" };
    let payload = serde_json::to_vec(step).expect("JSON");
    Envelope::new(MessageKind::Command, name, 1, "application/json", payload).expect("valid")
}

#[tokio::test]
async fn loads_saves_conflicts_snapshots_and_messages_are_counted_and_measured() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    recorder.install().expect("the only recorder");

    let pool = SqlitePoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
    let pool = pool.connect("sqlite::memory:").await.expect("opens");
    let _ = migrate(&pool).await.expect("migrates");
    let persister = Persister::<Sqlite>::new().with_snapshot_frequency(SnapshotFrequency::every(2));
    let id = InstanceId::new("w1").expect("an id");
    let walk = |version| {
        let handler =
            MessageHandler::direct(Walk(version), persister.clone(), |_: &Step| InstanceId::new("w1").map(Some));
        handler.expect("valid").park_after(ParkAfter { tries: 1, delay: std::time::Duration::ZERO })
    };
    let (first, second) = (walk(1), walk(2));
    let repeated = message(&Step::Taken);
    for taken in [&repeated, &message(&Step::Taken), &message(&Step::Taken), &repeated] {
        let _ = first.handle(&pool, taken).await.expect("handled");
    }
    // Of another version of the state: the snapshot is discarded.
    let _ = second.handle(&pool, &message(&Step::Taken)).await.expect("handled");
    let mut tx = persister.begin(&pool).await.expect("begins");
    let mut units = Vec::new();
    for _ in 0..2 {
        let mut unit = persister.begin_unit_of_work(&Walk(2), &mut tx, Outbox, &id).await.expect("loads");
        let _ = unit.publish(Step::Taken).expect("published");
        units.push(unit);
    }
    let outcomes = [
        persister.save(&mut tx, units.remove(0)).await.map(|saved| saved.is_changed()),
        persister.save(&mut tx, units.remove(0)).await.map(|saved| saved.is_changed()),
    ];
    assert!(matches!(outcomes, [Ok(true), Err(Error::Conflict { .. })]), "{outcomes:?}");
    tx.commit().await.expect("commits");
    assert!(second.handle(&pool, &message(&Step::Missed)).await.expect("parked").is_parked());

    let mut found = BTreeMap::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let labels: Vec<_> = key.key().labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let value = match value {
            DebugValue::Counter(count) => count,
            DebugValue::Gauge(_) => continue,
            DebugValue::Histogram(values) => values.len().try_into().expect("few"),
        };
        found.insert(format!("{} {}", key.key().name(), labels.join(" ")), value);
    }
    let expected = [
        // Three steps, one with the other version, two units of work, the one that fails, and a look before it is parked;
        // the repeated one loads nothing.
        ("sagastore_load_seconds saga=walk", 8),
        ("sagastore_replayed_events saga=walk", 8),
        ("sagastore_save_seconds saga=walk", 6),
        ("sagastore_messages_total saga=walk outcome=already_handled", 1),
        ("sagastore_messages_total saga=walk outcome=handled", 4),
        ("sagastore_messages_total saga=walk outcome=parked", 1),
        ("sagastore_units_total saga=walk outcome=changed", 5),
        ("sagastore_units_total saga=walk outcome=conflict", 1),
        ("sagastore_snapshots_discarded_total saga=walk reason=data_version", 1),
        ("sagastore_snapshots_total saga=walk result=discarded", 1),
    ];
    for (name, count) in expected {
        assert_eq!(found.get(name), Some(&count), "{name}; there are {found:#?}");
    }
    let snapshots = |result: &str| found[&format!("sagastore_snapshots_total saga=walk result={result}")];
    assert_eq!(snapshots("hit") + snapshots("miss") + snapshots("discarded"), 8);
}
