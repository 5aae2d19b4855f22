//! Reading the two lanes as one.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::Database;

use super::lanes::{OutboxTables, Selection};
use super::{OutboxId, OutboxRecord};
use crate::contents::Texts;
use crate::error::{Error, Result};

/// Whose order is to be kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OrderKey {
    Stream(i64),
    Aggregate(String, String),
}

impl Found {
    /// Keeps what was recorded by then.
    pub(crate) fn keep_recorded_by(&mut self, then: i64) {
        self.records.retain(|record| record.id.recorded_at <= then);
        self.damaged.retain(|(id, _)| id.recorded_at <= then);
    }

    /// Keeps no more than `limit` records, and only whole commits as far as possible: a commit that is acknowledged in
    /// parts costs a row for each message that is left.
    pub(crate) fn keep_commits(&mut self, limit: u32) {
        let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
        let commit = |record: &OutboxRecord| record.id.commit();
        if let Some(cut) = self.records.get(wanted).map(commit) {
            self.records.truncate(wanted);
            let whole = self.records.iter().rposition(|record| commit(record) != cut);
            self.records.truncate(whole.map_or(wanted, |last| last + 1));
        }
    }
}

impl OrderKey {
    pub(crate) fn of(record: &OutboxRecord) -> Self {
        Self::new(record.id, record.aggregate_type.as_str(), record.aggregate_id.as_str())
    }

    pub(crate) fn new(id: OutboxId, aggregate_type: impl Into<String>, aggregate_id: impl Into<String>) -> Self {
        if id.stream > 0 {
            Self::Stream(id.stream)
        } else {
            Self::Aggregate(aggregate_type.into(), aggregate_id.into())
        }
    }
}

/// What cannot be read.
#[derive(Debug)]
pub struct Damage {
    pub id: OutboxId,
    /// Who waits behind it.
    pub key: OrderKey,
    pub error: Error,
}

/// Some due rows of the slow lane, in delivery order.
#[derive(Debug, Default)]
pub struct WaitingPage {
    pub records: Vec<OutboxRecord>,
    pub damaged: Vec<Damage>,
    /// The last row that was looked at.
    pub end: Option<OutboxId>,
    /// The page ended early at a limit on its bytes.
    pub cut: bool,
}

/// What was found for a dispatcher.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) records: Vec<OutboxRecord>,
    /// Commits and rows that cannot be read. Nothing of their streams that comes after them is among the records.
    pub(crate) damaged: Vec<(OutboxId, Error)>,
}

/// The next records after `after` in delivery order: those of a page of `limit` commits and rows. Reads on past what is
/// damaged and what waits behind it, until there is something to deliver: it must not hold up all others.
pub(crate) async fn find<DB: Database, T: OutboxTables<DB> + ?Sized>(
    tables: &T,
    conn: &mut DB::Connection,
    selection: Selection,
    mut after: OutboxId,
    limit: u32,
) -> Result<Found> {
    let (mut found, mut seen, mut barred) = (Found::default(), BTreeSet::new(), BTreeMap::<OrderKey, OutboxId>::new());
    if limit == 0 {
        return Ok(found);
    }
    loop {
        let Page { records, damaged, end } = read(tables, conn, selection, after, limit).await?;
        for Damage { id, key, error } in damaged {
            let first = barred.entry(key).or_insert(id);
            *first = id.min(*first);
            if seen.insert(id) {
                found.damaged.push((id, error));
            }
        }
        let is_free = |record: &OutboxRecord| {
            barred.is_empty() || barred.get(&OrderKey::of(record)).is_none_or(|damage| record.id < *damage)
        };
        found.records.extend(records.into_iter().filter(is_free));
        match end {
            Some(end) if found.records.is_empty() => after = end,
            _ => return Ok(found),
        }
    }
}

/// A part of both lanes.
struct Page {
    records: Vec<OutboxRecord>,
    damaged: Vec<Damage>,
    /// How far it goes; `None` if nothing comes after it.
    end: Option<OutboxId>,
}

async fn read<DB: Database, T: OutboxTables<DB> + ?Sized>(
    tables: &T,
    conn: &mut DB::Connection,
    selection: Selection,
    after: OutboxId,
    limit: u32,
) -> Result<Page> {
    // The commit of `after` may have been delivered whole: one more than the limit always reaches further.
    let marked = tables.marked(conn, selection, after, limit.saturating_add(1)).await?;
    // Read last: what leaves the fast lane meanwhile is then found twice rather than not at all.
    let waiting = tables.waiting(conn, selection, after, limit).await?;
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);

    let commits = marked.commits.iter().map(super::Marked::id).chain(marked.damaged.iter().map(|(id, _)| *id));
    let last = commits.max().map(|id| OutboxId { index: i64::MAX, row: i64::MAX, ..id });
    let is_more = marked.cut || count(marked.commits.len() + marked.damaged.len()) > limit;
    let fast_end = last.filter(|_| is_more);
    let slow_end = waiting.end.filter(|_| waiting.cut || count(waiting.records.len() + waiting.damaged.len()) >= limit);
    // Beyond the end of one lane's page, it may hold what comes before what the other has.
    let end = fast_end.into_iter().chain(slow_end).min();
    let is_within = |id: OutboxId| end.is_none_or(|end| id <= end);

    let mut damaged = waiting.damaged;
    let damage = |id: OutboxId, error| Damage { id, key: OrderKey::Stream(id.stream), error };
    damaged.extend(marked.damaged.into_iter().map(|(id, error)| damage(id, error)));
    let (mut records, mut texts) = (Vec::new(), Texts::default());
    for commit in &marked.commits {
        match commit.records(&mut texts) {
            Ok(found) => records.extend(found.into_iter().filter(|record| record.id > after)),
            Err(error) => damaged.push(damage(commit.id(), error)),
        }
    }
    records.extend(waiting.records);
    records.retain(|record| is_within(record.id));
    damaged.retain(|damage| is_within(damage.id));
    records.sort_by_key(|record| record.id);
    records.dedup_by_key(|record| record.id);
    Ok(Page { records, damaged, end })
}
