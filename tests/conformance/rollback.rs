//! What is undone, and with what.

use anyhow::ensure;
use sagastore::{Error, InstanceId, Outbox, Saga, Saved, SnapshotFrequency};
use sqlx::Transaction;

use crate::harness::sample::{Counter, Order, OrderCommand, added, instance, note};
use crate::harness::{Clause, Kind, Subject, TestDb, assert_error, clauses};

clauses! {
    what_is_rolled_back_never_was: BASIC,
    two_sagas_in_one_transaction_share_its_fate: BASIC,
    an_own_write_that_fails_takes_the_unit_of_work_with_it,
    a_constraint_that_fails_at_commit_takes_the_unit_of_work_with_it: DEFERRED_CONSTRAINTS,
    what_is_dropped_late_does_not_touch_the_next_transaction_of_its_connection,
    a_unit_of_work_whose_save_failed_is_whole_or_absent,
}

/// One event and one command.
async fn save_in<DB: Subject, S: Saga>(
    db: &TestDb<DB>,
    tx: &mut Transaction<'_, DB>,
    saga: &S,
    id: &str,
    event: S::Event,
) -> sagastore::Result<Saved> {
    let mut unit = db.persister().begin_unit_of_work(saga, tx, Outbox, &instance(id)).await?;
    unit.publish(event)?;
    unit.execute(&OrderCommand::TakePayment { amount_cents: 1 })?;
    db.persister().save(tx, unit).await
}

async fn what_is_rolled_back_never_was<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.publish(&Counter, "old", [added(1)]).await?;
    let before = db.footprint().await?;
    for id in ["new", "old"] {
        let found = db.state(&Counter, id).await?;
        let mut tx = db.begin().await?;
        assert!(save_in(&db, &mut tx, &Counter, id, added(10)).await?.is_changed());
        db.roll_back(tx).await?;
        assert_eq!((db.state(&Counter, id).await?, db.footprint().await?), (found, before));
    }
    assert_eq!(db.publish(&Counter, "new", [added(2)]).await?, 1);
    Ok(())
}

async fn two_sagas_in_one_transaction_share_its_fate<DB: Subject>(db: TestDb<DB>) -> Clause {
    for commits in [false, true] {
        let mut tx = db.begin().await?;
        assert!(save_in(&db, &mut tx, &Counter, "1", added(10)).await?.is_changed());
        assert!(save_in(&db, &mut tx, &Order, "2", note("a")).await?.is_changed());
        if commits {
            db.commit(tx).await?;
        } else {
            db.roll_back(tx).await?;
        }
        assert_eq!(db.state(&Counter, "1").await?, commits.then_some((10, 1)));
        assert_eq!(
            db.state(&Order, "2").await?.map(|(order, revision)| (order.note, revision)),
            commits.then(|| ("a".to_owned(), 1))
        );
        let mut owners: Vec<_> = db.outbox().await?.into_iter().map(|record| record.aggregate_type).collect();
        owners.sort();
        assert_eq!(owners, if commits { vec!["counter", "counter", "order", "order"] } else { vec![] });
    }
    Ok(())
}

async fn an_own_write_that_fails_takes_the_unit_of_work_with_it<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.create_own_table().await?;
    db.write_own(&mut *db.conn().await?, 7).await?;
    let before = db.footprint().await?;
    let mut tx = db.begin().await?;
    assert!(save_in(&db, &mut tx, &Counter, "1", added(1)).await?.is_changed());
    assert!(db.write_own(&mut tx, 7).await.is_err());
    drop(tx);
    let (persister, id) = (db.persister(), instance("1"));
    let failed = persister.execute_in_transaction(db.pool(), &Counter, &id, None, async |mut attempt| {
        attempt.unit.publish(added(1))?;
        db.write_own(&mut attempt.transaction, 7).await?;
        anyhow::Ok(attempt.finish(()))
    });
    assert!(failed.await.is_err());
    assert_eq!(db.footprint().await?, before);
    assert_eq!((db.state(&Counter, "1").await?, db.own_writes().await?), (None, 1));
    Ok(())
}

