//! Looks at all that a store holds, and compares it with the model.

use std::collections::{BTreeMap, BTreeSet};

use sagastore::{CommitNumber, MessageStore, Offset, OutboxRepository};

use super::run::{Run, ledger, same};
use super::steps::{SAGA_STREAMS, STREAMS};
use super::world::{Aggregate, Message, Stream, Waiting, count};
use crate::harness::Subject;

/// Commits of a stream as columns: number, first offset, events, messages, completed, handles a message.
type Shape = [i64; 6];

impl<DB: Subject> Run<DB> {
    /// Checks everything in depth.
    pub(super) async fn check_all(&self) -> anyhow::Result<()> {
        let mut conn = self.db.conn().await?;
        for stream in 0..STREAMS {
            self.check_stream(&mut conn, stream).await?;
            self.check_messages(&mut conn, stream).await?;
        }
        self.check_outbox(&mut conn).await
    }

    /// Checks the outlines of everything, and what the step touched.
    pub(super) async fn check(&self, touched: BTreeSet<usize>) -> anyhow::Result<()> {
        let mut conn = self.db.conn().await?;
        self.check_shapes(&mut conn).await?;
        self.check_snapshots(&mut conn).await?;
        for stream in touched {
            self.check_stream(&mut conn, stream).await?;
        }
        self.check_outbox(&mut conn).await
    }

    async fn check_shapes(&self, conn: &mut DB::Connection) -> anyhow::Result<()> {
        let rows = DB::rows(
            conn,
            format!(
                "SELECT
                    s.stream_name,
                    c.commit_no,
                    c.first_offset,
                    c.event_count,
                    c.message_count,
                    CASE WHEN c.completed THEN 1 ELSE 0 END,
                    CASE WHEN c.handled_message_id IS NULL THEN 0 ELSE 1 END
                FROM saga_commit AS c
                JOIN saga_stream AS s ON s.stream_id = c.stream_id
                WHERE s.stream_name LIKE '%{}%'
                ORDER BY s.stream_id, c.commit_no",
                self.token
            ),
        )
        .await?;
        let mut found: BTreeMap<String, Vec<Shape>> = BTreeMap::new();
        for row in rows {
            let mut values = row.into_iter().map(Option::unwrap_or_default);
            let name = values.next().unwrap_or_default();
            let numbers = values.map(|value| value.parse()).collect::<Result<Vec<i64>, _>>()?;
            found.entry(name).or_default().push(numbers.try_into().unwrap());
        }
        let with_commits = (0..STREAMS).filter(|stream| !self.world.streams[*stream].commits.is_empty());
        let expected = with_commits
            .map(|stream| (self.stream_name(stream).as_str().to_owned(), shape(&self.world.streams[stream])));
        same("the commits of all streams", expected.collect(), found)
    }

    async fn check_snapshots(&self, conn: &mut DB::Connection) -> anyhow::Result<()> {
        let rows = DB::rows(
            conn,
            format!(
                "SELECT
                    s.stream_name,
                    n.revision,
                    n.commit_no
                FROM saga_snapshot AS n
                JOIN saga_stream AS s ON s.stream_id = n.stream_id
                WHERE s.stream_name LIKE '%{}%'",
                self.token
            ),
        )
        .await?;
        let mut found: Vec<_> = rows.into_iter().flat_map(<[Option<String>; 3]>::try_from).collect();
        found.sort();
        let snapshots = |stream: usize| {
            let name = self.stream_name(stream);
            let row = move |(revision, snap): (&u64, &super::world::Snap)| {
                [name.as_str().to_owned(), revision.to_string(), snap.commit.to_string()].map(Some)
            };
            self.world.streams[stream].snapshots.iter().map(row)
        };
        let mut expected: Vec<_> = (0..SAGA_STREAMS).flat_map(snapshots).collect();
        expected.sort();
        same("the snapshots of all instances", expected, found)
    }

    async fn check_stream(&self, conn: &mut DB::Connection, stream: usize) -> anyhow::Result<()> {
        let (store, name, model) = (self.db.store(), self.stream_name(stream), &self.world.streams[stream]);
        let events = store.read_page(conn, &name, Offset::ZERO, u32::MAX).await?.unwrap_or_default();
        let offsets: Vec<_> = events.iter().map(|event| event.offset.get()).collect();
        same("the offsets of a stream", (0..model.end()).collect(), offsets)?;
        let read = events.iter().map(|event| Message::of(&event.envelope)).collect::<anyhow::Result<Vec<_>>>()?;
        same("the events of a stream", model.events(), read)?;
        if stream < SAGA_STREAMS && !model.ownerless && !model.commits.is_empty() {
            for persister in [self.db.persister(), self.db.persister().without_snapshots()] {
                let unit = persister.load_instance(ledger(stream), conn, &self.instance(stream)).await?.unwrap();
                same("the state", &model.data(), &unit.instance().data)?;
                same("the revision", model.end(), unit.instance().revision.get())?;
                same("being completed", model.completed(), unit.is_completed())?;
            }
        }
        Ok(())
    }

    async fn check_messages(&self, conn: &mut DB::Connection, stream: usize) -> anyhow::Result<()> {
        let (store, name, model) = (self.db.store(), self.stream_name(stream), &self.world.streams[stream]);
        let end = (!model.commits.is_empty()).then_some(model.end());
        same("the end of a stream", end, store.next_offset(conn, &name).await?.map(Offset::get))?;
        let page = store.read_commits(conn, &name, CommitNumber::ZERO).await?;
        let mut messages = Vec::new();
        for commit in &page.commits {
            messages.push(Message::all(&commit.messages(&name)?)?);
        }
        let expected = model.commits.iter().map(|commit| commit.messages.clone()).collect();
        same("the messages of a stream", expected, messages)?;
        let times: Vec<_> = page.commits.iter().map(|commit| commit.recorded_at).collect();
        anyhow::ensure!(times.is_sorted_by(|a, b| a < b), "the commits have the times {times:?}");
        Ok(())
    }

    async fn check_outbox(&self, conn: &mut DB::Connection) -> anyhow::Result<()> {
        let records = self.records(conn).await?;
        anyhow::ensure!(records.is_sorted_by(|a, b| a.id < b.id), "the outbox is not in order: {records:?}");
        let mut found: BTreeMap<Aggregate, Vec<Message>> = BTreeMap::new();
        for record in records {
            let message = Message::of(&record.envelope)?;
            found.entry((record.aggregate_type, record.aggregate_id)).or_default().push(message);
        }
        let due = |(aggregate, waiting): (&Aggregate, &Vec<Waiting>)| {
            let due: Vec<_> = waiting.iter().filter(|waiting| waiting.due).map(|waiting| waiting.message).collect();
            (!due.is_empty()).then(|| (aggregate.clone(), due))
        };
        same("the outbox", self.world.outbox.iter().filter_map(due).collect(), found)?;
        let stats = self.db.store().stats(conn).await?;
        let pending = self.pending_before + count(self.world.outbox.values().flatten());
        same("pending messages", pending, stats.pending)?;
        same("the oldest message", pending > 0, stats.oldest.is_some() && stats.oldest_age.is_some())
    }
}

fn shape(stream: &Stream) -> Vec<Shape> {
    let mut first = 0;
    let row = |(number, commit): (i64, &super::world::Commit)| {
        let events = i64::try_from(commit.events()).unwrap();
        let messages = i64::try_from(commit.messages.len()).unwrap();
        let shape = [number, first, events, messages, commit.completed.into(), commit.handled.is_some().into()];
        first += events;
        shape
    };
    (1..).zip(&stream.commits).map(row).collect()
}
