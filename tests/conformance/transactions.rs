//! Transactions: nesting, dropping, and what a caller learns when one fails.

use std::future::Future;
use std::time::Duration;

use sagastore::{
    Error, MessageStore, NewOutboxRecord, Offset, Outbox, OutboxRepository, Saved, StreamName, Timestamp, migrate,
};
use sqlx::pool::PoolOptions;
use sqlx::{Connection, Pool};

use super::migrations::tables;
use crate::harness::sample::{Counter, added, event, events, instance, stream};
use crate::harness::{Clause, Kind, Mode, Subject, TestDb, assert_error, clauses, cut_after, scaled, unique_name};

clauses! {
    nested_transactions_lose_their_own_work_and_no_other: BASIC,
    a_conflict_inside_a_savepoint_leaves_every_level_usable,
    a_dropped_transaction_is_undone_before_its_connection_is_used_again,
    a_panic_inside_a_transaction_undoes_it,
    appends_that_are_dropped_at_any_step_leave_all_or_nothing,
    executions_that_are_dropped_at_any_step_leave_all_or_nothing,
    a_unit_of_work_shares_the_fate_of_the_callers_own_rows,
    a_transaction_that_the_database_has_given_up_is_not_told_as_committed: BASIC,
    tables_may_get_columns_and_indexes_while_they_are_in_use: BASIC,
    a_database_with_an_odd_name_is_used_like_any_other: SERVERS,
    the_time_zone_of_a_session_moves_nothing: SERVERS,
}

async fn length<DB: Subject>(db: &TestDb<DB>, name: &StreamName) -> anyhow::Result<usize> {
    Ok(db.events(name).await?.map_or(0, |events| events.len()))
}

async fn nested_transactions_lose_their_own_work_and_no_other<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (store, name) = (db.store(), stream("a"));
    let mut outer = db.begin().await?;
    store.append_messages(&mut outer, &name, Offset::ZERO, &events(1)).await?;
    for _ in 0..2 {
        let mut inner = outer.begin().await?;
        store.append_messages(&mut inner, &name, Offset::of(1), &events(2)).await?;
        let mut innermost = inner.begin().await?;
        store.append_messages(&mut innermost, &name, Offset::of(3), &events(2)).await?;
        innermost.commit().await?;
        inner.rollback().await?;
    }
    let mut inner = outer.begin().await?;
    store.append_messages(&mut inner, &name, Offset::of(1), &events(1)).await?;
    inner.commit().await?;
    drop(outer.begin().await?);
    assert_eq!(store.append_messages(&mut outer, &name, Offset::of(2), &events(1)).await?, Offset::of(3));
    outer.commit().await?;
    assert_eq!(length(&db, &name).await?, 3);
    Ok(())
}

async fn a_conflict_inside_a_savepoint_leaves_every_level_usable<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (persister, id) = (db.persister(), instance("1"));
    let mut outer = db.begin().await?;
    let mut stale = persister.begin_unit_of_work(&Counter, &mut outer, Outbox, &id).await?;
    stale.publish(added(1))?;
    let mut fresh = persister.begin_unit_of_work(&Counter, &mut outer, Outbox, &id).await?;
    fresh.publish(added(10))?;
    assert!(persister.save(&mut outer, fresh).await?.is_changed());

    let mut inner = outer.begin().await?;
    assert_error!(persister.save(&mut inner, stale).await, Error::Conflict { .. });
    let mut again = persister.begin_unit_of_work(&Counter, &mut inner, Outbox, &id).await?;
    again.publish(added(100))?;
    assert!(persister.save(&mut inner, again).await?.is_changed());
    inner.commit().await?;
    let mut last = persister.begin_unit_of_work(&Counter, &mut outer, Outbox, &id).await?;
    last.publish(added(1000))?;
    assert!(persister.save(&mut outer, last).await?.is_changed());
    outer.commit().await?;
    let unit = persister.load_instance(&Counter, &mut *db.conn().await?, &id).await?.unwrap();
    assert_eq!(unit.instance().data, 1110);
    Ok(())
}

/// A pool of one connection, so that the next user is given the connection of the one before.
async fn one_connection<DB: Subject>(db: &TestDb<DB>) -> anyhow::Result<Pool<DB>> {
    if db.mode() == Mode::SqliteMemory { Ok(db.pool().clone()) } else { db.second_pool(1).await }
}

