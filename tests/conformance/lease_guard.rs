//! Leases that are renewed in the background.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sagastore::Error;
use sagastore::lock::lease::{LeaseState, Obtained};
use sagastore::lock::{DatabaseLock, LeaseGuard, Lock};

use crate::harness::{
    Clause, LONG_LEASE, Proxy, Subject, TestDb, assert_error, clauses, client, millis, obtain, resource, scaled,
    wait_for_lease,
};

clauses! {
    a_guarded_lease_is_held_for_as_long_as_the_work_lasts,
    work_is_cancelled_when_the_row_is_deleted_under_it,
    work_is_cancelled_when_the_lease_is_taken_over,
    work_ends_no_later_than_the_trust_in_the_lease_when_every_renewal_fails: SEVERAL_CONNECTIONS,
    work_ends_no_later_than_the_trust_in_the_lease_when_the_database_is_silent: SERVERS,
    a_release_during_a_renewal_leaves_nothing_held,
    a_dropped_guard_lets_the_lease_expire,
    a_lease_is_lost_when_it_has_expired_also_if_its_renewal_never_ran: SQLITE_FILE,
}

/// How late a timer may be on a busy machine.
const LATE: Duration = Duration::from_millis(150);

fn guard<DB: Subject>(lock: &DatabaseLock<DB>, lease: sagastore::lock::lease::Lease) -> LeaseGuard {
    LeaseGuard::new(Arc::new(lock.clone()), lease)
}

async fn a_guarded_lease_is_held_for_as_long_as_the_work_lasts<DB: Subject>(db: TestDb<DB>) -> Clause {
    let length = Duration::from_secs(4);
    let lock = db.lock(length);
    let lease = obtain(&lock, "r", "a").await?;
    let guard = guard(&lock, lease.clone());
    let begun = Instant::now();
    let work = async {
        while begun.elapsed() < length * 5 / 4 {
            assert_eq!(lock.obtain_no_wait(&resource("r"), &client("b")).await?, Obtained::Held);
            tokio::time::sleep(millis(50)).await;
        }
        anyhow::Ok(7)
    };
    assert_eq!(guard.run(work).await??, 7);
    ensure!(!guard.is_lost() && guard.lease().sequence == lease.sequence && guard.lease().expiry > lease.expiry);
    assert_eq!(guard.as_fence(), lease.as_fence());
    ensure!(guard.release().await?);
    obtain(&lock, "r", "b").await?;
    Ok(())
}

async fn work_is_cancelled_when_the_row_is_deleted_under_it<DB: Subject>(db: TestDb<DB>) -> Clause {
    let length = Duration::from_secs(6);
    let lock = db.lock(length);
    let guard = guard(&lock, obtain(&lock, "r", "a").await?);
    db.delete_lease("r").await?;
    let begun = Instant::now();
    let lost = guard.run(std::future::pending::<()>()).await;
    let Err(Error::LockLost { resource, detail }) = &lost else { panic!("{lost:?}") };
    assert_eq!((resource.as_str(), detail.contains("removed")), ("lease/r", true));
    ensure!(begun.elapsed() < length, "told after {:?}", begun.elapsed());
    // Whoever asks later is told, too.
    ensure!(guard.is_lost());
    assert_error!(guard.run(std::future::pending::<()>()).await, Error::LockLost { .. });
    ensure!(!guard.release().await?);
    assert_eq!(lock.status(&crate::harness::resource("r")).await?, None);
    Ok(())
}

async fn work_is_cancelled_when_the_lease_is_taken_over<DB: Subject>(db: TestDb<DB>) -> Clause {
    let length = Duration::from_secs(6);
    let lock = db.lock(length);
    let guard = guard(&lock, obtain(&lock, "r", "a").await?);
    db.shift_lease("r", -600).await?;
    let next = obtain(&db.lock(LONG_LEASE), "r", "b").await?;
    let (begun, before) = (Instant::now(), db.lease_row("r").await?);
    assert_error!(guard.run(std::future::pending::<()>()).await, Error::LockLost { .. });
    ensure!(begun.elapsed() < length, "told after {:?}", begun.elapsed());
    ensure!(!guard.release().await?);
    assert_eq!(db.lease_row("r").await?, before);
    ensure!(lock.release(&next).await?);
    Ok(())
}

