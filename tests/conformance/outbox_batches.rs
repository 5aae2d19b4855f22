//! Reading the outbox in batches.

use std::pin::Pin;
use std::sync::Mutex;

use sagastore::{Error, NewOutboxRecord, Outbox, OutboxId, OutboxRecord, OutboxRepository, Result};

use crate::harness::sample::{Counter, added, event, instance};
use crate::harness::{Clause, Subject, TestDb, assert_error, clauses};

clauses! {
    batches_are_as_large_as_asked_for_up_to_the_limit,
    an_error_of_the_callback_ends_the_batches,
    an_empty_outbox_gives_no_batch,
    what_is_committed_late_does_not_come_behind_the_next_of_its_stream: SERVERS,
}

/// What a callback returns.
type Done<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// Saves records with the numbers from 0 on, in both lanes.
async fn fill<DB: Subject>(db: &TestDb<DB>, count: u32) -> Clause {
    let record = |number: u32| NewOutboxRecord::new("account", number.to_string(), event(number));
    db.save_records(&(0..count / 2).map(record).collect::<Vec<_>>()).await?;
    let amounts = (count / 2..count).map(|number| added(i64::from(number)));
    Ok(db.publish_by(&db.persister(), &Counter, "1", amounts).await?)
}

async fn batches_are_as_large_as_asked_for_up_to_the_limit<DB: Subject>(db: TestDb<DB>) -> Clause {
    fill(&db, 101).await?;
    let whole = db.outbox().await?;
    assert_eq!(whole.len(), 101);
    let cases = [
        (10, None, [vec![10; 10], vec![1]].concat()),
        (10, Some(50), vec![10; 5]),
        (10, Some(55), vec![10, 10, 10, 10, 10, 5]),
        (10, Some(0), vec![]),
        (0, Some(3), vec![1, 1, 1]),
        (101, None, vec![101]),
        (u32::MAX, Some(u64::MAX), vec![101]),
        (1, None, vec![1; 101]),
    ];
    for (batch_size, limit, expected) in cases {
        let batches = Mutex::new(Vec::new());
        let mut conn = db.conn().await?;
        let mut keep = |batch: Vec<OutboxRecord>| -> Done<'_> {
            batches.lock().unwrap().push(batch);
            Box::pin(async { Ok(()) })
        };
        let given = db.store().find_in_batches(&mut conn, batch_size, limit, &mut keep).await?;
        let batches = batches.into_inner()?;
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), expected, "{batch_size}, {limit:?}");
        let records = batches.concat();
        assert_eq!(given, u64::try_from(records.len())?);
        assert!(whole.starts_with(&records), "{batch_size}, {limit:?}");
    }
    for limit in [0, 1, 100, 101, u32::MAX] {
        let batch = db.store().find_batch(&mut *db.conn().await?, None, limit).await?;
        assert_eq!(batch.len(), 101.min(usize::try_from(limit)?));
    }
    Ok(())
}

async fn an_error_of_the_callback_ends_the_batches<DB: Subject>(db: TestDb<DB>) -> Clause {
    fill(&db, 20).await?;
    let (seen, mut conn) = (Mutex::new(0), db.conn().await?);
    let mut refuse_third = |batch: Vec<OutboxRecord>| -> Done<'_> {
        let mut seen = seen.lock().unwrap();
        *seen += batch.len();
        let refused = *seen > 8;
        Box::pin(async move { if refused { Err(Error::Closed { doing: "the third batch" }) } else { Ok(()) } })
    };
    let given = db.store().find_in_batches(&mut conn, 4, None, &mut refuse_third).await;
    assert_error!(given, Error::Closed { doing: "the third batch" });
    assert_eq!(*seen.lock().unwrap(), 12);
    drop(conn);
    assert_eq!(db.outbox().await?.len(), 20, "all wait as before");
    Ok(())
}

async fn an_empty_outbox_gives_no_batch<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut conn = db.conn().await?;
    let mut never = |_: Vec<OutboxRecord>| -> Done<'_> { panic!("there is no batch") };
    assert_eq!(db.store().find_in_batches(&mut conn, 10, None, &mut never).await?, 0);
    assert_eq!(db.store().find_batch(&mut conn, None, 10).await?, []);
    let stats = db.store().stats(&mut conn).await?;
    assert_eq!((stats.pending, stats.oldest, stats.oldest_age), (0, None, None));
    Ok(())
}

/// The next one came, and what was committed late only with the next call.
async fn what_is_committed_late_does_not_come_behind_the_next_of_its_stream<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (persister, mut late) = (db.persister(), db.begin().await?);
    let mut unit = persister.begin_unit_of_work(&Counter, &mut late, Outbox, &instance("slow")).await?;
    unit.publish(added(1))?;
    assert!(persister.save(&mut late, unit).await?.is_changed());
    for other in ["a", "b", "c"] {
        db.publish(&Counter, other, [added(1)]).await?;
    }
    let (given, late, mut conn) = (Mutex::new(Vec::new()), Mutex::new(Some(late)), db.conn().await?);
    let mut take = |batch: Vec<OutboxRecord>| -> Done<'_> {
        given.lock().unwrap().extend(batch);
        let (late, db) = (late.lock().unwrap().take(), &db);
        Box::pin(async move {
            let Some(late) = late else { return Ok(()) };
            db.commit(late).await?;
            db.publish(&Counter, "slow", [added(2)]).await.map(drop)
        })
    };
    let ids = |records: Vec<OutboxRecord>| -> Vec<OutboxId> {
        records.into_iter().filter(|record| record.aggregate_id == "slow").map(|record| record.id).collect()
    };
    for expected in [0, 2] {
        db.store().find_in_batches(&mut conn, 1, None, &mut take).await?;
        let of_slow = ids(std::mem::take(&mut *given.lock().unwrap()));
        assert_eq!(of_slow, ids(db.outbox().await?)[..expected]);
    }
    Ok(())
}
