//! A PostgreSQL server, and tokio-postgres beside it.

use std::error::Error;

use sagastore::StreamName;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgPool, Postgres};
use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{Client, Config, NoTls, Statement};

use super::bed::{Bed, HOUR, POSTGRES, Setup};

/// The database that is made for the run.
const DATABASE: &str = "sagastore_bench";

pub(crate) struct PostgresBed {
    pool: PgPool,
    raw: Client,
    select_events: Statement,
    select_log: Statement,
    select_commits: Statement,
    select_snapshot: Statement,
    select_state: Statement,
    insert_event: Statement,
    upsert_state: Statement,
    select_outbox: Statement,
    delete_outbox: Statement,
    server: String,
}

impl PostgresBed {
    pub(crate) async fn open(url: &str, setup: Setup) -> Self {
        let server = connect(&url.parse().expect("an address")).await;
        for statement in ["DROP DATABASE IF EXISTS sagastore_bench WITH (FORCE)", "CREATE DATABASE sagastore_bench"] {
            server.batch_execute(statement).await.expect("makes a database");
        }
        let options: PgConnectOptions = url.parse().expect("an address");
        let pool = PgPoolOptions::new()
            .max_connections(setup.connections)
            .test_before_acquire(!setup.untested)
            .connect_with(options.database(DATABASE))
            .await;
        let pool = pool.expect("a pool");
        let _ = sagastore::migrate(&pool).await.expect("migrates");
        let mut config: Config = url.parse().expect("an address");
        let raw = connect(config.dbname(DATABASE)).await;
        raw.batch_execute(
            "CREATE TABLE bench_event (
                stream_id    BIGINT NOT NULL,
                event_offset BIGINT NOT NULL,
                payload      BYTEA  NOT NULL,
                PRIMARY KEY (stream_id, event_offset)
            );
            CREATE TABLE bench_log (
                event_no       BIGINT  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                stream_id      BIGINT  NOT NULL,
                event_offset   BIGINT  NOT NULL,
                message_id     UUID    NOT NULL,
                causation_id   UUID    NOT NULL,
                correlation_id UUID    NOT NULL,
                type_name      TEXT    NOT NULL,
                type_version   INTEGER NOT NULL,
                recorded_at    BIGINT  NOT NULL,
                payload        BYTEA   NOT NULL,
                UNIQUE (stream_id, event_offset)
            );
            CREATE TABLE bench_state (
                stream_id BIGINT PRIMARY KEY,
                body      BYTEA NOT NULL
            );
            CREATE TABLE bench_outbox (
                message_no BIGINT PRIMARY KEY,
                payload    BYTEA NOT NULL
            )",
        )
        .await
        .expect("creates tables");
        let prepare = async |sql: &str| raw.prepare(sql).await.expect("prepares");
        Self {
            select_events: prepare(
                "SELECT payload FROM bench_event WHERE stream_id = $1 AND event_offset >= $2 ORDER BY event_offset",
            )
            .await,
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
                WHERE stream_id = $1
                ORDER BY event_offset",
            )
            .await,
            select_commits: prepare(
                "SELECT contents, body FROM saga_commit WHERE stream_id = $1 AND commit_no > $2 ORDER BY commit_no",
            )
            .await,
            select_snapshot: prepare(
                "SELECT body FROM saga_snapshot WHERE stream_id = $1 ORDER BY revision DESC LIMIT 1",
            )
            .await,
            select_state: prepare("SELECT body FROM bench_state WHERE stream_id = $1").await,
            insert_event: prepare("INSERT INTO bench_event (stream_id, event_offset, payload) VALUES ($1, $2, $3)")
                .await,
            upsert_state: prepare(
                "INSERT INTO bench_state (stream_id, body) VALUES ($1, $2)
                ON CONFLICT (stream_id) DO UPDATE SET body = excluded.body",
            )
            .await,
            select_outbox: prepare("SELECT message_no, payload FROM bench_outbox ORDER BY message_no LIMIT $1").await,
            delete_outbox: prepare("DELETE FROM bench_outbox WHERE message_no = ANY ($1)").await,
            server: url.to_owned(),
            pool,
            raw,
        }
    }

    async fn read(&self, statement: &Statement, params: &[&(dyn ToSql + Sync)], mut take: impl FnMut(&[u8])) {
        for row in self.raw.query(statement, params).await.expect("reads") {
            for column in 0..row.len() {
                take(row.get::<_, Bytes<'_>>(column).0);
            }
        }
    }
}

impl Bed for PostgresBed {
    type Driver = Postgres;

    const NAME: &'static str = POSTGRES;

    fn pool(&self) -> &PgPool {
        &self.pool
    }

    async fn settle(&self) {
        self.raw.batch_execute("VACUUM ANALYZE").await.expect("settles");
    }

    async fn stream_id(&self, stream: &StreamName) -> i64 {
        let sql = "SELECT stream_id FROM saga_stream WHERE stream_name = $1";
        self.raw.query_one(sql, &[&stream.as_str()]).await.expect("a stream").get(0)
    }

