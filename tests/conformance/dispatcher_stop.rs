//! The end of a dispatcher.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sagastore::dispatcher::{Dispatcher, DispatcherSettings, MAX_STOP_GRACE};
use sagastore::emitter::ChannelEmitter;

use crate::harness::sample::{Counter, added};
use crate::harness::{Clause, Proxy, Relay, Sent, Subject, TestDb, clauses, quick, scaled, until};

clauses! {
    what_is_under_way_is_finished_and_nothing_else_begun,
    what_takes_longer_than_the_grace_is_delivered_again,
    what_takes_longer_than_a_lease_is_finished_within_the_grace,
    a_database_that_does_not_answer_holds_up_no_stop: SEVERAL_CONNECTIONS,
    a_server_that_stops_answering_holds_up_no_stop_for_longer_than_the_grace: SERVERS,
    connections_that_are_cut_are_replaced: SERVERS,
    starting_and_stopping_leaves_nothing_behind,
    a_run_that_is_dropped_leaves_its_share_to_expire,
    a_grace_without_end_is_bounded,
}

async fn what_is_under_way_is_finished_and_nothing_else_begun<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    db.publish(&Counter, "a", [added(1), added(2)]).await?;
    let (emitter, mut sent) = ChannelEmitter::new(10);
    let relay = Relay::start(db.dispatcher(emitter));
    let under_way = sent.recv().await.context("nothing was sent")?;
    let stopping = tokio::spawn(relay.stop());
    tokio::time::sleep(Duration::from_millis(300)).await;
    ensure!(!stopping.is_finished(), "it does not wait for what is under way");
    under_way.delivered();
    assert_eq!(stopping.await??.delivered, 1);
    ensure!(sent.recv().await.is_none(), "something was begun after the stop");
    assert_eq!(db.leases().await?, 0);

    let rest = Sent::default();
    let only_one = quick().with_dispatchers(1)?;
    assert_eq!(db.dispatcher(rest.emitter()).with_settings(only_one).dispatch_once().await?.delivered, 1);
    assert_eq!(rest.of("a"), [2]);
    Ok(())
}

async fn what_takes_longer_than_the_grace_is_delivered_again<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    db.publish(&Counter, "a", [added(1), added(2)]).await?;
    let (emitter, mut sent) = ChannelEmitter::new(10);
    let settings = quick().with_stop_grace(Duration::from_millis(200));
    let relay = Relay::start(db.dispatcher(emitter).with_settings(settings));
    let under_way = sent.recv().await.context("nothing was sent")?;
    let began = Instant::now();
    assert_eq!(relay.stop().await?.delivered, 0);
    ensure!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
    under_way.delivered();

    let again = Sent::default();
    assert_eq!(db.dispatcher(again.emitter()).dispatch_once().await?.delivered, 2);
    assert_eq!(again.of("a"), [1, 2]);
    Ok(())
}

async fn what_takes_longer_than_a_lease_is_finished_within_the_grace<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    db.publish(&Counter, "a", [added(1)]).await?;
    let (emitter, mut sent) = ChannelEmitter::new(10);
    let settings = quick().with_lease(Duration::from_secs(6))?.with_emit_timeout(Duration::from_secs(15))?;
    let settings = settings.with_stop_grace(Duration::from_secs(20));
    let relay = Relay::start(db.dispatcher(emitter).with_settings(settings.clone()));
    let under_way = sent.recv().await.context("nothing was sent")?;
    let stopping = tokio::spawn(relay.stop());
    let other = Sent::default();
    let heir = Relay::start(db.dispatcher(other.emitter()).with_settings(settings));
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(other.len(), 0, "what was under way was delivered twice");
    under_way.delivered();
    assert_eq!(stopping.await??.delivered, 1);
    assert_eq!(heir.stop().await?.delivered, 0);
    Ok(())
}

async fn a_database_that_does_not_answer_holds_up_no_stop<DB: Subject>(db: TestDb<DB>) -> Clause {
    let pool = db.second_pool(1).await?;
    let _only_one = pool.acquire().await?;
    let settings = quick().with_stop_grace(Duration::from_secs(2));
    let relay = Relay::start(Dispatcher::new(pool.clone(), Sent::default().emitter()).with_settings(settings));
    tokio::time::sleep(Duration::from_millis(200)).await;
    let began = Instant::now();
    relay.stop().await?;
    ensure!(began.elapsed() < Duration::from_millis(2900), "it took {:?}", began.elapsed());
    Ok(())
}

