//! Writes that take effect only with a current fencing token.

use std::time::Duration;

use anyhow::{Context, ensure};
use sagastore::lock::lease::{Lease, Obtained};
use sagastore::lock::{Fence, FencingToken, Lock};
use sagastore::{Error, UnitOfWork};

use crate::harness::sample::{Counter, added, instance};
use crate::harness::{
    Clause, LONG_LEASE, Subject, TestDb, assert_error, clauses, client, millis, obtain, resource, wait_for_expiry,
    wait_for_lease,
};

clauses! {
    a_stale_token_is_refused_and_nothing_is_written: BASIC,
    a_unit_of_work_with_a_stale_token_is_refused_and_nothing_is_written: BASIC,
    a_current_token_lets_the_write_through: BASIC,
    an_expired_lease_that_nobody_took_still_lets_the_write_through: BASIC,
    nobody_takes_a_lease_over_while_a_transaction_is_fenced_by_it: SEVERAL_CONNECTIONS,
    who_asks_for_the_lease_of_a_fenced_transaction_is_refused_at_once: SERVERS,
    a_fenced_transaction_that_is_undone_frees_the_way: SEVERAL_CONNECTIONS,
    a_lease_is_renewed_while_a_transaction_is_fenced_by_it: SERVERS,
    a_released_lease_is_not_taken_while_a_transaction_is_fenced_by_it: SERVERS,
    two_transactions_are_fenced_by_one_lease: SERVERS,
    several_fences_must_all_hold,
    a_fence_ends_a_unit_of_work_with_the_callers_own_writes,
}

/// What a write of one's own leaves, fenced, and committed if the fence holds.
async fn write_fenced<DB: Subject>(db: &TestDb<DB>, fence: &Fence, number: u32) -> sagastore::Result<()> {
    let mut tx = db.begin().await?;
    fence.hold(&mut tx).await?;
    db.write_own(&mut tx, number).await.unwrap();
    db.commit(tx).await
}

/// A unit of work with a fence, saved in a transaction of its own.
async fn save_fenced<DB: Subject>(db: &TestDb<DB>, fence: &Fence) -> sagastore::Result<()> {
    let mut unit = db.unit(&Counter, "1").await?;
    unit.publish(added(1))?;
    unit.fence(fence.clone());
    db.save(unit).await.map(drop)
}

/// Leases that are over: released, taken over, purged, never granted.
async fn stale_leases<DB: Subject>(db: &TestDb<DB>) -> anyhow::Result<Vec<Fence>> {
    let (long, short) = (db.lock(LONG_LEASE), db.lock(millis(20)));
    let released = obtain(&long, "released", "a").await?;
    ensure!(long.release(&released).await?);

    let taken = obtain(&short, "taken", "a").await?;
    wait_for_expiry(&short, &taken).await?;
    obtain(&long, "taken", "a").await?;

    let taken_and_released = obtain(&short, "taken and released", "a").await?;
    wait_for_expiry(&short, &taken_and_released).await?;
    ensure!(long.release(&obtain(&long, "taken and released", "b").await?).await?);

    let vanished = obtain(&long, "vanished", "a").await?;
    db.delete_lease("vanished").await?;

    let replaced = obtain(&long, "replaced", "a").await?;
    db.delete_lease("replaced").await?;
    obtain(&long, "replaced", "a").await?;

    let mut fences: Vec<_> =
        [released, taken, taken_and_released, vanished, replaced].iter().map(Lease::as_fence).collect();
    let current = obtain(&long, "current", "a").await?.as_fence();
    for token in [0, -1, i64::MAX, i64::MIN, current.token.get() + 1, current.token.get() - 1] {
        fences.push(Fence { token: FencingToken::new(token), ..current.clone() });
    }
    let mut unknown = current.clone();
    unknown.resource.id = resource("unknown");
    let mut elsewhere = current;
    elsewhere.resource.namespace = "elsewhere".parse()?;
    fences.extend([unknown, elsewhere]);
    Ok(fences)
}

async fn a_stale_token_is_refused_and_nothing_is_written<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.create_own_table().await?;
    for (fence, number) in stale_leases(&db).await?.into_iter().zip(0..) {
        let refused = write_fenced(&db, &fence, number).await;
        let Err(Error::Fenced { resource, token }) = &refused else { panic!("{fence:?}: {refused:?}") };
        assert_eq!((resource, *token), (&fence.resource.to_string(), fence.token));
        ensure!(refused.is_err_and(|error| !error.is_transient()));
    }
    assert_eq!(db.own_writes().await?, 0);
    Ok(())
}

