//! Waiting for leases, alone and among many.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sagastore::Error;
use sagastore::lock::lease::{LeaseState, Obtained};
use sagastore::lock::{DatabaseLock, ExponentialBackoff, Lock};

use crate::harness::{
    Clause, LONG_LEASE, Subject, TestDb, assert_error, clauses, client, eagerly, millis, obtain, resource, scaled,
    wait_for_expiry, wait_for_lease,
};

clauses! {
    the_default_backoff_outlasts_a_lease_of_two_seconds,
    who_waits_too_short_a_time_is_told_that_it_is_held,
    leases_of_less_than_a_second_are_handed_on,
    a_lock_delay_follows_an_expiry_and_no_release,
    who_stops_waiting_holds_nothing,
    an_error_ends_the_waiting: SEVERAL_CONNECTIONS,
    holders_are_alone,
    a_thousand_tasks_on_one_lock_meet_no_error: SERVERS,
}

async fn the_default_backoff_outlasts_a_lease_of_two_seconds<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = db.lock(Duration::from_secs(2));
    let begun = Instant::now();
    let first = obtain(&lock, "r", "a").await?;
    let second = lock.obtain(&resource("r"), &client("b")).await?.lease().context("it stays held")?;
    // The tries are at 0, 1, 2.5 and 4.75 s.
    ensure!((millis(2000)..millis(4700)).contains(&begun.elapsed()), "after {:?}", begun.elapsed());
    ensure!(second.sequence > first.sequence);
    Ok(())
}

async fn who_waits_too_short_a_time_is_told_that_it_is_held<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = db.lock(LONG_LEASE).with_backoff(ExponentialBackoff::new(millis(30), 1.0, 3)?);
    obtain(&lock, "r", "a").await?;
    let begun = Instant::now();
    assert_eq!(lock.obtain(&resource("r"), &client("b")).await?, Obtained::Held);
    ensure!(begun.elapsed() >= millis(90));
    let never = &ExponentialBackoff::NEVER;
    assert_eq!(lock.obtain_with_backoff(&resource("r"), &client("b"), never).await?, Obtained::Held);
    Ok(())
}

async fn leases_of_less_than_a_second_are_handed_on<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = db.lock(millis(100));
    let (begun, mut last) = (Instant::now(), obtain(&lock, "r", "a").await?);
    for _ in 0..4 {
        let next = wait_for_lease(&lock, "r", "b").await?;
        ensure!(next.sequence > last.sequence && next.expiry.as_micros() >= last.expiry.as_micros() + 100_000);
        last = next;
    }
    ensure!(begun.elapsed() >= millis(399));
    Ok(())
}

async fn a_lock_delay_follows_an_expiry_and_no_release<DB: Subject>(db: TestDb<DB>) -> Clause {
    let delayed = db.lock(millis(100)).with_lock_delay(LONG_LEASE)?;
    let lease = obtain(&delayed, "expires", "a").await?;
    wait_for_expiry(&delayed, &lease).await?;
    // The delay is that of the lease which expired, whoever asks.
    for lock in [&delayed, &db.lock(LONG_LEASE)] {
        assert_eq!(lock.obtain_no_wait(&resource("expires"), &client("b")).await?, Obtained::Held);
    }
    assert_eq!(delayed.status(&resource("expires")).await?.context("gone")?.state, LeaseState::Expired);
    ensure!(delayed.renew(&lease).await?.is_none() && !delayed.release(&lease).await?);
    db.shift_lease("expires", -600).await?;
    obtain(&delayed, "expires", "b").await?;

    let held = db.lock(LONG_LEASE).with_lock_delay(LONG_LEASE)?;
    let lease = obtain(&held, "released", "a").await?;
    ensure!(held.release(&lease).await?);
    obtain(&held, "released", "b").await?;

    let briefly = db.lock(millis(100)).with_lock_delay(millis(200))?;
    let first = obtain(&briefly, "again", "a").await?;
    let second = wait_for_lease(&briefly, "again", "b").await?;
    let (first, second) = (first.expiry.as_micros(), second.expiry.as_micros());
    ensure!(second >= first + 300_000, "{} us after the expiry", second - first);
    Ok(())
}

