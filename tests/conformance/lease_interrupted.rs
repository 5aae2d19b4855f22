//! Leases when an answer is lost, and when a call is dropped.

use anyhow::{Context, ensure};
use sagastore::lock::lease::{LeaseState, Obtained};
use sagastore::lock::{DatabaseLock, Lock};

use crate::harness::{
    Clause, LONG_LEASE, Proxy, Subject, TestDb, clauses, client, cut_after, millis, obtain, resource, scaled,
    wait_for_lease,
};

clauses! {
    a_lease_whose_answer_was_lost_is_recovered_by_the_same_call: SERVERS,
    a_lease_that_nobody_was_told_of_is_free_when_it_expires: SERVERS,
    a_renewal_or_release_whose_answer_was_lost_may_be_sent_again: SERVERS,
    obtaining_dropped_at_any_step_leaves_a_whole_lease_or_none,
    renewing_dropped_at_any_step_leaves_the_old_or_the_new_expiry,
    releasing_dropped_at_any_step_leaves_it_held_or_free,
}

/// More statements than any of these calls sends.
const STATEMENTS: u32 = 6;

async fn a_lease_whose_answer_was_lost_is_recovered_by_the_same_call<DB: Subject>(db: TestDb<DB>) -> Clause {
    let proxy = Proxy::start(DB::port(db.home())).await?;
    let (near, mut cuts) = (db.lock(LONG_LEASE), 0);
    for nth in 1..=STATEMENTS {
        for (kind, before) in [("unknown", None), ("released", Some(()))] {
            let id = format!("the {kind} id {nth}");
            let mut last = 0;
            if before.is_some() {
                let lease = obtain(&near, &id, "before").await?;
                last = lease.sequence.get();
                near.release(&lease).await?;
            }
            let lock = DatabaseLock::new(db.pool_through(&proxy, 1).await?).with_length(LONG_LEASE)?;
            proxy.swallow_answer(&id, nth);
            let lease = obtain(&lock, &id, "a").await?;
            cuts += u32::from(!proxy.is_waiting());
            let status = near.status(&resource(&id)).await?.context("gone")?;
            assert_eq!(
                (status.sequence, status.expiry, status.state),
                (lease.sequence, lease.expiry, LeaseState::Held)
            );
            ensure!(lease.sequence.get() > last && near.renew(&lease).await?.is_some());
            assert_eq!(near.obtain_no_wait(&resource(&id), &client("a")).await?, Obtained::Held);
        }
    }
    ensure!(cuts >= 2, "only {cuts} answers were lost");
    proxy.cut();
    Ok(())
}

async fn a_lease_that_nobody_was_told_of_is_free_when_it_expires<DB: Subject>(db: TestDb<DB>) -> Clause {
    let proxy = Proxy::start(DB::port(db.home())).await?;
    let lock = DatabaseLock::new(db.pool_through(&proxy, 1).await?).with_length(millis(500))?;
    obtain(&lock, "other", "a").await?;
    proxy.swallow_answer("the id", 1);
    let asked = tokio::spawn(async move { lock.obtain_no_wait(&resource("the id"), &client("a")).await });
    while proxy.is_waiting() {
        tokio::time::sleep(millis(1)).await;
    }
    proxy.cut();
    ensure!(asked.await?.is_err());
    let begun = std::time::Instant::now();
    wait_for_lease(&db.lock(LONG_LEASE), "the id", "b").await?;
    ensure!(begun.elapsed() < millis(2000), "held for {:?}", begun.elapsed());
    Ok(())
}

async fn a_renewal_or_release_whose_answer_was_lost_may_be_sent_again<DB: Subject>(db: TestDb<DB>) -> Clause {
    let proxy = Proxy::start(DB::port(db.home())).await?;
    let lock = DatabaseLock::new(db.pool_through(&proxy, 1).await?).with_length(LONG_LEASE)?;
    let lease = obtain(&lock, "the id", "a").await?;
    proxy.swallow_answer("the id", 1);
    ensure!(lock.renew(&lease).await.is_err_and(|error| error.is_transient()));
    ensure!(lock.renew(&lease).await?.context("lost")?.expiry > lease.expiry);
    proxy.swallow_answer("the id", 1);
    ensure!(lock.release(&lease).await.is_err_and(|error| error.is_transient()));
    ensure!(!lock.release(&lease).await?);
    assert_eq!(lock.status(&resource("the id")).await?.context("gone")?.state, LeaseState::Released);
    proxy.cut();
    Ok(())
}

/// Drops a call at its first step, at its second, and so on until it is answered. Says how often it was dropped.
async fn cut_everywhere<T>(mut call: impl AsyncFnMut(u32) -> anyhow::Result<Option<T>>) -> anyhow::Result<u32> {
    const MAX_STEPS: u32 = 500;
    for step in 1..MAX_STEPS {
        if call(step).await?.is_some() {
            return Ok(step - 1);
        }
    }
    anyhow::bail!("the call does not come to an end")
}

async fn obtaining_dropped_at_any_step_leaves_a_whole_lease_or_none<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = &db.lock(LONG_LEASE);
    let mut cuts = 0;
    for round in 0..scaled(5, 50) {
        cuts += cut_everywhere(async |step: u32| {
            let id = resource(&format!("{round} {step}"));
            let done = cut_after(step, lock.obtain_no_wait(&id, &client("a"))).await.transpose()?;
            match (&done, lock.status(&id).await?) {
                (None, None) => {}
                (None, Some(status)) => ensure!(status.client_id == Some(client("a"))),
                (Some(Obtained::Lease(lease)), Some(status)) => ensure!(status.sequence == lease.sequence),
                (found, status) => anyhow::bail!("{found:?} and {status:?}"),
            }
            anyhow::Ok(done)
        })
        .await?;
    }
    ensure!(cuts >= 1);
    Ok(())
}

async fn renewing_dropped_at_any_step_leaves_the_old_or_the_new_expiry<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = &db.lock(LONG_LEASE);
    let lease = &obtain(lock, "r", "a").await?;
    let mut cuts = 0;
    for _ in 0..scaled(5, 50) {
        cuts += cut_everywhere(async |step: u32| {
            let done = cut_after(step, lock.renew(lease)).await.transpose()?;
            let status = lock.status(&resource("r")).await?.context("gone")?;
            ensure!(status.sequence == lease.sequence && status.expiry >= lease.expiry);
            ensure!(status.state == LeaseState::Held && status.client_id == Some(client("a")));
            anyhow::Ok(done)
        })
        .await?;
    }
    ensure!(cuts >= 1);
    Ok(())
}

async fn releasing_dropped_at_any_step_leaves_it_held_or_free<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = &db.lock(LONG_LEASE);
    let mut cuts = 0;
    for round in 0..scaled(5, 50) {
        cuts += cut_everywhere(async |step: u32| {
            let id = format!("{round} {step}");
            let lease = obtain(lock, &id, "a").await?;
            let done = cut_after(step, lock.release(&lease)).await.transpose()?;
            let status = lock.status(&resource(&id)).await?.context("gone")?;
            ensure!(status.sequence == lease.sequence);
            match status.state {
                LeaseState::Held => ensure!(done.is_none() && status.expiry == lease.expiry),
                LeaseState::Released => ensure!(status.client_id.is_none()),
                LeaseState::Expired => anyhow::bail!("{status:?}"),
            }
            anyhow::Ok(done)
        })
        .await?;
    }
    ensure!(cuts >= 1);
    Ok(())
}
