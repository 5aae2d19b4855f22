//! A handler or a saga that panics takes only its own unit of work with it.

use std::panic::resume_unwind;

use sagastore::{Envelope, Error, Outbox, Persister, Saga};
use sqlx::Pool;

use crate::harness::sample::{Counter, CounterEvent, added, instance};
use crate::harness::{Clause, Subject, TestDb, clauses};

clauses! {
    a_panic_undoes_its_unit_of_work_and_leaves_the_pool_whole,
}

/// A counter that panics at this amount.
const UNLUCKY: i64 = 13;

#[derive(Clone, Copy)]
struct Fragile;

/// Without the message of the panic hook, which would bury the results of the suite.
fn panic_quietly() -> ! {
    resume_unwind(Box::new("on purpose"))
}

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
