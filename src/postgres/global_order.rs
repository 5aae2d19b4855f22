//! The global order: by the number of the writing transaction, as far as none older is open.

use async_trait::async_trait;
use futures_util::TryStreamExt;
use sqlx::{PgConnection, Postgres, Row, Transaction};

use super::{PostgresStore, classify, epoch, read};
use crate::commit::StoredCommit;
use crate::error::Result;
use crate::global_order::{GlobalEvent, GlobalPosition, GlobalTail, GloballyOrderedStore, events_after};
use crate::message_store::PAGE_BYTES;
use crate::row;
use crate::stream_name::StreamName;

#[async_trait]
impl GloballyOrderedStore<Postgres> for PostgresStore {
    async fn read_global(
        &self,
        conn: &mut PgConnection,
        after: GlobalPosition,
        limit: u32,
    ) -> Result<Vec<GlobalEvent>> {
        let epoch = epoch::current(conn, after.epoch).await?;
        let transaction = after.transaction.saturating_sub(epoch.shift);
        let after = GlobalPosition { epoch: epoch.number, transaction, ..after };
        let read = select(conn, after, limit).await;
        let rows = read.map_err(|error| classify("reading the global order", error))?;
        let mut events = Vec::new();
        if limit == 0 {
            return Ok(events);
        }
        for found in rows {
            let (transaction, position, stream, commit) = found?;
            let place = GlobalPosition { epoch: epoch.number, transaction, position, index: -1 };
            events_after(after, place, &stream, &commit, &mut events)?;
        }
        Ok(events)
    }

    async fn global_tail(&self, conn: &mut PgConnection) -> Result<GlobalTail> {
        epoch::current(conn, 0).await?;
        tail(conn).await.map_err(|error| classify("looking at the end of the global order", error))
    }

    async fn stored_consumer_position(&self, conn: &mut PgConnection, consumer: &str) -> Result<Option<String>> {
        sqlx::query_scalar("SELECT position FROM saga_consumer WHERE consumer = $1")
            .bind(consumer)
            .fetch_optional(conn)
            .await
            .map_err(|error| classify("reading the position of a consumer", error))
    }

    async fn swap_consumer_position(
        &self,
        tx: &mut Transaction<'_, Postgres>,
        consumer: &str,
        from: Option<&str>,
        to: &str,
    ) -> Result<bool> {
        swap(tx, consumer, from, to).await.map_err(|error| classify("moving a consumer", error))
    }
}

type Found = Result<(i64, i64, StreamName, StoredCommit)>;

async fn select(conn: &mut PgConnection, after: GlobalPosition, limit: u32) -> sqlx::Result<Vec<Found>> {
    let mut rows = sqlx::query(
        "SELECT
            c.position,
            s.stream_name,
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
        FROM saga_commit AS c
        JOIN saga_stream AS s
            ON s.stream_id = c.stream_id
        WHERE (c.xid, c.position) >= ($1, $2)
            AND c.xid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint
            AND c.event_count > 0
        ORDER BY
            c.xid,
            c.position
        LIMIT $3",
    )
    .bind(after.transaction)
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
            let transaction = columns.order_token;
            let commit = row::commit(&stream, columns)?;
            Ok((transaction, position, stream, commit))
        }));
        if bytes >= PAGE_BYTES || events >= i64::from(limit) {
            break;
        }
    }
    Ok(found)
}

async fn tail(conn: &mut PgConnection) -> sqlx::Result<GlobalTail> {
    let held: i64 = sqlx::query_scalar(
        "SELECT COUNT(*)
        FROM saga_commit
        WHERE xid >= pg_snapshot_xmin(pg_current_snapshot())::text::bigint",
    )
    .fetch_one(&mut *conn)
    .await?;
    let by = sqlx::query_scalar::<_, Option<String>>(
        "SELECT format('process %s, %s, transaction open since %s', pid, state, xact_start)
        FROM pg_stat_activity
        WHERE backend_xid = pg_snapshot_xmin(pg_current_snapshot())::xid
        LIMIT 1",
    )
    .fetch_optional(conn)
    .await?;
    let held_back_commits = u64::try_from(held).unwrap_or_default();
    Ok(GlobalTail { held_back_commits, held_back_by: by.flatten().filter(|_| held > 0) })
}

async fn swap(conn: &mut PgConnection, consumer: &str, from: Option<&str>, to: &str) -> sqlx::Result<bool> {
    let swapped = match from {
        None => {
            sqlx::query(
                "INSERT INTO saga_consumer (
                    consumer,
                    position
                )
                VALUES ($1, $2)
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
                SET position = $3
                WHERE consumer = $1
                    AND position = $2",
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
