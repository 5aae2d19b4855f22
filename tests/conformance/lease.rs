//! Leases: who gets them, for how long, and with which token.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sagastore::lock::lease::{LeaseState, MAX_LEASE, MIN_LEASE, Obtained};
use sagastore::lock::{DatabaseLock, ExponentialBackoff, Lock, Namespace};
use sagastore::{Error, Timestamp};

use crate::harness::{
    Clause, LONG_LEASE, Subject, TestDb, assert_error, clauses, client, millis, obtain, resource, tick,
    wait_for_expiry, wait_for_lease,
};

clauses! {
    a_free_lock_gives_a_lease_with_owner_expiry_and_token: BASIC,
    a_held_lock_is_refused_to_everybody_at_once: BASIC,
    an_expired_lease_is_taken_over_with_a_higher_token: BASIC,
    tokens_rise_with_every_round: BASIC,
    a_second_release_touches_nobody_elses_lease: BASIC,
    a_renewal_keeps_the_token_and_moves_the_expiry: BASIC,
    a_refused_renewal_changes_nothing: BASIC,
    an_expired_lease_cannot_be_released,
    a_lease_whose_row_was_deleted_is_lost_and_the_next_token_is_higher,
    tokens_rise_also_if_the_last_one_is_ahead_of_the_clock,
    a_holder_who_stopped_trusting_its_lease_may_still_hold_it,
    a_holder_who_trusts_its_lease_may_have_lost_it,
    the_same_id_in_two_namespaces_is_two_resources,
    lengths_at_the_limits_are_kept_and_others_refused,
    two_hundred_resources_are_held_at_once,
    a_lease_lasts_for_as_long_as_its_holder_may_trust_it: SQLITE,
}

async fn a_free_lock_gives_a_lease_with_owner_expiry_and_token<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = db.lock(LONG_LEASE);
    let lease = obtain(&lock, "r", "a").await?;
    assert_eq!((lease.resource_id.as_str(), lease.client_id.as_str()), ("r", "a"));
    assert_eq!((lease.namespace.as_str(), lease.length()), ("lease", LONG_LEASE));
    ensure!(lease.sequence.get() >= 1);
    let status = lock.status(&resource("r")).await?.context("it is not there")?;
    assert_eq!((status.state, status.sequence, status.expiry), (LeaseState::Held, lease.sequence, lease.expiry));
    let (length, least) = (LONG_LEASE + tick::<DB>(), LONG_LEASE - Duration::from_secs(60));
    assert_eq!(status.expiry.as_micros() - status.obtained_at.as_micros(), i64::try_from(length.as_micros())?);
    ensure!((least..=length).contains(&status.remaining) && (least..=LONG_LEASE).contains(&lease.remaining()));
    Ok(())
}

async fn a_held_lock_is_refused_to_everybody_at_once<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = db.lock(LONG_LEASE).with_backoff(ExponentialBackoff::new(LONG_LEASE, 1.0, 1)?.with_cap(LONG_LEASE));
    obtain(&lock, "r", "a").await?;
    let (before, begun) = (db.lease_row("r").await?, Instant::now());
    for who in ["a", "b"] {
        assert_eq!(lock.obtain_no_wait(&resource("r"), &client(who)).await?, Obtained::Held);
    }
    ensure!(begun.elapsed() < Duration::from_secs(5), "refused after {:?}", begun.elapsed());
    assert_eq!(db.lease_row("r").await?, before);
    Ok(())
}

async fn an_expired_lease_is_taken_over_with_a_higher_token<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = db.lock(millis(300));
    let first = obtain(&lock, "r", "a").await?;
    tokio::time::sleep(millis(400)).await;
    let second = obtain(&lock, "r", "b").await?;
    ensure!(second.sequence > first.sequence && second.expiry > first.expiry);
    assert_eq!(lock.status(&resource("r")).await?.context("gone")?.client_id, Some(client("b")));
    Ok(())
}

async fn tokens_rise_with_every_round<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (lock, mut last) = (db.lock(LONG_LEASE), 0);
    for round in 0..10 {
        let lease = obtain(&lock, "r", "a").await?;
        ensure!(lease.sequence.get() > last, "round {round}: {} after {last}", lease.sequence);
        last = lease.sequence.get();
        ensure!(lock.release(&lease).await?);
    }
    Ok(())
}

