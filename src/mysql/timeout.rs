//! The statements of timeouts.

use async_trait::async_trait;
use serde_json::Value;
use sqlx::mysql::MySqlRow;
use sqlx::{MySql, MySqlConnection, Row, Transaction};

use super::{MySqlStore, classify, hex, text, timeout_due};
use crate::error::Result;
use crate::stream_name::StreamName;
use crate::timeout::{CountRow, DueLook, NewTimeout, PendingTimeout, TimeoutRow, TimeoutStats, TimeoutTables};

#[async_trait]
impl TimeoutTables<MySql> for MySqlStore {
    async fn insert_timeout(&self, tx: &mut Transaction<'_, MySql>, new: &NewTimeout<'_>) -> Result<bool> {
        self.check_write(tx, new.contents.len().saturating_add(new.body.len())).await?;
        match insert(tx, new).await {
            Ok(inserted) => Ok(inserted),
            Err(error) => Err(classify("scheduling a timeout", error)),
        }
    }

    async fn delete_timeouts(
        &self,
        tx: &mut Transaction<'_, MySql>,
        stream: &StreamName,
        names: &[&str],
    ) -> Result<()> {
        match delete_named(tx, stream, names).await {
            Ok(()) => Ok(()),
            Err(error) => Err(classify("cancelling timeouts", error)),
        }
    }

    async fn delete_all_timeouts(&self, tx: &mut Transaction<'_, MySql>, stream: &StreamName) -> Result<()> {
        match delete_all(tx, stream).await {
            Ok(()) => Ok(()),
            Err(error) => Err(classify("cancelling timeouts", error)),
        }
    }

    async fn timeouts_of(
        &self,
        conn: &mut MySqlConnection,
        stream: &StreamName,
        after: &str,
        limit: u32,
    ) -> Result<Vec<PendingTimeout>> {
        match select(conn, stream, after, limit).await {
            Ok(rows) => rows.into_iter().map(|row| row.pending(stream)).collect(),
            Err(error) => Err(classify("listing timeouts", error)),
        }
    }

    async fn count_timeouts(&self, conn: &mut MySqlConnection) -> Result<TimeoutStats> {
        match count(conn).await {
            Ok(row) => Ok(row.stats()),
            Err(error) => Err(classify("counting timeouts", error)),
        }
    }

    async fn look_for_due(&self, conn: &mut MySqlConnection, partitions: i64) -> Result<DueLook> {
        match timeout_due::look(conn, partitions).await {
            Ok(look) => Ok(look),
            Err(error) => Err(classify("looking for timeouts that are due", error)),
        }
    }

    async fn move_due(&self, tx: &mut Transaction<'_, MySql>, partitions: i64, limit: u32) -> Result<u64> {
        match timeout_due::move_due(tx, partitions, limit).await {
            Ok(moved) => Ok(moved),
            Err(error) => Err(classify("handing timeouts over to the outbox", error)),
        }
    }
}

async fn insert(conn: &mut MySqlConnection, new: &NewTimeout<'_>) -> sqlx::Result<bool> {
    let (at, after) = new.due_parts();
    let inserted = sqlx::query(
        "INSERT INTO saga_timeout (
            stream_id,
            name,
            partition_no,
            due_at,
            scheduled_at,
            commit_no,
            message_index,
            aggregate_type,
            aggregate_id,
            contents,
            body
        )
        SELECT
            s.stream_id,
            ?,
            s.stream_id % 64,
            COALESCE(?, clock.now + LEAST(CAST(? AS SIGNED), 9223372036854775807 - clock.now)),
            c.recorded_at,
            c.commit_no,
            ?,
            ?,
            ?,
            ?,
            ?
        FROM saga_stream AS s
        JOIN saga_commit AS c
            ON c.stream_id = s.stream_id
            AND c.commit_no = ?
        CROSS JOIN (
            SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) AS now
        ) AS clock
        WHERE s.stream_name = ?",
    )
    .bind(new.name.as_bytes())
    .bind(at)
    .bind(after)
    .bind(new.index)
    .bind(new.stream.persistence_key.as_bytes())
    .bind(new.stream.instance_id.as_str().as_bytes())
    .bind(new.contents.as_str())
    .bind(new.body)
    .bind(new.commit_number)
    .bind(new.stream.name.as_str().as_bytes())
    .execute(conn)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

/// Names as a JSON array, so that one text serves every number of them.
fn array(names: &[&str]) -> String {
    names.iter().map(|name| hex(name)).collect::<Value>().to_string()
}