async fn a_unit_of_work_with_a_stale_token_is_refused_and_nothing_is_written<DB: Subject>(db: TestDb<DB>) -> Clause {
    let before = db.footprint().await?;
    for fence in stale_leases(&db).await? {
        assert_error!(save_fenced(&db, &fence).await, Error::Fenced { .. });
        let (persister, id) = (db.persister(), instance("1"));
        let alone = persister.execute(db.pool(), &Counter, &id, None, |unit: &mut UnitOfWork<'_, Counter>| {
            unit.fence(fence.clone());
            unit.publish(added(1)).map(drop)
        });
        assert_error!(alone.await, Error::Fenced { .. });
    }
    assert_eq!((db.footprint().await?, db.state(&Counter, "1").await?), (before, None));
    Ok(())
}

async fn a_current_token_lets_the_write_through<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.create_own_table().await?;
    let lock = db.lock(LONG_LEASE);
    let lease = obtain(&lock, "r", "a").await?;
    let row = db.lease_row("r").await?;
    write_fenced(&db, &lease.as_fence(), 1).await?;
    save_fenced(&db, &lease.as_fence()).await?;
    assert_eq!(db.lease_row("r").await?, row);
    let renewed = lock.renew(&lease).await?.context("lost")?;
    for (fence, number) in [lease.as_fence(), renewed.as_fence()].into_iter().zip(2..) {
        write_fenced(&db, &fence, number).await?;
        save_fenced(&db, &fence).await?;
    }
    assert_eq!((db.own_writes().await?, db.state(&Counter, "1").await?), (3, Some((3, 3))));
    Ok(())
}

async fn an_expired_lease_that_nobody_took_still_lets_the_write_through<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.create_own_table().await?;
    let lock = db.lock(millis(20));
    let lease = obtain(&lock, "r", "a").await?;
    wait_for_expiry(&lock, &lease).await?;
    write_fenced(&db, &lease.as_fence(), 1).await?;
    save_fenced(&db, &lease.as_fence()).await?;
    obtain(&lock, "r", "b").await?;
    assert_error!(write_fenced(&db, &lease.as_fence(), 2).await, Error::Fenced { .. });
    assert_eq!(db.own_writes().await?, 1);
    Ok(())
}

/// A transaction fenced by a lease that has expired, and somebody who waits for the lease.
async fn fenced_and_waited_for<DB: Subject>(
    db: &TestDb<DB>,
) -> anyhow::Result<(Lease, sqlx::Transaction<'static, DB>, tokio::task::JoinHandle<anyhow::Result<(Lease, i64)>>)> {
    db.create_own_table().await?;
    let lock = db.lock(millis(100));
    let lease = obtain(&lock, "r", "a").await?;
    let mut tx = db.begin().await?;
    lease.fence(&mut tx).await?;
    db.write_own(&mut tx, 1).await?;
    wait_for_expiry(&lock, &lease).await?;
    let taker = tokio::spawn({
        let (db, lock) = (db.clone(), db.lock(LONG_LEASE));
        async move {
            let lease = wait_for_lease(&lock, "r", "b").await?;
            Ok((lease, db.own_writes().await?))
        }
    });
    tokio::time::sleep(millis(300)).await;
    ensure!(!taker.is_finished(), "{:?}", taker.await);
    Ok((lease, tx, taker))
}

async fn nobody_takes_a_lease_over_while_a_transaction_is_fenced_by_it<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (lease, tx, taker) = fenced_and_waited_for(&db).await?;
    db.commit(tx).await?;
    let (taken, writes) = tokio::time::timeout(Duration::from_secs(10), taker).await???;
    assert_eq!((taken.sequence > lease.sequence, writes), (true, 1));
    assert_error!(write_fenced(&db, &lease.as_fence(), 2).await, Error::Fenced { .. });
    Ok(())
}

async fn who_asks_for_the_lease_of_a_fenced_transaction_is_refused_at_once<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = db.lock(millis(50));
    let lease = obtain(&lock, "r", "a").await?;
    let mut tx = db.begin().await?;
    lease.fence(&mut tx).await?;
    wait_for_expiry(&lock, &lease).await?;
    let (id, who) = (resource("r"), client("b"));
    let refused = tokio::time::timeout(Duration::from_secs(5), lock.obtain_no_wait(&id, &who)).await;
    assert_eq!(refused.context("it waits")??, Obtained::Held);
    db.roll_back(tx).await?;
    obtain(&lock, "r", "b").await?;
    Ok(())
}

async fn a_fenced_transaction_that_is_undone_frees_the_way<DB: Subject>(db: TestDb<DB>) -> Clause {
    for dropped in [false, true] {
        let (lease, tx, taker) = fenced_and_waited_for(&db).await?;
        if dropped {
            drop(tx)
        } else {
            db.roll_back(tx).await?
        }
        let (taken, writes) = tokio::time::timeout(Duration::from_secs(10), taker).await???;
        assert_eq!((taken.sequence > lease.sequence, writes), (true, 0));
        db.sql("DROP TABLE own_table").await?;
        ensure!(db.lock(LONG_LEASE).release(&taken).await?);
    }
    Ok(())
}

