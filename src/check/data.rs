//! All rows, page by page.

use std::collections::HashMap;

use sqlx::{Pool, Transaction};

use super::commits::Walk;
use super::finding::{Finding, FindingKind, FindingPlace};
use super::tables::{CheckTables, MarkRow};
use super::{outbox, snapshots};
use crate::backend::Backend;
use crate::error::Result;
use crate::inspect::inspector::{Inspector, begin_reading};
use crate::inspect::tables::{InspectTables, Place, StreamChoice, StreamColumns};
use crate::message_store::MessageStore;

/// Streams in one page.
const STREAMS: u32 = 200;
/// Commits, marks or messages that are read at once.
const ROWS: u32 = 500;
/// Snapshots that are read at once, which may be large.
const SNAPSHOTS: u32 = 16;
/// Most streams of a page of which it is told that they handled a message twice.
const REPEATED: u32 = 100;

/// How much was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checked {
    /// Streams with a row.
    pub streams: u64,
    /// Commits.
    pub commits: u64,
    /// Events and commands in them.
    pub messages: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Marks and messages in the outbox.
    pub outbox: u64,
    /// How many findings were reported.
    pub findings: u64,
}

/// Checks all that the database holds: that every stream is dense, that commits fit their checksums and can be read, that
/// completion, handled messages, snapshots and outbox agree with the commits. `report` is given each finding as it is
/// made. What is not checked: whether payloads mean what the saga thinks (load the instance for that), payloads that
/// are not JSON, timeouts, parked messages, correlation keys, inboxes, leases and the places of the global order.
///
/// Memory is bounded by a page: 200 streams without their commits, and about 8 MiB of commits, snapshots or messages, or one
/// that is larger.
///
/// # Errors
/// The database's; also where a row cannot even be read as its column's type.
pub async fn check_data<DB: Backend>(pool: &Pool<DB>, report: &mut (dyn FnMut(Finding) + Send)) -> Result<Checked> {
    let mut check = Check { inspector: Inspector::new(pool), report, checked: Checked::default() };
    check.streams().await?;
    check.marks().await?;
    check.outbox().await?;
    Ok(check.checked)
}

struct Check<'r, DB: Backend> {
    inspector: Inspector<DB>,
    report: &'r mut (dyn FnMut(Finding) + Send),
    checked: Checked,
}

impl<DB: Backend> Check<'_, DB> {
    fn tell(&mut self, found: Vec<Finding>) {
        for finding in found {
            self.checked.findings += 1;
            (self.report)(finding);
        }
    }

    async fn streams(&mut self) -> Result<()> {
        let doing = "checking streams";
        let mut after = Some(i64::MIN);
        while let Some(key) = after {
            let store = self.inspector.store().clone();
            let mut conn = self.inspector.connection(doing).await?;
            let mut tx = begin_reading::<DB>(&store, &mut conn, doing).await?;
            after = self.page(&store, &mut tx, key).await?;
            tx.rollback().await.map_err(|error| store.classify(doing, error))?;
            conn.release();
        }
        Ok(())
    }

    /// Checks some streams after a key, with all that names them; gives the last one's key, `None` at the end.
    async fn page(&mut self, store: &DB::Store, tx: &mut Transaction<'_, DB>, after: i64) -> Result<Option<i64>> {
        let streams = store.streams(tx, &StreamChoice::all_after(after), STREAMS).await?;
        let last = streams.last().map(|stream| stream.key);
        let to = last.unwrap_or(i64::MAX);
        self.checked.streams += u64::try_from(streams.len()).unwrap_or_default();
        self.commits(store, tx, &streams, after, to).await?;
        let streams: HashMap<i64, StreamColumns> = streams.into_iter().map(|stream| (stream.key, stream)).collect();
        self.snapshots(store, tx, &streams, after, to).await?;
        let mut found = Vec::new();
        for (key, number) in store.repeated_handlings(tx, after, to, REPEATED).await? {
            let stream = streams.get(&key).map(|stream| stream.name.clone());
            let place = stream.map_or(FindingPlace::Key(key), |stream| FindingPlace::Commit { stream, number });
            let detail = "it handled a message that an earlier commit had handled";
            found.push(Finding::new(FindingKind::RepeatedHandling, place, detail));
        }
        self.tell(found);
        Ok(last)
    }

    async fn commits(
        &mut self,
        store: &DB::Store,
        tx: &mut Transaction<'_, DB>,
        streams: &[StreamColumns],
        after: i64,
        to: i64,
    ) -> Result<()> {
        let mut walks = streams.iter().cloned().map(Walk::new);
        let (mut walk, mut place, mut orphan) = (walks.next(), Place::end_of(after), None);
        loop {
            let (page, mut found) = (store.commit_rows(tx, place, to, ROWS).await?, Vec::new());
            for row in page.rows {
                place = row.place();
                self.checked.commits += 1;
                while let Some(done) = walk.take_if(|walk| walk.key() < row.stream) {
                    done.finish(&mut found);
                    walk = walks.next();
                }
                match &mut walk {
                    Some(walk) if walk.key() == row.stream => self.checked.messages += walk.take(row, &mut found),
                    _ if orphan != Some(row.stream) => {
                        orphan = Some(row.stream);
                        let detail = format!("there are commits, the first of them commit {}", row.columns.commit_no);
                        found.push(Finding::new(FindingKind::OrphanCommit, FindingPlace::Key(row.stream), detail));
                    }
                    _ => {}
                }
            }
            self.tell(found);
            if !page.more {
                break;
            }
        }
        let mut found = Vec::new();
        walk.into_iter().chain(walks).for_each(|walk| walk.finish(&mut found));
        self.tell(found);
        Ok(())
    }

    async fn snapshots(
        &mut self,
        store: &DB::Store,
        tx: &mut Transaction<'_, DB>,
        streams: &HashMap<i64, StreamColumns>,
        after: i64,
        to: i64,
    ) -> Result<()> {
        let mut place = Place::end_of(after);
        loop {
            let (rows, mut found) = (store.snapshot_rows(tx, place, to, SNAPSHOTS).await?, Vec::new());
            let Some(last) = rows.last() else { return Ok(()) };
            place = last.place();
            self.checked.snapshots += u64::try_from(rows.len()).unwrap_or_default();
            for row in rows {
                let stream = streams.get(&row.stream);
                snapshots::check(row, stream, &mut found);
            }
            self.tell(found);
        }
    }

    async fn marks(&mut self) -> Result<()> {
        let mut conn = self.inspector.connection("checking the outbox").await?;
        let mut last: Option<MarkRow> = None;
        loop {
            let marks = self.inspector.store().marks(&mut conn, last.as_ref(), ROWS).await?;
            last = marks.last().copied();
            if last.is_none() {
                conn.release();
                return Ok(());
            }
            self.checked.outbox += u64::try_from(marks.len()).unwrap_or_default();
            let mut found = Vec::new();
            marks.iter().for_each(|mark| outbox::check_mark(mark, &mut found));
            self.tell(found);
        }
    }

    async fn outbox(&mut self) -> Result<()> {
        let mut conn = self.inspector.connection("checking the outbox").await?;
        let mut after = i64::MIN;
        loop {
            let page = self.inspector.store().outbox_rows(&mut conn, after, ROWS).await?;
            after = page.rows.last().map_or(after, |row| row.row.row);
            self.checked.outbox += u64::try_from(page.rows.len()).unwrap_or_default();
            let mut found = Vec::new();
            page.rows.into_iter().for_each(|row| outbox::check_row(row, &mut found));
            self.tell(found);
            if !page.more {
                conn.release();
                return Ok(());
            }
        }
    }
}
