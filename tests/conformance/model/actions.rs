//! The steps that go beside units of work: plain streams, snapshots by hand, and the outbox.

use std::collections::BTreeSet;

use anyhow::Context;
use sagastore::{
    Codecs, CommitNumber, Envelope, Error, MessageKind, MessageStore, MessageType, NewOutboxRecord, Offset,
    OutboxRecord, OutboxRepository, Revision, Saga, Snapshot, SnapshotRepository, StreamName, Timestamp,
};
use sqlx::Transaction;

use super::ledger::{LedgerCommand, LedgerEvent};
use super::run::{Run, ledger, same};
use super::steps::SnapshotStep;
use super::world::{Message, Outcome, Snap, Waiting, What, World, count};
use crate::harness::Subject;

/// How many snapshots are kept when one is saved by hand.
const KEPT: usize = 2;
/// By how much a snapshot is ahead that is newer than its stream.
const AHEAD: u64 = 1000;
/// When records are due that are not due during a test.
const FAR_FUTURE: Timestamp = Timestamp::from_micros(32_503_680_000_000_000);

impl<DB: Subject> Run<DB> {
    pub(super) async fn append(
        &mut self,
        tx: &mut Transaction<'_, DB>,
        world: &mut World,
        stream: usize,
        beside: u64,
        (events, commands): (usize, usize),
    ) -> anyhow::Result<()> {
        let event = |number| What::Event(LedgerEvent::Noted { number });
        let command = |number| What::Command(LedgerCommand::Tell { number });
        let mut envelopes = Vec::new();
        for what in
            (0..events).map(|_| event as fn(u32) -> What).chain((0..commands).map(|_| command as fn(u32) -> What))
        {
            envelopes.push(envelope(what(self.next_number()))?);
        }
        self.touched.insert(stream);
        let at = world.streams[stream].end() + beside;
        let name = self.stream_name(stream);
        let appended = self.db.store().append_messages(tx, &name, Offset::try_from(at)?, &envelopes).await;
        let found = match appended {
            Ok(end) => Outcome::Changed { revision: end.get() },
            Err(Error::Conflict { expected, actual, .. }) => {
                Outcome::Conflict { expected: expected.get(), actual: actual.get() }
            }
            Err(error) => return Err(error.into()),
        };
        let identity = u64::from(self.next_number());
        same("appending", world.append(stream, at, Message::all(&envelopes)?, identity), found)
    }

    pub(super) async fn read(
        &self,
        tx: &mut Transaction<'_, DB>,
        world: &World,
        stream: usize,
        from: u64,
        limit: u32,
    ) -> anyhow::Result<()> {
        let (name, stream) = (self.stream_name(stream), &world.streams[stream]);
        let events = || (0_u64..).zip(stream.events());
        let page = || events().filter(|(offset, _)| *offset >= from).take(usize::try_from(limit).unwrap()).collect();
        let expected: Option<Vec<_>> = (!stream.commits.is_empty()).then(page);
        let found = self.db.store().read_page(tx, &name, Offset::try_from(from)?, limit).await?;
        let found = found.map(|events| {
            let read =
                |event: &sagastore::RecordedEvent| anyhow::Ok((event.offset.get(), Message::of(&event.envelope)?));
            events.iter().map(read).collect::<anyhow::Result<Vec<_>>>()
        });
        same("a page", expected, found.transpose()?)
    }

    pub(super) async fn snapshot(
        &mut self,
        tx: &mut Transaction<'_, DB>,
        world: &mut World,
        stream: usize,
        step: SnapshotStep,
    ) -> anyhow::Result<()> {
        let saga_stream = self.saga_stream(stream);
        let (key, id) = (saga_stream.persistence_key.as_str(), &saga_stream.instance_id);
        let model = &mut world.streams[stream];
        if model.commits.is_empty() || model.ownerless {
            return Ok(());
        }
        self.touched.insert(stream);
        match step {
            SnapshotStep::Delete => {
                let deleted = self.db.store().delete_saga_snapshots(tx, key, id).await?;
                same("deleted snapshots", count(model.snapshots.iter()), deleted)?;
                model.snapshots.clear();
            }
            SnapshotStep::Damage => {
                let Some((revision, snap)) = model.snapshots.iter_mut().next_back() else { return Ok(()) };
                if !snap.damaged {
                    snap.damaged = true;
                    damage::<DB>(tx, &saga_stream.name, *revision).await?;
                }
            }
            _ => {
                let too_new = matches!(step, SnapshotStep::TakeTooNew);
                let (revision, commit) = (model.end(), count(model.commits.iter()));
                let (revision, commit) = if too_new { (revision + AHEAD, commit + 1) } else { (revision, commit) };
                let other_version = matches!(step, SnapshotStep::TakeOtherVersion);
                let undecodable = matches!(step, SnapshotStep::TakeUndecodable);
                let codecs = Codecs::default();
                let (codec, mut body) = (codecs.snapshots(), Vec::new());
                codec.encode(&model.data(), &mut body).map_err(|fault| anyhow::anyhow!(fault))?;
                let content_type = if undecodable { "application/x-unknown" } else { codec.content_type() };
                let version = ledger(stream).data_version() + u32::from(other_version);
                let (at, number) = (Revision::try_from(revision)?, CommitNumber::try_from(commit)?);
                let snapshot = Snapshot::new(key, id, at, number, version, content_type, body);
                self.db.store().save_saga_snapshot(tx, &snapshot, u32::try_from(KEPT)?).await?;
                model.snapshot(revision, Snap { commit, damaged: false, other_version, undecodable }, KEPT);
            }
        }
        Ok(())
    }