async fn a_second_release_touches_nobody_elses_lease<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = db.lock(LONG_LEASE);
    let first = obtain(&lock, "r", "a").await?;
    ensure!(lock.release(&first).await? && !lock.release(&first).await?);
    // Who holds it is told apart by token, not by name.
    for who in ["a", "b"] {
        let next = obtain(&lock, "r", who).await?;
        let before = db.lease_row("r").await?;
        ensure!(!lock.release(&first).await?);
        assert_eq!(db.lease_row("r").await?, before);
        ensure!(lock.release(&next).await?);
    }
    Ok(())
}

async fn a_renewal_keeps_the_token_and_moves_the_expiry<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = db.lock(LONG_LEASE);
    let lease = obtain(&lock, "r", "a").await?;
    let obtained_at = lock.status(&resource("r")).await?.context("gone")?.obtained_at;
    tokio::time::sleep(millis(20)).await;
    let renewed = lock.renew(&lease).await?.context("lost")?;
    assert_eq!((renewed.sequence, &renewed.client_id), (lease.sequence, &lease.client_id));
    let gained = renewed.expiry.as_micros() - lease.expiry.as_micros();
    ensure!((15_000..60_000_000).contains(&gained), "{gained} us later");
    ensure!(renewed.trusted_until() >= lease.trusted_until() + millis(20));
    let status = lock.status(&resource("r")).await?.context("gone")?;
    assert_eq!((status.sequence, status.expiry, status.obtained_at), (lease.sequence, renewed.expiry, obtained_at));
    // Any form of the lease will do, for a renewal and for the release.
    ensure!(lock.renew(&lease).await?.is_some() && lock.release(&lease).await?);
    Ok(())
}

async fn a_refused_renewal_changes_nothing<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (short, long) = (db.lock(millis(20)), db.lock(LONG_LEASE));
    let expired = obtain(&short, "expired", "a").await?;
    let taken = obtain(&short, "taken", "a").await?;
    let released = obtain(&long, "released", "a").await?;
    wait_for_expiry(&short, &taken).await?;
    obtain(&long, "taken", "a").await?;
    ensure!(long.release(&released).await?);
    for lease in [expired, taken, released] {
        let id = lease.resource_id.as_str();
        let before = db.lease_row(id).await?;
        ensure!(long.renew(&lease).await?.is_none(), "{id}");
        assert_eq!(db.lease_row(id).await?, before);
    }
    Ok(())
}

async fn an_expired_lease_cannot_be_released<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = db.lock(millis(20));
    let lease = obtain(&lock, "r", "a").await?;
    wait_for_expiry(&lock, &lease).await?;
    let before = db.lease_row("r").await?;
    ensure!(!lock.release(&lease).await?);
    assert_eq!(db.lease_row("r").await?, before);
    Ok(())
}

async fn a_lease_whose_row_was_deleted_is_lost_and_the_next_token_is_higher<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = db.lock(LONG_LEASE);
    let mut last = 0;
    for _ in 0..5 {
        let lease = obtain(&lock, "r", "a").await?;
        ensure!(lease.sequence.get() > last);
        last = lease.sequence.get();
        db.delete_lease("r").await?;
        ensure!(lock.renew(&lease).await?.is_none() && !lock.release(&lease).await?);
        assert_eq!(lock.status(&resource("r")).await?, None);
        let next = obtain(&lock, "r", "b").await?;
        ensure!(next.sequence > lease.sequence);
        ensure!(lock.renew(&lease).await?.is_none() && !lock.release(&lease).await?);
        ensure!(lock.release(&next).await?);
        last = last.max(next.sequence.get());
    }
    Ok(())
}

/// As after the clock was set back, or in a copy of the tables of another machine.
async fn tokens_rise_also_if_the_last_one_is_ahead_of_the_clock<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = db.lock(LONG_LEASE);
    let lease = obtain(&lock, "r", "a").await?;
    ensure!(lock.release(&lease).await?);
    db.sql("UPDATE saga_lease SET token = token + 1000000000000").await?;
    for round in 1..=3 {
        let next = obtain(&lock, "r", "a").await?;
        assert_eq!(next.sequence.get(), lease.sequence.get() + 1_000_000_000_000 + round);
        ensure!(lock.release(&next).await?);
    }
    Ok(())
}

async fn a_holder_who_stopped_trusting_its_lease_may_still_hold_it<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = db.lock(millis(200));
    let lease = obtain(&lock, "r", "a").await?;
    db.shift_lease("r", 600).await?;
    tokio::time::sleep(millis(250)).await;
    assert_eq!(lease.remaining(), Duration::ZERO);
    assert_eq!(lock.obtain_no_wait(&resource("r"), &client("b")).await?, Obtained::Held);
    assert_eq!(lock.status(&resource("r")).await?.context("gone")?.state, LeaseState::Held);
    ensure!(lock.renew(&lease).await?.is_some());
    Ok(())
}

