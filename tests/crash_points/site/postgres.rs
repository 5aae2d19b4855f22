//! PostgreSQL: a database, whose tables are emptied for each process.

use anyhow::Context;
use sagastore::postgres::session::{SessionLockKey, SessionLocker, SessionLockerConfig};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection, Pool, Postgres};

use super::super::desk::Desk;
use super::super::wire::Protocol;
use super::{Home, Site, server, verbs};

fn options() -> anyhow::Result<PgConnectOptions> {
    // What goes through the proxy is to be readable.
    let options = server::url::<Postgres>()?.parse::<PgConnectOptions>()?.ssl_mode(PgSslMode::Disable);
    // Flushing is for the server's own end; the end of a client loses nothing that the server took.
    Ok(options.options([("synchronous_commit", "off")]))
}

async fn administer(sql: String) -> anyhow::Result<()> {
    let mut conn = options()?.connect().await?;
    Postgres::run(&mut conn, sql).await?;
    Ok(conn.close().await?)
}

async fn locker(desk: &Desk<Postgres>) -> anyhow::Result<SessionLocker> {
    let options = desk.pool.connect_options();
    let locker = SessionLocker::new(SessionLockerConfig::new((*options).clone()));
    locker.start().await?;
    Ok(locker)
}

impl Site for Postgres {
    const KIND: &'static str = "postgres";
    const VARIABLE: Option<&'static str> = Some("SAGASTORE_TEST_POSTGRES_URL");
    const SESSION_LOCKS: bool = true;
    const MARKED: &'static str = "saga_outbox";

    fn server() -> anyhow::Result<Option<(Protocol, (String, u16))>> {
        let options = options()?;
        Ok(Some((Protocol::Postgres, (options.get_host().to_owned(), options.get_port()))))
    }

    async fn create(home: &mut Home<Self>) -> anyhow::Result<()> {
        administer(format!("CREATE DATABASE {}", home.name)).await?;
        let pool = PgPoolOptions::new().max_connections(1).test_before_acquire(false);
        home.pool = Some(pool.connect_with(options()?.database(&home.name)).await?);
        Ok(())
    }

    async fn start_over(home: &mut Home<Self>) -> anyhow::Result<()> {
        let clear =
            if home.scenario.begins_without_tables() { "DROP SCHEMA public CASCADE; CREATE SCHEMA public" } else { "" };
        let tables = "SELECT tablename::text
            FROM pg_tables
            WHERE schemaname = 'public'
                AND tablename NOT IN ('saga_migrations', 'saga_global_epoch')";
        server::start_over(home, clear, tables).await
    }

    async fn connect(name: &str, port: u16, connections: u32) -> anyhow::Result<Pool<Self>> {
        let options = options()?.database(name).host("127.0.0.1").port(port);
        let pool = PgPoolOptions::new().max_connections(connections).test_before_acquire(false);
        Ok(pool.connect_with(options).await?)
    }

    async fn write_under_session_lock(desk: &Desk<Self>, entry: &str) -> anyhow::Result<()> {
        let locker = locker(desk).await?;
        let mut lock = locker.lock(&SessionLockKey::new(["crash"])?).await?;
        if !desk.own().await?.contains(&entry.to_owned()) {
            let mut tx = desk.pool.begin().await?;
            lock.fence(&mut tx).await?;
            Self::write_own(&mut tx, entry).await?;
            tx.commit().await?;
        }
        lock.release().await?;
        locker.close().await;
        Ok(())
    }

    async fn session_lock_is_free(desk: &Desk<Self>) -> anyhow::Result<bool> {
        let locker = locker(desk).await?;
        let lock = locker.try_lock(&SessionLockKey::new(["crash"])?).await?;
        let is_free = lock.is_some();
        locker.close().await;
        Ok(is_free)
    }

    async fn reopen(home: &Home<Self>) -> anyhow::Result<Pool<Self>> {
        let others = "SELECT pid::text
            FROM pg_stat_activity
            WHERE datname = current_database()
                AND backend_type = 'client backend'
                AND pid <> pg_backend_pid()";
        server::left_alone(home, others).await
    }

    async fn remove(home: Home<Self>) -> anyhow::Result<()> {
        home.pool.context("no connection")?.close().await;
        administer(format!("DROP DATABASE {} WITH (FORCE)", home.name)).await
    }

    async fn schema(pool: &Pool<Self>) -> anyhow::Result<Vec<String>> {
        let all = "SELECT concat_ws(' ', table_name, column_name, data_type, is_nullable, column_default,
                    is_identity, collation_name)
            FROM information_schema.columns
            WHERE table_schema = 'public'
            UNION ALL
            SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
            UNION ALL
            SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
            ORDER BY 1";
        Self::texts(&mut *pool.acquire().await?, all.to_owned()).await
    }

    verbs!("INSERT INTO crash_own (entry) VALUES ($1)");
}
