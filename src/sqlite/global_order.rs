//! The global order: SQLite has one writer, so the order of positions is the order of commits.

use async_trait::async_trait;
use futures_util::TryStreamExt;
use sqlx::{Row, Sqlite, SqliteConnection, Transaction};

use super::{SqliteStore, explain, read};
use crate::commit::StoredCommit;
use crate::error::Result;
use crate::global_order::{GlobalEvent, GlobalPosition, GlobalTail, GloballyOrderedStore, events_after};
use crate::message_store::PAGE_BYTES;
use crate::row;
use crate::stream_name::StreamName;

#[async_trait]
impl GloballyOrderedStore<Sqlite> for SqliteStore {
    async fn read_global(
        &self,
        conn: &mut SqliteConnection,
        after: GlobalPosition,
        limit: u32,
    ) -> Result<Vec<GlobalEvent>> {
        let rows = match select(conn, after, limit).await {
            Ok(rows) => rows,
            Err(error) => return Err(explain(conn, "reading the global order", error).await),
        };
        let mut events = Vec::new();
        if limit == 0 {
            return Ok(events);
        }
        for found in rows {
            let (position, stream, commit) = found?;
            let place = GlobalPosition { epoch: 0, transaction: 0, position, index: -1 };
            events_after(after, place, &stream, &commit, &mut events)?;
        }
        Ok(events)
    }

    async fn global_tail(&self, conn: &mut SqliteConnection) -> Result<GlobalTail> {
        // Nothing is ever held back; a missing schema is still an error.
        self.read_global(conn, GlobalPosition::START, 0).await?;
        Ok(GlobalTail::default())
    }

    async fn stored_consumer_position(&self, conn: &mut SqliteConnection, consumer: &str) -> Result<Option<String>> {
        let found = sqlx::query_scalar("SELECT position FROM saga_consumer WHERE consumer = ?1")
            .bind(consumer)
            .fetch_optional(&mut *conn)
            .await;
        match found {
            Ok(found) => Ok(found),
            Err(error) => Err(explain(conn, "reading the position of a consumer", error).await),
        }
    }

    async fn swap_consumer_position(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        consumer: &str,
        from: Option<&str>,
        to: &str,
    ) -> Result<bool> {
        match swap(tx, consumer, from, to).await {
            Ok(swapped) => Ok(swapped),
            Err(error) if super::is_stale_read(&error) => Ok(false),
            Err(error) => Err(explain(tx, "moving a consumer", error).await),
        }
    }
}

type Found = Result<(i64, StreamName, StoredCommit)>;

async fn select(conn: &mut SqliteConnection, after: GlobalPosition, limit: u32) -> sqlx::Result<Vec<Found>> {
    let mut rows = sqlx::query(
        "SELECT
            c.position,
            s.stream_name,
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
        FROM saga_commit AS c
        JOIN saga_stream AS s
            ON s.stream_id = c.stream_id
        WHERE c.position >= ?1
            AND c.event_count > 0
        ORDER BY c.position
        LIMIT +?2",
    )
    .bind(after.position)
    // The commit of `after` may have been read whole.
    .bind(i64::from(limit) + 1)
    .fetch(conn);
    let (mut found, mut bytes, mut events) = (Vec::new(), 0, 0);
    while let Some(row) = rows.try_next().await? {
        let position: i64 = row.try_get(0)?;
        let name: String = row.try_get(1)?;
        let columns = read::columns(&row, 2)?;
        // Not counting the commit of `after`: a page of it alone would be the end for ever.
        if position != after.position {
            bytes += columns.size();
            events += columns.event_count;
        }
        found.push(StreamName::new(name).and_then(|stream| {
            let commit = row::commit(&stream, columns)?;
            Ok((position, stream, commit))
        }));
        if bytes >= PAGE_BYTES || events >= i64::from(limit) {
            break;
        }
    }
    Ok(found)
}

async fn swap(conn: &mut SqliteConnection, consumer: &str, from: Option<&str>, to: &str) -> sqlx::Result<bool> {
    let swapped = match from {
        None => {
            sqlx::query(
                "INSERT INTO saga_consumer (
                    consumer,
                    position
                )
                VALUES (?1, ?2)
                ON CONFLICT DO NOTHING",
            )
            .bind(consumer)
            .bind(to)
            .execute(conn)
            .await?
        }
        Some(from) => {
            sqlx::query(
                "UPDATE saga_consumer
                SET position = ?3
                WHERE consumer = ?1
                    AND position = ?2",
            )
            .bind(consumer)
            .bind(from)
            .bind(to)
            .execute(conn)
            .await?
        }
    };
    Ok(swapped.rows_affected() == 1)
}