async fn a_holder_who_trusts_its_lease_may_have_lost_it<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = db.lock(LONG_LEASE);
    let lease = obtain(&lock, "r", "a").await?;
    db.sql("UPDATE saga_lease SET expires_at = obtained_at").await?;
    ensure!(lease.remaining() > Duration::from_secs(300) && lock.renew(&lease).await?.is_none());
    ensure!(obtain(&lock, "r", "b").await?.sequence > lease.sequence);
    Ok(())
}

async fn the_same_id_in_two_namespaces_is_two_resources<DB: Subject>(db: TestDb<DB>) -> Clause {
    let locks = ["lease", "Lease", "l", "lease ", &"n".repeat(160)]
        .map(|name| db.lock(LONG_LEASE).with_namespace(Namespace::new(name).unwrap()));
    let mut leases = Vec::new();
    for lock in &locks {
        leases.push(obtain(lock, "r", "a").await?);
    }
    // A lease is renewed and released where it is, by whichever lock.
    for lease in &leases[1..] {
        ensure!(locks[0].renew(lease).await?.is_some() && locks[0].release(lease).await?);
        assert_eq!(locks[0].obtain_no_wait(&resource("r"), &client("a")).await?, Obtained::Held);
    }
    assert_eq!(locks[4].statuses(None, 10).await?.len(), 1);
    assert_eq!(locks[2].status(&resource("r")).await?.context("gone")?.state, LeaseState::Released);
    Ok(())
}

async fn lengths_at_the_limits_are_kept_and_others_refused<DB: Subject>(db: TestDb<DB>) -> Clause {
    let century = db.lock(MAX_LEASE).with_lock_delay(MAX_LEASE)?;
    let lease = obtain(&century, "long", "a").await?;
    ensure!(lease.remaining() > MAX_LEASE - Duration::from_secs(60));
    let renewed = century.renew(&lease).await?.context("lost")?;
    ensure!(renewed.expiry >= lease.expiry);
    let remaining = century.status(&resource("long")).await?.context("gone")?.remaining;
    let longest = MAX_LEASE + tick::<DB>();
    ensure!((MAX_LEASE - Duration::from_secs(60)..=longest).contains(&remaining), "{remaining:?}");
    ensure!(century.release(&renewed).await?);
    obtain(&century, "long", "b").await?;

    let instant = db.lock(MIN_LEASE);
    let first = obtain(&instant, "short", "a").await?;
    ensure!(wait_for_lease(&instant, "short", "b").await?.sequence > first.sequence);

    let lock = || DatabaseLock::new(db.pool().clone());
    for length in [Duration::ZERO, MIN_LEASE - Duration::from_nanos(1), MAX_LEASE + MIN_LEASE, Duration::MAX] {
        assert_error!(lock().with_length(length), Error::InvalidInput { .. });
        if !length.is_zero() {
            assert_error!(lock().with_lock_delay(length), Error::InvalidInput { .. });
        }
    }
    ensure!(lock().with_lock_delay(Duration::ZERO).is_ok());
    Ok(())
}

async fn two_hundred_resources_are_held_at_once<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = db.lock(LONG_LEASE);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..200 {
        let lock = lock.clone();
        tasks.spawn(async move { obtain(&lock, &format!("r{number}"), "a").await });
    }
    let leases: Vec<_> = tasks.join_all().await.into_iter().collect::<anyhow::Result<_>>()?;
    let statuses = lock.statuses(None, 1000).await?;
    assert_eq!((leases.len(), statuses.len()), (200, 200));
    ensure!(statuses.iter().all(|status| status.state == LeaseState::Held));
    Ok(())
}

/// On SQLite another could have it up to a millisecond earlier.
async fn a_lease_lasts_for_as_long_as_its_holder_may_trust_it<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (lock, length) = (db.lock(LONG_LEASE), i64::try_from(LONG_LEASE.as_micros())?);
    for round in 0..20 {
        let asked = Timestamp::now().as_micros();
        let lease = obtain(&lock, "r", "a").await?;
        ensure!(lease.expiry.as_micros() >= asked + length, "round {round}");
        let asked = Timestamp::now().as_micros();
        let renewed = lock.renew(&lease).await?.context("lost")?;
        ensure!(renewed.expiry.as_micros() >= asked + length, "round {round}, renewed");
        ensure!(lock.release(&renewed).await?);
    }
    Ok(())
}