async fn a_dropped_transaction_is_undone_before_its_connection_is_used_again<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (store, name, pool) = (db.store(), stream("a"), one_connection(&db).await?);
    for round in 0..20 {
        let mut tx = db.persister().begin(&pool).await?;
        assert_eq!(store.next_offset(&mut tx, &name).await?, None, "round {round}");
        store.append_messages(&mut tx, &name, Offset::ZERO, &events(2)).await?;
        drop(tx);
    }
    let mut tx = db.persister().begin(&pool).await?;
    store.append_messages(&mut tx, &name, Offset::ZERO, &events(1)).await?;
    tx.commit().await?;
    drop(pool);
    assert_eq!(length(&db, &name).await?, 1);
    Ok(())
}

async fn a_panic_inside_a_transaction_undoes_it<DB: Subject>(db: TestDb<DB>) -> Clause {
    let name = stream("a");
    // The panics are part of the clause; their reports are not for the reader of its output.
    for round in 0..20 {
        let (db, name) = (db.clone(), name.clone());
        let task = tokio::spawn(async move {
            let mut tx = db.begin().await.unwrap();
            db.store().append_messages(&mut tx, &name, Offset::ZERO, &events(1)).await.unwrap();
            std::panic::resume_unwind(Box::new(round));
        });
        assert!(task.await.is_err_and(|end| end.is_panic()));
    }
    assert_eq!(db.events(&name).await?, None);
    assert_eq!(db.append(&name, 0, &events(1)).await?, Offset::of(1));
    Ok(())
}

/// Runs a call again and again, dropped some steps later each time, until it is answered; and all that
/// so many times, and on until as many calls as twice that were dropped. Says how often it was answered.
pub(crate) async fn drop_at_every_step<F>(times: u32, mut call: impl FnMut(u32) -> F) -> anyhow::Result<u32>
where
    F: Future<Output = sagastore::Result<()>>,
{
    const MAX_STEPS: u32 = 2000;
    let (mut answered, mut cuts) = (0, 0);
    // On a busy machine the database may have answered before a call is looked at again: few steps then.
    while answered < times || cuts < 2 * times {
        assert!(answered < 20 * times, "only {cuts} calls could be dropped, {answered} were answered");
        let mut step = 0;
        loop {
            step += fastrand::u32(1..=3);
            match cut_after(step, call(answered)).await {
                None => cuts += 1,
                Some(Ok(())) => {
                    answered += 1;
                    break;
                }
                // What was dropped just before may go on in the database for a while.
                Some(Err(Error::Conflict { .. } | Error::Contention { .. })) => {}
                Some(Err(error)) => return Err(error.into()),
            }
            assert!(step < MAX_STEPS, "the call does not come to an end");
        }
    }
    Ok(answered)
}

async fn appends_that_are_dropped_at_any_step_leave_all_or_nothing<DB: Subject>(db: TestDb<DB>) -> Clause {
    let answered = drop_at_every_step(scaled(10, 100), |time| {
        let (db, name) = (db.clone(), stream(&format!("stream {}", time / 2)));
        async move {
            let mut tx = db.begin().await?;
            let end = db.store().next_offset(&mut tx, &name).await?.unwrap_or_default();
            db.store().append_messages(&mut tx, &name, end, &[event(0), event(1)]).await?;
            tx.commit().await.map_err(|error| db.store().classify("committing an append", error))
        }
    });
    let answered = i64::from(answered.await?) * 2;
    let found = db.count("SELECT COUNT(*) FROM saga_event").await?;
    assert!(found >= answered && found % 2 == 0, "{answered} events were answered, {found} are there");
    Ok(())
}

