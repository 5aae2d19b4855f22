//! Numbers at the ends of their ranges: offsets, revisions, and sizes of pages and batches.

use futures_util::future::BoxFuture;
use sagastore::{
    CommitNumber, Error, GlobalPosition, GloballyOrderedStore, MessageStore, NewOutboxRecord, Offset, OutboxRepository,
    Revision, Snapshot, SnapshotFault, SnapshotFrequency,
};

use crate::global_order::read_all;
use crate::harness::sample::{Counter, OrderCommand, added, command, event, events, instance, stream};
use crate::harness::{Clause, Subject, TestDb, assert_error, clauses};

clauses! {
    the_end_of_the_range_of_offsets_is_refused_and_never_passed,
    an_instance_at_the_last_revision_takes_no_event,
    pages_of_no_size_and_of_the_largest_are_read,
    a_page_of_no_size_of_the_global_order_is_empty: GLOBAL_ORDER,
    a_snapshot_beyond_the_range_of_its_stream_is_ignored,
}

async fn the_end_of_the_range_of_offsets_is_refused_and_never_passed<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (store, top, missing) = (db.store(), stream("top"), stream("missing"));
    let before_last = Offset::try_from(Offset::MAX.get() - 1)?;
    db.append(&top, 0, &events(1)).await?;
    db.will_damage();
    db.sql(format!("UPDATE saga_commit SET first_offset = {before_last}")).await?;

    let mut tx = db.begin().await?;
    for (name, end) in [(&top, Offset::MAX), (&missing, Offset::ZERO)] {
        for count in [1, 2] {
            let refused = store.append_messages(&mut tx, name, Offset::MAX, &events(count)).await;
            assert_error!(refused, Error::TooLarge { limit, .. } => assert_eq!(limit, Offset::MAX.get()));
        }
        let refused = store.append_messages(&mut tx, name, before_last, &events(2)).await;
        assert_error!(refused, Error::TooLarge { .. });
        let refused = store.append_messages(&mut tx, name, before_last, &events(1)).await;
        assert_error!(refused, Error::Conflict { expected, actual, .. } => {
            assert_eq!((expected, actual), (before_last, end));
        });
    }
    for nothing in [vec![], vec![command(0)]] {
        let refused = store.append_messages(&mut tx, &missing, Offset::MAX, &nothing).await;
        assert_error!(refused, Error::Conflict { .. });
        assert_eq!(store.append_messages(&mut tx, &top, Offset::MAX, &nothing).await?, Offset::MAX);
    }
    db.commit(tx).await?;

    let mut conn = db.conn().await?;
    assert_eq!(store.next_offset(&mut conn, &top).await?, Some(Offset::MAX));
    assert_eq!(store.last_event(&mut conn, &top).await?.map(|event| event.offset), Some(before_last));
    // What lies before it is missing.
    assert_error!(store.read_page(&mut conn, &top, Offset::ZERO, u32::MAX).await, Error::Corrupt { .. });
    for (from, found) in [(before_last, 1), (Offset::MAX, 0)] {
        let page = store.read_page(&mut conn, &top, from, u32::MAX).await?;
        assert_eq!(page.map(|events| events.len()), Some(found), "from {from}");
    }
    assert_eq!(store.read_page(&mut conn, &missing, Offset::MAX, 1).await?, None);
    let mut opened = store.open_stream(&mut conn, &top, Offset::MAX).await?.unwrap();
    assert_eq!(opened.try_next(&store, &mut conn).await?, None);
    Ok(())
}

async fn an_instance_at_the_last_revision_takes_no_event<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.publish(&Counter, "1", [added(1)]).await?;
    db.will_damage();
    db.sql(format!("UPDATE saga_commit SET first_offset = {}", Offset::MAX.get() - 1)).await?;
    assert_error!(db.unit(&Counter, "1").await, Error::Corrupt { .. });
    save_snapshot(&db, CommitNumber::of(1)).await?;
    let mut unit = db.unit(&Counter, "1").await?;
    assert_eq!((unit.instance().data, unit.instance().revision), (7, Revision::MAX));
    assert_error!(unit.publish(added(1)), Error::TooLarge { .. });
    assert_eq!((unit.instance().data, unit.recorded().len()), (7, 0));
    unit.execute(&OrderCommand::TakePayment { amount_cents: 1 })?;
    assert_eq!(db.save(unit).await?.revision(), Revision::MAX);
    assert_eq!(db.state(&Counter, "1").await?, Some((7, Revision::MAX.get())));
    Ok(())
}

