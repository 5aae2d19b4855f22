//! Named readers of the global order, whose place is stored with what they did.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use sagastore::{Error, GlobalPosition, GloballyOrderedStore, MAX_CONSUMER_NAME_BYTES, MessageId};
use tokio::task::JoinSet;

use crate::global_order::read_all;
use crate::harness::sample::{events, stream};
use crate::harness::{Clause, Subject, TestDb, assert_error, clauses, scaled};

clauses! {
    a_consumer_moves_with_what_it_did: GLOBAL_ORDER,
    of_two_consumers_with_one_name_one_moves: GLOBAL_ORDER_SEVERAL_CONNECTIONS,
    a_consumer_that_is_cut_off_at_any_moment_does_everything_once: GLOBAL_ORDER_SEVERAL_CONNECTIONS,
    each_consumer_has_a_place_of_its_own_and_one_that_fails_holds_up_no_other: GLOBAL_ORDER,
    a_consumer_that_is_moved_back_to_the_start_begins_anew: GLOBAL_ORDER,
    names_of_consumers_are_checked_and_told_apart,
}

async fn a_consumer_moves_with_what_it_did<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (store, name) = (db.store(), "projection");
    db.append(&stream("a"), 0, &events(2)).await?;
    let found = read_all(&db, 2).await?;
    let (first, second) = (found[0].position, found[1].position);
    assert_eq!(store.consumer_position(&mut *db.conn().await?, name).await?, GlobalPosition::START);

    let mut tx = db.begin().await?;
    assert!(store.move_consumer(&mut tx, name, GlobalPosition::START, first).await?);
    assert_eq!(store.consumer_position(&mut tx, name).await?, first);
    tx.rollback().await?;
    assert_eq!(store.consumer_position(&mut *db.conn().await?, name).await?, GlobalPosition::START);

    let mut tx = db.begin().await?;
    assert!(store.move_consumer(&mut tx, name, GlobalPosition::START, first).await?);
    tx.commit().await?;
    let mut tx = db.begin().await?;
    // From where it does not stand any more, or not yet.
    assert!(!store.move_consumer(&mut tx, name, GlobalPosition::START, second).await?);
    assert!(!store.move_consumer(&mut tx, name, second, second).await?);
    assert!(!store.move_consumer(&mut tx, "other", first, second).await?);
    assert!(store.move_consumer(&mut tx, name, first, second).await?);
    tx.commit().await?;
    assert_eq!(store.consumer_position(&mut *db.conn().await?, name).await?, second);
    Ok(())
}

/// It could never be moved again.
async fn a_consumer_that_is_moved_back_to_the_start_begins_anew<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (store, name, start) = (db.store(), "projection", GlobalPosition::START);
    db.append(&stream("a"), 0, &events(2)).await?;
    let found = read_all(&db, 2).await?;
    let (first, second) = (found[0].position, found[1].position);
    for (from, to) in [(start, first), (first, start), (start, start), (start, second), (second, first)] {
        let mut tx = db.begin().await?;
        assert_eq!(store.consumer_position(&mut tx, name).await?, from);
        assert!(store.move_consumer(&mut tx, name, from, to).await?, "from {from} to {to}");
        db.commit(tx).await?;
    }
    let mut tx = db.begin().await?;
    assert!(!store.move_consumer(&mut tx, name, start, second).await?);
    Ok(())
}

async fn of_two_consumers_with_one_name_one_moves<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.sql("CREATE TABLE effect (task INTEGER NOT NULL)").await?;
    db.append(&stream("a"), 0, &events(3)).await?;
    let found = read_all(&db, 3).await?;
    let mut from = GlobalPosition::START;
    for (round, event) in (1..).zip(&found) {
        let (to, mut tasks, mut moved) = (event.position, JoinSet::new(), 0);
        for task in 0..6 {
            let db = db.clone();
            tasks.spawn(async move {
                let mut tx = db.begin().await?;
                DB::execute(&mut tx, format!("INSERT INTO effect VALUES ({task})")).await?;
                let moved = db.store().move_consumer(&mut tx, "shared", from, to).await?;
                if moved {
                    tx.commit().await?
                } else {
                    tx.rollback().await?
                }
                anyhow::Ok(moved)
            });
        }
        while let Some(done) = tasks.join_next().await {
            moved += i64::from(done??);
        }
        assert_eq!(moved, 1);
        assert_eq!(db.count("SELECT COUNT(*) FROM effect").await?, round);
        from = to;
    }
    Ok(())
}

