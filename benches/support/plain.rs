//! What a program without the library does through sqlx, on the pool that the library has.

use std::future::Future;

use sagastore::Backend;
use sqlx::Pool;

use super::order::{OrderEvent, OrderState};

/// Statements through sqlx, on the tables of a program without the library.
pub(crate) trait Plain: Backend {
    /// Inserts one event as one row, which commits by itself.
    fn insert_row(pool: &Pool<Self>, row: i64, payload: &[u8]) -> impl Future<Output = ()> + Send;

    /// A whole unit of work by the statements that come to mind: BEGIN, SELECT the snapshot, SELECT the events after it,
    /// INSERT the event, INSERT the message, COMMIT.
    fn execute(pool: &Pool<Self>, unit: &PlainUnit) -> impl Future<Output = ()> + Send;
}

pub(crate) struct PlainUnit {
    pub(crate) stream: i64,
    /// The offset of the first event after the snapshot.
    pub(crate) from: i64,
    pub(crate) event: OrderEvent,
    /// The key of the outbox's row.
    pub(crate) message: i64,
}

impl PlainUnit {
    /// What is to be written: the offset of the new event, and the event.
    fn decide(&self, snapshot: &[u8], tail: &[Vec<u8>]) -> (i64, Vec<u8>) {
        let mut state = OrderState::decode(snapshot);
        tail.iter().for_each(|payload| state.apply_json(payload));
        state.apply(&self.event);
        std::hint::black_box(&state);
        let offset = self.from + i64::try_from(tail.len()).expect("small");
        (offset, serde_json::to_vec(&self.event).expect("encodes"))
    }
}

macro_rules! plain {
    (
        $driver:ty,
        $begin:ident($($immediately:literal)?),
        state: $state:literal,
        tail: $tail:literal,
        event: $event:literal,
        message: $message:literal,
    ) => {
        impl Plain for $driver {
            async fn insert_row(pool: &Pool<Self>, row: i64, payload: &[u8]) {
                sqlx::query($event).bind(row).bind(0_i64).bind(payload).execute(pool).await.expect("inserts");
            }

            async fn execute(pool: &Pool<Self>, unit: &PlainUnit) {
                let mut tx = pool.$begin($($immediately)?).await.expect("begins");
                let snapshot = sqlx::query_scalar($state).bind(unit.stream).fetch_one(&mut *tx).await;
                let snapshot: Vec<u8> = snapshot.expect("a snapshot");
                let tail = sqlx::query_scalar($tail).bind(unit.stream).bind(unit.from).fetch_all(&mut *tx).await;
                let (offset, payload) = unit.decide(&snapshot, &tail.expect("reads"));
                let event = sqlx::query($event).bind(unit.stream).bind(offset).bind(&payload).execute(&mut *tx).await;
                event.expect("inserts");
                let message = sqlx::query($message).bind(unit.message).bind(&payload).execute(&mut *tx).await;
                message.expect("inserts");
                tx.commit().await.expect("commits");
            }
        }
    };
}

plain!(
    sqlx::Sqlite,
    begin_with("BEGIN IMMEDIATE"),
    state: "SELECT body FROM bench_state WHERE stream_id = ?1",
    tail: "SELECT payload FROM bench_event WHERE stream_id = ?1 AND event_offset >= ?2 ORDER BY event_offset",
    event: "INSERT INTO bench_event (stream_id, event_offset, payload) VALUES (?1, ?2, ?3)",
    message: "INSERT INTO bench_outbox (message_no, payload) VALUES (?1, ?2)",
);
#[cfg(feature = "postgres")]
plain!(
    sqlx::Postgres,
    begin(),
    state: "SELECT body FROM bench_state WHERE stream_id = $1",
    tail: "SELECT payload FROM bench_event WHERE stream_id = $1 AND event_offset >= $2 ORDER BY event_offset",
    event: "INSERT INTO bench_event (stream_id, event_offset, payload) VALUES ($1, $2, $3)",
    message: "INSERT INTO bench_outbox (message_no, payload) VALUES ($1, $2)",
);
#[cfg(feature = "mysql")]
plain!(
    sqlx::MySql,
    begin(),
    state: "SELECT body FROM bench_state WHERE stream_id = ?",
    tail: "SELECT payload FROM bench_event WHERE stream_id = ? AND event_offset >= ? ORDER BY event_offset",
    event: "INSERT INTO bench_event (stream_id, event_offset, payload) VALUES (?, ?, ?)",
    message: "INSERT INTO bench_outbox (message_no, payload) VALUES (?, ?)",
);
