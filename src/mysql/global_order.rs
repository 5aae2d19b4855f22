//! The global order: an option, in which every commit takes its place under the lock of one row.

use async_trait::async_trait;
use futures_util::TryStreamExt;
use sqlx::{MySql, MySqlConnection, Pool, Row, Transaction};

use super::{MySqlStore, classify, is_duplicate, read, text};
use crate::commit::StoredCommit;
use crate::error::{Error, Result};
use crate::global_order::{GlobalEvent, GlobalPosition, GlobalTail, GloballyOrderedStore, events_after};
use crate::message_store::PAGE_BYTES;
use crate::row;
use crate::stream_name::StreamName;

/// What is not supported, said alike wherever it is found out.
const GLOBAL_ORDER: &str = "a global order";

impl MySqlStore {
    /// Keeps a global order, which costs: from its first write of events to its end, every transaction
    /// holds the lock of one row that all others want. To be switched on in the database once, by
    /// [`enable_global_order`](Self::enable_global_order); from then on all stores must have this option.
    ///
    /// A write is then more than one statement: a caller who drops one half-way must roll back.
    #[must_use]
    pub fn with_global_order(mut self) -> Self {
        self.globally_ordered = true;
        self
    }

    /// Switches the global order on in this database, for good, and gives the commits that are there their
    /// places by the time at which they were recorded: in one transaction, for whose length nothing else
    /// is committed. Doing it twice is harmless.
    ///
    /// Stores without the option refuse to write from then on, but a store looks only before its first
    /// write: end all processes that write, switch on, and start them with the option.
    ///
    /// # Errors
    /// The database's.
    pub async fn enable_global_order(pool: &Pool<MySql>) -> Result<()> {
        let doing = "switching the global order on";
        // Unlike READ COMMITTED, this waits for commits that are being written, and keeps new ones out.
        let begin = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; START TRANSACTION";
        let mut tx = pool.begin_with(begin).await.map_err(|error| classify(doing, error))?;
        let switched = switch_on(&mut tx).await.map_err(|error| classify(doing, error))?;
        if !switched && !is_enabled(&mut tx).await? {
            return Err(Error::SchemaMissing { doing });
        }
        tx.commit().await.map_err(|error| classify(doing, error))
    }

    fn require_global_order(&self) -> Result<()> {
        if self.globally_ordered {
            return Ok(());
        }
        Err(Error::Unsupported {
            what: GLOBAL_ORDER,
            detail: "it is an option on MySQL and MariaDB; see `MySqlStore::with_global_order`",
        })
    }
}

fn not_enabled() -> Error {
    Error::Unsupported {
        what: GLOBAL_ORDER,
        detail: "it is not switched on in this database; call `MySqlStore::enable_global_order` once",
    }
}

async fn is_enabled(conn: &mut MySqlConnection) -> Result<bool> {
    let enabled = sqlx::query_scalar("SELECT enabled FROM saga_global_order WHERE id = 1").fetch_optional(conn).await;
    found(enabled)
}

fn found(enabled: sqlx::Result<Option<bool>>) -> Result<bool> {
    let doing = "looking whether there is a global order";
    enabled.map_err(|error| classify(doing, error))?.ok_or(Error::SchemaMissing { doing })
}

/// Fails if this database keeps a global order: a store without the option would leave gaps in it. Looks
/// at the newest state, also in a transaction that sees an older one.
pub(super) async fn check_none(conn: &mut MySqlConnection) -> Result<()> {
    let enabled = sqlx::query_scalar(
        "SELECT enabled
        FROM saga_global_order
        WHERE id = 1
        LOCK IN SHARE MODE",
    )
    .fetch_optional(conn)
    .await;
    if !found(enabled)? {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: "writing without a global order",
        detail: "this database keeps one; make the store with `MySqlStore::with_global_order`",
    })
}

/// Gives a new commit its place, which no later commit can get before this transaction has ended.
pub(super) async fn place(store: &MySqlStore, conn: &mut MySqlConnection, stream: i64, commit: i64) -> Result<()> {
    if !store.globally_ordered {
        return Ok(());
    }
    let placed = insert_place(conn, stream, commit).await;
    if placed.map_err(|error| classify("giving a commit its place in the global order", error))? {
        Ok(())
    } else {
        Err(not_enabled())
    }
}

/// False if no global order is kept.
pub(super) async fn insert_place(conn: &mut MySqlConnection, stream: i64, commit: i64) -> sqlx::Result<bool> {
    let counted = sqlx::query(
        "UPDATE saga_global_order
        SET position = LAST_INSERT_ID(position + 1)
        WHERE id = 1
            AND enabled",
    )
    .execute(&mut *conn)
    .await?;
    if counted.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query(
        "INSERT INTO saga_position (
            position,
            stream_id,
            commit_no
        )
        VALUES (
            ?,
            ?,
            ?
        )",
    )
    .bind(counted.last_insert_id())
    .bind(stream)
    .bind(commit)
    .execute(conn)
    .await?;
    Ok(true)
}

