//! The statements of the outbox.

use async_trait::async_trait;
use futures_util::TryStreamExt;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Postgres, Row, Transaction};

use super::acknowledge::{delete, insert_left_over, lock_mark, marked_among, unmark};
use super::{PostgresStore, classify, outbox_stats, read};
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
impl OutboxTables<Postgres> for PostgresStore {
    fn outbox_limits(&self) -> &Limits {
        crate::streams::StreamTables::limits(self)
    }

    async fn marked(
        &self,
        conn: &mut PgConnection,
        selection: Selection,
        after: OutboxId,
        limit: u32,
    ) -> Result<MarkedPage> {
        match select_marked(conn, selection, after, limit).await {
            Ok(page) => Ok(page),
            Err(error) => Err(classify("reading the outbox", error)),
        }
    }

    async fn waiting(
        &self,
        conn: &mut PgConnection,
        selection: Selection,
        after: OutboxId,
        limit: u32,
    ) -> Result<WaitingPage> {
        match select_waiting(conn, selection, after, limit).await {
            Ok(page) => Ok(page),
            Err(error) => Err(classify("reading the outbox", error)),
        }
    }

    async fn lock_marked(&self, tx: &mut Transaction<'_, Postgres>, id: OutboxId) -> Result<Option<Marked>> {
        let locked =
            lock_mark(tx, id).await.map_err(|error| classify("acknowledging messages of the outbox", error))?;
        if !locked {
            return Ok(None);
        }
        let page = self.marked(tx, Selection::ALL, id, 1).await?;
        Ok(page.commits.into_iter().next())
    }

    async fn unmark(
        &self,
        tx: &mut Transaction<'_, Postgres>,
        commits: &[OutboxId],
        messages: Option<u32>,
    ) -> Result<u64> {
        unmark(tx, commits, messages).await.map_err(|error| classify("acknowledging messages of the outbox", error))
    }

    async fn marked_among(&self, tx: &mut Transaction<'_, Postgres>, commits: &[OutboxId]) -> Result<Vec<OutboxId>> {
        match marked_among(tx, commits).await {
            Ok(found) => Ok(found),
            Err(error) => Err(classify("acknowledging messages of the outbox", error)),
        }
    }

    async fn insert_new(&self, tx: &mut Transaction<'_, Postgres>, record: &NewOutboxRecord) -> Result<()> {
        let contents = slow_lane::contents(&record.envelope)?;
        insert_new(tx, record, &contents).await.map_err(|error| classify("saving a record in the outbox", error))
    }

    async fn insert_left_over(&self, tx: &mut Transaction<'_, Postgres>, message: &LeftOver) -> Result<()> {
        let contents = slow_lane::contents(&message.envelope)?;
        insert_left_over(tx, message, &contents)
            .await
            .map_err(|error| classify("keeping what is left of a commit in the outbox", error))
    }

    async fn delete(&self, tx: &mut Transaction<'_, Postgres>, ids: &[OutboxId]) -> Result<u64> {
        match delete(tx, ids).await {
            Ok(gone) => Ok(gone),
            Err(error) => Err(classify("acknowledging messages of the outbox", error)),
        }
    }

    async fn recorded_by(&self, conn: &mut PgConnection) -> Result<i64> {
        match outbox_stats::recorded_by(conn).await {
            Ok(time) => Ok(time),
            Err(error) => Err(classify("measuring the outbox", error)),
        }
    }

    async fn outbox_stats(&self, conn: &mut PgConnection) -> Result<OutboxStats> {
        outbox_stats::stats(conn).await.map_err(|error| classify("measuring the outbox", error))
    }

    async fn outbox_lag(&self, conn: &mut PgConnection) -> Result<Vec<PartitionLag>> {
        match outbox_stats::lag(conn).await {
            Ok(lag) => Ok(lag),
            Err(error) => Err(classify("measuring the outbox", error)),
        }
    }
}

