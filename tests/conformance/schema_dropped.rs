//! Removing the schema.

use sagastore::{Error, Migrated, check_schema, drop_schema, migrate};
use sqlx::Pool;
use sqlx::pool::PoolOptions;

use crate::harness::{Clause, Subject, TestDb, assert_error, clauses};
use crate::migrations::{schema, use_it};

clauses! {
    dropping_removes_what_migrating_made_and_nothing_else: BASIC,
    dropping_leaves_a_second_installation_on_the_search_path_alone: POSTGRES,
    a_dropping_that_failed_half_way_is_made_good_by_the_next_migration: MYSQL,
}

async fn dropping_removes_what_migrating_made_and_nothing_else<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_damage();
    drop_schema(db.pool()).await?;
    assert_eq!(schema(&db).await?.len(), 0);
    db.sql(
        "CREATE TABLE saga_of_the_application (note VARCHAR(20));
        INSERT INTO saga_of_the_application VALUES ('kept');
        CREATE TABLE _sqlx_migrations (version BIGINT)",
    )
    .await?;
    let alone = schema(&db).await?;
    for _ in 0..2 {
        let _ = migrate(db.pool()).await?;
        assert_eq!(use_it(&db, db.pool()).await?, 3);
        drop_schema(db.pool()).await?;
        assert_eq!(schema(&db).await?, alone);
    }
    drop_schema(db.pool()).await?;
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_of_the_application WHERE note = 'kept'").await?, 1);
    Ok(())
}

/// A pool on whose connections this was run.
async fn pool_after<DB: Subject>(db: &TestDb<DB>, sql: String) -> anyhow::Result<Pool<DB>> {
    let options = PoolOptions::new().max_connections(1).after_connect(move |conn, _| {
        let sql = sql.clone();
        Box::pin(
            async move { DB::run_prepared(conn, sql).await.map_err(|error| sqlx::Error::Configuration(error.into())) },
        )
    });
    Ok(options.connect_with((*db.pool().connect_options()).clone()).await?)
}

/// Tables that the one lacked were dropped of the other.
async fn dropping_leaves_a_second_installation_on_the_search_path_alone<DB: Subject>(db: TestDb<DB>) -> Clause {
    let other = format!("other_{}", uuid::Uuid::now_v7().simple());
    db.sql(format!("CREATE SCHEMA {other}")).await?;
    let alone = pool_after(&db, format!("SELECT set_config('search_path', '{other}', FALSE)")).await?;
    assert!(matches!(migrate(&alone).await?, Migrated::Applied { from: 0, .. }));
    alone.close().await;
    db.sql(format!("DROP TABLE {other}.saga_inbox")).await?;
    let before = schema(&db).await?;
    let path = format!("SELECT set_config('search_path', '{other},' || current_setting('search_path'), FALSE)");
    let both = pool_after(&db, path).await?;
    drop_schema(&both).await?;
    both.close().await;
    assert_eq!(schema(&db).await?, before);
    assert_eq!(db.count(&format!("SELECT COUNT(*) FROM pg_tables WHERE schemaname = '{other}'")).await?, 0);
    db.sql(format!("DROP SCHEMA {other}")).await?;
    Ok(())
}

/// The tables that were gone counted as there, and no migration made them again.
async fn a_dropping_that_failed_half_way_is_made_good_by_the_next_migration<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_damage();
    db.sql("CREATE TABLE own (stream_id BIGINT, FOREIGN KEY (stream_id) REFERENCES saga_stream (stream_id))").await?;
    assert_error!(drop_schema(db.pool()).await, Error::Storage { .. });
    assert_error!(check_schema(db.pool()).await, Error::SchemaMissing { .. });
    db.sql("DROP TABLE own").await?;
    assert!(matches!(migrate(db.pool()).await?, Migrated::Applied { from: 0, .. }));
    check_schema(db.pool()).await?;
    assert_eq!(use_it(&db, db.pool()).await?, 3);
    drop_schema(db.pool()).await?;
    assert_eq!(schema(&db).await?.len(), 0);
    Ok(())
}
