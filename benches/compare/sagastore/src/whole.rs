use compare_protocol::{Peer, Tally};
use sagastore::{Backend, DEFAULT_SNAPSHOT_FREQUENCY, InstanceId, Persister, SnapshotFrequency};
use sqlx::{Database, Pool};

use crate::counter::{Counter, Event};

/// Whole units of work in transactions of the library's own.
pub(crate) struct Whole<DB: Database> {
    pool: Pool<DB>,
    persister: Persister<DB>,
}

impl<DB: Database> Clone for Whole<DB> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone(), persister: self.persister.clone() }
    }
}

impl<DB: Backend> Whole<DB> {
    pub(crate) fn new(pool: Pool<DB>, persister: Persister<DB>) -> Self {
        Self { pool, persister }
    }

    async fn load_by(&self, persister: &Persister<DB>, instance: &str) -> Tally {
        let mut conn = self.pool.acquire().await.expect("connects");
        let loaded = persister.load_instance(&Counter, &mut conn, &id(instance)).await.expect("loads");
        loaded.expect("is there").instance().data.clone()
    }
}

fn id(instance: &str) -> InstanceId {
    InstanceId::new(instance).expect("valid")
}

impl<DB: Backend> Peer for Whole<DB> {
    /// A transaction around many units of work stores what each would store by itself. A history that ends with a
    /// snapshot anyway has more of them on the way, of which only the last is loaded.
    async fn start(&self, instance: &str, events: u32) {
        let ends_with_snapshot = u64::from(events) % DEFAULT_SNAPSHOT_FREQUENCY.get() == 0;
        let frequency = if ends_with_snapshot { SnapshotFrequency::every(20) } else { SnapshotFrequency::default() };
        let persister = self.persister.clone().with_snapshot_frequency(frequency);
        let id = id(instance);
        let mut tx = persister.begin(&self.pool).await.expect("begins");
        for _ in 0..events {
            let unit = persister.begin_unit_of_work(&Counter, &mut tx, sagastore::Outbox, &id);
            let mut unit = unit.await.expect("loads");
            let step = unit.instance().data.decide(0);
            unit.publish(Event::Counted(step)).expect("publishes");
            assert!(persister.save(&mut tx, unit).await.expect("saves").is_changed());
        }
        tx.commit().await.expect("commits");
    }

    async fn unit(&self, instance: &str, events: u32) {
        let id = id(instance);
        let executed = self.persister.execute(&self.pool, &Counter, &id, None, |unit| {
            for _ in 0..events {
                let step = unit.instance().data.decide(0);
                unit.publish(Event::Counted(step))?;
            }
            Ok::<_, sagastore::Error>(())
        });
        assert!(!executed.await.expect("executes").is_already_handled());
    }

    async fn load(&self, instance: &str) -> Tally {
        self.load_by(&self.persister, instance).await
    }

    async fn replay(&self, instance: &str) -> Tally {
        self.load_by(&self.persister.clone().without_snapshots(), instance).await
    }
}