async fn select_marked(
    conn: &mut PgConnection,
    selection: Selection,
    after: OutboxId,
    limit: u32,
) -> sqlx::Result<MarkedPage> {
    let mut rows = sqlx::query(
        "SELECT
            o.recorded_at,
            o.stream_id,
            o.commit_no,
            s.stream_name,
            s.persistence_key,
            s.instance_id,
            c.commit_no,
            c.first_offset,
            c.event_count,
            c.completed,
            c.recorded_at,
            c.xid,
            c.causation_id,
            c.correlation_id,
            c.checksum,
            c.contents,
            c.body
        FROM (
            SELECT
                recorded_at,
                stream_id,
                commit_no
            FROM saga_outbox AS o
            WHERE (recorded_at, stream_id, commit_no) >= ($1, $2, $3)
                -- A bare comparison is taken to be rarely true: all marks would be read and sorted for each page.
                AND CASE WHEN ($5 >> (stream_id % 64)::integer) & 1 = 1 THEN TRUE ELSE FALSE END
                AND (
                    $6
                    -- Asked once for the whole page.
                    OR NOT EXISTS (SELECT 1 FROM saga_outbox_message WHERE attempts > 0)
                    OR NOT EXISTS (
                        SELECT 1
                        FROM saga_outbox_message AS failed
                        WHERE failed.stream_id = o.stream_id
                            AND failed.attempts > 0
                            AND (failed.recorded_at, failed.commit_no) < (o.recorded_at, o.commit_no)
                    )
                )
            ORDER BY
                recorded_at,
                stream_id,
                commit_no
            LIMIT $4
        ) AS o
        -- A mark without its commit takes a place on the page, too, and is to be told.
        LEFT JOIN saga_commit AS c
            ON c.stream_id = o.stream_id
            AND c.commit_no = o.commit_no
        LEFT JOIN saga_stream AS s
            ON s.stream_id = o.stream_id
        ORDER BY
            o.recorded_at,
            o.stream_id,
            o.commit_no",
    )
    .bind(after.recorded_at)
    .bind(after.stream)
    .bind(after.commit_number)
    .bind(i64::from(limit))
    .bind(selection.partitions)
    .bind(selection.behind_failed)
    .fetch(conn);
    let (mut page, mut bytes) = (MarkedPage::default(), 0);
    while let Some(row) = rows.try_next().await? {
        let columns = marked_columns(&row)?;
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

fn marked_columns(row: &PgRow) -> sqlx::Result<MarkedColumns> {
    let (recorded_at, stream, commit_number) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let text = |at| Ok::<_, sqlx::Error>(row.try_get::<Option<String>, _>(at)?.map(String::into_bytes));
    let has_commit = row.try_get::<Option<i64>, _>(6)?.is_some();
    Ok(MarkedColumns {
        id: OutboxId { recorded_at, stream, commit_number, index: 0, row: 0 },
        stream_name: text(3)?,
        persistence_key: text(4)?,
        instance_id: text(5)?,
        commit: has_commit.then(|| read::columns(row, 6)).transpose()?,
    })
}

async fn select_waiting(
    conn: &mut PgConnection,
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
        WHERE (recorded_at, stream_id, commit_no, message_index, message_no) > ($1, $2, $3, $4, $5)
            AND dead_at IS NULL
            AND available_at <= (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint
            AND CASE WHEN ($7 >> partition_no::integer) & 1 = 1 THEN TRUE ELSE FALSE END -- as above
            AND (
                $8
                OR NOT EXISTS (SELECT 1 FROM saga_outbox_message WHERE attempts > 0)
                OR NOT EXISTS (
                    SELECT 1
                    FROM saga_outbox_message AS failed
                    WHERE failed.stream_id = m.stream_id
                        AND failed.aggregate_type = m.aggregate_type
                        AND failed.aggregate_id = m.aggregate_id
                        AND failed.attempts > 0
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
        LIMIT $6",
    )
    .bind(after.recorded_at)
    .bind(after.stream)
    .bind(after.commit_number)
    .bind(after.index)
    .bind(slow_lane::row_after(after))
    .bind(i64::from(limit))
    .bind(selection.partitions)
    .bind(selection.behind_failed)
    .try_map(|row: PgRow| {
        Ok(SlowRow {
            recorded_at: row.try_get(0)?,
            stream: row.try_get(1)?,
            commit_number: row.try_get(2)?,
            index: row.try_get(3)?,
            row: row.try_get(4)?,
            aggregate_type: row.try_get::<String, _>(5)?,
            aggregate_id: row.try_get(6)?,
            contents: row.try_get(7)?,
            body: row.try_get(8)?,
            attempts: i64::from(row.try_get::<i32, _>(9)?),
        })
    })
    .fetch(conn);
    slow_lane::page(rows).await
}

async fn insert_new(conn: &mut PgConnection, record: &NewOutboxRecord, contents: &str) -> sqlx::Result<()> {
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
        SELECT
            $1,
            GREATEST(now, COALESCE((SELECT MAX(recorded_at) FROM saga_outbox_message WHERE partition_no = $1), 0)),
            0,
            0,
            0,
            COALESCE($2, 0),
            $3,
            $4,
            $5,
            $6
        FROM (SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint AS now) AS clock",
    )
    .bind(record.partition())
    .bind(record.due_at.map(Timestamp::as_micros))
    .bind(record.aggregate_type.as_str())
    .bind(record.aggregate_id.as_str())
    .bind(contents)
    .bind(&*record.envelope.payload)
    .execute(conn)
    .await?;
    Ok(())
}