/// Puts a snapshot of the only stream at the last revision into the table, behind the library's back.
async fn save_snapshot<DB: Subject>(db: &TestDb<DB>, number: CommitNumber) -> Clause {
    let whole = Snapshot::new("counter", &instance("1"), Revision::MAX, number, 1, "application/json", "7");
    let columns =
        "stream_id, revision, commit_no, persistence_key, data_version, content_type, checksum, taken_at, body";
    let (revision, checksum, body) = (whole.revision, whole.checksum, DB::bytes(b"7"));
    let values = format!("{revision}, {number}, 'counter', 1, 'application/json', {checksum}, 0, {body}");
    let written = db.sql(format!("INSERT INTO saga_snapshot ({columns}) SELECT stream_id, {values} FROM saga_stream"));
    assert_eq!(written.await?, 1);
    Ok(())
}

/// It gave the first commit.
async fn a_page_of_no_size_of_the_global_order_is_empty<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.append(&stream("a"), 0, &events(2)).await?;
    let (first, mut conn) = (read_all(&db, 2).await?[0].position, db.conn().await?);
    for after in [GlobalPosition::START, first] {
        assert_eq!(db.store().read_global(&mut conn, after, 0).await?, []);
    }
    Ok(())
}

async fn a_snapshot_beyond_the_range_of_its_stream_is_ignored<DB: Subject>(db: TestDb<DB>) -> Clause {
    let persister = db.persister().with_snapshot_frequency(SnapshotFrequency::every(3));
    for amount in [1, 2] {
        db.publish_by(&persister, &Counter, "1", [added(amount)]).await?;
    }
    for number in [CommitNumber::ZERO, CommitNumber::of(2), CommitNumber::MAX] {
        db.sql("DELETE FROM saga_snapshot").await?;
        save_snapshot(&db, number).await?;
        let unit = db.load_by(&persister, &Counter, "1").await?;
        assert_eq!((unit.instance().data, unit.instance().revision), (3, Revision::of(2)), "commit {number}");
        assert_eq!(unit.load_report().ignored_snapshot, Some(SnapshotFault::NotInStream), "commit {number}");
    }
    // The next one that is taken puts it away.
    db.publish_by(&persister, &Counter, "1", [added(4)]).await?;
    assert_eq!(db.snapshots().await?, [3]);
    let unit = db.load_by(&persister, &Counter, "1").await?;
    assert_eq!((unit.instance().data, unit.load_report().snapshot), (7, Some(Revision::of(3))));
    Ok(())
}

async fn pages_of_no_size_and_of_the_largest_are_read<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (store, name) = (db.store(), stream("a"));
    db.append(&name, 0, &events(3)).await?;
    db.save_records(&[]).await?;
    db.save_records(&[0, 1, 2].map(|number| NewOutboxRecord::new("a", "b", event(number)))).await?;
    db.publish(&Counter, "1", [added(1), added(2)]).await?;
    let mut conn = db.conn().await?;
    for (limit, events, records) in [(0, 0, 0), (1, 1, 1), (u32::MAX, 3, 5)] {
        let page = store.read_page(&mut conn, &name, Offset::ZERO, limit).await?;
        assert_eq!(page.map(|page| page.len()), Some(events), "limit {limit}");
        assert_eq!(store.find_batch(&mut conn, None, limit).await?.len(), records, "limit {limit}");
    }
    for (size, limit, given) in
        [(0, None, 5), (u32::MAX, None, 5), (0, Some(2), 2), (2, Some(0), 0), (7, Some(u64::MAX), 5)]
    {
        let mut sizes = Vec::new();
        let mut take = |batch: Vec<sagastore::OutboxRecord>| -> BoxFuture<'_, sagastore::Result<()>> {
            sizes.push(batch.len());
            Box::pin(async { Ok(()) })
        };
        assert_eq!(store.find_in_batches(&mut conn, size, limit, &mut take).await?, given, "batches of {size}");
        assert_eq!(u64::try_from(sizes.iter().sum::<usize>())?, given);
        assert!(!sizes.contains(&0));
    }
    drop(conn);
    db.will_relay();
    let ids: Vec<_> = db.outbox().await?.iter().map(|record| record.id).collect();
    for (size, ids, left) in [(0, &ids[..0], 0), (0, &ids[..3], 3), (u32::MAX, &ids[..], 2), (0, &ids[..], 0)] {
        let mut tx = db.begin().await?;
        assert_eq!(store.delete_in_batches(&mut tx, size, ids).await?, left);
        db.commit(tx).await?;
    }
    assert_eq!(db.outbox().await?, []);
    Ok(())
}
