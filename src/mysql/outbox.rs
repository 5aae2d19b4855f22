//! The statements of the outbox.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use sqlx::mysql::MySqlRow;
use sqlx::{MySql, MySqlConnection, Row, Transaction};

use super::{MySqlStore, classify, read, text};
use crate::error::Result;
use crate::limits::Limits;
use crate::message_store::PAGE_BYTES;
use crate::outbox::{LeftOver, Marked, MarkedPage, NewOutboxRecord, OutboxId, OutboxRecord, OutboxStats, OutboxTables};
use crate::row;
use crate::slow_lane::{self, SlowRow};
use crate::stream_name::StreamName;
use crate::timestamp::Timestamp;

#[async_trait]
impl OutboxTables<MySql> for MySqlStore {
    fn outbox_limits(&self) -> &Limits {
        crate::streams::StreamTables::limits(self)
    }

    async fn marked(&self, conn: &mut MySqlConnection, after: OutboxId, limit: u32) -> Result<MarkedPage> {
        match select_marked(conn, after, limit).await {
            Ok(page) => page,
            Err(error) => Err(classify("reading the outbox", error)),
        }
    }

    async fn waiting(&self, conn: &mut MySqlConnection, after: OutboxId, limit: u32) -> Result<Vec<OutboxRecord>> {
        let rows = match select_waiting(conn, after, limit).await {
            Ok(rows) => rows,
            Err(error) => return Err(classify("reading the outbox", error)),
        };
        rows.into_iter().map(slow_lane::record).collect()
    }

    async fn lock_marked(&self, tx: &mut Transaction<'_, MySql>, id: OutboxId) -> Result<Option<Marked>> {
        match count_marked(tx, id).await {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(None),
            Err(error) => return Err(classify("locking a commit in the outbox", error)),
        }
        let page = self.marked(tx, id, 1).await?;
        let asked =
            |found: &Marked| found.stream_key == id.stream && found.commit.commit_number.to_i64() == id.commit_number;
        Ok(page.commits.into_iter().find(asked))
    }

    async fn unmark(&self, tx: &mut Transaction<'_, MySql>, commits: &[OutboxId]) -> Result<u64> {
        let mut messages = 0;
        for commit in commits {
            match unmark(tx, *commit).await {
                Ok(count) => messages += count,
                Err(error) => return Err(classify("acknowledging messages of the outbox", error)),
            }
        }
        Ok(messages)
    }

    async fn marked_messages(
        &self,
        tx: &mut Transaction<'_, MySql>,
        commits: &[OutboxId],
    ) -> Result<Vec<(OutboxId, u64)>> {
        let mut found = Vec::with_capacity(commits.len());
        for commit in commits {
            match count_marked(tx, *commit).await {
                Ok(count) => found.extend(count.map(|count| (*commit, count))),
                Err(error) => return Err(classify("acknowledging messages of the outbox", error)),
            }
        }
        Ok(found)
    }

    async fn insert_new(&self, tx: &mut Transaction<'_, MySql>, record: &NewOutboxRecord) -> Result<()> {
        let contents = slow_lane::contents(&record.envelope)?;
        self.check_write(tx, contents.len().saturating_add(record.envelope.payload.len())).await?;
        match insert_new(tx, record, &contents).await {
            Ok(()) => Ok(()),
            Err(error) => Err(classify("saving a record in the outbox", error)),
        }
    }

    async fn insert_left_over(&self, tx: &mut Transaction<'_, MySql>, message: &LeftOver) -> Result<()> {
        let contents = slow_lane::contents(&message.envelope)?;
        match insert_left_over(tx, message, &contents).await {
            Ok(()) => Ok(()),
            Err(error) => Err(classify("keeping what is left of a commit in the outbox", error)),
        }
    }

    async fn delete(&self, tx: &mut Transaction<'_, MySql>, ids: &[OutboxId]) -> Result<u64> {
        let mut gone = 0;
        for id in ids {
            match delete(tx, *id).await {
                Ok(count) => gone += count,
                Err(error) => return Err(classify("acknowledging messages of the outbox", error)),
            }
        }
        Ok(gone)
    }

    async fn outbox_stats(&self, conn: &mut MySqlConnection) -> Result<OutboxStats> {
        match stats(conn).await {
            Ok(stats) => Ok(stats),
            Err(error) => Err(classify("measuring the outbox", error)),
        }
    }
}

