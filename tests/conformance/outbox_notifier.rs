//! Wake-ups between processes, on PostgreSQL.

use std::any::Any;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sagastore::dispatcher::{Dispatcher, DispatcherSettings};
use sagastore::postgres::{NOTIFY_CHANNEL, OutboxNotifier};
use sagastore::{OutboxWaker, Persister, UnitOfWork};
use sqlx::postgres::PgListener;
use sqlx::{PgPool, Pool};

use crate::harness::sample::{Counter, added, instance};
use crate::harness::{Clause, Relay, Sent, Subject, TestDb, clauses, until};

clauses! {
    a_commit_wakes_the_dispatcher_of_another_process: POSTGRES,
    nobody_is_woken_before_a_commit_or_by_a_rollback: POSTGRES,
    what_is_woken_right_after_the_start_is_passed_on: POSTGRES,
    many_commits_make_few_notifications: POSTGRES,
    a_listener_whose_connection_was_cut_listens_again: POSTGRES,
    a_pool_closes_while_a_notifier_is_alive: POSTGRES,
}

/// On a machine that does a lot besides.
const SOON: Duration = Duration::from_secs(30);

fn postgres<DB: Subject>(pool: &Pool<DB>) -> &PgPool {
    (pool as &dyn Any).downcast_ref().unwrap()
}

async fn publish<DB: Subject>(db: &TestDb<DB>, persister: &Persister<DB>, amount: i64) -> Clause {
    let unit = |unit: &mut UnitOfWork<'_, Counter>| unit.publish(added(amount)).map(drop);
    let _ = persister.execute(db.pool(), &Counter, &instance("a"), None, unit).await?;
    Ok(())
}

/// A dispatcher as of another process, that hardly ever looks by itself.
async fn start<DB: Subject>(db: &TestDb<DB>, sent: &Sent) -> anyhow::Result<(Relay, OutboxNotifier)> {
    let (pool, waker) = (db.second_pool(8).await?, OutboxWaker::new());
    let notifier = OutboxNotifier::start(postgres(&pool), &waker).await?;
    let settings = DispatcherSettings::default().with_poll_interval(Duration::from_secs(600))?;
    let relay = Relay::start(Dispatcher::new(pool, sent.emitter()).with_settings(settings).with_waker(waker));
    until("the leases", async || Ok(db.leases().await? == 65)).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    Ok((relay, notifier))
}

async fn a_commit_wakes_the_dispatcher_of_another_process<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let (sent, here) = (Sent::default(), OutboxWaker::new());
    let (relay, _there) = start(&db, &sent).await?;
    let _here = OutboxNotifier::start(postgres(&db.second_pool(2).await?), &here).await?;
    let persister = db.persister().with_waker(here);
    for number in 1..=3_usize {
        let began = Instant::now();
        publish(&db, &persister, 1).await?;
        until("the message", async || Ok(sent.len() >= number)).await?;
        ensure!(began.elapsed() < SOON, "it took {:?}", began.elapsed());
    }
    assert_eq!(relay.stop().await?.delivered, 3);
    Ok(())
}

/// Counts the notifications that come within a while from this clause's connections: all clauses share the channel.
async fn heard<DB: Subject>(db: &TestDb<DB>, listener: &mut PgListener, within: Duration) -> anyhow::Result<usize> {
    let (began, mut from) = (Instant::now(), Vec::new());
    while let Ok(heard) = tokio::time::timeout(within.saturating_sub(began.elapsed()), listener.recv()).await {
        from.push(heard?.process_id().to_string());
    }
    let own = "SELECT pid FROM pg_stat_activity WHERE application_name = current_setting('application_name')";
    let own: Vec<_> = db.rows(own).await?.into_iter().flatten().flatten().collect();
    Ok(from.into_iter().filter(|process| own.contains(process)).count())
}