/// The guard tells it before this time has passed.
async fn assert_lost_in_time(guard: &LeaseGuard) -> anyhow::Result<()> {
    let until = guard.lease().trusted_until();
    let too_late = tokio::time::sleep_until((until + LATE).into());
    tokio::select! {
        biased;
        lost = guard.lost() => ensure!(matches!(lost, Error::LockLost { .. }), "{lost:?}"),
        () = too_late => anyhow::bail!("still believed in {LATE:?} after its end"),
    }
    ensure!(Instant::now() >= until - Duration::from_secs(1), "given up too early");
    Ok(())
}

async fn work_ends_no_later_than_the_trust_in_the_lease_when_every_renewal_fails<DB: Subject>(
    db: TestDb<DB>,
) -> Clause {
    let pool = db.second_pool(2).await?;
    let lock = DatabaseLock::new(pool.clone()).with_length(Duration::from_secs(3))?;
    let guard = guard(&lock, obtain(&lock, "r", "a").await?);
    pool.close().await;
    assert_lost_in_time(&guard).await
}

async fn work_ends_no_later_than_the_trust_in_the_lease_when_the_database_is_silent<DB: Subject>(
    db: TestDb<DB>,
) -> Clause {
    let proxy = Proxy::start(DB::port(db.home())).await?;
    let lock = DatabaseLock::new(db.pool_through(&proxy, 2).await?).with_length(Duration::from_secs(2))?;
    let lease = obtain(&lock, "r", "a").await?;
    let guard = guard(&lock, lease);
    proxy.freeze();
    assert_lost_in_time(&guard).await?;
    drop(guard);
    wait_for_lease(&db.lock(LONG_LEASE), "r", "b").await?;
    proxy.cut();
    Ok(())
}

async fn a_release_during_a_renewal_leaves_nothing_held<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (mut length, mut released) = (millis(90), 0);
    let rounds = scaled(60, 1000);
    for round in 0..rounds {
        let lock = db.lock(length);
        let lease = wait_for_lease(&lock, "r", &format!("round {round}")).await?;
        let guard = guard(&lock, lease);
        // A renewal begins after a third of the length.
        tokio::time::sleep(length / 3 - millis(1) + Duration::from_micros(fastrand::u64(0..3000))).await;
        if guard.release().await? {
            released += 1;
        } else {
            // On a busy machine it may be lost before.
            length = (2 * length).min(Duration::from_secs(10));
        }
        let before = db.lease_row("r").await?;
        tokio::time::sleep(millis(3)).await;
        assert_eq!(db.lease_row("r").await?, before, "round {round}");
    }
    ensure!(released > rounds / 2, "{released} of {rounds} leases were released in time");
    let state = db.lock(length).status(&resource("r")).await?.context("gone")?.state;
    ensure!(state != LeaseState::Held);
    Ok(())
}

async fn a_dropped_guard_lets_the_lease_expire<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = db.lock(Duration::from_secs(2));
    let lease = obtain(&lock, "r", "a").await?;
    let guard = guard(&lock, lease.clone());
    let lost = guard.lost();
    tokio::time::sleep(millis(2_300)).await;
    assert_eq!(lock.obtain_no_wait(&resource("r"), &client("b")).await?, Obtained::Held);
    drop(guard);
    assert!(matches!(lost.await, Error::LockLost { .. }));
    // A renewal that was under way may still take effect.
    tokio::time::sleep(millis(500)).await;
    let before = db.lease_row("r").await?;
    tokio::time::sleep(millis(1_000)).await;
    assert_eq!(db.lease_row("r").await?, before);
    let begun = Instant::now();
    ensure!(wait_for_lease(&lock, "r", "b").await?.sequence > lease.sequence);
    ensure!(begun.elapsed() < Duration::from_secs(10), "free only after {:?}", begun.elapsed());
    Ok(())
}

async fn a_lease_is_lost_when_it_has_expired_also_if_its_renewal_never_ran<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = db.lock(millis(200));
    let lease = obtain(&lock, "r", "a").await?;
    let looked = std::thread::spawn(move || {
        let own = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // On its runtime nothing else runs while work goes on without an await.
        own.block_on(async {
            let trusted_until = lease.trusted_until();
            let guard = guard(&lock, lease);
            let too_early = guard.is_lost() && Instant::now() < trusted_until;
            std::thread::sleep(millis(300));
            (too_early, guard.is_lost())
        })
    });
    let (too_early, later) = tokio::task::spawn_blocking(move || looked.join().unwrap()).await?;
    ensure!(later, "it is believed in after its end");
    ensure!(!too_early, "it was lost at once");
    Ok(())
}