async fn select_marked(conn: &mut MySqlConnection, after: OutboxId, limit: u32) -> sqlx::Result<Result<MarkedPage>> {
    let mut rows = sqlx::query(
        "SELECT
            c.stream_id,
            s.stream_name,
            s.persistence_key,
            s.instance_id,
            c.commit_no,
            c.first_offset,
            c.event_count,
            c.completed,
            c.recorded_at,
            c.causation_id,
            c.correlation_id,
            c.checksum,
            c.contents,
            c.body
        FROM saga_commit AS c FORCE INDEX (saga_commit_undelivered)
        STRAIGHT_JOIN saga_stream AS s
            ON s.stream_id = c.stream_id
        WHERE c.undelivered >= ?
            AND (c.undelivered, c.stream_id, c.commit_no) >= (?, ?, ?)
        ORDER BY
            c.undelivered,
            c.stream_id,
            c.commit_no
        LIMIT ?",
    )
    // An index is searched by the first of the two conditions only.
    .bind(after.recorded_at)
    .bind(after.recorded_at)
    .bind(after.stream)
    .bind(after.commit_number)
    .bind(limit)
    .fetch(conn);
    let (mut page, mut bytes) = (MarkedPage::default(), 0);
    while let Some(row) = rows.try_next().await? {
        let (stream_key, columns) = (row.try_get(0)?, read::columns(&row, 4)?);
        // Not counting the commit of `after`: a page of it alone would be the end for ever.
        if (columns.recorded_at, stream_key, columns.commit_no)
            != (after.recorded_at, after.stream, after.commit_number)
        {
            bytes += columns.size();
        }
        let name = text(row.try_get(1)?)?;
        let marked = StreamName::new(name).and_then(|stream| {
            let commit = row::commit(&stream, columns)?;
            Ok((stream, commit))
        });
        let (stream, commit) = match marked {
            Ok(marked) => marked,
            Err(error) => return Ok(Err(error)),
        };
        page.commits.push(Marked {
            stream_key,
            aggregate_type: row.try_get::<Option<_>, _>(2)?.map(text).transpose()?.unwrap_or_default(),
            aggregate_id: row.try_get::<Option<_>, _>(3)?.map_or_else(|| Ok(stream.as_str().to_owned()), text)?,
            stream,
            commit,
        });
        if bytes >= PAGE_BYTES {
            page.cut = true;
            break;
        }
    }
    Ok(Ok(page))
}

async fn select_waiting(conn: &mut MySqlConnection, after: OutboxId, limit: u32) -> sqlx::Result<Vec<SlowRow>> {
    sqlx::query(
        "SELECT
            recorded_at,
            stream_id,
            commit_no,
            message_index,
            message_no,
            aggregate_type,
            aggregate_id,
            contents,
            body
        FROM saga_outbox_message
        WHERE recorded_at >= ?
            AND (recorded_at, stream_id, commit_no, message_index, message_no) > (?, ?, ?, ?, ?)
            AND dead_at IS NULL
            AND available_at <= TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))
        ORDER BY
            recorded_at,
            stream_id,
            commit_no,
            message_index,
            message_no
        LIMIT ?",
    )
    // An index is searched by the first of the two conditions only.
    .bind(after.recorded_at)
    .bind(after.recorded_at)
    .bind(after.stream)
    .bind(after.commit_number)
    .bind(after.index)
    .bind(slow_lane::row_after(after))
    .bind(limit)
    .try_map(|row: MySqlRow| {
        Ok(SlowRow {
            recorded_at: row.try_get(0)?,
            stream: row.try_get(1)?,
            commit_number: row.try_get(2)?,
            index: row.try_get(3)?,
            row: row.try_get(4)?,
            aggregate_type: text(row.try_get(5)?)?,
            aggregate_id: text(row.try_get(6)?)?,
            contents: row.try_get(7)?,
            body: row.try_get(8)?,
        })
    })
    .fetch_all(conn)
    .await
}

/// Locks the commit: of two that acknowledge it, one sees that the mark is gone.
async fn count_marked(conn: &mut MySqlConnection, commit: OutboxId) -> sqlx::Result<Option<u64>> {
    let count = sqlx::query_scalar::<_, i64>(
        "SELECT message_count
        FROM saga_commit
        WHERE stream_id = ?
            AND commit_no = ?
            AND undelivered = ?
        FOR UPDATE",
    )
    .bind(commit.stream)
    .bind(commit.commit_number)
    .bind(commit.recorded_at)
    .fetch_optional(conn)
    .await?;
    Ok(count.map(|count| u64::try_from(count).unwrap_or_default()))
}

