//! What must hold after every clause.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use sagastore::check::{FindingKind, check_data};
use sagastore::{CommitNumber, Envelope, MessageId, MessageStore, Offset, OutboxRecord, OutboxRepository, StreamName};

use super::{Subject, TestDb};

/// How long connections and transactions may take to come home.
const QUIET_WITHIN: Duration = Duration::from_secs(60);
/// How many events or records are read at once.
const PAGE: u32 = 1000;

/// What the check may find after a clause.
const ON_PURPOSE: [FindingKind; 7] = [
    FindingKind::UndecodablePayload,
    FindingKind::EmptyStream,
    FindingKind::OrphanSnapshot,
    FindingKind::ForeignSnapshot,
    FindingKind::DamagedSnapshot,
    FindingKind::MisplacedSnapshot,
    FindingKind::EventsAfterCompletion,
];

/// What a clause did on purpose.
pub(crate) struct Expected {
    pub(crate) damaged: bool,
    pub(crate) relayed: bool,
}

impl<DB: Subject> TestDb<DB> {
    /// Checks all invariants; also for use in the middle of a clause.
    pub(crate) async fn check_invariants(&self) -> anyhow::Result<()> {
        self.check_quiet().await?;
        let expected = self.expected();
        if expected.damaged {
            return Ok(());
        }
        self.check_timeouts().await?;
        let sent = self.check_streams().await?;
        self.check_data().await?;
        self.check_outbox(&sent, expected.relayed).await
    }

    /// The crate's own check finds nothing but what clauses do on purpose: payloads that are not what they say, snapshots
    /// without a stream or damaged ones, and plain appends to completed instances.
    async fn check_data(&self) -> anyhow::Result<()> {
        let mut found = Vec::new();
        check_data(self.pool(), &mut |finding| found.push(finding)).await?;
        found.retain(|finding| !ON_PURPOSE.contains(&finding.kind));
        ensure!(found.is_empty(), "the check found {} faults, the first of them {:?}", found.len(), found.first());
        Ok(())
    }

    /// The pool is full, and the server knows of no transaction or lock.
    async fn check_quiet(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let (idle, size) = (self.pool().num_idle(), usize::try_from(self.pool().size())?);
            let mut faults = Vec::new();
            if idle != size {
                faults.push(format!("{idle} of {size} connections are in the pool"));
            } else if size > 0 {
                faults = DB::leftovers(self.home(), self.pool()).await?;
            }
            if faults.is_empty() {
                return Ok(());
            }
            ensure!(begun.elapsed() < QUIET_WITHIN, "it does not get quiet: {}", faults.join("; "));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Every stream is dense, and reads as its rows say. Gives the messages of sagas, by id.
    async fn check_streams(&self) -> anyhow::Result<HashMap<MessageId, Envelope>> {
        let orphans = "SELECT COUNT(*) FROM saga_commit
            WHERE stream_id NOT IN (SELECT stream_id FROM saga_stream)";
        ensure!(self.count(orphans).await? == 0, "commits without a stream");
        let rows = self
            .rows(
                "SELECT s.stream_name, s.persistence_key, c.commit_no, c.first_offset, c.event_count
                FROM saga_commit AS c
                JOIN saga_stream AS s ON s.stream_id = c.stream_id
                ORDER BY s.stream_id, c.commit_no",
            )
            .await?;
        let mut ends: HashMap<String, (bool, i64, i64)> = HashMap::new();
        for row in rows {
            let [Some(name), owner, Some(number), Some(first), Some(events)] = row.as_slice() else {
                bail!("a column is null: {row:?}");
            };
            let (number, first, events): (i64, i64, i64) = (number.parse()?, first.parse()?, events.parse()?);
            let (_, last, end) = *ends.get(name).unwrap_or(&(false, 0, 0));
            ensure!((number, first) == (last + 1, end), "stream {name:?} is not dense at commit {number}");
            ends.insert(name.clone(), (owner.is_some(), number, first + events));
        }
        let mut sent = HashMap::new();
        for (name, (is_saga, commits, end)) in ends {
            let messages = self.read_whole(&StreamName::new(&name)?, commits, end).await?;
            if is_saga {
                sent.extend(messages.into_iter().map(|message| (message.message_id, message)));
            }
        }
        Ok(sent)
    }

    async fn read_whole(&self, stream: &StreamName, commits: i64, end: i64) -> anyhow::Result<Vec<Envelope>> {
        let (store, mut conn) = (self.store(), self.conn().await?);
        let mut next = Offset::ZERO;
        loop {
            let page = store.read_page(&mut conn, stream, next, PAGE).await?.context("the stream is not there")?;
            for event in &page {
                ensure!(event.offset == next, "offset {} was read for {next} in {stream}", event.offset);
                next = next.checked_add(1)?;
            }
            if page.is_empty() {
                break;
            }
        }
        ensure!(next.to_i64() == end, "stream {stream} has {end} events, {next} were read");
        ensure!(store.next_offset(&mut conn, stream).await? == Some(next), "stream {stream} says it ends elsewhere");
        let (mut messages, mut number) = (Vec::new(), CommitNumber::ZERO);
        loop {
            let page = store.read_commits(&mut conn, stream, number).await?;
            for commit in &page.commits {
                messages.extend(commit.messages(stream)?);
                number = commit.commit_number;
            }
            if !page.more {
                break;
            }
        }
        ensure!(number.to_i64() == commits, "stream {stream} has {commits} commits, {number} were read");
        Ok(messages)
    }

    /// No message waits twice, none waits that was not committed, and all wait unless relayed.
    async fn check_outbox(&self, sent: &HashMap<MessageId, Envelope>, relayed: bool) -> anyhow::Result<()> {
        let records = self.outbox().await?;
        let mut waiting = HashSet::new();
        for record in &records {
            let id = record.envelope.message_id;
            ensure!(waiting.insert(id), "message {id} waits twice in the outbox");
            if let Some(message) = sent.get(&id) {
                let (stored, kept) = (without_time(message), without_time(&record.envelope));
                ensure!(stored == kept, "the outbox changed {stored:?} to {kept:?}");
            }
        }
        let fast = self.count(DB::COUNT_FAST_LANE).await?;
        let slow = self.count("SELECT COUNT(*) FROM saga_outbox_message WHERE dead_at IS NULL").await?;
        let read = i64::try_from(records.len())?;
        ensure!(read <= fast + slow && read >= fast, "{fast} + {slow} records wait, {read} were read");
        if !relayed {
            let lost = sent.keys().find(|id| !waiting.contains(id));
            ensure!(lost.is_none(), "message {lost:?} was committed and is not in the outbox");
        }
        Ok(())
    }

    /// All that waits in the outbox, in delivery order.
    pub(crate) async fn outbox(&self) -> anyhow::Result<Vec<OutboxRecord>> {
        let (store, mut conn, mut records) = (self.store(), self.conn().await?, Vec::<OutboxRecord>::new());
        loop {
            let after = records.last().map(|record| record.id);
            let page = store.find_batch(&mut conn, after, PAGE).await?;
            if page.is_empty() {
                return Ok(records);
            }
            records.extend(page);
        }
    }
}

/// A message without the time at which it was stored, which a record that was saved apart from its
/// commit has of its own.
pub(crate) fn without_time(message: &Envelope) -> Envelope {
    let mut message = message.clone();
    message.recorded_at = None;
    message
}
