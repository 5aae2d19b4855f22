//! Saving: the commit, the snapshot that is due, and what a lost race means.

use sqlx::{Connection, Database, Transaction};

use super::load::as_handled;
use super::{Persister, Snapshots, telemetry};
use crate::backend::Backend;
use crate::codec::{self, check_size};
use crate::commit::EncodedCommit;
use crate::error::{Error, Result};
use crate::ids::{CommitNumber, Revision};
use crate::limits::Limits;
use crate::message_store::{Head, HeadTrust, LoadFrom, LoadRequest, SnapshotChange, UnitCommit};
use crate::outbox::{NewOutboxRecord, OutboxRepository};
use crate::recorder::Sender;
use crate::saga::Saga;
use crate::snapshot::{self, Snapshot};
use crate::timeout::TimeoutChange;
use crate::unit_of_work::{Saved, UnitOfWork};

/// A unit of work with all that can fail before SQL done.
pub(super) struct Prepared {
    pub(super) encoded: EncodedCommit,
    pub(super) snapshot: Option<Snapshot>,
    completed: bool,
    timeouts: TimeoutPlan,
    pub(super) unchanged: bool,
}

impl Prepared {
    /// The revision of the snapshot that is taken.
    pub(super) fn taken(&self) -> Option<Revision> {
        self.snapshot.as_ref().map(|snapshot| snapshot.revision)
    }
}

/// What saving came to, and what is known of the instance after it.
pub(super) struct Ended {
    pub(super) saved: Saved,
    /// Where its stream ends; `None` if that is not known.
    pub(super) head: Option<Head>,
    /// Its newest snapshot.
    pub(super) snapshot: Option<Revision>,
}

impl Ended {
    pub(super) fn changed<S: Saga, T: Sender>(
        unit: &UnitOfWork<'_, S, T>,
        head: Head,
        taken: Option<Revision>,
    ) -> Self {
        let saved = Saved::Changed { revision: unit.instance.revision };
        Self { saved, head: Some(head), snapshot: taken.or(unit.report.snapshot) }
    }

    fn unchanged<S: Saga, T: Sender>(unit: &UnitOfWork<'_, S, T>) -> Self {
        let saved = Saved::Unchanged { revision: unit.instance.revision };
        Self { saved, head: Some(unit.head), snapshot: unit.report.snapshot }
    }

    pub(super) fn without_head(saved: Saved) -> Self {
        Self { saved, head: None, snapshot: None }
    }
}

/// What is to be done to the instance's timeouts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TimeoutPlan {
    None,
    /// What the unit of work asked for.
    AsAsked,
    /// The instance completes, and its saga wants none of them delivered any more.
    CancelAll,
}

impl<DB: Database> Persister<DB> {
    /// Saves a unit of work inside the caller's transaction: all of it, or nothing. Without anything
    /// recorded, and without a handled message, nothing is written.
    ///
    /// The unit of work is one row of the database: even a caller who drops this call half-way, or goes on
    /// after an error, and then commits leaves the unit whole or absent. With changes to timeouts, or a repository of its
    /// own for snapshots or outbox, it is several statements inside a savepoint: an error leaves it absent, but a caller
    /// who drops this call must then roll back.
    ///
    /// # Errors
    /// [`Error::Conflict`] if another writer was faster: nothing is written, and the transaction is still
    /// usable. [`Error::TooLarge`], [`Error::DuplicateMessage`] before any SQL. [`Error::Fenced`] if a
    /// [fence](UnitOfWork::fence) does not hold: nothing is written. After any other error roll back.
    pub async fn save<S: Saga, T: Sender>(
        &self,
        tx: &mut Transaction<'_, DB>,
        mut unit: UnitOfWork<'_, S, T>,
    ) -> Result<Saved> {
        if let Some(cache) = &self.cache {
            cache.forget(&unit.stream.name);
        }
        // Whoever has kept it may have come to another connection with it.
        unit.head_trust = HeadTrust::Check;
        telemetry::saving(&unit.stream, unit.recorded().len(), self.save_within(tx, &unit)).await
    }

