//! An older schema is upgraded with all that it holds.

use anyhow::{Context, ensure};
use sagastore::lock::{Lock, lease};
use sagastore::{
    DeadLetters, Error, Executed, Inbox, MessageId, MessageStore, Migrated, NewOutboxRecord, OutboxRepository,
    ParkAfter, ParkedFilter, Receipt, SagaStream, SnapshotFrequency, SnapshotRepository, check_schema, drop_schema,
    migrate, migrate_from, parked_messages,
};

use super::migrations::{first_migrations, newest, use_it, versions};
use crate::harness::booking::{Booking, book, fragile, number_key, remark};
use crate::harness::sample::{Counter, added, event, events, instance, stream};
use crate::harness::{
    Clause, HOUR, LONG_LEASE, Sent, Subject, TestDb, amount, assert_error, clauses, client, obtain, resource,
};

clauses! {
    each_older_schema_is_upgraded_with_its_data,
}

/// From which version on there is a table for them.
const OUTBOX: i64 = 3;
const LEASES: i64 = 4;
const INBOX: i64 = 5;
const HANDLERS: i64 = 6;
const TIMEOUTS: i64 = 7;

const AT_ONCE: ParkAfter = ParkAfter { tries: 1, delay: std::time::Duration::ZERO };

async fn each_older_schema_is_upgraded_with_its_data<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let (versions, to) = (versions::<DB>()?, newest::<DB>()?);
    for older in 1..versions.len() {
        drop_schema(db.pool()).await?;
        let from = versions[older - 1];
        let old = first_migrations::<DB>(older)?;
        assert_eq!(migrate_from(db.pool(), old.path()).await?, Migrated::Applied { from: 0, to: from });
        assert_error!(check_schema(db.pool()).await, Error::SchemaMissing { .. });
        let filled = Filled::by(&db, from).await.with_context(|| format!("filling version {from}"))?;
        assert_eq!(migrate(db.pool()).await?, Migrated::Applied { from, to });
        check_schema(db.pool()).await?;
        filled.check(&db).await.with_context(|| format!("after an upgrade from version {from}"))?;
        assert_eq!(use_it(&db, db.pool()).await?, 3, "an upgrade from version {from}");
        db.check_invariants().await?;
    }
    Ok(())
}

/// What an older version holds.
struct Filled {
    version: i64,
    /// Of a plain stream.
    messages: Vec<MessageId>,
    received: MessageId,
    lease: Option<lease::Lease>,
}

impl Filled {
    async fn by<DB: Subject>(db: &TestDb<DB>, version: i64) -> anyhow::Result<Self> {
        let plain = events(3);
        db.append(&stream("a"), 0, &plain).await?;
        let messages = plain.iter().map(|message| message.message_id).collect();
        let mut filled = Self { version, messages, received: MessageId::new(), lease: None };
        if version >= OUTBOX {
            filled.count_to_three(db).await?;
            save_records(db).await?;
        }
        if version >= LEASES {
            filled.lease = Some(obtain(&db.lock(LONG_LEASE), "older", "one").await?);
        }
        if version >= INBOX {
            let mut tx = db.begin().await?;
            assert_eq!(Inbox::new("older")?.receive(&mut tx, filled.received).await?, Receipt::First);
            db.commit(tx).await?;
        }
        if version >= HANDLERS {
            let saga = Booking::default();
            let handler = db.keyed(&saga).park_after(AT_ONCE);
            ensure!(handler.handle(db.pool(), &book("1", "ann")).await?.is_handled());
            saga.broken.store(true, std::sync::atomic::Ordering::Relaxed);
            ensure!(handler.handle(db.pool(), &fragile("1", "parked")).await?.is_parked());
        }
        Ok(filled)
    }

    /// With a snapshot at two.
    async fn count_to_three<DB: Subject>(&self, db: &TestDb<DB>) -> anyhow::Result<()> {
        let persister = db.persister().with_snapshot_frequency(SnapshotFrequency::every(2));
        let id = instance("older");
        for _ in 0..3 {
            let counted = persister.execute(db.pool(), &Counter, &id, None, |unit| {
                unit.publish(added(1))?;
                if self.version >= TIMEOUTS {
                    unit.schedule("reminder", &added(1), HOUR)?;
                }
                Ok::<_, Error>(())
            });
            ensure!(matches!(counted.await?, Executed::Done { .. }));
        }
        Ok(())
    }

