//! How the tables get into a database, and out of it.

use async_trait::async_trait;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{MySql, MySqlConnection};

use super::{classify, is_missing_table};
use crate::backend::schema::Schema;
use crate::error::Result;

static EMBEDDED: Migrator = sqlx::migrate!("migrations/mysql");

/// How long a process waits for another that is migrating.
const MAX_LOCK_SECONDS: u32 = 600;

#[async_trait]
impl Schema for MySql {
    fn embedded() -> Migrator {
        Migrator::with_migrations(EMBEDDED.iter().cloned().collect())
    }

    /// Keeps other processes out for as long as the session lives (MariaDB takes sqlx's own lock, of
    /// unlimited waiting, for an error), and forgets migrations that were interrupted: they can be repeated.
    async fn apply(conn: &mut MySqlConnection, migrator: &Migrator) -> Result<(), MigrateError> {
        let locked: Option<i64> = sqlx::query_scalar("SELECT GET_LOCK(CONCAT('sagastore/', MD5(DATABASE())), ?)")
            .bind(MAX_LOCK_SECONDS)
            .fetch_one(&mut *conn)
            .await?;
        if locked != Some(1) {
            let detail = format!("another process has been migrating for more than {MAX_LOCK_SECONDS} seconds");
            return Err(MigrateError::Source(detail.into()));
        }
        match sqlx::query("DELETE FROM saga_migrations WHERE NOT success").execute(&mut *conn).await {
            Err(error) if !is_missing_table(&error) => Err(error.into()),
            _ => migrator.run_direct(None, conn, false).await,
        }
    }

    async fn applied_version(conn: &mut MySqlConnection) -> Result<Option<i64>> {
        let there: i64 = sqlx::query_scalar(
            "SELECT COUNT(*)
            FROM information_schema.tables
            WHERE table_schema = DATABASE()
                AND table_name = 'saga_migrations'",
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

    async fn after_migrating(_: &mut MySqlConnection) -> Result<()> {
        Ok(())
    }

    /// What was applied is forgotten first: each statement is a commit of its own, and where one fails, the next migration has to
    /// make again what is gone.
    async fn drop_all(conn: &mut MySqlConnection) -> Result<()> {
        let dropped = sqlx::raw_sql(
            "DROP TABLE IF EXISTS saga_migrations;
            DROP VIEW IF EXISTS saga_event;
            DROP TABLE IF EXISTS saga_parked_message;
            DROP TABLE IF EXISTS saga_correlation_key;
            DROP TABLE IF EXISTS saga_timeout;
            DROP TABLE IF EXISTS saga_inbox;
            DROP TABLE IF EXISTS saga_lease;
            DROP TABLE IF EXISTS saga_outbox_message;
            DROP TABLE IF EXISTS saga_snapshot;
            DROP TABLE IF EXISTS saga_consumer;
            DROP TABLE IF EXISTS saga_position;
            DROP TABLE IF EXISTS saga_global_order;
            DROP TABLE IF EXISTS saga_commit;
            DROP TABLE IF EXISTS saga_stream",
        )
        .execute(conn)
        .await;
        dropped.map(drop).map_err(|error| classify("dropping the schema", error))
    }
}
