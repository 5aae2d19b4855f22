//! A handler or a saga that panics takes only its own unit of work with it.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::ensure;
use async_trait::async_trait;
use futures_util::FutureExt;
use sagastore::{
    Cause, Envelope, Error, Handling, InTransaction, InstanceId, JSON_CONTENT_TYPE, MessageKind, MessageStore,
    NotFound, Offset, Outbox, PAGE_COMMITS, ParkAfter, Persister, Recorder, Saga, UnitOfWork,
};
use sqlx::{Pool, Transaction};

use crate::harness::booking::{Booking, book, fragile, panic_quietly, remark};
use crate::harness::sample::{Counter, CounterEvent, added, instance};
use crate::harness::{Clause, Subject, TestDb, clauses, stream_of};

clauses! {
    a_panic_undoes_its_unit_of_work_and_leaves_the_pool_whole,
    a_panic_early_in_a_long_replay_leaves_its_connection_whole,
    a_panic_while_a_message_is_handled_is_its_failure_and_leaves_the_pool_whole,
    a_panic_parks_its_message_alone,
}

/// A counter that panics at this amount.
const UNLUCKY: i64 = 13;

#[derive(Clone, Copy)]
struct Fragile;

impl Saga for Fragile {
    type Data = i64;
    type Event = CounterEvent;

    fn persistence_key(&self) -> &str {
        Counter.persistence_key()
    }

    fn new_data(&self) -> i64 {
        0
    }

    fn apply_event(&self, data: &mut i64, event: &CounterEvent, envelope: &Envelope) {
        if *event == added(UNLUCKY) {
            panic_quietly();
        }
        Counter.apply_event(data, event, envelope);
    }
}

/// The places where it can happen.
#[derive(Clone, Copy, Debug)]
enum Panics {
    InClosure,
    InClosureWithTransaction,
    InCallersTransaction,
    WhenPublished,
    WhenLoaded,
}

async fn work<DB: Subject>(db: TestDb<DB>, pool: Pool<DB>, place: Panics, number: u32) -> anyhow::Result<()> {
    let (persister, id): (Persister<DB>, _) = (db.persister(), instance("1"));
    match place {
        Panics::InClosure => {
            let done = persister.execute(&pool, &Fragile, &id, None, |unit| -> Result<(), Error> {
                unit.publish(added(1))?;
                panic_quietly()
            });
            done.await.map(drop)?;
        }
        Panics::InClosureWithTransaction => {
            let done = persister.execute_in_transaction(&pool, &Fragile, &id, None, async |mut attempt| {
                db.write_own(&mut attempt.transaction, number).await?;
                attempt.unit.publish(added(1))?;
                if number < u32::MAX {
                    panic_quietly();
                }
                anyhow::Ok(attempt.finish(()))
            });
            done.await.map(drop)?;
        }
        Panics::InCallersTransaction => {
            let mut tx = persister.begin(&pool).await?;
            let mut unit = persister.begin_unit_of_work(&Fragile, &mut tx, Outbox, &id).await?;
            unit.publish(added(1))?;
            assert!(persister.save(&mut tx, unit).await?.is_changed());
            panic_quietly();
        }
        Panics::WhenPublished => {
            let done = persister.execute(&pool, &Fragile, &id, None, |unit| unit.publish(added(UNLUCKY)));
            done.await.map(drop)?;
        }
        Panics::WhenLoaded => {
            let id = instance("unlucky");
            let done = persister.execute(&pool, &Fragile, &id, None, |unit| unit.publish(added(1)));
            done.await.map(drop)?;
        }
    }
    Ok(())
}

async fn a_panic_undoes_its_unit_of_work_and_leaves_the_pool_whole<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.create_own_table().await?;
    db.publish(&Counter, "unlucky", [added(UNLUCKY)]).await?;
    let before = db.footprint().await?;
    let pool = db.small_pool(2).await?;
    for number in 0..100 {
        use Panics::{InCallersTransaction, InClosure, InClosureWithTransaction, WhenLoaded, WhenPublished};
        for place in [InClosure, InClosureWithTransaction, InCallersTransaction, WhenPublished, WhenLoaded] {
            let task = tokio::spawn(work(db.clone(), pool.clone(), place, number));
            assert!(task.await.unwrap_err().is_panic(), "{place:?}");
        }
    }
    assert_eq!((db.footprint().await?, db.own_writes().await?), (before, 0));
    let mut all = Vec::new();
    for _ in 0..pool.options().get_max_connections() {
        all.push(pool.acquire().await?);
    }
    drop(all);
    let (persister, id) = (db.persister(), instance("1"));
    let done = persister.execute(&pool, &Fragile, &id, None, |unit| unit.publish(added(1)));
    assert!(!done.await?.is_already_handled());
    assert_eq!(db.state(&Counter, "1").await?, Some((1, 1)));
    Ok(())
}

