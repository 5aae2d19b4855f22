//! Fenced writes that race with takeovers.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::harness::{CLIENT_LEASE, Clause, LeaseClient, Subject, TestDb, clauses, scaled};

clauses! {
    no_write_with_an_older_token_follows_the_grant_of_a_newer_one: SEVERAL_CONNECTIONS,
}

async fn no_write_with_an_older_token_follows_the_grant_of_a_newer_one<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.create_lease_history().await?;
    let until = Instant::now() + Duration::from_secs(scaled(4, 60));
    let pool = db.second_pool(12).await?;
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..6 {
        let client = LeaseClient::new(pool.clone(), &format!("client {number}"));
        clients.spawn(async move {
            while Instant::now() < until {
                client.round().await?;
            }
            anyhow::Ok(())
        });
    }
    clients.join_all().await.into_iter().collect::<anyhow::Result<()>>()?;
    tokio::time::sleep(CLIENT_LEASE).await;
    let history = db.check_lease_history().await?;
    println!("{}: {history:?}", db.mode());
    ensure!(history.takeovers >= 3 && history.writes >= 10 && history.refusals >= 1, "{history:?}");
    pool.close().await;
    Ok(())
}
