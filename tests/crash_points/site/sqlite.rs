//! SQLite: a file, which is copied for each process.

use std::fs;
use std::time::Duration;

use anyhow::Context;
use sagastore::Persister;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Pool, Sqlite};
use tracing::span;

use super::super::progress;
use super::super::wire::{Protocol, in_one_line};
use super::{Home, Site, verbs};

const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

fn options(file: &str) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // Flushing is for a loss of power; a kill loses nothing that was written.
        .synchronous(SqliteSynchronous::Off)
        .busy_timeout(BUSY_TIMEOUT)
}

async fn open(file: &str) -> anyhow::Result<Pool<Sqlite>> {
    Ok(SqlitePoolOptions::new().max_connections(1).connect_with(options(file)).await?)
}

/// The name is that of the file.
impl Site for Sqlite {
    const KIND: &'static str = "sqlite";
    const VARIABLE: Option<&'static str> = None;
    const MARKED: &'static str = "saga_commit WHERE undelivered IS NOT NULL";

    fn server() -> anyhow::Result<Option<(Protocol, (String, u16))>> {
        Ok(None)
    }

    async fn create(home: &mut Home<Self>) -> anyhow::Result<()> {
        let template = home.folder.path().join("template.db");
        let pool = open(template.to_str().context("the folder's name is no text")?).await?;
        home.fill(&pool).await?;
        if !home.scenario.begins_without_tables() {
            home.scenario.prepare(&home.desk(pool.clone())?).await?;
        }
        // The last connection leaves nothing but the file.
        pool.close().await;
        home.template = Some(template);
        Ok(())
    }

    async fn start_over(home: &mut Home<Self>) -> anyhow::Result<()> {
        let file = home.folder.path().join("sagas.db");
        for rest in ["sagas.db-wal", "sagas.db-shm"] {
            match fs::remove_file(home.folder.path().join(rest)) {
                Err(fault) if fault.kind() != std::io::ErrorKind::NotFound => return Err(fault.into()),
                _ => {}
            }
        }
        fs::copy(home.template.as_ref().context("no template")?, &file)?;
        file.to_str().context("the folder's name is no text")?.clone_into(&mut home.name);
        Ok(())
    }

    async fn connect(name: &str, _: u16, connections: u32) -> anyhow::Result<Pool<Self>> {
        tracing::subscriber::set_global_default(Statements)?;
        let pool = SqlitePoolOptions::new().max_connections(connections).after_connect(|conn, _| {
            Box::pin(async move {
                let mut handle = conn.lock_handle().await?;
                handle.set_progress_handler(1, || {
                    progress::step();
                    true
                });
                handle.set_commit_hook(|| {
                    progress::committing();
                    true
                });
                progress::begin();
                Ok(())
            })
        });
        Ok(pool.connect_with(options(name)).await?)
    }

    async fn reopen(home: &Home<Self>) -> anyhow::Result<Pool<Self>> {
        open(&home.name).await
    }

    async fn close(pool: Pool<Self>) {
        pool.close().await;
    }

    async fn remove(_: Home<Self>) -> anyhow::Result<()> {
        Ok(())
    }

    fn in_groups(persister: Persister<Self>, pool: &Pool<Self>) -> Persister<Self> {
        persister.with_group_commit(pool)
    }

    async fn damage(pool: &Pool<Self>) -> anyhow::Result<Vec<String>> {
        let mut said = Self::texts(&mut *pool.acquire().await?, "PRAGMA integrity_check".to_owned()).await?;
        said.retain(|line| line != "ok");
        Ok(said)
    }

    async fn schema(pool: &Pool<Self>) -> anyhow::Result<Vec<String>> {
        let all = "SELECT type || ' ' || name || ' ' || COALESCE(sql, '') FROM sqlite_master ORDER BY 1";
        Self::texts(&mut *pool.acquire().await?, all.to_owned()).await
    }

    verbs!("INSERT INTO crash_own (entry) VALUES (?)");
}

/// The whole statement, or what the driver takes for its summary if that is all of it.
#[derive(Default)]
struct StatementText(String);

impl tracing::field::Visit for StatementText {
    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        if matches!(field.name(), "summary" | "db.statement") && !value.is_empty() {
            value.clone_into(&mut self.0);
        }
    }

    fn record_debug(&mut self, _: &tracing::field::Field, _: &dyn std::fmt::Debug) {}
}

/// Is told by the driver of each statement that ended.
struct Statements;

impl tracing::Subscriber for Statements {
    fn enabled(&self, of: &tracing::Metadata<'_>) -> bool {
        of.target() == "sqlx::query"
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = StatementText::default();
        event.record(&mut text);
        progress::statement_ended(&in_one_line(text.0.as_bytes()));
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}
