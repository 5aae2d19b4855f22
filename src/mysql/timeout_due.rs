//! Finding the timeouts that are due, and handing them over to the outbox.

use serde_json::{Value, json};
use sqlx::mysql::MySqlRow;
use sqlx::{MySqlConnection, Row};

use super::{hex, text};
use crate::timeout::{DueLook, span};

pub(super) async fn look(conn: &mut MySqlConnection, partitions: i64) -> sqlx::Result<DueLook> {
    let row = sqlx::query(
        "SELECT
            (
                SELECT due_at
                FROM saga_timeout FORCE INDEX (saga_timeout_due)
                WHERE due_at <= TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))
                    AND (? >> partition_no) & 1 = 1
                ORDER BY due_at
                LIMIT 1
            ),
            (
                SELECT due_at
                FROM saga_timeout FORCE INDEX (saga_timeout_due)
                WHERE due_at > TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))
                ORDER BY due_at
                LIMIT 1
            ) - TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))",
    )
    .bind(partitions)
    .fetch_one(conn)
    .await?;
    let (due, next): (Option<i64>, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
    Ok(DueLook { any: due.is_some(), next: next.map(span) })
}

pub(super) async fn move_due(conn: &mut MySqlConnection, partitions: i64, limit: u32) -> sqlx::Result<u64> {
    let due = lock_due(conn, partitions, limit).await?;
    if due.is_empty() {
        return Ok(0);
    }
    let due = array(&due);
    let moved = sqlx::query(
        "INSERT INTO saga_outbox_message (
            timeout_name,
            partition_no,
            recorded_at,
            stream_id,
            commit_no,
            message_index,
            available_at,
            aggregate_type,
            aggregate_id,
            contents,
            body
        )
        SELECT
            t.name,
            t.partition_no,
            GREATEST(t.due_at, t.scheduled_at),
            t.stream_id,
            t.commit_no,
            t.message_index,
            0,
            t.aggregate_type,
            t.aggregate_id,
            t.contents,
            t.body
        FROM JSON_TABLE(
            ?,
            '$[*]' COLUMNS (
                stream_id BIGINT                           PATH '$[0]',
                name      VARCHAR(320) CHARACTER SET ascii PATH '$[1]'
            )
        ) AS k
        STRAIGHT_JOIN saga_timeout AS t
            ON t.stream_id = k.stream_id
            AND t.name = UNHEX(k.name)",
    )
    .bind(&due)
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "DELETE t
        FROM JSON_TABLE(
            ?,
            '$[*]' COLUMNS (
                stream_id BIGINT                           PATH '$[0]',
                name      VARCHAR(320) CHARACTER SET ascii PATH '$[1]'
            )
        ) AS k
        STRAIGHT_JOIN saga_timeout AS t
            ON t.stream_id = k.stream_id
            AND t.name = UNHEX(k.name)",
    )
    .bind(&due)
    .execute(conn)
    .await?;
    Ok(moved.rows_affected())
}

/// Goes on past what others have locked, until there are `limit` or nothing more is due.
async fn lock_due(conn: &mut MySqlConnection, partitions: i64, limit: u32) -> sqlx::Result<Vec<Key>> {
    let (mut locked, mut after, mut wanted) = (Vec::new(), Place::START, limit);
    while wanted > 0 {
        let page = select_due(conn, partitions, after, wanted).await?;
        let Some((last, _)) = page.last() else { break };
        let is_last = count(&page) < wanted;
        after = *last;
        locked.extend(lock(conn, &page.into_iter().map(|(_, key)| key).collect::<Vec<_>>()).await?);
        wanted = limit.saturating_sub(count(&locked));
        if is_last {
            break;
        }
    }
    Ok(locked)
}

fn count<T>(rows: &[T]) -> u32 {
    u32::try_from(rows.len()).unwrap_or(u32::MAX)
}

/// The primary key of a timeout.
type Key = (i64, String);

/// Keys as a JSON array of arrays, so that one text serves every number of them.
fn array(keys: &[Key]) -> String {
    keys.iter().map(|(stream, name)| json!([stream, hex(name)])).collect::<Value>().to_string()
}

/// Where a timeout stands in the order in which they are due.
#[derive(Clone, Copy)]
struct Place {
    due_at: i64,
    partition: i64,
    stream: i64,
    commit_number: i64,
    index: i64,
}

impl Place {
    /// Before the first.
    const START: Self =
        Self { due_at: i64::MIN, partition: i64::MIN, stream: i64::MIN, commit_number: i64::MIN, index: i64::MIN };
}

/// Locks nothing: a locking read locks what it only passes by, too, and others would pass that by.
async fn select_due(
    conn: &mut MySqlConnection,
    partitions: i64,
    after: Place,
    limit: u32,
) -> sqlx::Result<Vec<(Place, Key)>> {
    sqlx::query(
        "SELECT
            due_at,
            partition_no,
            stream_id,
            commit_no,
            message_index,
            name
        FROM saga_timeout FORCE INDEX (saga_timeout_due)
        WHERE due_at >= ?
            AND (due_at, partition_no, stream_id, commit_no, message_index) > (?, ?, ?, ?, ?)
            AND due_at <= TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))
            AND (? >> partition_no) & 1 = 1
        ORDER BY
            due_at,
            partition_no,
            stream_id,
            commit_no,
            message_index
        LIMIT ?",
    )
    // An index is searched by the first of the two conditions only.
    .bind(after.due_at)
    .bind(after.due_at)
    .bind(after.partition)
    .bind(after.stream)
    .bind(after.commit_number)
    .bind(after.index)
    .bind(partitions)
    .bind(limit)
    .try_map(|row: MySqlRow| {
        let place = Place {
            due_at: row.try_get(0)?,
            partition: row.try_get(1)?,
            stream: row.try_get(2)?,
            commit_number: row.try_get(3)?,
            index: row.try_get(4)?,
        };
        Ok((place, (place.stream, text(row.try_get(5)?)?)))
    })
    .fetch_all(conn)
    .await
}

/// Locks those that are still there, and are due, and that nobody else is moving or deleting. By their keys: see above.
async fn lock(conn: &mut MySqlConnection, due: &[Key]) -> sqlx::Result<Vec<Key>> {
    sqlx::query(
        "SELECT
            t.stream_id,
            t.name
        FROM JSON_TABLE(
            ?,
            '$[*]' COLUMNS (
                stream_id BIGINT                           PATH '$[0]',
                name      VARCHAR(320) CHARACTER SET ascii PATH '$[1]'
            )
        ) AS k
        STRAIGHT_JOIN saga_timeout AS t FORCE INDEX (PRIMARY)
            ON t.stream_id = k.stream_id
            AND t.name = UNHEX(k.name)
        WHERE t.due_at <= TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))
        FOR UPDATE SKIP LOCKED",
    )
    .bind(array(due))
    .try_map(|row: MySqlRow| Ok((row.try_get(0)?, text(row.try_get(1)?)?)))
    .fetch_all(conn)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_escaped_in_a_list_of_keys() {
        for name in ["'", "\"", "\\", "a\nb", "\u{1}\u{7f}", "é😀", "plain"] {
            let keys = array(&[(1, name.to_owned()), (2, name.to_owned())]);
            assert!(!keys.contains('\\') && keys.is_ascii(), "{keys}");
        }
    }
}