    async fn save_within<S: Saga, T: Sender>(
        &self,
        tx: &mut Transaction<'_, DB>,
        unit: &UnitOfWork<'_, S, T>,
    ) -> Result<Saved> {
        let prepared = self.prepare(unit)?;
        if prepared.unchanged {
            return Ok(Saved::Unchanged { revision: unit.instance.revision });
        }
        self.hold_fences(tx, unit).await?;
        let written = if self.has_separate_parts(unit, &prepared) {
            // A savepoint: also who commits after an error commits no half of it.
            let part = Connection::begin(&mut **tx).await.map_err(self.classify("beginning a unit of work"))?;
            self.commit_in_parts(part, unit, &prepared).await?
        } else {
            self.store.commit(tx, &self.as_commit(unit, &prepared)).await?
        };
        match written {
            Some(_) => Ok(Saved::Changed { revision: unit.instance.revision }),
            None => self.lost(tx, unit).await,
        }
    }

    /// As [`save`](Self::save), and completes the instance: its snapshots are deleted, it takes no
    /// further events, its history stays.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub async fn save_and_complete<S: Saga, T: Sender>(
        &self,
        tx: &mut Transaction<'_, DB>,
        mut unit: UnitOfWork<'_, S, T>,
    ) -> Result<Saved> {
        unit.complete();
        self.save(tx, unit).await
    }

    /// As [`save`](Self::save), in a transaction of its own; one round trip where the database allows.
    pub(super) async fn save_alone<S: Saga, T: Sender>(
        &self,
        conn: &mut DB::Connection,
        unit: &UnitOfWork<'_, S, T>,
    ) -> Result<Ended> {
        let save = async { self.save_prepared(conn, unit, &self.prepare(unit)?).await };
        telemetry::saving(&unit.stream, unit.recorded().len(), save).await
    }

    pub(super) async fn save_prepared<S: Saga, T: Sender>(
        &self,
        conn: &mut DB::Connection,
        unit: &UnitOfWork<'_, S, T>,
        prepared: &Prepared,
    ) -> Result<Ended> {
        if prepared.unchanged {
            return Ok(Ended::unchanged(unit));
        }
        match self.write_alone(conn, unit, prepared).await? {
            Some(head) => Ok(Ended::changed(unit, head, prepared.taken())),
            None => self.lost(conn, unit).await.map(Ended::without_head),
        }
    }

    /// `None` if the race was lost.
    pub(super) async fn write_alone<S: Saga, T: Sender>(
        &self,
        conn: &mut DB::Connection,
        unit: &UnitOfWork<'_, S, T>,
        prepared: &Prepared,
    ) -> Result<Option<Head>> {
        if !self.needs_transaction(unit, prepared) {
            return self.store.commit_alone(conn, &self.as_commit(unit, prepared)).await;
        }
        let mut tx = self.store.begin(conn).await?;
        self.hold_fences(&mut tx, unit).await?;
        self.commit_in_parts(tx, unit, prepared).await
    }

    /// There is more in its transaction than the message store's commit.
    pub(super) fn needs_transaction<S: Saga, T: Sender>(
        &self,
        unit: &UnitOfWork<'_, S, T>,
        prepared: &Prepared,
    ) -> bool {
        self.has_separate_parts(unit, prepared) || !unit.fences.is_empty()
    }

    pub(super) fn prepare<S: Saga, T: Sender>(&self, unit: &UnitOfWork<'_, S, T>) -> Result<Prepared> {
        let recorder = &unit.recorder;
        let encoded = EncodedCommit::encode(&unit.stream.name, recorder.recorded(), recorder.limits())?;
        if unit.head.next_offset.checked_add(u64::from(encoded.event_count))? != unit.instance.revision.next_offset() {
            return Err(Error::invalid("event", "the recorder has it, the instance has not; use UnitOfWork::publish"));
        }
        let completes = unit.completes();
        let completed = unit.head.completed || completes;
        check_timeouts(&unit.timeouts, recorder.limits())?;
        let timeouts = if completes && unit.saga.completion_cancels_timeouts() {
            if unit.head.is_at_start() { TimeoutPlan::None } else { TimeoutPlan::CancelAll }
        } else if unit.timeouts.is_empty() {
            TimeoutPlan::None
        } else {
            TimeoutPlan::AsAsked
        };
        let unchanged =
            encoded.message_count == 0 && recorder.inbound().is_none() && !completes && timeouts == TimeoutPlan::None;
        let snapshot = if unchanged || completed || encoded.event_count == 0 { None } else { self.due_snapshot(unit)? };
        Ok(Prepared { encoded, snapshot, completed, timeouts, unchanged })
    }

    /// The snapshot that this unit of work is to take, if any. A state that cannot be stored does
    /// not stop its events.
    fn due_snapshot<S: Saga, T: Sender>(&self, unit: &UnitOfWork<'_, S, T>) -> Result<Option<Snapshot>> {
        let (revision, last) = (unit.instance.revision, unit.report.snapshot.unwrap_or(Revision::ZERO));
        if matches!(self.snapshots, Snapshots::Off) || !self.snapshot_frequency.is_due(revision, last) {
            return Ok(None);
        }
        let codec = unit.recorder.codecs().snapshots();
        let (what, limit) = ("snapshot in bytes", self.limits.snapshot_bytes);
        let body = match codec::encode(codec, "state of the instance", what, limit, &unit.instance.data) {
            Ok(body) => body,
            Err(error @ (Error::TooLarge { .. } | Error::Unencodable { .. })) => {
                snapshot::warn_of_none(&unit.stream.name, revision, &error);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        // One that cannot be read would be taken anew, in vain, by each unit of work from now on.
        if let Err(source) = unit.recorder.codecs().decode::<S::Data>(codec.content_type(), &body) {
            let source = format!("what was encoded cannot be read: {source}").into();
            let error = Error::Unencodable { what: "state of the instance".to_owned(), source };
            snapshot::warn_of_none(&unit.stream.name, revision, &error);
            return Ok(None);
        }
        let stream = &unit.stream;
        let number: CommitNumber = unit.head.commit_number.checked_add(1)?;
        let version = unit.saga.data_version();
        let snapshot = Snapshot::new(
            &stream.persistence_key,
            &stream.instance_id,
            revision,
            number,
            version,
            codec.content_type(),
            body,
        );
        Ok(Some(snapshot))
    }

    pub(super) fn as_commit<'a, S: Saga, T: Sender>(
        &self,
        unit: &'a UnitOfWork<'_, S, T>,
        prepared: &'a Prepared,
    ) -> UnitCommit<'a> {
        let snapshots = match (&self.snapshots, &prepared.snapshot) {
            (Snapshots::InStore, Some(snapshot)) => SnapshotChange::Save(snapshot, self.kept_snapshots),
            (Snapshots::InStore, None) if prepared.completed && !unit.head.completed => SnapshotChange::Delete,
            _ => SnapshotChange::None,
        };
        UnitCommit {
            stream: &unit.stream,
            head: &unit.head,
            head_trust: unit.head_trust,
            encoded: &prepared.encoded,
            handled: unit.recorder.inbound().map(|inbound| inbound.message_id),
            completed: prepared.completed,
            deliver: unit.recorder.uses_outbox() && self.outbox.is_none(),
            snapshots,
        }
    }

    fn has_separate_parts<S: Saga, T: Sender>(&self, unit: &UnitOfWork<'_, S, T>, prepared: &Prepared) -> bool {
        let snapshots = matches!(self.snapshots, Snapshots::Separate(_));
        snapshots && (prepared.snapshot.is_some() || prepared.completed)
            || prepared.timeouts != TimeoutPlan::None
            || self.outbox.is_some() && unit.recorder.uses_outbox() && prepared.encoded.message_count > 0
    }

    /// Records messages that belong to no unit of work where those of units of work go.
    pub(crate) async fn save_records(&self, tx: &mut Transaction<'_, DB>, records: &[NewOutboxRecord]) -> Result<()>
    where
        DB: Backend,
    {
        match &self.outbox {
            Some(outbox) => outbox.save(tx, records).await,
            None => DB::Store::default().save(tx, records).await,
        }
    }

    async fn hold_fences<S: Saga, T: Sender>(
        &self,
        tx: &mut Transaction<'_, DB>,
        unit: &UnitOfWork<'_, S, T>,
    ) -> Result<()> {
        for fence in &unit.fences {
            self.store.fence(tx, fence).await?;
        }
        Ok(())
    }

    /// The message store's commit and the separate parts, all or nothing.
    async fn commit_in_parts<S: Saga, T: Sender>(
        &self,
        mut tx: Transaction<'_, DB>,
        unit: &UnitOfWork<'_, S, T>,
        prepared: &Prepared,
    ) -> Result<Option<Head>> {
        let written = self.store.commit(&mut tx, &self.as_commit(unit, prepared)).await?;
        if written.is_some() {
            self.save_separate_parts(&mut tx, unit, prepared).await?;
        }
        tx.commit().await.map_err(self.classify("committing a unit of work"))?;
        Ok(written)
    }

    /// What the message store does not keep itself, after its commit and in the same transaction.
    async fn save_separate_parts<S: Saga, T: Sender>(
        &self,
        tx: &mut Transaction<'_, DB>,
        unit: &UnitOfWork<'_, S, T>,
        prepared: &Prepared,
    ) -> Result<()> {
        let stream = &unit.stream;
        let changes = match prepared.timeouts {
            TimeoutPlan::None => &[],
            TimeoutPlan::AsAsked => unit.timeouts.as_slice(),
            TimeoutPlan::CancelAll => &[TimeoutChange::CancelAll],
        };
        if !changes.is_empty() {
            let commit = unit.head.commit_number.checked_add(1)?;
            self.store.change_timeouts(tx, stream, commit, changes).await?;
        }
        if let (Some(outbox), true) = (&self.outbox, unit.recorder.uses_outbox()) {
            let record = |message| NewOutboxRecord::of_saga(stream, message);
            let records: Vec<_> = unit.recorder.recorded().iter().cloned().map(record).collect();
            outbox.save(tx, &records).await?;
        }
        if let Snapshots::Separate(repository) = &self.snapshots {
            if let Some(snapshot) = &prepared.snapshot {
                let saved = repository.save_saga_snapshot(tx, snapshot, self.kept_snapshots).await;
                snapshot::unless_too_large(&stream.name, snapshot.revision, saved)?;
            } else if prepared.completed && !unit.head.completed {
                repository.delete_saga_snapshots(tx, &stream.persistence_key, &stream.instance_id).await?;
            }
        }
        Ok(())
    }

    /// Tells to whom a race was lost: also the same message may have been faster.
    pub(super) async fn lost<S: Saga, T: Sender>(
        &self,
        conn: &mut DB::Connection,
        unit: &UnitOfWork<'_, S, T>,
    ) -> Result<Saved> {
        let stream = &unit.stream;
        if let Some(inbound) = unit.recorder.inbound() {
            let handled = Some(inbound.message_id);
            let request = LoadRequest { stream, from: LoadFrom::Commit(unit.head.commit_number), handled };
            if let Some(commit) = self.store.load(conn, &request).await?.handled {
                return Ok(Saved::AlreadyHandled(as_handled(&stream.name, inbound.message_id, &commit)?));
            }
        }
        let actual = self.store.next_offset(conn, &stream.name).await?.unwrap_or_default();
        let expected = unit.head.next_offset;
        Err(Error::Conflict { stream: stream.name.clone(), expected, actual })
    }
}

/// The same limits as for commands, each and all together.
pub(crate) fn check_timeouts(changes: &[TimeoutChange], limits: &Limits) -> Result<()> {
    let mut total = 0_usize;
    for change in changes {
        if let TimeoutChange::Schedule { message, .. } = change {
            message.check()?;
            let metadata = message.metadata.iter().map(|(key, value)| key.len() + value.len());
            total = metadata.fold(total.saturating_add(message.payload.len()), usize::saturating_add);
        }
    }
    check_size("timeouts of one unit of work in bytes", total, limits.unit_bytes)
}
