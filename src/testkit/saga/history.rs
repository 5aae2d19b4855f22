//! What an instance did so far, in the form in which a database keeps it.

use crate::codec::Codecs;
use crate::commit::{EncodedCommit, StoredCommit};
use crate::envelope::Envelope;
use crate::error::Result;
use crate::limits::Limits;
use crate::message_store::{CommitPage, Head, Loaded, StreamRow};
use crate::persister::load::Replay;
use crate::saga::{Instance, Saga, SagaStream};
use crate::timestamp::Timestamp;

/// The key that the stream would have in a database.
const KEY: i64 = 1;

/// An instance as it was replayed.
pub(super) struct Folded<D> {
    pub(super) instance: Instance<D>,
    pub(super) head: Head,
}

/// The commits of one instance.
#[derive(Debug)]
pub(super) struct History {
    pub(super) stream: SagaStream,
    commits: Vec<StoredCommit>,
}

impl History {
    pub(super) fn new(stream: SagaStream) -> Self {
        Self { stream, commits: Vec::new() }
    }

    /// The instance has been neither given nor made.
    pub(super) fn is_empty(&self) -> bool {
        self.commits.is_empty()
    }

    pub(super) fn is_completed(&self) -> bool {
        self.commits.last().is_some_and(|last| last.completed)
    }

    pub(super) fn head(&self) -> Result<Head> {
        self.commits.last().map_or(Ok(Head::default()), |last| Head::after(Some(KEY), last))
    }

    /// Encodes a commit as a store does. Commits are never recorded at the same time.
    pub(super) fn append(&mut self, messages: &[Envelope], completed: bool, at: (Timestamp, &Limits)) -> Result<()> {
        let (now, limits) = at;
        let encoded = EncodedCommit::encode(&self.stream.name, messages, limits)?;
        let head = self.head()?;
        let after_last = head.recorded_at.as_micros().saturating_add(1);
        self.commits.push(StoredCommit {
            commit_number: head.commit_number.checked_add(1)?,
            first_offset: head.next_offset,
            event_count: encoded.event_count,
            completed: completed || head.completed,
            recorded_at: if self.is_empty() { now } else { now.max(Timestamp::from_micros(after_last)) },
            order_token: 0,
            causation_id: encoded.causation_id,
            correlation_id: encoded.correlation_id,
            checksum: encoded.checksum,
            contents: encoded.contents,
            body: encoded.body.into(),
        });
        Ok(())
    }

    /// Replays it all, or what came after it was folded, by the code by which a persister does.
    pub(super) fn replay<'s, S: Saga>(
        &self,
        saga: &'s S,
        codecs: &Codecs,
        folded: Option<&Folded<S::Data>>,
    ) -> Result<Replay<'s, S>> {
        let row = StreamRow { key: KEY, persistence_key: Some(self.stream.persistence_key.clone()) };
        let found = Loaded { stream: Some(row), ..Loaded::default() };
        let mut replay = Replay::new(saga, codecs.clone(), &self.stream, &found);
        let mut known = 0;
        if let Some(folded) = folded {
            (replay.instance, replay.head) = (folded.instance.clone(), folded.head);
            known = usize::try_from(folded.head.commit_number.get()).unwrap_or(usize::MAX);
        }
        let commits = self.commits.iter().skip(known).cloned().collect();
        replay.apply(&CommitPage { commits, more: false })?;
        Ok(replay)
    }

    /// Lets the instance be completed as of its last commit.
    pub(super) fn complete_last(&mut self) {
        if let Some(last) = self.commits.last_mut() {
            last.completed = true;
        }
    }
}