/// The database is reading what comes after it.
async fn a_panic_early_in_a_long_replay_leaves_its_connection_whole<DB: Subject>(db: TestDb<DB>) -> Clause {
    // What is appended is not sent.
    db.will_relay();
    let (id, stream) = (instance("long"), stream_of(&Counter, "long"));
    db.publish(&Counter, id.as_str(), [added(UNLUCKY)]).await?;
    let mut tx = db.begin().await?;
    let commits = PAGE_COMMITS * 3;
    for offset in 1..commits {
        let payload = serde_json::to_vec(&added(1))?;
        let one = Envelope::new(MessageKind::Event, "CounterAdded", 1, JSON_CONTENT_TYPE, payload)?;
        db.store().append_messages(&mut tx, &stream, Offset::of(offset), &[one]).await?;
    }
    db.commit(tx).await?;
    // Not given back to its pool, which looks after what it is given.
    let (mut conn, sum) = (db.pool().acquire().await?, UNLUCKY + i64::from(commits) - 1);
    let persister: Persister<DB> = db.persister();
    for _ in 0..20 {
        let replay = AssertUnwindSafe(persister.load_instance(&Fragile, &mut conn, &id)).catch_unwind().await;
        ensure!(replay.is_err(), "it did not panic");
        let loaded = persister.load_instance(&Counter, &mut conn, &id).await?.unwrap();
        assert_eq!((loaded.instance().data, loaded.instance().revision.get()), (sum, u64::from(commits)));
    }
    Ok(())
}

/// Writes a row of its own, and panics.
struct Panicking;

#[async_trait]
impl<DB: Subject> InTransaction<Booking, DB> for Panicking {
    async fn run(
        &self,
        tx: &mut Transaction<'_, DB>,
        _: &mut UnitOfWork<'_, Booking>,
        _: &Envelope,
    ) -> Result<(), Cause> {
        DB::execute(tx, "INSERT INTO own_table (n) VALUES (1)".to_owned()).await?;
        panic_quietly()
    }
}

#[async_trait]
impl<DB: Subject> NotFound<DB> for Panicking {
    async fn not_found(
        &self,
        tx: &mut Transaction<'_, DB>,
        _: &mut Recorder<Outbox>,
        _: &Envelope,
        _: Option<&InstanceId>,
    ) -> Result<(), Cause> {
        DB::execute(tx, "INSERT INTO own_table (n) VALUES (1)".to_owned()).await?;
        panic_quietly()
    }
}

async fn a_panic_while_a_message_is_handled_is_its_failure_and_leaves_the_pool_whole<DB: Subject>(
    db: TestDb<DB>,
) -> Clause {
    db.create_own_table().await?;
    let (saga, pool) = (Booking::default(), db.small_pool(2).await?);
    saga.panics.store(true, Ordering::Relaxed);
    for (handler, number) in [(db.direct(&saga), "1"), (db.keyed(&saga), "2")] {
        ensure!(handler.handle(&pool, &book(number, number)).await?.is_handled());
        let (in_transaction, nobody) =
            (handler.clone().in_transaction(Panicking), handler.clone().on_not_found(Panicking));
        let before = db.footprint().await?;
        for _ in 0..20 {
            for (handler, message) in [
                (&handler, fragile(number, "a")),
                (&in_transaction, remark(number, "b")),
                (&nobody, remark("none", "c")),
            ] {
                let failed = handler.handle(&pool, &message).await;
                let Err(Error::Handler { source, .. }) = failed else { panic!("it panics: {failed:?}") };
                assert_eq!(source.to_string(), "it panicked: on purpose");
                // What the transaction did before stays.
                let mut tx = handler.persister().begin(&pool).await?;
                DB::execute(&mut tx, "INSERT INTO own_table (n) VALUES (2)".to_owned()).await?;
                ensure!(handler.handle_in(&mut tx, &message).await.is_err());
                DB::execute(&mut tx, "DELETE FROM own_table WHERE n = 2".to_owned()).await?;
                tx.commit().await?;
            }
        }
        assert_eq!((db.footprint().await?, db.own_writes().await?), (before, 0));
        ensure!(handler.handle(&pool, &remark(number, "d")).await?.is_handled());
        assert_eq!(db.notes(number).await?, ["d"]);
    }
    Ok(())
}

async fn a_panic_parks_its_message_alone<DB: Subject>(db: TestDb<DB>) -> Clause {
    let saga = Booking::default();
    for (handler, number) in [(db.direct(&saga), "1"), (db.keyed(&saga), "2")] {
        let handler = handler.park_after(ParkAfter { tries: 2, delay: Duration::ZERO });
        ensure!(handler.handle(db.pool(), &book(number, number)).await?.is_handled());
        saga.panics.store(true, Ordering::Relaxed);
        let handling = handler.handle(db.pool(), &fragile(number, "a")).await?;
        let Handling::Parked { instance_id, error: Some(_) } = handling else { panic!("it panics: {handling:?}") };
        ensure!(handler.retry_parked(db.pool(), &instance_id).await?.failed.is_some());
        saga.panics.store(false, Ordering::Relaxed);
        assert_eq!(handler.retry_parked(db.pool(), &instance_id).await?.released, 1);
        assert_eq!(db.notes(number).await?, ["a"]);
    }
    Ok(())
}