/// Does one row per event, each in the transaction that moves the consumer.
async fn project<DB: Subject>(db: TestDb<DB>) -> anyhow::Result<()> {
    let store = db.store();
    loop {
        let from = store.consumer_position(&mut *db.conn().await?, "projection").await?;
        let page = store.read_global(&mut *db.conn().await?, from, 3).await?;
        let mut from = from;
        for event in page {
            let mut tx = db.begin().await?;
            let row = format!("INSERT INTO projected VALUES ('{}', {})", event.event.stream, event.event.offset);
            DB::execute(&mut tx, row).await?;
            if !store.move_consumer(&mut tx, "projection", from, event.position).await? {
                tx.rollback().await?;
                break;
            }
            tx.commit().await?;
            from = event.position;
        }
    }
}

async fn a_consumer_that_is_cut_off_at_any_moment_does_everything_once<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.sql("CREATE TABLE projected (stream_name VARCHAR(100), event_offset BIGINT)").await?;
    let (streams, per_stream) = (scaled(4, 20), 15);
    for number in 0..streams {
        for offset in 0..per_stream {
            db.append(&stream(&format!("stream {number}")), offset, &events(1)).await?;
        }
    }
    let total = i64::from(streams * per_stream);
    // Stops it after ever longer times, in the middle of whatever it does then.
    for cut in 1..=20 {
        let consumer = tokio::spawn(project(db.clone()));
        tokio::time::sleep(Duration::from_micros(cut * 400)).await;
        consumer.abort();
        assert!(consumer.await.is_err_and(|end| end.is_cancelled()));
    }
    let consumer = tokio::spawn(project(db.clone()));
    while db.count("SELECT COUNT(*) FROM projected").await? < total {
        assert!(!consumer.is_finished(), "the consumer failed: {:?}", consumer.await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    consumer.abort();
    let _ = consumer.await;
    assert_eq!(db.count("SELECT COUNT(*) FROM projected").await?, total, "no row twice");
    let different = "SELECT COUNT(*) FROM (SELECT DISTINCT stream_name, event_offset FROM projected) AS d";
    assert_eq!(db.count(different).await?, total, "none missing");
    Ok(())
}

/// Reads on as this consumer, so many events at once, and does one row for each in the transaction that moves it; until it
/// has done so many, or comes to one that it cannot do.
async fn read_on<DB: Subject>(
    db: TestDb<DB>,
    name: &'static str,
    page: u32,
    total: i64,
    cannot: Option<MessageId>,
) -> anyhow::Result<()> {
    let (store, begun) = (db.store(), Instant::now());
    while db.count(done_by(name)).await? < total {
        ensure!(begun.elapsed() < Duration::from_secs(60), "{name} does not get to the end");
        let mut from = store.consumer_position(&mut *db.conn().await?, name).await?;
        let found = store.read_global(&mut *db.conn().await?, from, page).await?;
        if found.is_empty() {
            // Other transactions of the same server may hold events back for a while.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for event in found {
            let (id, mut tx) = (event.event.envelope.message_id, db.begin().await?);
            DB::execute(&mut tx, format!("INSERT INTO done (consumer, message) VALUES ('{name}', '{id}')")).await?;
            ensure!(
                store.move_consumer(&mut tx, name, from, event.position).await?,
                "{name} does not stand where it did"
            );
            if cannot == Some(id) {
                tx.rollback().await?;
                bail!("{name} cannot do {id}");
            }
            tx.commit().await?;
            from = event.position;
        }
    }
    Ok(())
}

fn done_by(name: &str) -> String {
    format!("SELECT COUNT(*) FROM done WHERE consumer = '{name}'")
}

async fn each_consumer_has_a_place_of_its_own_and_one_that_fails_holds_up_no_other<DB: Subject>(
    db: TestDb<DB>,
) -> Clause {
    const STREAMS: u32 = 3;
    const EVENTS: u32 = 8;
    db.sql("CREATE TABLE done (consumer VARCHAR(20), message VARCHAR(40))").await?;
    let total = i64::from(STREAMS * EVENTS);
    for offset in 0..EVENTS / 2 {
        for number in 0..STREAMS {
            db.append(&stream(&number.to_string()), offset, &events(1)).await?;
        }
    }
    let half = read_all(&db, usize::try_from(total / 2)?).await?;
    let (before, poison) = (half[4].position, half[5].event.envelope.message_id);

    let consumers = [("mail", 1, None), ("stock", 3, Some(poison)), ("audit", 100, None)];
    let reading = consumers.map(|(name, page, cannot)| tokio::spawn(read_on(db.clone(), name, page, total, cannot)));
    // More comes while they read.
    for offset in EVENTS / 2..EVENTS {
        for number in 0..STREAMS {
            db.append(&stream(&number.to_string()), offset, &events(1)).await?;
        }
    }
    for (reading, (name, _, cannot)) in reading.into_iter().zip(consumers) {
        let ended = reading.await?;
        assert_eq!(ended.is_err(), cannot.is_some(), "{name}: {ended:?}");
    }
    let all = read_all(&db, usize::try_from(total)?).await?;
    let (store, last) = (db.store(), all[all.len() - 1].position);
    for (name, place, done) in [("mail", last, total), ("stock", before, 5), ("audit", last, total)] {
        assert_eq!(store.consumer_position(&mut *db.conn().await?, name).await?, place, "{name}");
        assert_eq!(db.count(done_by(name)).await?, done, "{name}");
    }

    read_on(db.clone(), "stock", 3, total, None).await?;
    let each = "SELECT COUNT(*) FROM (SELECT DISTINCT consumer, message FROM done) AS d";
    for counted in ["SELECT COUNT(*) FROM done", each] {
        assert_eq!(db.count(counted).await?, 3 * total, "each event once by each consumer");
    }
    for (name, ..) in consumers {
        assert_eq!(store.consumer_position(&mut *db.conn().await?, name).await?, last, "{name}");
    }
    Ok(())
}

async fn names_of_consumers_are_checked_and_told_apart<DB: Subject>(db: TestDb<DB>) -> Clause {
    let store = db.store();
    let position = |number: u32| format!("0:0:{number}:0").parse::<GlobalPosition>();
    let longest = "x".repeat(MAX_CONSUMER_NAME_BYTES);
    let names = ["a", "A", "a ", " a", "ä", "a\u{308}", "'; DROP TABLE saga_consumer; --", "\\", "שלום", &longest];
    for (number, name) in (1..).zip(names) {
        let mut tx = db.begin().await?;
        assert_eq!(store.consumer_position(&mut tx, name).await?, GlobalPosition::START, "{name:?}");
        assert!(store.move_consumer(&mut tx, name, GlobalPosition::START, position(number)?).await?, "{name:?}");
        tx.commit().await?;
    }
    for (number, name) in (1..).zip(names) {
        assert_eq!(store.consumer_position(&mut *db.conn().await?, name).await?, position(number)?, "{name:?}");
    }
    for name in ["", "a\0b", &"x".repeat(MAX_CONSUMER_NAME_BYTES + 1), &"x".repeat(10_000)] {
        let mut tx = db.begin().await?;
        assert_error!(store.consumer_position(&mut tx, name).await, Error::InvalidInput { .. });
        let moved = store.move_consumer(&mut tx, name, GlobalPosition::START, position(1)?).await;
        assert_error!(moved, Error::InvalidInput { .. });
    }
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_consumer").await?, 10);
    Ok(())
}