/// Says whether it was off before.
async fn switch_on(conn: &mut MySqlConnection) -> sqlx::Result<bool> {
    let switched = sqlx::query(
        "UPDATE saga_global_order
        SET enabled = TRUE
        WHERE id = 1
            AND NOT enabled",
    )
    .execute(&mut *conn)
    .await?;
    if switched.rows_affected() == 0 {
        return Ok(false);
    }
    let placed = sqlx::query(
        "INSERT INTO saga_position (
            position,
            stream_id,
            commit_no
        )
        SELECT
            ROW_NUMBER() OVER (ORDER BY recorded_at, stream_id, commit_no),
            stream_id,
            commit_no
        FROM saga_commit",
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query("UPDATE saga_global_order SET position = ? WHERE id = 1")
        .bind(placed.rows_affected())
        .execute(conn)
        .await?;
    Ok(true)
}

#[async_trait]
impl GloballyOrderedStore<MySql> for MySqlStore {
    async fn read_global(
        &self,
        conn: &mut MySqlConnection,
        after: GlobalPosition,
        limit: u32,
    ) -> Result<Vec<GlobalEvent>> {
        self.require_global_order()?;
        self.check_reads(conn).await?;
        let rows = match select(conn, after, limit).await {
            Ok(rows) => rows,
            Err(error) => return Err(classify("reading the global order", error)),
        };
        if rows.is_empty() && !is_enabled(conn).await? {
            return Err(not_enabled());
        }
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

    async fn global_tail(&self, conn: &mut MySqlConnection) -> Result<GlobalTail> {
        // What is not yet committed holds the lock: nothing after it is committed either.
        self.require_global_order()?;
        if is_enabled(conn).await? { Ok(GlobalTail::default()) } else { Err(not_enabled()) }
    }

    async fn stored_consumer_position(&self, conn: &mut MySqlConnection, consumer: &str) -> Result<Option<String>> {
        let found = sqlx::query_scalar("SELECT position FROM saga_consumer WHERE consumer = ?")
            .bind(consumer.as_bytes())
            .fetch_optional(conn)
            .await;
        found.map_err(|error| classify("reading the position of a consumer", error))
    }

    async fn swap_consumer_position(
        &self,
        tx: &mut Transaction<'_, MySql>,
        consumer: &str,
        from: Option<&str>,
        to: &str,
    ) -> Result<bool> {
        match swap(tx, consumer, from, to).await {
            Ok(swapped) => Ok(swapped),
            Err(error) if is_duplicate(&error) => Ok(false),
            Err(error) => Err(classify("moving a consumer", error)),
        }
    }
}

type Found = Result<(i64, StreamName, StoredCommit)>;

async fn select(conn: &mut MySqlConnection, after: GlobalPosition, limit: u32) -> sqlx::Result<Vec<Found>> {
    let mut rows = sqlx::query(
        "SELECT
            p.position,
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
        FROM saga_position AS p
        STRAIGHT_JOIN saga_commit AS c
            ON c.stream_id = p.stream_id
            AND c.commit_no = p.commit_no
        STRAIGHT_JOIN saga_stream AS s
            ON s.stream_id = c.stream_id
        WHERE p.position >= ?
            AND c.event_count > 0
        ORDER BY p.position
        LIMIT ?",
    )
    .bind(after.position)
    // The commit of `after` may have been read whole.
    .bind(i64::from(limit) + 1)
    .fetch(conn);
    let (mut found, mut bytes, mut events) = (Vec::new(), 0, 0);
    while let Some(row) = rows.try_next().await? {
        let position: i64 = row.try_get(0)?;
        let name = text(row.try_get(1)?)?;
        let columns = read::columns(&row, 2)?;
        // Not counting the commit of `after`: a page of it alone would be the end for ever.
        if position > after.position {
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

async fn swap(conn: &mut MySqlConnection, consumer: &str, from: Option<&str>, to: &str) -> sqlx::Result<bool> {
    let swapped = match from {
        None => {
            sqlx::query(
                "INSERT INTO saga_consumer (
                    consumer,
                    position
                )
                VALUES (?, ?)",
            )
            .bind(consumer.as_bytes())
            .bind(to)
            .execute(conn)
            .await?
        }
        Some(from) => {
            sqlx::query(
                "UPDATE saga_consumer
                SET position = ?
                WHERE consumer = ?
                    AND position = ?",
            )
            .bind(to)
            .bind(consumer.as_bytes())
            .bind(from)
            .execute(conn)
            .await?
        }
    };
    // The rows that were found, also where nothing changed in them.
    Ok(swapped.rows_affected() == 1)
}
