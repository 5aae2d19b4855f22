//! A dispatcher that was taken for dead, and was not.

use std::time::Duration;

use anyhow::{Context, ensure};
use sagastore::dispatcher::{DeliveryRetry, DispatcherSettings};
use sagastore::emitter::{ChannelEmitter, Delivery};
use sagastore::{OutboxRepository, OutboxWaker};

use crate::harness::sample::{Counter, added};
use crate::harness::{Clause, Relay, Subject, TestDb, attempts, clauses, quick};

clauses! {
    one_that_was_superseded_cannot_acknowledge,
    one_that_was_superseded_cannot_postpone,
    one_that_was_superseded_cannot_declare_dead,
    one_whose_leases_were_released_cannot_acknowledge,
}

/// It looks after its leases hardly ever, as if it were paused while it sends.
fn paused(retry: DeliveryRetry) -> anyhow::Result<DispatcherSettings> {
    let hour = Duration::from_secs(3600);
    Ok(DispatcherSettings::default().with_lease(hour)?.with_poll_interval(hour)?.with_retry(retry))
}

async fn supersede<DB: Subject>(
    db: TestDb<DB>,
    retry: DeliveryRetry,
    take_away: &str,
    report: impl FnOnce(Delivery),
) -> Clause {
    db.will_relay();
    db.publish(&Counter, "a", [added(1), added(2)]).await?;
    // As long as nothing is reported, it goes to none of the databases.
    let long = Duration::from_secs(15);
    let ((first, mut to_first), (second, mut to_second)) = (ChannelEmitter::new(10), ChannelEmitter::new(10));
    let zombie = db.dispatcher(first).with_settings(paused(retry)?.with_emit_timeout(long)?);
    let zombie = Relay::start(zombie.with_waker(OutboxWaker::new()));
    let held = to_first.recv().await.context("nothing was sent")?;
    ensure!(db.sql(take_away).await? >= 65, "it had no leases");

    let heir = Relay::start(db.dispatcher(second).with_settings(quick().with_emit_timeout(long)?));
    let again = to_second.recv().await.context("nothing was sent by its successor")?;
    assert_eq!(again.record(), held.record(), "the same message, with the same id");
    let id = held.record().id;
    report(held);
    let marked = zombie.stop().await?;
    assert_eq!((marked.delivered, marked.failed, marked.dead), (0, 0, 0));
    let waiting = db.outbox().await?;
    assert_eq!(waiting.len(), 2, "a superseded dispatcher took a message out");
    assert_eq!((waiting[0].id, waiting[0].attempts), (id, 0));
    ensure!(db.store().dead_letters(&mut *db.conn().await?, None, 10).await?.is_empty());
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_outbox_message WHERE attempts > 0").await?, 0);

    again.delivered();
    let next = to_second.recv().await.context("the next message was not sent")?;
    ensure!(next.record().id > id);
    next.delivered();
    assert_eq!(heir.stop().await?.delivered, 2);
    ensure!(db.outbox().await?.is_empty());
    Ok(())
}

const EXPIRE: &str = "UPDATE saga_lease SET expires_at = 0";
const RELEASE: &str = "UPDATE saga_lease SET expires_at = 0, client_id = NULL";

async fn one_that_was_superseded_cannot_acknowledge<DB: Subject>(db: TestDb<DB>) -> Clause {
    supersede(db, attempts(5), EXPIRE, Delivery::delivered).await
}

async fn one_that_was_superseded_cannot_postpone<DB: Subject>(db: TestDb<DB>) -> Clause {
    let retry = DeliveryRetry::new(5, 0, Duration::from_secs(60), Duration::from_secs(60), 0.0)?;
    supersede(db, retry, EXPIRE, |delivery| delivery.failed("late")).await
}

async fn one_that_was_superseded_cannot_declare_dead<DB: Subject>(db: TestDb<DB>) -> Clause {
    supersede(db, attempts(1), EXPIRE, |delivery| delivery.failed("late")).await
}

async fn one_whose_leases_were_released_cannot_acknowledge<DB: Subject>(db: TestDb<DB>) -> Clause {
    supersede(db, attempts(5), RELEASE, Delivery::delivered).await
}
