//! Timeouts of units of work whose neighbours are committed together.

use sagastore::{Error, Executed};
use sqlx::Sqlite;
use tokio::task::JoinSet;

use crate::harness::sample::{Counter, added, instance};
use crate::harness::{Clause, HOUR, TestDb, sqlite_clauses};

sqlite_clauses! {
    each_unit_of_work_has_its_own_timeouts: SQLITE,
}

async fn each_unit_of_work_has_its_own_timeouts(db: TestDb<Sqlite>) -> Clause {
    const CALLERS: i64 = 40;
    let persister = db.persister().with_group_commit(db.pool());
    for round in 0..2 {
        let mut calls = JoinSet::new();
        for caller in 0..CALLERS {
            let (db, persister) = (db.clone(), persister.clone());
            calls.spawn(async move {
                let id = instance(&caller.to_string());
                let decide = |unit: &mut sagastore::UnitOfWork<'_, Counter>| {
                    unit.publish(added(caller))?;
                    if caller % 2 == 0 {
                        unit.schedule(&format!("{caller} {round}"), &added(caller), HOUR)?;
                    }
                    Ok::<_, Error>(())
                };
                persister.execute(db.pool(), &Counter, &id, None, decide).await
            });
        }
        while let Some(done) = calls.join_next().await {
            assert!(matches!(done??, Executed::Done { conflicts: 0, .. }));
        }
    }
    for caller in 0..CALLERS {
        let names: Vec<_> = (0..2).filter(|_| caller % 2 == 0).map(|round| format!("{caller} {round}")).collect();
        assert_eq!(db.timeout_names(&caller.to_string()).await?, names);
    }
    Ok(())
}
