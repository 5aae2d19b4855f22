//! SQLite in a file, and rusqlite beside it.

use std::path::Path;

use rusqlite::{Connection, params};
use sagastore::StreamName;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, SqlitePool};

use super::bed::Bed;

/// With a write-ahead log that is not flushed at every commit: the disk's mood is not measured.
pub(crate) struct SqliteBed {
    pool: SqlitePool,
    raw: Connection,
}

impl SqliteBed {
    pub(crate) async fn open(folder: &Path) -> Self {
        let file = folder.join("bench.db");
        let options = SqliteConnectOptions::new()
            .filename(&file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal);
        let pool = SqlitePoolOptions::new().max_connections(2).connect_with(options).await.expect("a database");
        let _ = sagastore::migrate(&pool).await.expect("migrates");
        let raw = Connection::open(file).expect("opens");
        raw.execute_batch(
            "PRAGMA synchronous = NORMAL;
            CREATE TABLE bench_event (
                stream_id    INTEGER NOT NULL,
                event_offset INTEGER NOT NULL,
                payload      BLOB    NOT NULL,
                PRIMARY KEY (stream_id, event_offset)
            ) WITHOUT ROWID;
            CREATE TABLE bench_state (
                stream_id INTEGER PRIMARY KEY,
                body      BLOB NOT NULL
            );",
        )
        .expect("creates tables");
        Self { pool, raw }
    }

    fn read(&self, sql: &str, params: impl rusqlite::Params, mut take: impl FnMut(&[u8])) {
        let mut statement = self.raw.prepare_cached(sql).expect("prepares");
        let columns = statement.column_count();
        let mut rows = statement.query(params).expect("reads");
        while let Some(row) = rows.next().expect("a row") {
            for column in 0..columns {
                take(row.get_ref(column).and_then(|value| Ok(value.as_bytes()?)).expect("bytes"));
            }
        }
    }
}

impl Bed for SqliteBed {
    type Driver = Sqlite;

    const NAME: &'static str = "SQLite";

    fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    async fn settle(&self) {
        self.raw.execute_batch("PRAGMA wal_checkpoint (TRUNCATE); ANALYZE").expect("settles");
    }

    async fn stream_id(&self, stream: &StreamName) -> i64 {
        let sql = "SELECT stream_id FROM saga_stream WHERE stream_name = ?1";
        self.raw.query_row(sql, [stream.as_str()], |row| row.get(0)).expect("a stream")
    }

    async fn insert_events(&self, stream: i64, payloads: &[Vec<u8>]) {
        self.begin().await;
        for (offset, payload) in (0..).zip(payloads) {
            self.write(stream, offset, payload, None).await;
        }
        self.commit().await;
    }

    async fn read_events(&self, stream: i64, from: i64, take: impl FnMut(&[u8])) {
        let sql = "SELECT payload FROM bench_event WHERE stream_id = ?1 AND event_offset >= ?2 ORDER BY event_offset";
        self.read(sql, [stream, from], take);
    }

    async fn read_commits(&self, stream: i64, after: i64, take: impl FnMut(&[u8])) {
        let sql = "SELECT contents, body FROM saga_commit WHERE stream_id = ?1 AND commit_no > ?2 ORDER BY commit_no";
        self.read(sql, [stream, after], take);
    }

    async fn read_snapshot(&self, stream: i64, take: impl FnMut(&[u8])) {
        let sql = "SELECT body FROM saga_snapshot WHERE stream_id = ?1 ORDER BY revision DESC LIMIT 1";
        self.read(sql, [stream], take);
    }

    async fn write(&self, stream: i64, offset: i64, event: &[u8], state: Option<&[u8]>) {
        let sql = "INSERT INTO bench_event (stream_id, event_offset, payload) VALUES (?1, ?2, ?3)";
        let mut insert = self.raw.prepare_cached(sql).expect("prepares");
        insert.execute(params![stream, offset, event]).expect("inserts");
        if let Some(state) = state {
            let sql = "INSERT INTO bench_state (stream_id, body) VALUES (?1, ?2)
                ON CONFLICT (stream_id) DO UPDATE SET body = excluded.body";
            let mut upsert = self.raw.prepare_cached(sql).expect("prepares");
            upsert.execute(params![stream, state]).expect("upserts");
        }
    }

    async fn read_state(&self, stream: i64, take: impl FnMut(&[u8])) {
        self.read("SELECT body FROM bench_state WHERE stream_id = ?1", [stream], take);
    }

    async fn begin(&self) {
        self.raw.prepare_cached("BEGIN IMMEDIATE").and_then(|mut begin| begin.execute([])).expect("begins");
    }

    async fn commit(&self) {
        self.raw.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([])).expect("commits");
    }

    async fn close(self) {
        self.pool.close().await;
    }
}