    pub(super) async fn store(
        &mut self,
        tx: &mut Transaction<'_, DB>,
        world: &mut World,
        aggregate: usize,
        records: usize,
        due: bool,
    ) -> anyhow::Result<()> {
        let aggregate = self.plain_aggregate(aggregate);
        let mut new = Vec::new();
        for _ in 0..records {
            let envelope = envelope(What::Event(LedgerEvent::Noted { number: self.next_number() }))?;
            let mut record = NewOutboxRecord::new(aggregate.0.as_str(), aggregate.1.as_str(), envelope);
            record.due_at = (!due).then_some(FAR_FUTURE);
            new.push(record);
        }
        OutboxRepository::save(&self.db.store(), tx, &new).await?;
        for record in &new {
            let message = Message::of(&record.envelope)?;
            world.outbox.entry(aggregate.clone()).or_default().push(Waiting { message, due });
        }
        Ok(())
    }

    pub(super) async fn acknowledge(
        &mut self,
        tx: &mut Transaction<'_, DB>,
        world: &mut World,
        picks: &[usize],
        batch: u32,
        gone: bool,
    ) -> anyhow::Result<()> {
        let records = self.records(tx).await?;
        let picked = picks.iter().filter_map(|pick| records.get(pick % records.len().max(1)));
        let picked: Vec<&OutboxRecord> = picked.collect();
        let distinct: BTreeSet<_> = picked.iter().map(|record| record.id).collect();
        let mut ids: Vec<_> = picked.iter().map(|record| record.id).collect();
        ids.extend(world.acknowledged.iter().filter(|_| gone).copied().take(3));
        let left = self.db.store().delete_in_batches(tx, batch, &ids).await?;
        same("acknowledged records", count(distinct.iter()), left)?;
        for record in picked {
            let aggregate = (record.aggregate_type.clone(), record.aggregate_id.clone());
            let waiting = world.outbox.get_mut(&aggregate).context("an aggregate of nobody")?;
            waiting.retain(|waiting| waiting.message.id != record.envelope.message_id);
        }
        world.acknowledged.extend(distinct);
        Ok(())
    }

    pub(super) async fn find(&self, batch: u32, limit: Option<u64>) -> anyhow::Result<()> {
        let mut conn = self.db.conn().await?;
        let all = self.db.store().find_batch(&mut conn, None, u32::MAX).await?;
        let wanted = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap());
        let found = std::sync::Mutex::new(Vec::new());
        let mut collect = |records: Vec<OutboxRecord>| -> futures_util::future::BoxFuture<'_, sagastore::Result<()>> {
            assert!(!records.is_empty() && records.len() <= usize::try_from(batch).unwrap());
            found.lock().unwrap().extend(records);
            Box::pin(std::future::ready(Ok(())))
        };
        let given = self.db.store().find_in_batches(&mut conn, batch, limit, &mut collect).await?;
        let found = found.into_inner().unwrap();
        same("how many were found", count(found.iter()), given)?;
        same("what was found in batches", all.iter().take(wanted).collect::<Vec<_>>(), found.iter().collect())
    }

    /// Acknowledges all that waits and is due.
    pub(super) async fn empty_outbox(&self) -> anyhow::Result<()> {
        let mut tx = self.db.begin().await?;
        let ids: Vec<_> = self.records(&mut tx).await?.into_iter().map(|record| record.id).collect();
        let left = self.db.store().delete_in_batches(&mut tx, 7, &ids).await?;
        same("acknowledged records", count(ids.iter()), left)?;
        tx.commit().await?;
        same("records after that", 0, self.records(&mut *self.db.conn().await?).await?.len())
    }

    /// What waits in the outbox of this run and is due.
    pub(super) async fn records(&self, conn: &mut DB::Connection) -> anyhow::Result<Vec<OutboxRecord>> {
        let mut records = self.db.store().find_batch(conn, None, u32::MAX).await?;
        records.retain(|record| record.aggregate_id.contains(&self.token));
        Ok(records)
    }
}

async fn damage<DB: Subject>(conn: &mut DB::Connection, stream: &StreamName, revision: u64) -> anyhow::Result<()> {
    let name = DB::text(stream.as_str());
    let damage = format!(
        "UPDATE saga_snapshot
        SET checksum = 4294967295 - checksum
        WHERE revision = {revision}
            AND checksum >= 0
            AND stream_id = (SELECT stream_id FROM saga_stream WHERE stream_name = {name})"
    );
    same("damaged snapshots", 1, DB::execute(conn, damage).await?)
}

fn envelope(what: What) -> sagastore::Result<Envelope> {
    let (kind, tag, payload) = match what {
        What::Event(event) => (MessageKind::Event, event.message_type(), serde_json::to_vec(&event)),
        What::Command(command) => (MessageKind::Command, command.message_type(), serde_json::to_vec(&command)),
    };
    Envelope::new(kind, tag.name, tag.version, sagastore::JSON_CONTENT_TYPE, payload.unwrap())
}