async fn executions_that_are_dropped_at_any_step_leave_all_or_nothing<DB: Subject>(db: TestDb<DB>) -> Clause {
    // A pool without any settings that would help.
    let pool = match db.mode() {
        Mode::SqliteMemory => db.pool().clone(),
        _ => PoolOptions::<DB>::new().max_connections(2).connect_with(db.home().options.clone()).await?,
    };
    let persister = db.persister();
    let answered = drop_at_every_step(scaled(4, 100), |time| {
        let (pool, persister, id) = (pool.clone(), persister.clone(), instance(&format!("{}", time / 2)));
        async move {
            let done = persister.execute(&pool, &Counter, &id, None, |unit| {
                unit.publish(added(1))?;
                unit.publish(added(1))
            });
            done.await.map(drop)
        }
    });
    let answered = i64::from(answered.await?) * 2;
    if db.mode() != Mode::SqliteMemory {
        let closed = tokio::time::timeout(Duration::from_secs(10), pool.close()).await;
        assert!(closed.is_ok(), "a connection does not come home");
    }
    let found = db.count("SELECT COUNT(*) FROM saga_event").await?;
    assert!(found >= answered && found % 2 == 0, "{answered} events were answered, {found} are there");
    Ok(())
}

async fn a_unit_of_work_shares_the_fate_of_the_callers_own_rows<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.sql("CREATE TABLE of_the_application (amount BIGINT NOT NULL)").await?;
    let (persister, id) = (db.persister(), instance("1"));
    for (amount, commits) in [(1, false), (10, true), (100, false), (1000, true)] {
        let mut tx = db.begin().await?;
        DB::execute(&mut tx, format!("INSERT INTO of_the_application VALUES ({amount})")).await?;
        let mut unit = persister.begin_unit_of_work(&Counter, &mut tx, Outbox, &id).await?;
        unit.publish(added(amount))?;
        assert!(matches!(persister.save(&mut tx, unit).await?, Saved::Changed { .. }));
        if commits {
            tx.commit().await?;
        } else {
            tx.rollback().await?;
        }
    }
    let unit = persister.load_instance(&Counter, &mut *db.conn().await?, &id).await?.unwrap();
    assert_eq!(unit.instance().data, 1010);
    assert_eq!(db.rows("SELECT amount FROM of_the_application ORDER BY amount").await?.len(), 2);
    assert_eq!(db.outbox().await?.len(), 2);
    Ok(())
}

/// Uses every table, reading and writing.
async fn use_everything<DB: Subject>(db: &TestDb<DB>, pool: &Pool<DB>, id: &str) -> anyhow::Result<i64> {
    let (store, persister, id) = (db.store(), db.persister(), instance(id));
    let persister = persister.with_snapshot_frequency(sagastore::SnapshotFrequency::every(1));
    let mut sum = 0;
    for amount in [1, 2] {
        let done = persister.execute(pool, &Counter, &id, None, |unit| {
            unit.publish(added(amount))?;
            Ok::<_, Error>(unit.instance().data)
        });
        let sagastore::Executed::Done { value, .. } = done.await? else { anyhow::bail!("it was not handled before") };
        sum = value;
    }
    let mut tx = persister.begin(pool).await?;
    let end = store.next_offset(&mut tx, &stream("plain")).await?.unwrap_or_default();
    store.append_messages(&mut tx, &stream("plain"), end, &events(1)).await?;
    store.save(&mut tx, &[NewOutboxRecord::new("kind", "id", event(1))]).await?;
    let position = sagastore::GloballyOrderedStore::<DB>::consumer_position(&store, &mut tx, "reader").await?;
    sagastore::GloballyOrderedStore::<DB>::move_consumer(&store, &mut tx, "reader", position, "0:0:1:0".parse()?)
        .await?;
    let records = store.find_batch(&mut tx, None, 1000).await?;
    assert!(records.len() >= 3, "{} records", records.len());
    tx.commit().await?;
    Ok(sum)
}

async fn tables_may_get_columns_and_indexes_while_they_are_in_use<DB: Subject>(db: TestDb<DB>) -> Clause {
    // One pool whose statements are prepared, and one that changes the tables under it.
    let (mut sum, used) = (0, db.pool());
    let tables = tables(&db).await?;
    for (number, table) in (0..).zip([String::new()].into_iter().chain(tables)) {
        if !table.is_empty() {
            db.sql(format!("ALTER TABLE {table} ADD COLUMN of_an_extension INTEGER")).await?;
            db.sql(format!("CREATE INDEX of_an_extension_{number} ON {table} (of_an_extension)")).await?;
        }
        sum += 3;
        assert_eq!(use_everything(&db, used, "1").await?, sum, "after a change of {table:?}");
    }
    assert_eq!(i64::try_from(length(&db, &stream("plain")).await?)?, sum / 3);
    Ok(())
}