    async fn check<DB: Subject>(&self, db: &TestDb<DB>) -> anyhow::Result<()> {
        let found: Vec<_> =
            db.events(&stream("a")).await?.unwrap().iter().map(|event| event.envelope.message_id).collect();
        assert_eq!(found, self.messages);
        if self.version >= OUTBOX {
            self.check_counter(db).await?;
            check_records(db).await?;
        }
        if let Some(lease) = &self.lease {
            let lock = db.lock(LONG_LEASE);
            ensure!(lock.obtain_no_wait(&resource("older"), &client("two")).await?.lease().is_none(), "it is held");
            ensure!(lock.release(lease).await?, "it is the same lease");
            ensure!(obtain(&lock, "older", "two").await?.sequence > lease.sequence);
        }
        if self.version >= INBOX {
            ensure!(Inbox::new("older")?.has_received::<DB>(&mut *db.conn().await?, self.received).await?);
        }
        if self.version >= HANDLERS {
            let handler = db.keyed(&Booking::default()).park_after(AT_ONCE);
            let holder = db.holder(&number_key("1")).await?.context("nobody has the key")?;
            ensure!(handler.handle(db.pool(), &remark("1", "later")).await?.is_parked(), "it waits behind the other");
            let parked = parked_messages::<DB>(&mut *db.conn().await?, ParkedFilter::default(), 10).await?;
            assert_eq!(parked.iter().map(|parked| parked.tries).collect::<Vec<_>>(), [1, 0]);
            assert_eq!(handler.retry_parked(db.pool(), &holder).await?.released, 2);
            assert_eq!(db.notes("1").await?, ["parked", "later"]);
        }
        // Nothing is left for who counts what waits.
        let _ = db.dispatcher(Sent::default().emitter()).dispatch_once().await?;
        Ok(())
    }

    async fn check_counter<DB: Subject>(&self, db: &TestDb<DB>) -> anyhow::Result<()> {
        let (store, id, mut conn) = (db.store(), instance("older"), db.conn().await?);
        let snapshot = store.load_saga_snapshot(&mut conn, "counter", &id).await?.context("no snapshot")?;
        assert_eq!(snapshot.revision.get(), 2);
        let unit = db.persister().load_instance(&Counter, &mut conn, &id).await?.context("no instance")?;
        assert_eq!((unit.instance().data, unit.instance().revision.get()), (3, 3));
        if self.version >= TIMEOUTS {
            let stream = SagaStream::new("counter", &id)?;
            assert_eq!(store.pending_timeouts(&mut conn, &stream.name, None, 10).await?.len(), 1);
        }
        Ok(())
    }
}

/// One that waits, one that failed, and one that is dead.
async fn save_records<DB: Subject>(db: &TestDb<DB>) -> anyhow::Result<()> {
    let records = ["waiting", "failed", "dead"].map(|id| NewOutboxRecord::new("kind", id, event(1)));
    let mut tx = db.begin().await?;
    db.store().save(&mut tx, &records).await?;
    db.commit(tx).await?;
    let failed = "UPDATE saga_outbox_message SET attempts = 1, last_error = 'refused'";
    db.sql(format!("{failed} WHERE aggregate_id = 'failed'")).await?;
    db.sql(format!("{failed}, dead_at = recorded_at WHERE aggregate_id = 'dead'")).await?;
    Ok(())
}

async fn check_records<DB: Subject>(db: &TestDb<DB>) -> anyhow::Result<()> {
    let (store, sent) = (db.store(), Sent::default());
    let dead = store.dead_letters(&mut *db.conn().await?, None, 10).await?;
    assert_eq!(dead.iter().map(|dead| dead.record.aggregate_id.as_str()).collect::<Vec<_>>(), ["dead"]);
    let delivered = db.dispatcher(sent.emitter()).dispatch_once().await?;
    let of_kind = |sent: &Sent| {
        let records = sent.records().into_iter().filter(|record| record.aggregate_type == "kind");
        records.map(|record| (record.aggregate_id, record.attempts)).collect::<Vec<_>>()
    };
    let mut found = of_kind(&sent);
    found.sort();
    assert_eq!(found, [("failed".to_owned(), 1), ("waiting".to_owned(), 0)]);
    let counted = sent.records().into_iter().filter(|record| record.aggregate_type == "counter");
    assert_eq!(counted.map(|record| amount(&record)).collect::<Vec<_>>(), [1, 1, 1]);
    ensure!(delivered.delivered >= 5 && delivered.failed == 0, "{delivered:?}");
    let mut tx = db.begin().await?;
    assert_eq!(store.retry_dead_letters(&mut tx, DeadLetters::All).await?, 1);
    db.commit(tx).await?;
    assert_eq!(db.dispatcher(sent.emitter()).dispatch_once().await?.delivered, 1);
    assert_eq!(of_kind(&sent).len(), 3);
    Ok(())
}