async fn a_lease_is_renewed_while_a_transaction_is_fenced_by_it<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = db.lock(LONG_LEASE);
    // Among so many the database chooses how to find it.
    for number in 0..200 {
        obtain(&lock, &format!("other {number}"), "a").await?;
    }
    let lease = obtain(&lock, "r", "a").await?;
    let mut tx = db.begin().await?;
    lease.fence(&mut tx).await?;
    let renewed = tokio::time::timeout(Duration::from_secs(5), lock.renew(&lease)).await.context("it waits")??;
    let renewed = renewed.context("lost")?;
    ensure!(renewed.expiry > lease.expiry);
    // Also once it was, and with another transaction.
    let mut second = db.begin().await?;
    tokio::time::timeout(Duration::from_secs(5), renewed.fence(&mut second)).await.context("it waits")??;
    let again = tokio::time::timeout(Duration::from_secs(5), lock.renew(&lease)).await.context("it waits")??;
    ensure!(again.context("lost")?.expiry > renewed.expiry);
    // A lease that is held is refused at once, too.
    let (id, who) = (resource("r"), client("b"));
    let refused = lock.obtain_no_wait(&id, &who);
    assert_eq!(tokio::time::timeout(Duration::from_secs(5), refused).await.context("it waits")??, Obtained::Held);
    db.commit(second).await?;
    db.commit(tx).await?;
    Ok(())
}

async fn a_released_lease_is_not_taken_while_a_transaction_is_fenced_by_it<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = db.lock(LONG_LEASE);
    let lease = obtain(&lock, "r", "a").await?;
    let mut tx = db.begin().await?;
    lease.fence(&mut tx).await?;
    ensure!(tokio::time::timeout(Duration::from_secs(5), lock.release(&lease)).await.context("it waits")??);
    let taker = tokio::spawn(async move { wait_for_lease(&lock, "r", "b").await });
    tokio::time::sleep(millis(300)).await;
    ensure!(!taker.is_finished());
    // Who comes now is too late, though the token is still the newest.
    let mut late = db.begin().await?;
    assert_error!(lease.fence(&mut late).await, Error::Fenced { .. });
    db.roll_back(late).await?;
    db.commit(tx).await?;
    ensure!(taker.await??.sequence > lease.sequence);
    Ok(())
}

async fn two_transactions_are_fenced_by_one_lease<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.create_own_table().await?;
    let lease = obtain(&db.lock(LONG_LEASE), "r", "a").await?;
    let (mut first, mut second) = (db.begin().await?, db.begin().await?);
    for (tx, number) in [(&mut first, 1), (&mut second, 2)] {
        tokio::time::timeout(Duration::from_secs(5), lease.fence(tx)).await.context("it waits")??;
        // Once more does no harm.
        lease.fence(tx).await?;
        db.write_own(tx, number).await?;
    }
    db.commit(second).await?;
    db.commit(first).await?;
    assert_eq!(db.own_writes().await?, 2);
    Ok(())
}

async fn several_fences_must_all_hold<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = db.lock(LONG_LEASE);
    let leases = [obtain(&lock, "a", "a").await?, obtain(&lock, "b", "a").await?, obtain(&lock, "c", "a").await?];
    let save = async || {
        let mut unit = db.unit(&Counter, "1").await?;
        unit.publish(added(1))?;
        leases.iter().for_each(|lease| unit.fence(lease.as_fence()));
        db.save(unit).await
    };
    ensure!(save().await?.is_changed());
    ensure!(lock.release(&leases[1]).await?);
    assert_error!(save().await, Error::Fenced { token, .. } if token == leases[1].sequence);
    assert_eq!(db.state(&Counter, "1").await?, Some((1, 1)));
    // What writes nothing is not asked.
    let mut idle = db.unit(&Counter, "1").await?;
    idle.fence(leases[1].as_fence());
    ensure!(!db.save(idle).await?.is_changed());
    Ok(())
}

async fn a_fence_ends_a_unit_of_work_with_the_callers_own_writes<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.create_own_table().await?;
    let lock = db.lock(LONG_LEASE);
    let lease = obtain(&lock, "r", "a").await?;
    let (persister, id) = (db.persister(), instance("1"));
    for number in [1, 2] {
        let done = persister.execute_in_transaction(db.pool(), &Counter, &id, None, async |mut attempt| {
            db.write_own(&mut attempt.transaction, number).await?;
            attempt.unit.fence(lease.as_fence());
            attempt.unit.publish(added(1))?;
            anyhow::Ok(attempt.finish(()))
        });
        match done.await {
            Ok(_) => assert_eq!(number, 1),
            Err(error) => {
                assert!(matches!(error.downcast_ref(), Some(Error::Fenced { .. })), "{error:?}");
                assert_eq!(number, 2);
            }
        }
        assert_eq!((db.own_writes().await?, db.state(&Counter, "1").await?), (1, Some((1, 1))));
        lock.release(&lease).await?;
    }
    Ok(())
}