async fn unmark(conn: &mut MySqlConnection, commit: OutboxId) -> sqlx::Result<u64> {
    let count = count_marked(&mut *conn, commit).await?.unwrap_or_default();
    sqlx::query(
        "UPDATE saga_commit
        SET undelivered = NULL
        WHERE stream_id = ?
            AND commit_no = ?
            AND undelivered = ?",
    )
    .bind(commit.stream)
    .bind(commit.commit_number)
    .bind(commit.recorded_at)
    .execute(conn)
    .await?;
    Ok(count)
}

async fn insert_new(conn: &mut MySqlConnection, record: &NewOutboxRecord, contents: &str) -> sqlx::Result<()> {
    // Two statements: in one, this would lock what others are about to insert.
    let last = sqlx::query_scalar::<_, Option<i64>>(
        "SELECT MAX(recorded_at)
        FROM saga_outbox_message
        WHERE partition_no = ?",
    )
    .bind(record.partition())
    .fetch_one(&mut *conn)
    .await?;
    sqlx::query(
        "INSERT INTO saga_outbox_message (
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
        VALUES (
            ?,
            GREATEST(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)), CAST(? AS SIGNED)),
            0,
            0,
            0,
            ?,
            ?,
            ?,
            ?,
            ?
        )",
    )
    .bind(record.partition())
    .bind(last.unwrap_or_default())
    .bind(record.due_at.map_or(0, Timestamp::as_micros))
    .bind(record.aggregate_type.as_bytes())
    .bind(record.aggregate_id.as_bytes())
    .bind(contents)
    .bind(&*record.envelope.payload)
    .execute(conn)
    .await?;
    Ok(())
}

async fn insert_left_over(conn: &mut MySqlConnection, message: &LeftOver, contents: &str) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO saga_outbox_message (
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
        VALUES (
            ?,
            ?,
            ?,
            ?,
            ?,
            0,
            ?,
            ?,
            ?,
            ?
        )",
    )
    .bind(message.partition)
    .bind(message.id.recorded_at)
    .bind(message.id.stream)
    .bind(message.id.commit_number)
    .bind(message.id.index)
    .bind(message.aggregate_type.as_bytes())
    .bind(message.aggregate_id.as_bytes())
    .bind(contents)
    .bind(&*message.envelope.payload)
    .execute(conn)
    .await?;
    Ok(())
}

async fn delete(conn: &mut MySqlConnection, id: OutboxId) -> sqlx::Result<u64> {
    // Two statements: in one, no index would be searched.
    let deleted = if id.stream > 0 {
        sqlx::query(
            "DELETE FROM saga_outbox_message
            WHERE origin_id = ?
                AND commit_no = ?
                AND message_index = ?",
        )
        .bind(id.stream)
        .bind(id.commit_number)
        .bind(id.index)
        .execute(conn)
        .await?
    } else {
        sqlx::query(
            "DELETE FROM saga_outbox_message
            WHERE message_no = ?
                AND stream_id = 0",
        )
        .bind(id.row)
        .execute(conn)
        .await?
    };
    Ok(deleted.rows_affected())
}

async fn stats(conn: &mut MySqlConnection) -> sqlx::Result<OutboxStats> {
    let row = sqlx::query(
        "SELECT
            fast.messages + slow.messages,
            LEAST(COALESCE(fast.oldest, slow.oldest), COALESCE(slow.oldest, fast.oldest)),
            TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))
        FROM (
            SELECT
                CAST(COALESCE(SUM(message_count), 0) AS SIGNED) AS messages,
                MIN(undelivered)                                AS oldest
            FROM saga_commit
            WHERE undelivered IS NOT NULL
        ) AS fast
        CROSS JOIN (
            SELECT
                COUNT(*)         AS messages,
                MIN(recorded_at) AS oldest
            FROM saga_outbox_message
            WHERE dead_at IS NULL
        ) AS slow",
    )
    .fetch_one(conn)
    .await?;
    let (pending, oldest, now): (i64, Option<i64>, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    Ok(OutboxStats {
        pending: u64::try_from(pending).unwrap_or_default(),
        oldest: oldest.map(Timestamp::from_micros),
        oldest_age: oldest.map(|oldest| Duration::from_micros(u64::try_from(now - oldest).unwrap_or_default())),
    })
}
