//! Reading the outbox's fast lane.

use futures_util::TryStreamExt;
use sqlx::{Row, SqliteConnection};

use super::packed::{self, Packed, packed_commits};
use super::read;
use crate::message_store::PAGE_BYTES;
use crate::outbox::{MarkedColumns, MarkedPage, OutboxId, Selection};
use crate::row::CommitColumns;

/// Where the marks of a page are found, in delivery order.
macro_rules! page_of_marks {
    () => {
        "FROM saga_commit AS c
        JOIN saga_stream AS s
            ON s.stream_id = c.stream_id
        WHERE c.undelivered IS NOT NULL
            AND (c.undelivered, c.stream_id, c.commit_no) >= (+?1, +?2, +?3)
            AND (?5 >> (c.stream_id % 64)) & 1 = 1
            AND (
                ?6
                OR NOT EXISTS (SELECT 1 FROM saga_outbox_message WHERE attempts > 0)
                OR NOT EXISTS (
                    SELECT 1
                    FROM saga_outbox_message AS failed
                    WHERE failed.stream_id = c.stream_id
                        AND failed.attempts > 0
                        AND (failed.recorded_at, failed.commit_no) < (c.recorded_at, c.commit_no)
                )
            )
        ORDER BY
            c.undelivered,
            c.stream_id,
            c.commit_no
        LIMIT +?4"
    };
}

pub(super) async fn select(
    conn: &mut SqliteConnection,
    selection: Selection,
    after: OutboxId,
    limit: u32,
) -> sqlx::Result<MarkedPage> {
    if (packed::MIN_COMMITS..=packed::MAX_COMMITS).contains(&limit)
        && let Some(found) = select_packed(conn, selection, after, limit).await?
    {
        let mut page = MarkedPage::default();
        found.into_iter().for_each(|columns| columns.judge(&mut page));
        return Ok(page);
    }
    select_rows(conn, selection, after, limit).await
}

/// The mark is a column of the commit.
fn id(stream: i64, commit: &CommitColumns) -> OutboxId {
    let CommitColumns { recorded_at, commit_no, .. } = *commit;
    OutboxId { recorded_at, stream, commit_number: commit_no, index: 0, row: 0 }
}

/// The marks of a packed page, if they are all that were `found` and counted, in their order.
fn unpack(mut page: Packed<'_>, found: i64, count: i64) -> Option<Vec<MarkedColumns>> {
    if found != count {
        return None;
    }
    let mut marked: Vec<MarkedColumns> = Vec::with_capacity(usize::try_from(count).ok()?);
    for _ in 0..count {
        let stream = page.number()?;
        let [name, persistence_key, instance] = [page.number()?, page.number()?, page.number()?];
        let mut text = |length| page.nullable(length).map(|bytes| bytes.map(<[u8]>::to_vec));
        let (stream_name, persistence_key, instance_id) = (text(name)?, text(persistence_key)?, text(instance)?);
        let commit = page.commit()?;
        let id = id(stream, &commit);
        if marked.last().is_some_and(|last| last.id >= id) {
            return None;
        }
        marked.push(MarkedColumns { id, stream_name, persistence_key, instance_id, commit: Some(commit) });
    }
    page.is_empty().then_some(marked)
}

pub(super) async fn select_packed(
    conn: &mut SqliteConnection,
    selection: Selection,
    after: OutboxId,
    limit: u32,
) -> sqlx::Result<Option<Vec<MarkedColumns>>> {
    let row = sqlx::query(concat!(
        "WITH page AS MATERIALIZED (
            SELECT
                c.position,
                octet_length(c.contents) + octet_length(c.body) AS size
            ",
        page_of_marks!(),
        "
        )
        SELECT
            octet_length('a'),
            (SELECT COUNT(*) FROM page),
            COUNT(*),
            ",
        packed_commits!(
            "s.stream_id,
                            octet_length(s.stream_name),
                            ifnull(octet_length(s.persistence_key), -1),
                            ifnull(octet_length(s.instance_id), -1),
                            s.stream_name,
                            s.persistence_key,
                            s.instance_id,
                            "
        ),
        "
        FROM page
        CROSS JOIN saga_commit AS c
            ON c.position = page.position
        CROSS JOIN saga_stream AS s
            ON s.stream_id = c.stream_id
        WHERE (SELECT SUM(size) FROM page) < +?7"
    ))
    .bind(after.recorded_at)
    .bind(after.stream)
    .bind(after.commit_number)
    .bind(limit)
    .bind(selection.partitions)
    .bind(selection.behind_failed)
    .bind(packed::MAX_BYTES)
    .fetch_one(conn)
    .await?;
    let (found, count) = (row.try_get(1)?, row.try_get(2)?);
    Ok(Packed::new(row.try_get(0)?, row.try_get(3)?).and_then(|page| unpack(page, found, count)))
}

async fn select_rows(
    conn: &mut SqliteConnection,
    selection: Selection,
    after: OutboxId,
    limit: u32,
) -> sqlx::Result<MarkedPage> {
    let mut rows = sqlx::query(concat!(
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
",
        page_of_marks!()
    ))
    .bind(after.recorded_at)
    .bind(after.stream)
    .bind(after.commit_number)
    .bind(limit)
    .bind(selection.partitions)
    .bind(selection.behind_failed)
    .fetch(conn);
    let (mut page, mut bytes) = (MarkedPage::default(), 0);
    while let Some(row) = rows.try_next().await? {
        let commit = read::columns(&row, 4)?;
        let columns = MarkedColumns {
            id: id(row.try_get(0)?, &commit),
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
