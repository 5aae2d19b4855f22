//! How the tables get into a database, and out of it.

use async_trait::async_trait;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{Connection, PgConnection, Postgres};

use super::{classify, epoch};
use crate::backend::schema::Schema;
use crate::error::Result;

static EMBEDDED: Migrator = sqlx::migrate!("migrations/postgres");

#[async_trait]
impl Schema for Postgres {
    fn embedded() -> Migrator {
        Migrator::with_migrations(EMBEDDED.iter().cloned().collect())
    }

    /// In one transaction, with a lock that ends with it: behind a pooler of transactions, one of the session would be left to
    /// strangers. At READ COMMITTED, so that who waited sees what the other has applied.
    async fn apply(conn: &mut PgConnection, migrator: &Migrator) -> Result<(), MigrateError> {
        let mut tx = conn.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
        sqlx::query(
            "SELECT pg_advisory_xact_lock(hashtextextended(concat('sagastore/migrations/', current_schema()), 0))",
        )
        .execute(&mut *tx)
        .await?;
        migrator.run_direct(None, &mut *tx, false).await?;
        Ok(tx.commit().await?)
    }

    async fn applied_version(conn: &mut PgConnection) -> Result<Option<i64>> {
        let there: bool = sqlx::query_scalar("SELECT to_regclass('saga_migrations') IS NOT NULL")
            .fetch_one(&mut *conn)
            .await
            .map_err(|error| classify("looking for the schema", error))?;
        if !there {
            return Ok(None);
        }
        sqlx::query_scalar("SELECT MAX(version) FROM saga_migrations WHERE success")
            .fetch_one(conn)
            .await
            .map_err(|error| classify("looking for the version of the schema", error))
    }

    async fn after_migrating(conn: &mut PgConnection) -> Result<()> {
        epoch::rebase_if_restored(conn).await
    }

    /// The search path may lead to several installations: none but the first is touched, also if tables of it are missing.
    async fn drop_all(conn: &mut PgConnection) -> Result<()> {
        let doing = "dropping the schema";
        let mut tx = conn.begin().await.map_err(|error| classify(doing, error))?;
        let narrowed = sqlx::query(
            "SELECT set_config('search_path', quote_ident(n.nspname), TRUE)
            FROM pg_class AS c
            JOIN pg_namespace AS n
                ON n.oid = c.relnamespace
            WHERE c.oid = to_regclass('saga_migrations')",
        );
        narrowed.execute(&mut *tx).await.map_err(|error| classify(doing, error))?;
        let dropped = sqlx::raw_sql(
            "DROP VIEW IF EXISTS saga_event;
            DROP FUNCTION IF EXISTS saga_commit_events(text, bytea);
            DROP TABLE IF EXISTS saga_parked_message;
            DROP TABLE IF EXISTS saga_correlation_key;
            DROP TABLE IF EXISTS saga_timeout;
            DROP TABLE IF EXISTS saga_inbox;
            DROP TABLE IF EXISTS saga_lease;
            DROP TABLE IF EXISTS saga_outbox_message;
            DROP TABLE IF EXISTS saga_outbox;
            DROP TABLE IF EXISTS saga_snapshot;
            DROP TABLE IF EXISTS saga_consumer;
            DROP TABLE IF EXISTS saga_global_epoch;
            DROP TABLE IF EXISTS saga_commit;
            DROP TABLE IF EXISTS saga_stream;
            DROP TABLE IF EXISTS saga_migrations",
        );
        dropped.execute(&mut *tx).await.map_err(|error| classify(doing, error))?;
        tx.commit().await.map_err(|error| classify(doing, error))
    }
}
