//! Taking messages out of the outbox, and keeping what is left of a commit.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use crate::outbox::{LeftOver, OutboxId};

/// The primary keys of commits as a JSON array of arrays, so that one text serves every number of them.
fn keys(commits: &[OutboxId]) -> String {
    let keys: Vec<_> = commits.iter().map(|id| format!("[{},{}]", id.stream, id.commit_number)).collect();
    format!("[{}]", keys.join(","))
}

pub(super) async fn marked_among(conn: &mut SqliteConnection, commits: &[OutboxId]) -> sqlx::Result<Vec<OutboxId>> {
    sqlx::query(
        "SELECT
            c.undelivered,
            c.stream_id,
            c.commit_no
        FROM json_each(?1) AS k
        JOIN saga_commit AS c
            ON c.stream_id = k.value ->> 0
            AND c.commit_no = k.value ->> 1
        WHERE c.undelivered IS NOT NULL",
    )
    .bind(keys(commits))
    .try_map(|row: SqliteRow| {
        let (recorded_at, stream, commit_number) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        Ok(OutboxId { recorded_at, stream, commit_number, index: 0, row: 0 })
    })
    .fetch_all(conn)
    .await
}

/// The statement for so many commits. They are found by the index of the marks, where those of a batch are neighbours, and
/// given as values: to parse a JSON array of them takes as long as all else.
macro_rules! unmark {
    ($commits:tt) => {
        concat!(
            "WITH wanted (messages) AS (
                VALUES (?)
            ),
            k (
                recorded_at,
                stream_id,
                commit_no
            ) AS (
                VALUES ",
            commits!($commits),
            "
            )
            UPDATE saga_commit
            SET undelivered = NULL
            WHERE position IN (
                SELECT c.position
                FROM k
                CROSS JOIN saga_commit AS c -- in this order, whatever the statistics say
                    ON c.undelivered IS NOT NULL
                    AND c.undelivered = k.recorded_at
                    AND c.stream_id = k.stream_id
                    AND c.commit_no = k.commit_no
            )
                AND message_count = COALESCE((SELECT messages FROM wanted), message_count)"
        )
    };
}

macro_rules! commits {
    (1) => {
        "(?, ?, ?)"
    };
    (4) => {
        concat!(commits!(1), ", ", commits!(1), ", ", commits!(1), ", ", commits!(1))
    };
    (16) => {
        concat!(commits!(4), ", ", commits!(4), ", ", commits!(4), ", ", commits!(4))
    };
    (64) => {
        concat!(commits!(16), ", ", commits!(16), ", ", commits!(16), ", ", commits!(16))
    };
    (256) => {
        concat!(commits!(64), ", ", commits!(64), ", ", commits!(64), ", ", commits!(64))
    };
}

/// Few texts, so that each stays prepared: each is used for as many commits as it has room for, and fewer.
const UNMARK: [(usize, &str); 4] =
    [(1, unmark!(1)), (16, unmark!(16)), (64, unmark!(64)), (MOST_UNMARKED, unmark!(256))];

/// Most commits that one statement takes the marks off.
const MOST_UNMARKED: usize = 256;

pub(super) async fn unmark(
    conn: &mut SqliteConnection,
    commits: &[OutboxId],
    messages: Option<u32>,
) -> sqlx::Result<u64> {
    let mut unmarked = 0;
    for commits in commits.chunks(MOST_UNMARKED) {
        let fitting = UNMARK.iter().find(|(room, _)| *room >= commits.len());
        let (_, statement) = fitting.expect("BUG: a chunk has more commits than any statement");
        let mut unmark = sqlx::query(*statement).bind(messages);
        for id in commits {
            unmark = unmark.bind(id.recorded_at).bind(id.stream).bind(id.commit_number);
        }
        // Commits of which nothing is bound are null, and none.
        unmarked += unmark.execute(&mut *conn).await?.rows_affected();
    }
    Ok(unmarked)
}

pub(super) async fn insert_left_over(
    conn: &mut SqliteConnection,
    message: &LeftOver,
    contents: &str,
) -> sqlx::Result<()> {
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
            ?1,
            ?2,
            ?3,
            ?4,
            ?5,
            0,
            ?6,
            ?7,
            ?8,
            ?9
        )",
    )
    .bind(message.partition)
    .bind(message.id.recorded_at)
    .bind(message.id.stream)
    .bind(message.id.commit_number)
    .bind(message.id.index)
    .bind(message.aggregate_type.as_str())
    .bind(message.aggregate_id.as_str())
    .bind(contents)
    .bind(&*message.envelope.payload)
    .execute(conn)
    .await?;
    Ok(())
}

/// Records of their own are found by their number, what is left of commits by its place.
pub(super) async fn delete(conn: &mut SqliteConnection, ids: &[OutboxId]) -> sqlx::Result<u64> {
    let (own, left): (Vec<_>, Vec<_>) = ids.iter().partition(|id| id.stream == 0);
    let mut gone = 0;
    if !own.is_empty() {
        gone += delete_own(conn, &own).await?;
    }
    if !left.is_empty() {
        gone += delete_left_over(conn, &left).await?;
    }
    Ok(gone)
}

async fn delete_own(conn: &mut SqliteConnection, ids: &[&OutboxId]) -> sqlx::Result<u64> {
    let numbers: Vec<_> = ids.iter().map(|id| id.row.to_string()).collect();
    let deleted = sqlx::query(
        "DELETE FROM saga_outbox_message
        WHERE message_no IN (SELECT value FROM json_each(?1))
            AND stream_id = 0",
    )
    .bind(format!("[{}]", numbers.join(",")))
    .execute(conn)
    .await?;
    Ok(deleted.rows_affected())
}

async fn delete_left_over(conn: &mut SqliteConnection, ids: &[&OutboxId]) -> sqlx::Result<u64> {
    let place = |id: &&OutboxId| format!("[{},{},{}]", id.stream, id.commit_number, id.index);
    let places: Vec<_> = ids.iter().map(place).collect();
    let deleted = sqlx::query(
        "DELETE FROM saga_outbox_message
        WHERE (stream_id, commit_no, message_index)
                IN (SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1))
            AND stream_id > 0",
    )
    .bind(format!("[{}]", places.join(",")))
    .execute(conn)
    .await?;
    Ok(deleted.rows_affected())
}
