//! What loading an instance costs the server.

use sagastore::{Revision, SnapshotFrequency};

use crate::harness::sample::{Counter, CounterEvent, instance};
use crate::harness::{Clause, Subject, TestDb, clauses};

clauses! {
    a_load_from_a_snapshot_reads_no_row_of_what_came_before_it: MYSQL,
}

/// Far more than a load may read.
const COMMITS: u32 = 200;

async fn a_load_from_a_snapshot_reads_no_row_of_what_came_before_it<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (id, due) = (instance("1"), SnapshotFrequency::every(u64::from(COMMITS) - 5));
    let persister = db.persister().with_snapshot_frequency(due);
    for _ in 0..COMMITS {
        let mut tx = db.begin().await?;
        let mut unit = persister.begin_unit_of_work(&Counter, &mut tx, sagastore::Outbox, &id).await?;
        unit.publish(CounterEvent::Added { amount: 1 })?;
        assert!(persister.save(&mut tx, unit).await?.is_changed());
        tx.commit().await?;
    }
    let mut conn = db.conn().await?;
    let read = "SHOW SESSION STATUS LIKE 'Handler_read_next'";
    let before = DB::rows(&mut conn, read.to_owned()).await?;
    let loaded = persister.load_instance(&Counter, &mut conn, &id).await?.unwrap();
    let after = DB::rows(&mut conn, read.to_owned()).await?;
    assert_eq!((loaded.load_report().replayed_commits, loaded.instance().revision), (5, Revision::of(COMMITS)));
    let rows = |status: Vec<_>| -> anyhow::Result<i64> {
        let value = status.first().and_then(|row: &Vec<Option<String>>| row.get(1).cloned().flatten());
        Ok(value.unwrap_or_default().parse()?)
    };
    let next_rows = rows(after)? - rows(before)?;
    assert!((5..20).contains(&next_rows), "{next_rows} rows were stepped to, of {COMMITS}");
    Ok(())
}
