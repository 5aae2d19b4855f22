//! Loading: the newest usable snapshot, then every commit after it, checked for density.

use std::panic::{AssertUnwindSafe, resume_unwind};

use futures_util::{FutureExt, future};
use sqlx::Database;
use tracing::Instrument;

use super::telemetry::Watch;
use super::{Begun, Persister, Snapshots, stream_of, telemetry};
use crate::codec::Codecs;
use crate::commit::StoredCommit;
use crate::contents::Texts;
use crate::envelope::{Envelope, Inbound};
use crate::error::{Error, Result};
use crate::ids::{InstanceId, MessageId, Offset};
use crate::message::{MessageType, StoredForm};
use crate::message_store::{CommitPage, Head, LoadFrom, LoadRequest, Loaded};
use crate::recorder::Sender;
use crate::saga::{Instance, Saga, SagaStream};
use crate::snapshot::Snapshot;
use crate::stream_name::StreamName;
use crate::unit_of_work::{Handled, LoadReport, SnapshotFault, UnitOfWork};
use crate::upcast::{UpcastError, upcast};

impl<DB: Database> Persister<DB> {
    pub(super) async fn load<'s, S: Saga, T: Sender>(
        &self,
        saga: &'s S,
        conn: &mut DB::Connection,
        sender: T,
        id: &InstanceId,
        inbound: Option<Inbound>,
    ) -> Result<Begun<'s, S, T>> {
        let stream = stream_of(saga, id)?;
        let (watch, span) = (Watch::start(), telemetry::load_span(&stream));
        let load = async {
            let loaded = self.load_stream(saga, conn, sender, stream, inbound).await;
            if let Ok(Begun::Unit(unit)) = &loaded {
                watch.loaded(&unit.stream, &unit.report);
            }
            loaded
        };
        load.instrument(span).await
    }

    async fn load_stream<'s, S: Saga, T: Sender>(
        &self,
        saga: &'s S,
        conn: &mut DB::Connection,
        sender: T,
        stream: SagaStream,
        inbound: Option<Inbound>,
    ) -> Result<Begun<'s, S, T>> {
        let handled = inbound.map(|message| message.message_id);
        let (mut found, mut replay, ignored) = self.load_from_snapshot(saga, conn, &stream, handled).await?;
        if let (Some(commit), Some(message_id)) = (found.handled.take(), handled) {
            return Ok(Begun::AlreadyHandled(as_handled(&stream.name, message_id, &commit)?));
        }
        while found.page.more {
            let last = found.page.commits.last().map_or(replay.head.commit_number, |last| last.commit_number);
            // The database reads on while this page is folded. A panic has to wait for it, because the connection may
            // not survive a call that is dropped half-way.
            let next = self.store.read_commits(conn, &stream.name, last);
            let fold = AssertUnwindSafe(async { replay.apply(&found.page) }).catch_unwind();
            let (next, folded) = future::join(next, fold).await;
            folded.unwrap_or_else(|panic| resume_unwind(panic))?;
            found.page = next?;
        }
        replay.apply(&found.page)?;
        let mut recorder = self.recorder(sender);
        if let Some(inbound) = inbound {
            recorder.set_inbound(inbound)?;
        }
        let Replay { instance, head, mut report, .. } = replay;
        report.ignored_snapshot = ignored;
        Ok(Begun::Unit(UnitOfWork::new(saga, stream, instance, head, recorder, report)))
    }

    /// Finds the first page to replay, and where to begin: at a snapshot that can be used, or at zero.
    async fn load_from_snapshot<'s, S: Saga>(
        &self,
        saga: &'s S,
        conn: &mut DB::Connection,
        stream: &SagaStream,
        handled: Option<MessageId>,
    ) -> Result<(Loaded, Replay<'s, S>, Option<SnapshotFault>)> {
        let separate = match &self.snapshots {
            Snapshots::Separate(repository) => {
                repository.load_saga_snapshot(conn, &stream.persistence_key, &stream.instance_id).await?
            }
            Snapshots::InStore | Snapshots::Off => None,
        };
        let from = match (&self.snapshots, &separate) {
            (Snapshots::InStore, _) => LoadFrom::Snapshot,
            (_, Some(snapshot)) => LoadFrom::Commit(snapshot.commit_number),
            (_, None) => LoadFrom::Start,
        };
        let request = LoadRequest { stream, from, handled };
        let mut found = self.store.load(conn, &request).await?;
        if let Some(row) = &found.stream {
            stream.check_owner(row.persistence_key.as_deref())?;
        }
        let mut replay = Replay::new(saga, self.codecs.clone(), stream, &found);
        let Some(snapshot) = found.snapshot.take().or(separate) else { return Ok((found, replay, None)) };
        stream.check_owner(Some(&snapshot.persistence_key))?;
        match replay.start_at(&snapshot, found.at_snapshot) {
            Ok(()) => Ok((found, replay, None)),
            Err(fault) => {
                let (stream_name, revision) = (&stream.name, snapshot.revision);
                tracing::warn!(
                    target: "sagastore", stream = %stream_name, %revision, ?fault,
                    "a snapshot is ignored; the instance is rebuilt from its events"
                );
                let request = LoadRequest { from: LoadFrom::Start, ..request };
                let found = self.store.load(conn, &request).await?;
                let replay = Replay::new(saga, self.codecs.clone(), stream, &found);
                Ok((found, replay, Some(fault)))
            }
        }
    }
}

