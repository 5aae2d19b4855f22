//! The statements of the outbox.

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite, SqliteConnection, Transaction};

use super::acknowledge::{delete, insert_left_over, marked_among, unmark};
use super::{SqliteStore, explain, marked, outbox_stats};
use crate::error::Result;
use crate::limits::Limits;
use crate::outbox::{
    LeftOver, Marked, MarkedPage, NewOutboxRecord, OutboxId, OutboxStats, OutboxTables, PartitionLag, Selection,
    WaitingPage,
};
use crate::slow_lane::{self, SlowRow};
use crate::timestamp::Timestamp;

#[async_trait]
impl OutboxTables<Sqlite> for SqliteStore {
    fn outbox_limits(&self) -> &Limits {
        crate::streams::StreamTables::limits(self)
    }

    async fn marked(
        &self,
        conn: &mut SqliteConnection,
        selection: Selection,
        after: OutboxId,
        limit: u32,
    ) -> Result<MarkedPage> {
        match marked::select(conn, selection, after, limit).await {
            Ok(page) => Ok(page),
            Err(error) => Err(explain(conn, "reading the outbox", error).await),
        }
    }

    async fn waiting(
        &self,
        conn: &mut SqliteConnection,
        selection: Selection,
        after: OutboxId,
        limit: u32,
    ) -> Result<WaitingPage> {
        match select_waiting(conn, selection, after, limit).await {
            Ok(page) => Ok(page),
            Err(error) => Err(explain(conn, "reading the outbox", error).await),
        }
    }

    async fn lock_marked(&self, tx: &mut Transaction<'_, Sqlite>, id: OutboxId) -> Result<Option<Marked>> {
        // A writing transaction of SQLite is the only one: there is nothing to lock.
        let page = self.marked(tx, Selection::ALL, id, 1).await?;
        let asked =
            |found: &Marked| found.stream_key == id.stream && found.commit.commit_number.to_i64() == id.commit_number;
        Ok(page.commits.into_iter().find(asked))
    }

    async fn unmark(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        commits: &[OutboxId],
        messages: Option<u32>,
    ) -> Result<u64> {
        match unmark(tx, commits, messages).await {
            Ok(messages) => Ok(messages),
            Err(error) => Err(explain(tx, "acknowledging messages of the outbox", error).await),
        }
    }

    async fn marked_among(&self, tx: &mut Transaction<'_, Sqlite>, commits: &[OutboxId]) -> Result<Vec<OutboxId>> {
        match marked_among(tx, commits).await {
            Ok(found) => Ok(found),
            Err(error) => Err(explain(tx, "acknowledging messages of the outbox", error).await),
        }
    }

    async fn insert_new(&self, tx: &mut Transaction<'_, Sqlite>, record: &NewOutboxRecord) -> Result<()> {
        let contents = slow_lane::contents(&record.envelope)?;
        match insert_new(tx, record, &contents).await {
            Ok(()) => Ok(()),
            Err(error) => Err(explain(tx, "saving a record in the outbox", error).await),
        }
    }

    async fn insert_left_over(&self, tx: &mut Transaction<'_, Sqlite>, message: &LeftOver) -> Result<()> {
        let contents = slow_lane::contents(&message.envelope)?;
        match insert_left_over(tx, message, &contents).await {
            Ok(()) => Ok(()),
            Err(error) => Err(explain(tx, "keeping what is left of a commit in the outbox", error).await),
        }
    }

    async fn delete(&self, tx: &mut Transaction<'_, Sqlite>, ids: &[OutboxId]) -> Result<u64> {
        match delete(tx, ids).await {
            Ok(gone) => Ok(gone),
            Err(error) => Err(explain(tx, "acknowledging messages of the outbox", error).await),
        }
    }

    async fn recorded_by(&self, conn: &mut SqliteConnection) -> Result<i64> {
        match outbox_stats::recorded_by(conn).await {
            Ok(time) => Ok(time),
            Err(error) => Err(explain(conn, "measuring the outbox", error).await),
        }
    }

    async fn outbox_stats(&self, conn: &mut SqliteConnection) -> Result<OutboxStats> {
        match outbox_stats::stats(conn).await {
            Ok(stats) => Ok(stats),
            Err(error) => Err(explain(conn, "measuring the outbox", error).await),
        }
    }

    async fn outbox_lag(&self, conn: &mut SqliteConnection) -> Result<Vec<PartitionLag>> {
        match outbox_stats::lag(conn).await {
            Ok(lag) => Ok(lag),
            Err(error) => Err(explain(conn, "measuring the outbox", error).await),
        }
    }
}

async fn select_waiting(
    conn: &mut SqliteConnection,
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
        WHERE (recorded_at, stream_id, commit_no, message_index, message_no) > (+?1, +?2, +?3, +?4, +?5)
            AND dead_at IS NULL
            AND available_at <= CAST(ROUND(unixepoch('subsec') * 1000000) AS INTEGER)
            AND (?7 >> partition_no) & 1 = 1
            AND (
                ?8
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
        LIMIT +?6",
    )
    .bind(after.recorded_at)
    .bind(after.stream)
    .bind(after.commit_number)
    .bind(after.index)
    .bind(slow_lane::row_after(after))
    .bind(limit)
    .bind(selection.partitions)
    .bind(selection.behind_failed)
    .try_map(|row: SqliteRow| {
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

async fn insert_new(conn: &mut SqliteConnection, record: &NewOutboxRecord, contents: &str) -> sqlx::Result<()> {
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
            ?1,
            MAX(now, COALESCE((SELECT MAX(recorded_at) FROM saga_outbox_message WHERE partition_no = ?1), 0)),
            0,
            0,
            0,
            COALESCE(?2, 0),
            ?3,
            ?4,
            ?5,
            ?6
        FROM (SELECT CAST(ROUND(unixepoch('subsec') * 1000000) AS INTEGER) AS now)",
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
