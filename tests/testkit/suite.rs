//! The suite for stores passes on the built-in ones.
//!
//! Servers are found by SAGASTORE_TEST_POSTGRES_URL and SAGASTORE_TEST_MYSQL_URL. Without one its test says on standard
//! output that it did not run; if SAGASTORE_TEST_ONLY names the database, it fails.

use std::sync::Arc;

use sagastore::testkit::conformance::{self, Report};
use sagastore::{Backend, migrate};
use sqlx::Pool;

use crate::databases;

/// Fewest clauses of each suite.
const CLAUSES: [usize; 3] = [40, 12, 22];

pub(crate) async fn reports<DB: Backend>(pool: &Pool<DB>) -> [Report; 3] {
    let _ = migrate(pool).await.unwrap();
    let store = Arc::new(DB::Store::default());
    [
        conformance::message_store(pool, store.clone()).await,
        conformance::snapshot_repository(pool, store.clone()).await,
        conformance::outbox_repository(pool, store).await,
    ]
}

async fn pass<DB: Backend>(pool: &Pool<DB>) {
    for (report, clauses) in reports(pool).await.iter().zip(CLAUSES) {
        report.assert_passed();
        assert_eq!(report.not_run(), Vec::<&str>::new(), "{report}");
        assert!(report.clauses().len() >= clauses, "{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_on_sqlite_passes() {
    let (_folder, pool) = databases::sqlite().await;
    pass(&pool).await;
}

#[tokio::test]
async fn the_store_in_memory_passes_and_what_needs_two_connections_is_not_run() {
    let pool = databases::sqlite_in_memory().await;
    let [store, snapshots, outbox] = reports(&pool).await;
    for report in [&store, &snapshots, &outbox] {
        report.assert_passed();
    }
    let with_others = [
        "nobody_else_sees_what_is_not_committed",
        "of_concurrent_appends_one_wins",
        "of_concurrent_first_appends_one_wins",
        "of_concurrent_units_of_work_one_wins",
    ];
    assert_eq!(store.not_run(), with_others);
    assert!(store.to_string().contains("not run  nobody_else_sees_what_is_not_committed: the pool has one connection"));
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn the_store_on_postgresql_passes() {
    let Some(database) = databases::postgres().await else { return };
    pass(&database.pool).await;
    database.remove().await;
}

#[cfg(feature = "mysql")]
#[tokio::test]
async fn the_store_on_mysql_passes() {
    let Some(database) = databases::mysql().await else { return };
    pass(&database.pool).await;
    database.remove().await;
}