/// It waited for half the grace to acknowledge, and then for all of it to hand back.
async fn a_server_that_stops_answering_holds_up_no_stop_for_longer_than_the_grace<DB: Subject>(
    db: TestDb<DB>,
) -> Clause {
    db.will_relay();
    for (grace, most) in [(3_500, 6_200), (200, 2_900)] {
        db.publish(&Counter, "a", [added(1)]).await?;
        let proxy = Proxy::start(DB::port(db.home())).await?;
        let (emitter, mut sent) = ChannelEmitter::new(10);
        let settings = quick().with_stop_grace(Duration::from_millis(grace));
        let dispatcher = Dispatcher::new(db.pool_through(&proxy, 4).await?, emitter).with_settings(settings);
        let relay = Relay::start(dispatcher);
        let under_way = sent.recv().await.context("nothing was sent")?;
        proxy.freeze();
        let began = Instant::now();
        let stopping = tokio::spawn(relay.stop());
        under_way.delivered();
        assert_eq!(stopping.await??.delivered, 0);
        ensure!(began.elapsed() < Duration::from_millis(most), "grace {grace} ms: it took {:?}", began.elapsed());
        proxy.cut();
        db.expire_leases("1 = 1").await?;
        db.dispatcher(Sent::default().emitter()).dispatch_once().await?;
    }
    Ok(())
}

async fn connections_that_are_cut_are_replaced<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let sent = Sent::default();
    let relay = Relay::start(db.dispatcher(sent.emitter()));
    until("the leases", async || Ok(db.leases().await? == 65)).await?;
    db.cut_connections().await?;
    let pool = db.second_pool(1).await?;
    let persister = db.persister();
    let unit = |unit: &mut sagastore::UnitOfWork<'_, Counter>| unit.publish(added(1)).map(drop);
    let _ = persister.execute(&pool, &Counter, &crate::harness::sample::instance("a"), None, unit).await?;
    until("the message", async || Ok(sent.len() > 0)).await?;
    assert_eq!(relay.stop().await?.delivered, 1);
    Ok(())
}

async fn starting_and_stopping_leaves_nothing_behind<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let cycles = scaled(20, 100);
    for cycle in 0..cycles {
        db.publish(&Counter, "a", [added(cycle)]).await?;
        let relay = Relay::start(db.dispatcher(Sent::default().emitter()));
        // Also in the middle of taking its share.
        tokio::time::sleep(Duration::from_millis(u64::try_from(cycle)? * 3 % 40)).await;
        relay.stop().await?;
        assert_eq!(db.leases().await?, 0, "cycle {cycle}");
    }
    until("the end of all tasks", async || Ok(tasks() <= before)).await?;
    let sent = Sent::default();
    db.dispatcher(sent.emitter()).dispatch_once().await?;
    ensure!(db.outbox().await?.is_empty());
    db.check_invariants().await
}

async fn a_run_that_is_dropped_leaves_its_share_to_expire<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    db.publish(&Counter, "a", [added(1), added(2)]).await?;
    let (emitter, mut sent) = ChannelEmitter::new(10);
    let dispatcher = db.dispatcher(emitter);
    let under_way = {
        let mut run = std::pin::pin!(dispatcher.run(std::future::pending()));
        tokio::select! {
            _ = &mut run => anyhow::bail!("it ended"),
            under_way = sent.recv() => under_way.context("nothing was sent")?,
        }
    };
    under_way.delivered();
    db.check_invariants().await?;
    let heir = Sent::default();
    let settings = DispatcherSettings::default().with_dispatchers(1)?;
    let successor = db.dispatcher(heir.emitter()).with_settings(settings);
    assert_eq!(successor.dispatch_once().await?.delivered, 0, "its slot is taken");
    ensure!(db.expire_leases("1 = 1").await? > 0);
    assert_eq!(successor.dispatch_once().await?.delivered, 2);
    assert_eq!(heir.of("a"), [1, 2]);
    Ok(())
}

async fn a_grace_without_end_is_bounded<DB: Subject>(db: TestDb<DB>) -> Clause {
    for grace in [Duration::ZERO, MAX_STOP_GRACE, Duration::MAX] {
        let settings = quick().with_stop_grace(grace);
        let relay = Relay::start(db.dispatcher(Sent::default().emitter()).with_settings(settings));
        tokio::time::sleep(Duration::from_millis(20)).await;
        relay.stop().await?;
        db.expire_leases("1 = 1").await?;
    }
    Ok(())
}