    async fn insert_events(&self, stream: i64, payloads: &[Vec<u8>]) {
        let sql = "INSERT INTO bench_event (stream_id, event_offset, payload)
            SELECT $1, place - 1, payload
            FROM unnest($2::bytea[]) WITH ORDINALITY AS given (payload, place)";
        self.raw.execute(sql, &[&stream, &payloads]).await.expect("inserts");
    }

    async fn read_events(&self, stream: i64, from: i64, take: impl FnMut(&[u8])) {
        self.read(&self.select_events, &[&stream, &from], take).await;
    }

    async fn log_events(&self, stream: i64) {
        self.raw.execute("DELETE FROM bench_log WHERE stream_id = $1", &[&stream]).await.expect("deletes");
        let sql = "INSERT INTO bench_log (
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
            gen_random_uuid(),
            gen_random_uuid(),
            gen_random_uuid(),
            'OrderEvent',
            1,
            event_offset,
            payload
        FROM bench_event
        WHERE stream_id = $1
        ORDER BY event_offset";
        self.raw.execute(sql, &[&stream]).await.expect("copies");
    }

    async fn read_log(&self, stream: i64) -> usize {
        let mut bytes = 0;
        self.read(&self.select_log, &[&stream], |column| bytes += column.len()).await;
        bytes
    }

    async fn read_commits(&self, stream: i64, after: i64, take: impl FnMut(&[u8])) {
        self.read(&self.select_commits, &[&stream, &after], take).await;
    }

    async fn read_snapshot(&self, stream: i64, take: impl FnMut(&[u8])) {
        self.read(&self.select_snapshot, &[&stream], take).await;
    }

    async fn write(&self, stream: i64, offset: i64, event: &[u8], state: Option<&[u8]>) {
        self.raw.execute(&self.insert_event, &[&stream, &offset, &event]).await.expect("inserts");
        if let Some(state) = state {
            self.upsert_state(stream, state).await;
        }
    }

    async fn read_state(&self, stream: i64, take: impl FnMut(&[u8])) {
        self.read(&self.select_state, &[&stream], take).await;
    }

    async fn upsert_state(&self, key: i64, state: &[u8]) {
        self.raw.execute(&self.upsert_state, &[&key, &state]).await.expect("upserts");
    }

    async fn refill_outbox(&self) {
        let sql = "TRUNCATE saga_outbox;
            INSERT INTO saga_outbox (recorded_at, stream_id, commit_no, message_count)
            SELECT recorded_at, stream_id, commit_no, message_count
            FROM saga_commit
            ORDER BY recorded_at;
            ANALYZE saga_outbox";
        self.raw.batch_execute(sql).await.expect("fills");
    }

    async fn refill_raw_outbox(&self, messages: u32, payload: &[u8]) {
        self.raw.batch_execute("TRUNCATE bench_outbox").await.expect("empties");
        let sql = "INSERT INTO bench_outbox (message_no, payload) SELECT number, $2 FROM generate_series(1, $1::bigint) AS number";
        self.raw.execute(sql, &[&i64::from(messages), &payload]).await.expect("fills");
        self.raw.batch_execute("ANALYZE bench_outbox").await.expect("settles");
    }

    async fn read_raw_outbox(&self, limit: u32) -> Vec<i64> {
        let rows = self.raw.query(&self.select_outbox, &[&i64::from(limit)]).await.expect("reads");
        rows.iter().map(|row| row.get(0)).collect()
    }

    async fn delete_raw_outbox(&self, keys: &[i64]) {
        self.raw.execute(&self.delete_outbox, &[&keys]).await.expect("deletes");
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
                xid,
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
                xid,
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
        self.raw.batch_execute(&sql).await.expect("repeats");
        let sql = format!(
            "INSERT INTO bench_event (stream_id, event_offset, payload)
            SELECT stream_id, event_offset + {time} * {events}, payload
            FROM bench_event
            WHERE stream_id = {stream} AND event_offset < {events}"
        );
        self.raw.batch_execute(&sql).await.expect("repeats");
    }

    async fn cut(&self, commits: i64, events: i64) {
        let sql = format!(
            "DELETE FROM saga_commit WHERE commit_no > {commits};
            DELETE FROM bench_event WHERE event_offset >= {events};
            DELETE FROM saga_outbox;
            DELETE FROM bench_outbox"
        );
        self.raw.batch_execute(&sql).await.expect("deletes");
    }

    async fn begin(&self) {
        self.raw.batch_execute("BEGIN").await.expect("begins");
    }

    async fn commit(&self) {
        self.raw.batch_execute("COMMIT").await.expect("commits");
    }

    async fn close(self) {
        self.pool.close().await;
        drop(self.raw);
        let server = connect(&self.server.parse().expect("an address")).await;
        server.batch_execute("DROP DATABASE sagastore_bench WITH (FORCE)").await.expect("drops the database");
    }
}

async fn connect(config: &Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.expect("connects");
    tokio::spawn(connection);
    client
}

/// The bytes of any column, unchecked.
struct Bytes<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Bytes<'a> {
    fn from_sql(_: &Type, bytes: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(bytes))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}
