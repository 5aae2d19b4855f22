//! Leases among processes that are stopped, continued and killed at any time.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::harness::{
    CLIENT_LEASE, Clause, LONG_LEASE, LeaseHistory, Part, Process, Subject, TestDb, clauses, millis, scaled,
    wait_for_lease,
};

clauses! {
    a_zombie_is_fenced_where_a_naive_write_goes_through: SEVERAL_CONNECTIONS,
    stopped_and_killed_clients_never_hold_at_once_and_never_write_too_late: SEVERAL_CONNECTIONS,
}

async fn a_zombie_is_fenced_where_a_naive_write_goes_through<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.create_own_table().await?;
    let mut zombie = Process::start(&db, "zombie", Part::Zombie)?;
    let held = zombie.hear()?;
    let token: i64 = held.trim_start_matches("holds ").parse()?;
    zombie.tell("1")?;
    assert_eq!((zombie.hear()?.as_str(), db.own_writes().await?), ("written", 1));

    zombie.signal("STOP")?;
    let next = wait_for_lease(&db.lock(LONG_LEASE), "r", "next").await?;
    ensure!(next.sequence.get() > token);
    let mut tx = db.begin().await?;
    next.fence(&mut tx).await?;
    db.write_own(&mut tx, 2).await?;
    db.commit(tx).await?;

    zombie.tell("3")?;
    zombie.signal("CONT")?;
    assert_eq!(zombie.hear()?, format!("fenced {token}"));
    // What the fence refused was then written naively: the database had nothing against it.
    assert_eq!(db.count("SELECT COUNT(*) FROM own_table WHERE n = 3").await?, 1);
    Ok(())
}

async fn stopped_and_killed_clients_never_hold_at_once_and_never_write_too_late<DB: Subject>(db: TestDb<DB>) -> Clause {
    const CLIENTS: usize = 4;
    db.create_lease_history().await?;
    let start = |number: usize| Process::start(&db, &format!("client {number}"), Part::Rounds);
    let mut clients = (0..CLIENTS).map(start).collect::<anyhow::Result<Vec<_>>>()?;
    let (began, length) = (Instant::now(), Duration::from_secs(scaled(5, 120)));
    while began.elapsed() < length || !(has_seen_enough(&db).await || began.elapsed() > 8 * length) {
        let chosen = fastrand::usize(0..CLIENTS);
        tokio::time::sleep(millis(fastrand::u64(5..100))).await;
        ensure!(!clients[chosen].has_ended()?, "a client has ended by itself");
        if fastrand::u32(0..5) == 0 {
            clients[chosen] = start(chosen)?;
        } else {
            clients[chosen].signal("STOP")?;
            tokio::time::sleep(CLIENT_LEASE.mul_f64(0.5 + fastrand::f64())).await;
            clients[chosen].signal("CONT")?;
        }
    }
    drop(clients);
    // What the last ones sent may still be under way.
    tokio::time::sleep(millis(300)).await;
    let history = db.check_lease_history().await?;
    println!("{}: {history:?}", db.mode());
    ensure!(is_enough(&history), "{history:?}");
    Ok(())
}

/// On a busy machine it takes its time until a client is stopped between a lease and its write.
fn is_enough(history: &LeaseHistory) -> bool {
    history.takeovers >= 3 && history.writes >= 5 && history.refusals >= 1
}

/// So far. What clients write meanwhile may make no sense yet: that is judged once they are gone.
async fn has_seen_enough<DB: Subject>(db: &TestDb<DB>) -> bool {
    db.check_lease_history().await.is_ok_and(|history| is_enough(&history))
}
