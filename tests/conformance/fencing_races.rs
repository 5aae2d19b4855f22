//! Fenced writes that race with takeovers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::harness::{CLIENT_LEASE, Clause, LeaseClient, LeaseHistory, Subject, TestDb, clauses, scaled};

clauses! {
    no_write_with_an_older_token_follows_the_grant_of_a_newer_one: SEVERAL_CONNECTIONS,
}

async fn no_write_with_an_older_token_follows_the_grant_of_a_newer_one<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.create_lease_history().await?;
    let (least, most) = (Duration::from_secs(scaled(4, 60)), Duration::from_secs(120));
    let (began, is_over) = (Instant::now(), Arc::new(AtomicBool::new(false)));
    let pool = db.second_pool(12).await?;
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..6 {
        let client = LeaseClient::new(pool.clone(), &format!("client {number}"));
        let is_over = Arc::clone(&is_over);
        clients.spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                client.round().await?;
            }
            anyhow::Ok(())
        });
    }
    // A slow machine gets to fewer of them in the same time.
    while began.elapsed() < least
        || began.elapsed() < most && !db.check_lease_history().await.is_ok_and(|history| is_enough(&history))
    {
        tokio::time::sleep(CLIENT_LEASE).await;
    }
    is_over.store(true, Ordering::Relaxed);
    clients.join_all().await.into_iter().collect::<anyhow::Result<()>>()?;
    tokio::time::sleep(CLIENT_LEASE).await;
    let history = db.check_lease_history().await?;
    println!("{}: {history:?}", db.mode());
    ensure!(is_enough(&history), "{history:?}");
    pool.close().await;
    Ok(())
}

fn is_enough(history: &LeaseHistory) -> bool {
    history.takeovers >= 3 && history.writes >= 10 && history.refusals >= 1
}
