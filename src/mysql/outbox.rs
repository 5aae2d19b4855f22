//! The statements of the outbox.

use async_trait::async_trait;
use futures_util::TryStreamExt;
use sqlx::mysql::MySqlRow;
use sqlx::{MySql, MySqlConnection, Row, Transaction};

use super::acknowledge::{delete, marked_among, unmark};
use super::{MySqlStore, classify, outbox_stats, read};
use crate::error::Result;
use crate::limits::Limits;
use crate::message_store::PAGE_BYTES;
use crate::outbox::{
    LeftOver, Marked, MarkedColumns, MarkedPage, NewOutboxRecord, OutboxId, OutboxStats, OutboxTables, PartitionLag,
    Selection, WaitingPage,
};
use crate::slow_lane::{self, SlowRow};
use crate::timestamp::Timestamp;

#[async_trait]
impl OutboxTables<MySql> for MySqlStore {
    fn outbox_limits(&self) -> &Limits {
        crate::streams::StreamTables::limits(self)
    }

    async fn marked(
        &self,
        conn: &mut MySqlConnection,
        selection: Selection,
        after: OutboxId,
        limit: u32,
    ) -> Result<MarkedPage> {
        self.check_reads(conn).await?;
        match select_marked(conn, selection, after, limit).await {
            Ok(page) => Ok(page),
            Err(error) => Err(classify("reading the outbox", error)),
        }
    }

    async fn waiting(
        &self,
        conn: &mut MySqlConnection,
        selection: Selection,
        after: OutboxId,
        limit: u32,
    ) -> Result<WaitingPage> {
        match select_waiting(conn, selection, after, limit).await {
            Ok(page) => Ok(page),
            Err(error) => Err(classify("reading the outbox", error)),
        }
    }

    async fn lock_marked(&self, tx: &mut Transaction<'_, MySql>, id: OutboxId) -> Result<Option<Marked>> {
        let locked = marked_among(tx, &[id]).await;
        if locked.map_err(|error| classify("acknowledging messages of the outbox", error))?.is_empty() {
            return Ok(None);
        }
        let page = self.marked(tx, Selection::ALL, id, 1).await?;
        let asked =
            |found: &Marked| found.stream_key == id.stream && found.commit.commit_number.to_i64() == id.commit_number;
        Ok(page.commits.into_iter().find(asked))
    }

    async fn unmark(
        &self,
        tx: &mut Transaction<'_, MySql>,
        commits: &[OutboxId],
        messages: Option<u32>,
    ) -> Result<u64> {
        match unmark(tx, commits, messages).await {
            Ok(messages) => Ok(messages),
            Err(error) => Err(classify("acknowledging messages of the outbox", error)),
        }
    }

    async fn marked_among(&self, tx: &mut Transaction<'_, MySql>, commits: &[OutboxId]) -> Result<Vec<OutboxId>> {
        match marked_among(tx, commits).await {
            Ok(found) => Ok(found),
            Err(error) => Err(classify("acknowledging messages of the outbox", error)),
        }
    }

    async fn insert_new(&self, tx: &mut Transaction<'_, MySql>, record: &NewOutboxRecord) -> Result<()> {
        let doing = "saving a record in the outbox";
        let contents = slow_lane::contents(&record.envelope)?;
        self.check_row(tx, contents.len().saturating_add(record.envelope.payload.len())).await?;
        let partition = record.partition();
        let recorded_at = next_time(tx, partition).await.map_err(|error| classify(doing, error))?;
        let message = LeftOver {
            id: OutboxId { recorded_at, stream: 0, commit_number: 0, index: 0, row: 0 },
            partition,
            aggregate_type: record.aggregate_type.clone(),
            aggregate_id: record.aggregate_id.clone(),
            envelope: record.envelope.clone(),
        };
        let available_at = record.due_at.map_or(0, Timestamp::as_micros);
        insert(tx, &message, available_at, &contents).await.map_err(|error| classify(doing, error))
    }

    async fn insert_left_over(&self, tx: &mut Transaction<'_, MySql>, message: &LeftOver) -> Result<()> {
        let contents = slow_lane::contents(&message.envelope)?;
        match insert(tx, message, 0, &contents).await {
            Ok(()) => Ok(()),
            Err(error) => Err(classify("keeping what is left of a commit in the outbox", error)),
        }
    }

    async fn delete(&self, tx: &mut Transaction<'_, MySql>, ids: &[OutboxId]) -> Result<u64> {
        match delete(tx, ids).await {
            Ok(gone) => Ok(gone),
            Err(error) => Err(classify("acknowledging messages of the outbox", error)),
        }
    }

    async fn recorded_by(&self, conn: &mut MySqlConnection) -> Result<i64> {
        match outbox_stats::recorded_by(conn).await {
            Ok(time) => Ok(time),
            Err(error) => Err(classify("measuring the outbox", error)),
        }
    }

    async fn outbox_stats(&self, conn: &mut MySqlConnection) -> Result<OutboxStats> {
        match outbox_stats::stats(conn).await {
            Ok(stats) => Ok(stats),
            Err(error) => Err(classify("measuring the outbox", error)),
        }
    }