/// Whether one comes at last.
async fn hears<DB: Subject>(db: &TestDb<DB>, listener: &mut PgListener) -> anyhow::Result<bool> {
    let began = Instant::now();
    while began.elapsed() < SOON {
        if heard(db, listener, Duration::from_millis(100)).await? > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn nobody_is_woken_before_a_commit_or_by_a_rollback<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (own, here) = (db.second_pool(3).await?, OutboxWaker::new());
    let _notifier = OutboxNotifier::start(postgres(&own), &here).await?;
    let mut listener = PgListener::connect_with(postgres(&own)).await?;
    listener.listen(NOTIFY_CHANNEL).await?;
    let persister = db.persister().with_waker(here);
    let while_open = Duration::from_millis(400);

    let refused = |unit: &mut UnitOfWork<'_, Counter>| {
        let _ = unit.publish(added(1))?;
        Err::<(), _>(sagastore::Error::Closed { doing: "refusing" })
    };
    ensure!(persister.execute(db.pool(), &Counter, &instance("a"), None, refused).await.is_err());
    assert_eq!(heard(&db, &mut listener, while_open).await?, 0, "a rollback woke others");
    let mut tx = db.begin().await?;
    let mut unit = persister.begin_unit_of_work(&Counter, &mut tx, sagastore::Outbox, &instance("a")).await?;
    unit.publish(added(1))?;
    ensure!(persister.save(&mut tx, unit).await?.is_changed());
    assert_eq!(heard(&db, &mut listener, while_open).await?, 0, "it is not committed yet");
    db.commit(tx).await?;
    publish(&db, &persister, 2).await?;
    ensure!(hears(&db, &mut listener).await?, "a commit woke nobody");
    Ok(())
}

/// It was lost if the notifier's task had not had its turn yet.
async fn what_is_woken_right_after_the_start_is_passed_on<DB: Subject>(db: TestDb<DB>) -> Clause {
    let own = db.second_pool(3).await?;
    let mut listener = PgListener::connect_with(postgres(&own)).await?;
    listener.listen(NOTIFY_CHANNEL).await?;
    for round in 0..20 {
        let here = OutboxWaker::new();
        let _notifier = OutboxNotifier::start(postgres(&own), &here).await?;
        here.wake();
        ensure!(hears(&db, &mut listener).await?, "nobody was woken in round {round}");
    }
    Ok(())
}

async fn many_commits_make_few_notifications<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (own, here) = (db.second_pool(3).await?, OutboxWaker::new());
    let _notifier = OutboxNotifier::start(postgres(&own), &here).await?;
    let mut listener = PgListener::connect_with(postgres(&own)).await?;
    listener.listen(NOTIFY_CHANNEL).await?;
    for _ in 0..100 {
        here.wake();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let notifications = heard(&db, &mut listener, Duration::from_millis(500)).await?;
    ensure!((1..50).contains(&notifications), "{notifications} notifications");
    Ok(())
}

async fn a_listener_whose_connection_was_cut_listens_again<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let sent = Sent::default();
    let (relay, _there) = start(&db, &sent).await?;
    db.cut_connections().await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (pool, here) = (db.second_pool(3).await?, OutboxWaker::new());
    let _here = OutboxNotifier::start(postgres(&pool), &here).await?;
    let persister = db.persister().with_waker(here);
    let unit = |unit: &mut UnitOfWork<'_, Counter>| unit.publish(added(1)).map(drop);
    let _ = persister.execute(&pool, &Counter, &instance("a"), None, unit).await?;
    until("the message", async || Ok(sent.len() > 0)).await.context("after the cut")?;
    assert_eq!(relay.stop().await?.delivered, 1);
    Ok(())
}

async fn a_pool_closes_while_a_notifier_is_alive<DB: Subject>(db: TestDb<DB>) -> Clause {
    let pool = db.second_pool(2).await?;
    let _notifier = OutboxNotifier::start(postgres(&pool), &OutboxWaker::new()).await?;
    let closed = tokio::time::timeout(Duration::from_secs(10), pool.close()).await;
    ensure!(closed.is_ok(), "the notifier keeps its connection");
    Ok(())
}
