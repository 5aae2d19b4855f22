//! Messages that come while parked ones are retried.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, ensure};
use async_trait::async_trait;
use sagastore::{Cause, Envelope, Handling, InTransaction, ParkAfter, ParkedFilter, UnitOfWork, parked_messages};
use sqlx::Transaction;
use tokio::sync::Notify;

use crate::harness::booking::{Booking, book, fragile, remark, renumber};
use crate::harness::{Clause, Subject, TestDb, clauses};

clauses! {
    a_message_by_a_key_that_its_instance_gives_up_meanwhile_is_not_for_it: SERVERS,
}

/// How long a message is given to come as far as it gets.
const ON_ITS_WAY: Duration = Duration::from_millis(300);

/// Holds up the message that renumbers.
struct HoldsUp {
    reached: Arc<Notify>,
    go: Arc<Notify>,
}

#[async_trait]
impl<DB: Subject> InTransaction<Booking, DB> for HoldsUp {
    async fn run(
        &self,
        _: &mut Transaction<'_, DB>,
        _: &mut UnitOfWork<'_, Booking>,
        message: &Envelope,
    ) -> Result<(), Cause> {
        if &*message.type_name == "Renumber" {
            self.reached.notify_one();
            self.go.notified().await;
        }
        Ok(())
    }
}

/// The message waits for the last of those that are parked, and was then handled by an instance that it did not name.
async fn a_message_by_a_key_that_its_instance_gives_up_meanwhile_is_not_for_it<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (saga, reached, go) = (Booking::default(), Arc::new(Notify::new()), Arc::new(Notify::new()));
    let held = HoldsUp { reached: Arc::clone(&reached), go: Arc::clone(&go) };
    let handler = db.keyed(&saga).park_after(ParkAfter { tries: 1, delay: Duration::ZERO }).in_transaction(held);
    ensure!(handler.handle(db.pool(), &book("1", "ann")).await?.is_handled());
    saga.broken.store(true, Ordering::Relaxed);
    for message in [fragile("1", "a"), renumber("1", "2")] {
        ensure!(handler.handle(db.pool(), &message).await?.is_parked());
    }
    saga.broken.store(false, Ordering::Relaxed);
    let parked = parked_messages::<DB>(&mut *db.conn().await?, ParkedFilter::default(), 1).await?;
    let instance = parked.into_iter().next().context("nothing is parked")?.instance_id;

    let retrying = tokio::spawn({
        let (handler, pool) = (handler.clone(), db.pool().clone());
        async move { handler.retry_parked(&pool, &instance).await }
    });
    reached.notified().await;
    let coming = tokio::spawn({
        let (handler, pool) = (handler.clone(), db.pool().clone());
        async move { handler.handle(&pool, &remark("1", "late")).await }
    });
    tokio::time::sleep(ON_ITS_WAY).await;
    go.notify_one();
    assert_eq!(retrying.await??.released, 2);
    let handling = coming.await??;
    ensure!(matches!(handling, Handling::NotFound), "{handling:?}");
    assert_eq!(db.notes("2").await?, ["a"]);
    Ok(())
}