    async fn outbox_lag(&self, conn: &mut MySqlConnection) -> Result<Vec<PartitionLag>> {
        match outbox_stats::lag(conn).await {
            Ok(lag) => Ok(lag),
            Err(error) => Err(classify("measuring the outbox", error)),
        }
    }
}

async fn select_marked(
    conn: &mut MySqlConnection,
    selection: Selection,
    after: OutboxId,
    limit: u32,
) -> sqlx::Result<MarkedPage> {
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
            AND (? >> (c.stream_id % 64)) & 1 = 1
            AND (
                ?
                -- Asked once for the whole page.
                OR NOT EXISTS (SELECT 1 FROM saga_outbox_message WHERE has_failed = 1)
                OR NOT EXISTS (
                    SELECT 1
                    FROM saga_outbox_message AS failed
                    WHERE failed.has_failed = 1
                        AND failed.stream_id = c.stream_id
                        AND (failed.recorded_at, failed.commit_no) < (c.recorded_at, c.commit_no)
                )
            )
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
    .bind(selection.partitions)
    .bind(selection.behind_failed)
    .bind(limit)
    .fetch(conn);
    let (mut page, mut bytes) = (MarkedPage::default(), 0);
    while let Some(row) = rows.try_next().await? {
        let (stream, commit) = (row.try_get(0)?, read::columns(&row, 4)?);
        let (recorded_at, commit_number) = (commit.recorded_at, commit.commit_no);
        let columns = MarkedColumns {
            // The mark is a column of the commit.
            id: OutboxId { recorded_at, stream, commit_number, index: 0, row: 0 },
            stream_name: row.try_get(1)?,
            persistence_key: row.try_get(2)?,
            instance_id: row.try_get(3)?,
            commit: Some(commit),
        };
        // Not counting the commit of `after`: a page of it alone would be the end for ever.
        if columns.id != after.commit() {
            bytes += columns.size();
        }
        columns.judge(&mut page);
        if bytes >= PAGE_BYTES {
            page.cut = true;
            break;
        }
    }
    Ok(page)
}

async fn select_waiting(
    conn: &mut MySqlConnection,
    selection: Selection,
    after: OutboxId,
    limit: u32,
) -> sqlx::Result<WaitingPage> {
    let rows = sqlx::query(
        "SELECT
            recorded_at,
            stream_id,
            commit_no,
            message_index,
            message_no,
            aggregate_type,
            aggregate_id,
            contents,
            body,
            attempts
        FROM saga_outbox_message AS m
        WHERE recorded_at >= ?
            AND (recorded_at, stream_id, commit_no, message_index, message_no) > (?, ?, ?, ?, ?)
            AND dead_at IS NULL
            AND available_at <= TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))
            AND (? >> partition_no) & 1 = 1
            AND (
                ?
                -- Asked once for the whole page.
                OR NOT EXISTS (SELECT 1 FROM saga_outbox_message WHERE has_failed = 1)
                OR NOT EXISTS (
                    SELECT 1
                    FROM saga_outbox_message AS failed
                    WHERE failed.has_failed = 1
                        AND failed.stream_id = m.stream_id
                        AND failed.aggregate_type = m.aggregate_type
                        AND failed.aggregate_id = m.aggregate_id
                        AND (failed.recorded_at, failed.commit_no, failed.message_index, failed.message_no)
                            < (
                                m.recorded_at,
                                m.commit_no,
                                m.message_index,
                                CASE WHEN m.stream_id > 0 THEN 0 ELSE m.message_no END
                            )
                )
            )
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
    .bind(selection.partitions)
    .bind(selection.behind_failed)
    .bind(limit)
    .try_map(|row: MySqlRow| {
        Ok(SlowRow {
            recorded_at: row.try_get(0)?,
            stream: row.try_get(1)?,
            commit_number: row.try_get(2)?,
            index: row.try_get(3)?,
            row: row.try_get(4)?,
            aggregate_type: row.try_get::<Vec<u8>, _>(5)?,
            aggregate_id: row.try_get(6)?,
            contents: row.try_get(7)?,
            body: row.try_get(8)?,
            attempts: row.try_get(9)?,
        })
    })
    .fetch(conn);
    slow_lane::page(rows).await
}

/// The time for a new record. A statement of its own: within the insert, it would lock what others are
/// about to insert.
async fn next_time(conn: &mut MySqlConnection, partition: i64) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "SELECT GREATEST(
            TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)),
            COALESCE(MAX(recorded_at), 0)
        )
        FROM saga_outbox_message
        WHERE partition_no = ?",
    )
    .bind(partition)
    .fetch_one(conn)
    .await
}

async fn insert(conn: &mut MySqlConnection, message: &LeftOver, available_at: i64, contents: &str) -> sqlx::Result<()> {
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
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(message.partition)
    .bind(message.id.recorded_at)
    .bind(message.id.stream)
    .bind(message.id.commit_number)
    .bind(message.id.index)
    .bind(available_at)
    .bind(message.aggregate_type.as_bytes())
    .bind(message.aggregate_id.as_bytes())
    .bind(contents)
    .bind(&*message.envelope.payload)
    .execute(conn)
    .await?;
    Ok(())
}
