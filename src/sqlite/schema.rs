//! How the tables get into a database, and out of it.

use async_trait::async_trait;
use sqlx::migrate::Migrator;
use sqlx::{Connection, Sqlite, SqliteConnection};

use super::classify;
use crate::backend::schema::Schema;
use crate::error::Result;

static EMBEDDED: Migrator = sqlx::migrate!("migrations/sqlite");

/// How many tables the migrations make.
const TABLES: i64 = 10;

#[async_trait]
impl Schema for Sqlite {
    const LOCKS_SESSION: bool = false;

    fn embedded() -> Migrator {
        Migrator::with_migrations(EMBEDDED.iter().cloned().collect())
    }

    async fn applied_version(conn: &mut SqliteConnection) -> Result<Option<i64>> {
        let there: i64 = sqlx::query_scalar(
            "SELECT COUNT(*)
            FROM sqlite_master
            WHERE type = 'table'
                AND name = 'saga_migrations'",
        )
        .fetch_one(&mut *conn)
        .await
        .map_err(|error| classify("looking for the schema", error))?;
        if there == 0 {
            return Ok(None);
        }
        sqlx::query_scalar("SELECT MAX(version) FROM saga_migrations WHERE success")
            .fetch_one(conn)
            .await
            .map_err(|error| classify("looking for the version of the schema", error))
    }

    async fn after_migrating(_: &mut SqliteConnection) -> Result<()> {
        Ok(())
    }

    async fn drop_all(conn: &mut SqliteConnection) -> Result<()> {
        let doing = "dropping the schema";
        let mut tx = conn.begin_with("BEGIN IMMEDIATE").await.map_err(|error| classify(doing, error))?;
        let dropped = sqlx::raw_sql(
            "DROP VIEW IF EXISTS saga_event;
            DROP TABLE IF EXISTS saga_parked_message;
            DROP TABLE IF EXISTS saga_correlation_key;
            DROP TABLE IF EXISTS saga_timeout;
            DROP TABLE IF EXISTS saga_inbox;
            DROP TABLE IF EXISTS saga_lease;
            DROP TABLE IF EXISTS saga_outbox_message;
            DROP TABLE IF EXISTS saga_snapshot;
            DROP TABLE IF EXISTS saga_consumer;
            DROP TABLE IF EXISTS saga_commit;
            DROP TABLE IF EXISTS saga_stream;
            DROP TABLE IF EXISTS saga_migrations",
        );
        dropped.execute(&mut *tx).await.map_err(|error| classify(doing, error))?;
        tx.commit().await.map_err(|error| classify(doing, error))
    }
}

/// True if all tables are there, or if that cannot be found out.
pub(super) async fn is_complete(conn: &mut SqliteConnection) -> bool {
    let tables = sqlx::query_scalar::<_, i64>(
        "SELECT COUNT(*)
        FROM sqlite_master
        WHERE type = 'table'
            AND name IN (
                'saga_stream',
                'saga_commit',
                'saga_consumer',
                'saga_snapshot',
                'saga_outbox_message',
                'saga_lease',
                'saga_inbox',
                'saga_correlation_key',
                'saga_parked_message',
                'saga_timeout'
            )",
    )
    .fetch_one(conn)
    .await;
    tables.map_or(true, |tables| tables >= TABLES)
}