async fn who_stops_waiting_holds_nothing<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = db.lock(LONG_LEASE);
    let held = obtain(&lock, "r", "a").await?;
    let before = db.lease_row("r").await?;
    let once = ExponentialBackoff::new(LONG_LEASE, 1.0, 1)?.with_cap(LONG_LEASE);
    let (id, who) = (resource("r"), client("b"));
    let waiting = lock.obtain_with_backoff(&id, &who, &once);
    ensure!(tokio::time::timeout(millis(300), waiting).await.is_err());
    assert_eq!(db.lease_row("r").await?, before);
    ensure!(lock.release(&held).await?);
    obtain(&lock, "r", "c").await?;
    Ok(())
}

async fn an_error_ends_the_waiting<DB: Subject>(db: TestDb<DB>) -> Clause {
    obtain(&db.lock(LONG_LEASE), "r", "a").await?;
    let pool = db.second_pool(2).await?;
    let lock = DatabaseLock::new(pool.clone());
    let waiting = tokio::spawn(async move { lock.obtain_with_backoff(&resource("r"), &client("b"), &eagerly()).await });
    tokio::time::sleep(millis(100)).await;
    pool.close().await;
    assert_error!(waiting.await?, Error::Closed { .. });
    Ok(())
}

async fn holders_are_alone<DB: Subject>(db: TestDb<DB>) -> Clause {
    const TASKS: u32 = 16;
    let rounds = scaled(8, 100);
    let (lock, busy, counter) = (db.lock(LONG_LEASE), Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let (lock, busy, counter) = (lock.clone(), Arc::clone(&busy), Arc::clone(&counter));
        tasks.spawn(async move {
            let mut last = 0;
            for _ in 0..rounds {
                let lease = wait_for_lease(&lock, "r", &format!("task {task}")).await?;
                ensure!(!busy.swap(true, Ordering::SeqCst), "two hold it");
                ensure!(lease.sequence.get() > last);
                last = lease.sequence.get();
                let seen = counter.load(Ordering::SeqCst);
                tokio::time::sleep(Duration::from_micros(fastrand::u64(0..2000))).await;
                counter.store(seen + 1, Ordering::SeqCst);
                busy.store(false, Ordering::SeqCst);
                ensure!(lock.release(&lease).await?);
                tokio::time::sleep(Duration::from_micros(fastrand::u64(0..2000))).await;
            }
            Ok(())
        });
    }
    tasks.join_all().await.into_iter().collect::<anyhow::Result<()>>()?;
    assert_eq!(counter.load(Ordering::SeqCst), TASKS * rounds);
    Ok(())
}

async fn a_thousand_tasks_on_one_lock_meet_no_error<DB: Subject>(db: TestDb<DB>) -> Clause {
    let pool = db.second_pool(20).await?;
    let lock = DatabaseLock::new(pool.clone()).with_length(LONG_LEASE)?;
    let (began, grants) = (Instant::now(), Arc::new(AtomicU32::new(0)));
    let (least, most) = (Duration::from_secs(scaled(2, 10)), Duration::from_secs(60));
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..1000 {
        let (lock, grants) = (lock.clone(), Arc::clone(&grants));
        tasks.spawn(async move {
            let (id, who) = (resource("r"), client(&format!("task {task}")));
            // Who holds it waits behind all others for a connection to release it with.
            let is_enough = || grants.load(Ordering::SeqCst) >= 2;
            while began.elapsed() < least || began.elapsed() < most && !is_enough() {
                if let Some(lease) = lock.obtain_no_wait(&id, &who).await?.lease() {
                    assert!(lock.release(&lease).await?, "somebody else released it");
                    grants.fetch_add(1, Ordering::SeqCst);
                }
            }
            anyhow::Ok(())
        });
    }
    tasks.join_all().await.into_iter().collect::<anyhow::Result<()>>()?;
    let held = grants.load(Ordering::SeqCst);
    ensure!(held >= 2, "held {held} times");
    assert_eq!(lock.status(&resource("r")).await?.context("gone")?.state, LeaseState::Released);
    pool.close().await;
    Ok(())
}
