//! A MySQL or MariaDB server, and the mysql crate beside it.

use std::cell::RefCell;

use mysql::prelude::Queryable;
use mysql::{Conn, Opts, OptsBuilder, Params, Statement, Value};
use sagastore::StreamName;
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::{MySql, MySqlPool};

use super::bed::{Bed, HOUR, MARIADB, Setup};

/// The database that is made for the run.
const DATABASE: &str = "sagastore_bench";
/// Rows of one statement that fills the plain driver's table.
const ROWS_AT_ONCE: usize = 500;

pub(crate) struct MySqlBed {
    pool: MySqlPool,
    raw: RefCell<Conn>,
    select_events: Statement,
    select_log: Statement,
    select_commits: Statement,
    select_snapshot: Statement,
    select_state: Statement,
    insert_event: Statement,
    upsert_state: Statement,
    select_outbox: Statement,
}

impl MySqlBed {
    pub(crate) async fn open(url: &str, setup: Setup) -> Self {
        // How sqlx is to connect is not the other driver's to know.
        let plain_url = url.split('?').next().unwrap_or(url);
        let mut raw = Conn::new(Opts::from_url(plain_url).expect("an address")).expect("connects");
        raw.query_drop("DROP DATABASE IF EXISTS sagastore_bench").expect("makes a database");
        raw.query_drop("CREATE DATABASE sagastore_bench").expect("makes a database");
        let options: MySqlConnectOptions = url.parse().expect("an address");
        let pool = MySqlPoolOptions::new()
            .max_connections(setup.connections)
            .test_before_acquire(!setup.untested)
            .connect_with(options.database(DATABASE))
            .await;
        let pool = pool.expect("a pool");
        let _ = sagastore::migrate(&pool).await.expect("migrates");
        let named = OptsBuilder::from_opts(Opts::from_url(plain_url).expect("an address")).db_name(Some(DATABASE));
        let mut raw = Conn::new(named).expect("connects");
        raw.query_drop(
            "CREATE TABLE bench_event (
                stream_id    BIGINT   NOT NULL,
                event_offset BIGINT   NOT NULL,
                payload      LONGBLOB NOT NULL,
                PRIMARY KEY (stream_id, event_offset)
            )",
        )
        .expect("creates tables");
        raw.query_drop(
            "CREATE TABLE bench_log (
                event_no       BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
                stream_id      BIGINT       NOT NULL,
                event_offset   BIGINT       NOT NULL,
                message_id     BINARY(16)   NOT NULL,
                causation_id   BINARY(16)   NOT NULL,
                correlation_id BINARY(16)   NOT NULL,
                type_name      VARCHAR(255) NOT NULL,
                type_version   INT          NOT NULL,
                recorded_at    BIGINT       NOT NULL,
                payload        LONGBLOB     NOT NULL,
                UNIQUE KEY (stream_id, event_offset)
            )",
        )
        .expect("creates tables");
        raw.query_drop("CREATE TABLE bench_state (stream_id BIGINT PRIMARY KEY, body LONGBLOB NOT NULL)")
            .expect("creates tables");
        raw.query_drop("CREATE TABLE bench_outbox (message_no BIGINT PRIMARY KEY, payload LONGBLOB NOT NULL)")
            .expect("creates tables");
        let mut prepare = |sql: &str| raw.prep(sql).expect("prepares");
        Self {
            select_events: prepare(
                "SELECT payload FROM bench_event WHERE stream_id = ? AND event_offset >= ? ORDER BY event_offset",
            ),
            select_log: prepare(
                "SELECT
                    event_offset,
                    message_id,
                    causation_id,
                    correlation_id,
                    type_name,
                    type_version,
                    recorded_at,
                    payload
                FROM bench_log
                WHERE stream_id = ?
                ORDER BY event_offset",
            ),
            select_commits: prepare(
                "SELECT contents, body FROM saga_commit WHERE stream_id = ? AND commit_no > ? ORDER BY commit_no",
            ),
            select_snapshot: prepare(
                "SELECT body FROM saga_snapshot WHERE stream_id = ? ORDER BY revision DESC LIMIT 1",
            ),
            select_state: prepare("SELECT body FROM bench_state WHERE stream_id = ?"),
            insert_event: prepare("INSERT INTO bench_event (stream_id, event_offset, payload) VALUES (?, ?, ?)"),
            upsert_state: prepare(
                "INSERT INTO bench_state (stream_id, body) VALUES (?, ?) ON DUPLICATE KEY UPDATE body = VALUES(body)",
            ),
            select_outbox: prepare("SELECT message_no, payload FROM bench_outbox ORDER BY message_no LIMIT ?"),
            pool,
            raw: RefCell::new(raw),
        }
    }

    fn read(&self, statement: &Statement, params: impl Into<Params>, mut take: impl FnMut(&[u8])) {
        let mut raw = self.raw.borrow_mut();
        for row in raw.exec_iter(statement, params).expect("reads") {
            for column in row.expect("a row").unwrap() {
                let Value::Bytes(bytes) = column else { panic!("a column that is not bytes") };
                take(&bytes);
            }
        }
    }

    fn run(&self, sql: &str) {
        self.raw.borrow_mut().query_drop(sql).expect("runs");
    }
}

impl Bed for MySqlBed {
    type Driver = MySql;

    const NAME: &'static str = MARIADB;

