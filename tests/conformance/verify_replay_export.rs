//! New code is held against an export, without the database that it came from.

use anyhow::ensure;
use sagastore::Persister;
use sagastore::transfer::Exporter;
use sagastore::verify_replay::{Baseline, ReplayVerifier};
use sqlx::Sqlite;

use crate::harness::sample::Counter;
use crate::harness::{Clause, Subject, TestDb, clauses};
use crate::verify_replay::{baseline_of, counters, doubling};

clauses! {
    an_export_is_replayed_without_its_database,
}

async fn an_export_is_replayed_without_its_database<DB: Subject>(db: TestDb<DB>) -> Clause {
    counters(&db, 3, 4).await?;
    let (mut export, mut text) = (Exporter::new(db.pool()), String::new());
    while let Some(lines) = export.next_lines().await? {
        text.push_str(&lines);
    }
    let baseline = baseline_of(&db, &Counter).await?;
    let same = ReplayVerifier::new(&Counter, Persister::<Sqlite>::new()).against(Baseline::read(&*baseline)?);
    let verified = same.run_on_export(text.as_bytes(), |_| Ok(())).await?;
    assert_eq!((verified.instances, verified.events, verified.faults), (3, 12, 0));
    let other = doubling(1);
    let other = ReplayVerifier::new(&other, Persister::<Sqlite>::new()).against(Baseline::read(&*baseline)?);
    assert_eq!(other.run_on_export(text.as_bytes(), |_| Ok(())).await?.faults, 3);
    let cut = text.len() / 2;
    ensure!(same.run_on_export(&text.as_bytes()[..cut], |_| Ok(())).await.is_err(), "half an export is none");
    Ok(())
}
