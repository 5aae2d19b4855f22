//! Several dispatchers on one outbox.

use std::time::Duration;

use anyhow::ensure;
use sagastore::dispatcher::{Dispatcher, DispatcherSettings};
use tracing::Level;

use crate::harness::sample::{Counter, added};
use crate::harness::{Clause, Log, Relay, Sent, Subject, TestDb, clauses, quick, scaled, until};

clauses! {
    several_dispatchers_share_the_work_and_keep_the_order: SEVERAL_CONNECTIONS,
    dispatchers_that_come_and_go_deliver_everything_once: SEVERAL_CONNECTIONS,
    one_more_dispatcher_than_there_are_slots_waits_for_one: SEVERAL_CONNECTIONS,
}

const STREAMS: i64 = 100;

/// In units of work of several messages each.
async fn fill<DB: Subject>(db: &TestDb<DB>, from: i64, to: i64) -> Clause {
    for amount in (from..to).step_by(5) {
        for stream in 0..STREAMS {
            db.publish(&Counter, &stream.to_string(), (amount..amount + 5).map(added)).await?;
        }
    }
    Ok(())
}

fn settings() -> anyhow::Result<DispatcherSettings> {
    Ok(quick().with_dispatchers(4)?.with_batch(7)?)
}

async fn start<DB: Subject>(db: &TestDb<DB>, sent: &Sent) -> anyhow::Result<Relay> {
    let pool = db.second_pool(4).await?;
    Ok(Relay::start(Dispatcher::new(pool, sent.emitter()).with_settings(settings()?)))
}

fn check(sent: &Sent, each: i64) -> Clause {
    let amounts = sent.amounts();
    assert_eq!(amounts.len(), usize::try_from(STREAMS)?);
    let whole: Vec<_> = (0..each).collect();
    for (stream, amounts) in amounts {
        assert_eq!(amounts, whole, "stream {stream}");
    }
    Ok(())
}

async fn several_dispatchers_share_the_work_and_keep_the_order<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let each = scaled(10, 100);
    let sent = Sent::default();
    let mut relays = Vec::new();
    for _ in 0..4 {
        relays.push(start(&db, &sent).await?);
    }
    until("their shares", async || {
        let owners = "SELECT COUNT(DISTINCT client_id) FROM saga_lease WHERE namespace = 'outbox/partition'";
        Ok(db.leases().await? == 68 && db.count(owners).await? == 4)
    })
    .await?;
    fill(&db, 0, each).await?;
    let all = usize::try_from(STREAMS * each)?;
    until("all messages", async || Ok(sent.len() >= all)).await?;
    let mut delivered = 0;
    for relay in relays {
        let dispatched = relay.stop().await?;
        ensure!(dispatched.delivered > 0, "one of them had nothing to do");
        delivered += dispatched.delivered;
    }
    assert_eq!(usize::try_from(delivered)?, all);
    check(&sent, each)?;
    ensure!(db.outbox().await?.is_empty());
    assert_eq!(db.leases().await?, 0);
    db.check_invariants().await
}

async fn dispatchers_that_come_and_go_deliver_everything_once<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let sent = Sent::default();
    let (one, two) = (start(&db, &sent).await?, start(&db, &sent).await?);
    fill(&db, 0, 5).await?;
    let three = start(&db, &sent).await?;
    fill(&db, 5, 10).await?;
    let mut delivered = one.stop().await?.delivered;
    let four = start(&db, &sent).await?;
    fill(&db, 10, 15).await?;
    delivered += two.stop().await?.delivered;
    let all = usize::try_from(STREAMS * 15)?;
    until("all messages", async || Ok(sent.len() >= all)).await?;
    delivered += three.stop().await?.delivered + four.stop().await?.delivered;
    assert_eq!(usize::try_from(delivered)?, all);
    check(&sent, 15)?;
    ensure!(db.outbox().await?.is_empty());
    db.check_invariants().await
}

async fn one_more_dispatcher_than_there_are_slots_waits_for_one<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let (first, second) = (Sent::default(), Sent::default());
    let only_one = quick().with_dispatchers(1)?;
    let holder = Relay::start(db.dispatcher(first.emitter()).with_settings(only_one.clone()));
    until("the leases", async || Ok(db.leases().await? == 65)).await?;
    let waiting = Relay::start(db.dispatcher(second.emitter()).with_settings(only_one.clone()));
    let log = Log::catch(Level::WARN);
    let full = db.dispatcher(second.emitter()).with_settings(only_one).dispatch_once().await?;
    ensure!(!log.lines(&["waits for a slot", "dispatchers=1"]).is_empty(), "nobody was told");
    db.publish(&Counter, "a", [added(1)]).await?;
    until("the first message", async || Ok(first.len() == 1)).await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!((full.delivered, second.len()), (0, 0));
    assert_eq!(holder.stop().await?.delivered, 1);
    db.publish(&Counter, "a", [added(2)]).await?;
    until("the second message", async || Ok(second.len() == 1)).await?;
    assert_eq!(waiting.stop().await?.delivered, 1);
    Ok(())
}