async fn a_database_with_an_odd_name_is_used_like_any_other<DB: Subject>(db: TestDb<DB>) -> Clause {
    let name = format!("Select \"é\" '{}", &unique_name()[6..]);
    let odd = TestDb::<DB>::create_named(db.mode(), name).await?;
    let used = async {
        assert_eq!(use_everything(&odd, odd.pool(), "1").await?, 3);
        let _ = migrate(odd.pool()).await?;
        sagastore::check_schema(odd.pool()).await?;
        odd.will_relay();
        odd.check_invariants().await?;
        sagastore::drop_schema(odd.pool()).await?;
        anyhow::Ok(())
    };
    let used = used.await;
    odd.remove().await?;
    used
}

async fn the_time_zone_of_a_session_moves_nothing<DB: Subject>(db: TestDb<DB>) -> Clause {
    const HOUR: i64 = 3_600_000_000;
    let (store, name, before) = (db.store(), stream("a"), Timestamp::now().as_micros());
    let pool = PoolOptions::<DB>::new().max_connections(1).connect_with(db.home().options.clone()).await?;
    let mut conn = pool.acquire().await?;
    let mut end = Offset::ZERO;
    for zone in ["+00:00", "+13:00", "-11:00"] {
        let set = match DB::KIND {
            Kind::Postgres => format!("SET TIME ZONE INTERVAL '{zone}' HOUR TO MINUTE"),
            _ => format!("SET time_zone = '{zone}'"),
        };
        DB::execute(&mut conn, set).await?;
        let mut tx = store.begin(&mut conn).await?;
        end = store.append_messages(&mut tx, &name, end, &events(1)).await?;
        let mut record = NewOutboxRecord::new("kind", zone, event(0));
        record.due_at = Some(Timestamp::from_micros(before + HOUR));
        store.save(&mut tx, &[record.clone()]).await?;
        record.due_at = Some(Timestamp::from_micros(before - HOUR));
        record.envelope = event(1);
        store.save(&mut tx, &[record]).await?;
        tx.commit().await?;
        let due = store.find_batch(&mut conn, None, 100).await?;
        assert!(due.iter().all(|record| record.payload() == b"{\"number\":1}"), "in zone {zone}");
    }
    assert_eq!(store.find_batch(&mut conn, None, 100).await?.len(), 3);
    assert_eq!(store.stats(&mut conn).await?.pending, 6);
    for event in store.read_page(&mut conn, &name, Offset::ZERO, 10).await?.unwrap() {
        let moved = (event.envelope.recorded_at.unwrap().as_micros() - before).abs();
        assert!(moved < HOUR / 2, "event {} moved by {moved} µs", event.offset);
    }
    drop(conn);
    pool.close().await;
    Ok(())
}

/// PostgreSQL rolls back after any error, and answers COMMIT as if all were well. What else was written was lost, and told as done.
async fn a_transaction_that_the_database_has_given_up_is_not_told_as_committed<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.sql("CREATE TABLE of_the_application (number INTEGER NOT NULL PRIMARY KEY)").await?;
    db.sql("INSERT INTO of_the_application VALUES (1)").await?;
    for (number, records) in [(2, false), (3, true)] {
        let insert = |number: i32| format!("INSERT INTO of_the_application VALUES ({number})");
        let (persister, id) = (db.persister(), instance("1"));
        let done = persister.execute_in_transaction(db.pool(), &Counter, &id, None, async |mut attempt| {
            DB::execute(&mut attempt.transaction, insert(number)).await?;
            // The program takes it that the row is there, which is right, and goes on.
            anyhow::ensure!(DB::execute(&mut attempt.transaction, insert(1)).await.is_err());
            if records {
                attempt.unit.publish(added(1))?;
            }
            Ok::<_, anyhow::Error>(attempt.finish(()))
        });
        let done = done.await;
        let there = db.count(format!("SELECT COUNT(*) FROM of_the_application WHERE number = {number}")).await?;
        assert_eq!(done.is_ok(), there == 1, "{done:?}, and {there} rows are there");
        assert_eq!(done.is_ok(), DB::KIND != Kind::Postgres, "{done:?}");
    }
    Ok(())
}
