//! SQLite in a file, and rusqlite beside it.

use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, params};
use sagastore::StreamName;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, SqlitePool};

use super::bed::{Bed, HOUR, SQLITE, Setup};

/// With a write-ahead log, which is flushed at every commit only if that was asked for.
pub(crate) struct SqliteBed {
    pool: SqlitePool,
    raw: Connection,
}

impl SqliteBed {
    pub(crate) async fn open(folder: &Path, setup: Setup) -> Self {
        let file = folder.join("bench.db");
        let synchronous = if setup.durable { SqliteSynchronous::Full } else { SqliteSynchronous::Normal };
        let options = SqliteConnectOptions::new()
            .filename(&file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(synchronous);
        let pool = SqlitePoolOptions::new()
            .max_connections(setup.sqlite_connections)
            .test_before_acquire(!setup.untested)
            .connect_with(options)
            .await
            .expect("a database");
        let _ = sagastore::migrate(&pool).await.expect("migrates");
        let raw = Connection::open(file).expect("opens");
        raw.pragma_update(None, "synchronous", if setup.durable { "FULL" } else { "NORMAL" }).expect("is set");
        raw.execute_batch(
            "CREATE TABLE bench_event (
                stream_id    INTEGER NOT NULL,
                event_offset INTEGER NOT NULL,
                payload      BLOB    NOT NULL,
                PRIMARY KEY (stream_id, event_offset)
            ) WITHOUT ROWID;
            CREATE TABLE bench_log (
                event_no       INTEGER PRIMARY KEY,
                stream_id      INTEGER NOT NULL,
                event_offset   INTEGER NOT NULL,
                message_id     BLOB    NOT NULL,
                causation_id   BLOB    NOT NULL,
                correlation_id BLOB    NOT NULL,
                type_name      TEXT    NOT NULL,
                type_version   INTEGER NOT NULL,
                recorded_at    INTEGER NOT NULL,
                payload        BLOB    NOT NULL,
                UNIQUE (stream_id, event_offset)
            );
            CREATE TABLE bench_state (
                stream_id INTEGER PRIMARY KEY,
                body      BLOB NOT NULL
            );
            CREATE TABLE bench_outbox (
                message_no INTEGER PRIMARY KEY,
                payload    BLOB NOT NULL
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

    const NAME: &'static str = SQLITE;

    const ONE_WRITER: bool = true;

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

    async fn log_events(&self, stream: i64) {
        self.raw.execute("DELETE FROM bench_log WHERE stream_id = ?1", [stream]).expect("deletes");
        let copied = self.raw.execute(
            "INSERT INTO bench_log (
                stream_id,
                event_offset,
                message_id,
                causation_id,
                correlation_id,
                type_name,
                type_version,
                recorded_at,
                payload
            )
            SELECT
                stream_id,
                event_offset,
                randomblob(16),
                randomblob(16),
                randomblob(16),
                'OrderEvent',
                1,
                event_offset,
                payload
            FROM bench_event
            WHERE stream_id = ?1
            ORDER BY event_offset",
            [stream],
        );
        copied.expect("copies");
    }

    async fn read_log(&self, stream: i64) -> usize {
        let sql = "SELECT
                event_offset,
                message_id,
                causation_id,
                correlation_id,
                type_name,
                type_version,
                recorded_at,
                payload
            FROM bench_log
            WHERE stream_id = ?1
            ORDER BY event_offset";
        let mut statement = self.raw.prepare_cached(sql).expect("prepares");
        let columns = statement.column_count();
        let (mut rows, mut bytes) = (statement.query([stream]).expect("reads"), 0);
        while let Some(row) = rows.next().expect("a row") {
            for column in 0..columns {
                bytes += match row.get_ref(column).expect("a column") {
                    ValueRef::Blob(value) | ValueRef::Text(value) => value.len(),
                    _ => size_of::<i64>(),
                };
            }
        }
        bytes
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
            self.upsert_state(stream, state).await;
        }
    }

    async fn read_state(&self, stream: i64, take: impl FnMut(&[u8])) {
        self.read("SELECT body FROM bench_state WHERE stream_id = ?1", [stream], take);
    }

    async fn upsert_state(&self, key: i64, state: &[u8]) {
        let sql = "INSERT INTO bench_state (stream_id, body) VALUES (?1, ?2)
            ON CONFLICT (stream_id) DO UPDATE SET body = excluded.body";
        let mut upsert = self.raw.prepare_cached(sql).expect("prepares");
        upsert.execute(params![key, state]).expect("upserts");
    }

    async fn refill_outbox(&self) {
        let sql = "UPDATE saga_commit SET undelivered = recorded_at; PRAGMA wal_checkpoint (TRUNCATE)";
        self.raw.execute_batch(sql).expect("fills");
    }

    async fn refill_raw_outbox(&self, messages: u32, payload: &[u8]) {
        self.begin().await;
        for number in 1..=messages {
            let sql = "INSERT INTO bench_outbox (message_no, payload) VALUES (?1, ?2)";
            self.raw.prepare_cached(sql).expect("prepares").execute(params![number, payload]).expect("fills");
        }
        self.commit().await;
        self.raw.execute_batch("PRAGMA wal_checkpoint (TRUNCATE)").expect("settles");
    }

    async fn read_raw_outbox(&self, limit: u32) -> Vec<i64> {
        let sql = "SELECT message_no, payload FROM bench_outbox ORDER BY message_no LIMIT ?1";
        let mut select = self.raw.prepare_cached(sql).expect("prepares");
        let rows = select.query_map([limit], |row| Ok((row.get(0)?, row.get(1)?))).expect("reads");
        rows.map(|row| owned(row.expect("a row"))).collect()
    }

    async fn delete_raw_outbox(&self, keys: &[i64]) {
        let sql = "DELETE FROM bench_outbox WHERE message_no IN (SELECT value FROM json_each(?1))";
        let keys = serde_json::to_string(keys).expect("encodes");
        self.raw.prepare_cached(sql).expect("prepares").execute([keys]).expect("deletes");
    }

    async fn repeat(&self, stream: i64, commits: i64, events: i64, time: i64) {
        let sql = format!(
            "INSERT INTO saga_commit (
                stream_id,
                commit_no,
                first_offset,
                event_count,
                message_count,
                completed,
                causation_id,
                correlation_id,
                recorded_at,
                checksum,
                contents,
                body
            )
            SELECT
                stream_id,
                commit_no + {time} * {commits},
                first_offset + {time} * {events},
                event_count,
                message_count,
                completed,
                causation_id,
                correlation_id,
                recorded_at + {time} * {HOUR},
                checksum,
                contents,
                body
            FROM saga_commit
            WHERE stream_id = {stream}
                AND commit_no <= {commits}"
        );
        self.raw.execute_batch(&sql).expect("repeats");
        let sql = format!(
            "INSERT INTO bench_event (stream_id, event_offset, payload)
            SELECT stream_id, event_offset + {time} * {events}, payload
            FROM bench_event
            WHERE stream_id = {stream} AND event_offset < {events}"
        );
        self.raw.execute_batch(&sql).expect("repeats");
    }

    async fn cut(&self, commits: i64, events: i64) {
        let sql = format!(
            "DELETE FROM saga_commit WHERE commit_no > {commits};
            UPDATE saga_commit SET undelivered = NULL WHERE undelivered IS NOT NULL;
            DELETE FROM bench_event WHERE event_offset >= {events};
            DELETE FROM bench_outbox;
            PRAGMA wal_checkpoint (TRUNCATE)"
        );
        self.raw.execute_batch(&sql).expect("deletes");
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

/// The key of a message of which the payload was read, too.
fn owned((key, payload): (i64, Vec<u8>)) -> i64 {
    std::hint::black_box(payload);
    key
}
