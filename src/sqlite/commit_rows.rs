//! Commits of several streams by one statement.

use sqlx::SqliteConnection;

use crate::message_store::{Head, UnitCommit};
use crate::timestamp::Timestamp;

/// The statement for so many rows. A row whose stream is null is none.
macro_rules! insert_rows {
    ($rows:tt) => {
        concat!(
            "WITH unit (
                stream_id,
                head_checksum,
                commit_no,
                first_offset,
                event_count,
                message_count,
                completed,
                handled_message_id,
                causation_id,
                correlation_id,
                head_recorded_at,
                deliver,
                checksum,
                contents,
                body
            ) AS (
                VALUES ",
            rows!($rows),
            "
            ),
            clock AS (
                SELECT CAST(ROUND(unixepoch('subsec') * 1000000) AS INTEGER) AS now
            )
            INSERT INTO saga_commit (
                stream_id,
                commit_no,
                first_offset,
                event_count,
                message_count,
                completed,
                handled_message_id,
                causation_id,
                correlation_id,
                recorded_at,
                undelivered,
                checksum,
                contents,
                body
            )
            SELECT
                s.stream_id,
                unit.commit_no,
                unit.first_offset,
                unit.event_count,
                unit.message_count,
                unit.completed,
                unit.handled_message_id,
                unit.causation_id,
                unit.correlation_id,
                MAX(clock.now, unit.head_recorded_at + 1),
                CASE WHEN unit.deliver THEN MAX(clock.now, unit.head_recorded_at + 1) END,
                unit.checksum,
                unit.contents,
                unit.body
            FROM unit
            CROSS JOIN clock
            CROSS JOIN saga_stream AS s
                ON s.stream_id = unit.stream_id
            CROSS JOIN saga_commit AS head
                ON head.stream_id = s.stream_id
                AND head.commit_no = unit.commit_no - 1
                AND head.recorded_at = unit.head_recorded_at
                AND head.checksum = unit.head_checksum
            WHERE TRUE
            ON CONFLICT DO NOTHING
            RETURNING
                stream_id,
                recorded_at"
        )
    };
}

macro_rules! rows {
    (1) => {
        "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    };
    (2) => {
        concat!(rows!(1), ", ", rows!(1))
    };
    (4) => {
        concat!(rows!(2), ", ", rows!(2))
    };
    (8) => {
        concat!(rows!(4), ", ", rows!(4))
    };
    (16) => {
        concat!(rows!(8), ", ", rows!(8))
    };
    (32) => {
        concat!(rows!(16), ", ", rows!(16))
    };
}

/// Few texts, so that each stays prepared: each is used for as many rows as it has, and fewer.
const STATEMENTS: [(usize, &str); 5] =
    [(2, insert_rows!(2)), (4, insert_rows!(4)), (8, insert_rows!(8)), (16, insert_rows!(16)), (32, insert_rows!(32))];

/// Most rows that one statement writes.
pub(super) const MOST_ROWS: usize = 32;

/// Writes units of work of different streams that are one row each, and marks those that went in.
pub(super) async fn insert(
    conn: &mut SqliteConnection,
    units: &[(usize, &UnitCommit<'_>)],
    written: &mut [Option<Head>],
) -> sqlx::Result<()> {
    for units in units.chunks(MOST_ROWS) {
        let inserted = insert_chunk(conn, units).await?;
        for (at, unit) in units {
            if let Some(written) = written.get_mut(*at) {
                let inserted = inserted.iter().find(|(key, _)| unit.head.key == Some(*key));
                *written = inserted.map(|row| head_after(unit, *row)).transpose()?;
            }
        }
    }
    Ok(())
}

fn head_after(unit: &UnitCommit<'_>, (key, recorded_at): (i64, i64)) -> sqlx::Result<Head> {
    let head = unit.head_after(key, Timestamp::from_micros(recorded_at), 0);
    head.map_err(|error| sqlx::Error::Decode(error.into()))
}

/// Gives the keys of the streams that were written to, and the times of their commits.
async fn insert_chunk(
    conn: &mut SqliteConnection,
    units: &[(usize, &UnitCommit<'_>)],
) -> sqlx::Result<Vec<(i64, i64)>> {
    let fitting = STATEMENTS.iter().find(|(rows, _)| *rows >= units.len());
    let (_, statement) = fitting.expect("BUG: a chunk has more rows than any statement");
    let mut insert = sqlx::query_as(*statement);
    for (_, unit) in units {
        let (head, encoded) = (unit.head, unit.encoded);
        insert = insert
            .bind(head.key)
            .bind(head.checksum)
            .bind(head.commit_number.to_i64() + 1)
            .bind(head.next_offset.to_i64())
            .bind(encoded.event_count)
            .bind(encoded.message_count)
            .bind(unit.completed)
            .bind(unit.handled.map(|id| id.as_uuid()))
            .bind(encoded.causation_id.map(|id| id.as_uuid()))
            .bind(encoded.correlation_id.map(|id| id.as_uuid()))
            .bind(head.recorded_at.as_micros())
            .bind(unit.is_marked())
            .bind(encoded.checksum)
            .bind(encoded.contents.as_str())
            .bind(encoded.body.as_slice());
    }
    // Rows of which nothing is bound are null.
    insert.fetch_all(conn).await
}