async fn a_constraint_that_fails_at_commit_takes_the_unit_of_work_with_it<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.create_own_table().await?;
    db.sql("CREATE TABLE own_child (n BIGINT NOT NULL REFERENCES own_table (n) DEFERRABLE INITIALLY DEFERRED)").await?;
    let before = db.footprint().await?;
    let orphan = "INSERT INTO own_child (n) VALUES (7)";

    let mut tx = db.begin().await?;
    assert!(save_in(&db, &mut tx, &Counter, "1", added(1)).await?.is_changed());
    DB::execute(&mut tx, orphan.to_owned()).await?;
    assert_error!(db.commit(tx).await, Error::Storage { .. });
    assert_eq!(db.footprint().await?, before);

    let (persister, id, mut tries) = (db.persister(), instance("1"), 0);
    let failed = persister.execute_in_transaction(db.pool(), &Counter, &id, None, |mut attempt| {
        tries += 1;
        async move {
            attempt.unit.publish(added(1))?;
            let done = DB::execute(&mut attempt.transaction, orphan.to_owned()).await;
            assert!(done.is_ok_and(|rows| rows == 1));
            Ok(attempt.finish(()))
        }
    });
    assert_error!(failed.await, Error::Storage { .. });
    assert_eq!((tries, db.footprint().await?), (1, before));
    assert_eq!(db.state(&Counter, "1").await?, None);
    Ok(())
}

async fn what_is_dropped_late_does_not_touch_the_next_transaction_of_its_connection<DB: Subject>(
    db: TestDb<DB>,
) -> Clause {
    let (pool, persister) = (db.small_pool(1).await?, db.persister());
    let mut first_tx = persister.begin(&pool).await?;
    let id = |id: &str| -> InstanceId { instance(id) };
    let mut saved = persister.begin_unit_of_work(&Counter, &mut first_tx, Outbox, &id("saved")).await?;
    let mut never_saved = persister.begin_unit_of_work(&Counter, &mut first_tx, Outbox, &id("never saved")).await?;
    saved.publish(added(1))?;
    never_saved.publish(added(1))?;
    assert!(persister.save(&mut first_tx, saved).await?.is_changed());
    db.commit(first_tx).await?;

    let mut second_tx = persister.begin(&pool).await?;
    let mut second = persister.begin_unit_of_work(&Counter, &mut second_tx, Outbox, &id("second")).await?;
    second.publish(added(2))?;
    drop(never_saved);
    assert!(persister.save(&mut second_tx, second).await?.is_changed());
    db.commit(second_tx).await?;
    assert_eq!(db.state(&Counter, "saved").await?, Some((1, 1)));
    assert_eq!(db.state(&Counter, "second").await?, Some((2, 1)));
    assert_eq!(db.state(&Counter, "never saved").await?, None);
    Ok(())
}

async fn a_unit_of_work_whose_save_failed_is_whole_or_absent<DB: Subject>(db: TestDb<DB>) -> Clause {
    let persister = db.persister().with_snapshot_frequency(SnapshotFrequency::every(1));
    let mut failures = 0;
    let tables: &[&str] = match DB::KIND {
        Kind::Postgres => &["saga_commit", "saga_snapshot", "saga_outbox", "saga_outbox_message"],
        Kind::Sqlite | Kind::Mysql => &["saga_commit", "saga_snapshot", "saga_outbox_message"],
    };
    for (number, table) in tables.iter().enumerate() {
        for completes in [false, true] {
            let id = format!("{number} {completes}");
            db.publish(&Counter, &id, [added(1)]).await?;
            let mut unit = db.unit(&Counter, &id).await?;
            unit.publish(added(10))?;
            if completes {
                unit.complete();
            }
            let before = db.footprint().await?.outbox;
            db.sql(format!("ALTER TABLE {table} RENAME TO not_there")).await?;
            let mut tx = db.begin().await?;
            let saved = persister.save(&mut tx, unit).await;
            // A caller who commits all the same, against advice.
            let committed = tx.commit().await.is_ok();
            db.sql(format!("ALTER TABLE not_there RENAME TO {table}")).await?;
            ensure!(committed || saved.is_err(), "what was saved was not committed");
            failures += u32::from(saved.is_err());
            let sent = db.footprint().await?.outbox - before;
            match db.state(&Counter, &id).await?.unwrap() {
                (1, 1) => assert!(saved.is_err() && sent == 0, "{table} {completes}: {saved:?}, {sent} messages"),
                (11, 2) => assert_eq!((sent, db.unit(&Counter, &id).await?.is_completed()), (1, completes), "{table}"),
                other => panic!("{table} {completes}: {other:?}"),
            }
        }
    }
    assert!(failures >= 3, "only {failures} saves failed");
    Ok(())
}