async fn delete_named(conn: &mut MySqlConnection, stream: &StreamName, names: &[&str]) -> sqlx::Result<()> {
    let names = array(names);
    sqlx::query(
        "DELETE t
        FROM saga_stream AS s
        STRAIGHT_JOIN JSON_TABLE(
            ?,
            '$[*]' COLUMNS (
                name VARCHAR(320) CHARACTER SET ascii PATH '$'
            )
        ) AS k
        STRAIGHT_JOIN saga_timeout AS t
            ON t.stream_id = s.stream_id
            AND t.name = UNHEX(k.name)
        WHERE s.stream_name = ?",
    )
    .bind(&names)
    .bind(stream.as_str().as_bytes())
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "DELETE m
        FROM saga_stream AS s
        STRAIGHT_JOIN JSON_TABLE(
            ?,
            '$[*]' COLUMNS (
                name VARCHAR(320) CHARACTER SET ascii PATH '$'
            )
        ) AS k
        STRAIGHT_JOIN saga_outbox_message AS m FORCE INDEX (saga_outbox_message_origin)
            ON m.origin_id = s.stream_id
            AND m.timeout_name = UNHEX(k.name)
        WHERE s.stream_name = ?",
    )
    .bind(&names)
    .bind(stream.as_str().as_bytes())
    .execute(conn)
    .await?;
    Ok(())
}

async fn delete_all(conn: &mut MySqlConnection, stream: &StreamName) -> sqlx::Result<()> {
    sqlx::query(
        "DELETE t
        FROM saga_stream AS s
        STRAIGHT_JOIN saga_timeout AS t
            ON t.stream_id = s.stream_id
        WHERE s.stream_name = ?",
    )
    .bind(stream.as_str().as_bytes())
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "DELETE m
        FROM saga_stream AS s
        STRAIGHT_JOIN saga_outbox_message AS m FORCE INDEX (saga_outbox_message_origin)
            ON m.origin_id = s.stream_id
        WHERE s.stream_name = ?
            AND m.timeout_name IS NOT NULL",
    )
    .bind(stream.as_str().as_bytes())
    .execute(conn)
    .await?;
    Ok(())
}

async fn select(
    conn: &mut MySqlConnection,
    stream: &StreamName,
    after: &str,
    limit: u32,
) -> sqlx::Result<Vec<TimeoutRow>> {
    sqlx::query(
        "SELECT
            name,
            due_at,
            scheduled_at AS recorded_at,
            FALSE        AS in_outbox,
            contents,
            body
        FROM saga_timeout
        WHERE stream_id = (SELECT stream_id FROM saga_stream WHERE stream_name = ?)
            AND name > ?
        UNION ALL
        SELECT
            timeout_name,
            recorded_at,
            recorded_at,
            TRUE,
            contents,
            body
        FROM saga_outbox_message
        WHERE origin_id = (SELECT stream_id FROM saga_stream WHERE stream_name = ?)
            AND timeout_name > ?
            AND dead_at IS NULL
        ORDER BY name
        LIMIT ?",
    )
    .bind(stream.as_str().as_bytes())
    .bind(after.as_bytes())
    .bind(stream.as_str().as_bytes())
    .bind(after.as_bytes())
    .bind(limit)
    .try_map(|row: MySqlRow| {
        Ok(TimeoutRow {
            name: text(row.try_get(0)?)?,
            due_at: row.try_get(1)?,
            recorded_at: row.try_get(2)?,
            in_outbox: row.try_get::<i64, _>(3)? != 0,
            contents: row.try_get(4)?,
            body: row.try_get(5)?,
        })
    })
    .fetch_all(conn)
    .await
}

async fn count(conn: &mut MySqlConnection) -> sqlx::Result<CountRow> {
    let row = sqlx::query(
        "SELECT
            (SELECT COUNT(*) FROM saga_timeout),
            (SELECT COUNT(*) FROM saga_timeout WHERE due_at <= clock.now),
            (SELECT MIN(due_at) FROM saga_timeout),
            clock.now
        FROM (
            SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) AS now
        ) AS clock",
    )
    .fetch_one(conn)
    .await?;
    Ok(CountRow {
        pending: row.try_get(0)?,
        overdue: row.try_get(1)?,
        first_due: row.try_get(2)?,
        now: row.try_get(3)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_escaped_in_a_list_of_names() {
        for name in ["'", "\"", "\\", "a\nb", "\u{1}\u{7f}", "é😀", "plain"] {
            let names = array(&[name, name]);
            assert!(!names.contains('\\') && names.is_ascii(), "{names}");
        }
    }
}