/// What a commit says about the message that it handled.
pub(super) fn as_handled(stream: &StreamName, message_id: MessageId, commit: &StoredCommit) -> Result<Handled> {
    let (revision, messages) = (commit.end()?.as_revision(), commit.messages(stream)?);
    Ok(Handled { message_id, revision, messages })
}

/// Folds commits into an instance.
pub(crate) struct Replay<'s, S: Saga> {
    saga: &'s S,
    codecs: Codecs,
    stream: StreamName,
    pub(crate) instance: Instance<S::Data>,
    pub(crate) head: Head,
    pub(crate) report: LoadReport,
    texts: Texts,
}

impl<'s, S: Saga> Replay<'s, S> {
    pub(crate) fn new(saga: &'s S, codecs: Codecs, stream: &SagaStream, found: &Loaded) -> Self {
        Self {
            saga,
            codecs,
            stream: stream.name.clone(),
            instance: Instance::new(stream.instance_id.clone(), saga.new_data()),
            head: Head { key: found.stream.as_ref().map(|row| row.key), ..Head::default() },
            report: LoadReport::default(),
            texts: Texts::default(),
        }
    }

    /// Begins at a snapshot, if it can be trusted.
    fn start_at(&mut self, snapshot: &Snapshot, at: Option<Head>) -> Result<(), SnapshotFault> {
        if !snapshot.is_intact() {
            return Err(SnapshotFault::Damaged);
        }
        if snapshot.data_version != self.saga.data_version() {
            return Err(SnapshotFault::DataVersion);
        }
        let in_stream = |head: &Head| {
            head.commit_number == snapshot.commit_number && head.next_offset == snapshot.revision.next_offset()
        };
        let head = at.filter(in_stream).ok_or(SnapshotFault::NotInStream)?;
        let data = self.codecs.decode(&snapshot.content_type, &snapshot.body);
        self.instance.data = data.map_err(|_| SnapshotFault::Undecodable)?;
        self.instance.revision = snapshot.revision;
        self.head = head;
        self.report.snapshot = Some(snapshot.revision);
        Ok(())
    }

    pub(crate) fn apply(&mut self, page: &CommitPage) -> Result<()> {
        page.commits.iter().try_for_each(|commit| self.apply_commit(commit))
    }

    pub(crate) fn apply_commit(&mut self, commit: &StoredCommit) -> Result<()> {
        self.check_follows(commit)?;
        let Self { saga, codecs, stream, instance, texts, .. } = self;
        commit.decode_sharing(stream, texts, &mut |offset, envelope| {
            let Some(offset) = offset else { return Ok(()) };
            let event = decode_event::<S::Event>(codecs, stream, offset, &envelope)?;
            saga.apply_event(&mut instance.data, &event, &envelope);
            Ok(())
        })?;
        self.head = Head::after(self.head.key, commit)?;
        self.instance.revision = self.head.next_offset.as_revision();
        self.report.replayed_commits += 1;
        self.report.replayed_events += u64::from(commit.event_count);
        Ok(())
    }

    /// A stream is dense: the next commit has the next number and begins at the next offset.
    fn check_follows(&self, commit: &StoredCommit) -> Result<()> {
        let number = self.head.commit_number.checked_add(1)?;
        if commit.commit_number == number && commit.first_offset == self.head.next_offset {
            return Ok(());
        }
        let detail = format!(
            "commit {number} was to follow, and commit {} at offset {} was found: history is missing",
            commit.commit_number, commit.first_offset
        );
        Err(Error::corrupt(&self.stream, self.head.next_offset, detail))
    }
}

fn decode_event<E>(codecs: &Codecs, stream: &StreamName, offset: Offset, envelope: &Envelope) -> Result<E>
where
    E: MessageType + serde::de::DeserializeOwned,
{
    let form = StoredForm::from(envelope);
    let message_id = envelope.message_id;
    let form = upcast::<E>(form).map_err(|error| match error {
        UpcastError::Unknown { type_name: name, type_version: version } => {
            Error::UnknownType { stream: stream.clone(), offset, message_id, name, version }
        }
        failed @ UpcastError::Failed { .. } => Error::Undecodable {
            stream: stream.clone(),
            offset,
            message_id,
            content_type: envelope.content_type.as_ref().to_owned(),
            source: failed.into(),
        },
    })?;
    codecs.decode_message(&form).map_err(|source| Error::Undecodable {
        stream: stream.clone(),
        offset,
        message_id,
        content_type: form.content_type.as_ref().to_owned(),
        source,
    })
}