    fn pool(&self) -> &MySqlPool {
        &self.pool
    }

    async fn settle(&self) {
        self.run("ANALYZE TABLE saga_stream, saga_commit, saga_snapshot, bench_event, bench_log, bench_state");
    }

    async fn stream_id(&self, stream: &StreamName) -> i64 {
        let sql = "SELECT stream_id FROM saga_stream WHERE stream_name = ?";
        let found = self.raw.borrow_mut().exec_first(sql, (stream.as_str().as_bytes(),));
        found.expect("reads").expect("a stream")
    }

    async fn insert_events(&self, stream: i64, payloads: &[Vec<u8>]) {
        let offsets: Vec<i64> = (0..).take(payloads.len()).collect();
        let rows: Vec<(i64, i64, &Vec<u8>)> =
            offsets.into_iter().zip(payloads).map(|(offset, payload)| (stream, offset, payload)).collect();
        for rows in rows.chunks(ROWS_AT_ONCE) {
            self.begin().await;
            self.raw.borrow_mut().exec_batch(&self.insert_event, rows.iter().copied()).expect("inserts");
            self.commit().await;
        }
    }

    async fn read_events(&self, stream: i64, from: i64, take: impl FnMut(&[u8])) {
        self.read(&self.select_events, (stream, from), take);
    }

    async fn log_events(&self, stream: i64) {
        self.run(&format!("DELETE FROM bench_log WHERE stream_id = {stream}"));
        let sql = format!(
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
                UNHEX(MD5(RAND())),
                UNHEX(MD5(RAND())),
                UNHEX(MD5(RAND())),
                'OrderEvent',
                1,
                event_offset,
                payload
            FROM bench_event
            WHERE stream_id = {stream}
            ORDER BY event_offset"
        );
        self.run(&sql);
    }

    async fn read_log(&self, stream: i64) -> usize {
        let (mut raw, mut bytes) = (self.raw.borrow_mut(), 0);
        for row in raw.exec_iter(&self.select_log, (stream,)).expect("reads") {
            for column in row.expect("a row").unwrap() {
                bytes += if let Value::Bytes(value) = column { value.len() } else { size_of::<i64>() };
            }
        }
        bytes
    }

    async fn read_commits(&self, stream: i64, after: i64, take: impl FnMut(&[u8])) {
        self.read(&self.select_commits, (stream, after), take);
    }

    async fn read_snapshot(&self, stream: i64, take: impl FnMut(&[u8])) {
        self.read(&self.select_snapshot, (stream,), take);
    }

    async fn write(&self, stream: i64, offset: i64, event: &[u8], state: Option<&[u8]>) {
        self.raw.borrow_mut().exec_drop(&self.insert_event, (stream, offset, event)).expect("inserts");
        if let Some(state) = state {
            self.upsert_state(stream, state).await;
        }
    }

    async fn read_state(&self, stream: i64, take: impl FnMut(&[u8])) {
        self.read(&self.select_state, (stream,), take);
    }

    async fn upsert_state(&self, key: i64, state: &[u8]) {
        self.raw.borrow_mut().exec_drop(&self.upsert_state, (key, state)).expect("upserts");
    }

    async fn refill_outbox(&self) {
        self.run("UPDATE saga_commit SET undelivered = recorded_at");
        self.run("ANALYZE TABLE saga_commit, saga_stream");
    }

    async fn refill_raw_outbox(&self, messages: u32, payload: &[u8]) {
        self.begin().await;
        let rows = (1..=messages).map(|number| (number, payload));
        let sql = "INSERT INTO bench_outbox (message_no, payload) VALUES (?, ?)";
        self.raw.borrow_mut().exec_batch(sql, rows).expect("fills");
        self.commit().await;
        self.run("ANALYZE TABLE bench_outbox");
    }

    async fn read_raw_outbox(&self, limit: u32) -> Vec<i64> {
        let rows = self.raw.borrow_mut().exec::<(i64, Vec<u8>), _, _>(&self.select_outbox, (limit,));
        rows.expect("reads").into_iter().map(|(key, _)| key).collect()
    }

    async fn delete_raw_outbox(&self, keys: &[i64]) {
        let keys: Vec<_> = keys.iter().map(i64::to_string).collect();
        self.run(&format!("DELETE FROM bench_outbox WHERE message_no IN ({})", keys.join(",")));
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
        self.run(&sql);
        let sql = format!(
            "INSERT INTO bench_event (stream_id, event_offset, payload)
            SELECT stream_id, event_offset + {time} * {events}, payload
            FROM bench_event
            WHERE stream_id = {stream} AND event_offset < {events}"
        );
        self.run(&sql);
    }

    async fn cut(&self, commits: i64, events: i64) {
        self.run(&format!("DELETE FROM saga_commit WHERE commit_no > {commits}"));
        self.run("UPDATE saga_commit SET undelivered = NULL WHERE undelivered IS NOT NULL");
        self.run(&format!("DELETE FROM bench_event WHERE event_offset >= {events}"));
        self.run("DELETE FROM bench_outbox");
    }

    async fn begin(&self) {
        self.run("START TRANSACTION");
    }

    async fn commit(&self) {
        self.run("COMMIT");
    }

    async fn close(self) {
        self.pool.close().await;
        self.run("DROP DATABASE sagastore_bench");
    }
}
