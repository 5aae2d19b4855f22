//! What a store ought to hold, kept in memory by code of its own. A transaction works on a copy.

use std::collections::BTreeMap;

use sagastore::{Envelope, MessageId, MessageKind, MessageType, OutboxId, SnapshotFault};

use super::ledger::{LedgerCommand, LedgerData, LedgerEvent};
use super::steps::{How, STREAMS};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Event(LedgerEvent),
    Command(LedgerCommand),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) id: MessageId,
    pub(super) cause: MessageId,
    pub(super) what: What,
}

impl Message {
    pub(super) fn is_event(&self) -> bool {
        matches!(self.what, What::Event(_))
    }

    /// Reads what the store gave back.
    pub(super) fn of(envelope: &Envelope) -> anyhow::Result<Self> {
        let (what, tag) = match envelope.kind {
            MessageKind::Event => {
                let event: LedgerEvent = serde_json::from_slice(&envelope.payload)?;
                (What::Event(event), event.message_type())
            }
            MessageKind::Command => {
                let command: LedgerCommand = serde_json::from_slice(&envelope.payload)?;
                (What::Command(command), command.message_type())
            }
        };
        let found = (&*envelope.type_name, envelope.type_version);
        anyhow::ensure!(found == (tag.name, tag.version), "{envelope:?} is a {tag:?}");
        Ok(Self { id: envelope.message_id, cause: envelope.causation_id, what })
    }

    pub(super) fn all(envelopes: &[Envelope]) -> anyhow::Result<Vec<Self>> {
        envelopes.iter().map(Self::of).collect()
    }
}

#[derive(Clone, Debug)]
pub(super) struct Commit {
    /// Tells it from a commit that was rolled back and another one in its place.
    pub(super) identity: u64,
    pub(super) messages: Vec<Message>,
    pub(super) handled: Option<MessageId>,
    pub(super) completed: bool,
}

impl Commit {
    pub(super) fn events(&self) -> u64 {
        count(self.messages.iter().filter(|message| message.is_event()))
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Snap {
    pub(super) commit: u64,
    pub(super) damaged: bool,
    pub(super) other_version: bool,
    pub(super) undecodable: bool,
}

/// How an instance is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) snapshot: Option<u64>,
    pub(super) ignored: Option<SnapshotFault>,
    pub(super) commits: u64,
    pub(super) events: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Stream {
    pub(super) commits: Vec<Commit>,
    pub(super) snapshots: BTreeMap<u64, Snap>,
    /// It was started by a plain append.
    pub(super) ownerless: bool,
}

impl Stream {
    pub(super) fn end(&self) -> u64 {
        self.commits.iter().map(Commit::events).sum()
    }

    pub(super) fn events(&self) -> Vec<Message> {
        let all = self.commits.iter().flat_map(|commit| &commit.messages);
        all.filter(|message| message.is_event()).copied().collect()
    }

    pub(super) fn completed(&self) -> bool {
        self.commits.last().is_some_and(|commit| commit.completed)
    }

    pub(super) fn data(&self) -> LedgerData {
        let mut data = LedgerData::default();
        self.events().iter().for_each(|event| apply(&mut data, event));
        data
    }

    /// The identity of the last commit.
    pub(super) fn head(&self) -> Option<u64> {
        self.commits.last().map(|commit| commit.identity)
    }

    /// The commit that handled a message, and the revision after it.
    fn handled(&self, message: MessageId) -> Option<(u64, &Commit)> {
        let mut end = 0;
        self.commits.iter().find_map(|commit| {
            end += commit.events();
            (commit.handled == Some(message)).then_some((end, commit))
        })
    }

    fn fault(&self, revision: u64, snap: Snap) -> Option<SnapshotFault> {
        let taken: u64 = self.commits.iter().take(size(snap.commit)).map(Commit::events).sum();
        let in_stream = snap.commit <= count(self.commits.iter()) && taken == revision;
        match snap {
            Snap { damaged: true, .. } => Some(SnapshotFault::Damaged),
            Snap { other_version: true, .. } => Some(SnapshotFault::DataVersion),
            _ if !in_stream => Some(SnapshotFault::NotInStream),
            Snap { undecodable: true, .. } => Some(SnapshotFault::Undecodable),
            _ => None,
        }
    }

    pub(super) fn report(&self, how: How) -> Report {
        let newest = self.snapshots.last_key_value().filter(|_| how.frequency.is_some());
        let fault = newest.and_then(|(revision, snap)| self.fault(*revision, *snap));
        let used = newest.filter(|_| fault.is_none());
        let after = self.commits.iter().skip(used.map_or(0, |(_, snap)| size(snap.commit)));
        Report {
            snapshot: used.map(|(revision, _)| *revision),
            ignored: fault,
            commits: count(after.clone()),
            events: after.map(Commit::events).sum(),
        }
    }

    pub(super) fn snapshot(&mut self, revision: u64, snap: Snap, kept: usize) {
        self.snapshots.insert(revision, snap);
        self.snapshots.retain(|of, _| *of <= revision);
        while self.snapshots.len() > kept {
            self.snapshots.pop_first();
        }
    }
}

fn apply(data: &mut LedgerData, message: &Message) {
    match message.what {
        What::Event(LedgerEvent::Noted { number }) => data.numbers.push(number),
        What::Event(LedgerEvent::Closed) => data.closed = true,
        What::Command(_) => {}
    }
}

/// A unit of work as it ought to be.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub(super) stream: usize,
    head: Option<u64>,
    commits: u64,
    loaded: u64,
    pub(super) completed: bool,
    snapshot: u64,
    pub(super) data: LedgerData,
    pub(super) inbound: Option<MessageId>,
    pub(super) recorded: Vec<Message>,
}

impl Unit {
    pub(super) fn revision(&self) -> u64 {
        self.loaded + self.events()
    }

    fn events(&self) -> u64 {
        count(self.recorded.iter().filter(|message| message.is_event()))
    }

    pub(super) fn record(&mut self, messages: Vec<Message>) {
        messages.iter().for_each(|message| apply(&mut self.data, message));
        self.recorded.extend(messages);
    }
}

/// What saving, or beginning to handle a message, comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Unchanged { revision: u64 },
    Changed { revision: u64 },
    AlreadyHandled { revision: u64, messages: Vec<Message> },
    Conflict { expected: u64, actual: u64 },
    Completed,
    Foreign,
}

/// A message that waits in the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) message: Message,
    pub(super) due: bool,
}

/// Aggregate type and id.
pub(super) type Aggregate = (String, String);

#[derive(Clone, Debug, Default)]
pub(super) struct World {
    pub(super) streams: [Stream; STREAMS],
    /// In the order of delivery within each.
    pub(super) outbox: BTreeMap<Aggregate, Vec<Waiting>>,
    pub(super) acknowledged: Vec<OutboxId>,
}

impl World {
    pub(super) fn begin(&self, stream: usize, how: How, handling: Option<MessageId>) -> Result<Unit, Outcome> {
        let found = &self.streams[stream];
        if found.ownerless {
            return Err(Outcome::Foreign);
        }
        if let Some(outcome) = handling.and_then(|message| self.already_handled(stream, message)) {
            return Err(outcome);
        }
        Ok(Unit {
            stream,
            head: found.head(),
            commits: count(found.commits.iter()),
            loaded: found.end(),
            completed: found.completed(),
            snapshot: found.report(how).snapshot.unwrap_or(0),
            data: found.data(),
            inbound: handling,
            recorded: Vec::new(),
        })
    }

    fn already_handled(&self, stream: usize, message: MessageId) -> Option<Outcome> {
        let (revision, commit) = self.streams[stream].handled(message)?;
        Some(Outcome::AlreadyHandled { revision, messages: commit.messages.clone() })
    }

    pub(super) fn save(
        &mut self,
        unit: Unit,
        aggregate: Aggregate,
        identity: u64,
        how: How,
        completing: bool,
    ) -> Outcome {
        let (revision, events) = (unit.revision(), unit.events());
        let completes = !unit.completed && (completing || events > 0 && unit.data.closed);
        if unit.recorded.is_empty() && unit.inbound.is_none() && !completes {
            return Outcome::Unchanged { revision };
        }
        if let Some(outcome) = unit.inbound.and_then(|message| self.already_handled(unit.stream, message)) {
            return outcome;
        }
        let stream = &mut self.streams[unit.stream];
        if stream.head() != unit.head {
            return Outcome::Conflict { expected: unit.loaded, actual: stream.end() };
        }
        let completed = unit.completed || completes;
        let waiting = unit.recorded.iter().map(|message| Waiting { message: *message, due: true });
        self.outbox.entry(aggregate).or_default().extend(waiting);
        stream.commits.push(Commit { identity, messages: unit.recorded, handled: unit.inbound, completed });
        match how.frequency {
            Some(_) if completes => stream.snapshots.clear(),
            Some(every) if every > 0 && !completed && events > 0 && revision.saturating_sub(unit.snapshot) >= every => {
                stream.snapshot(revision, Snap { commit: unit.commits + 1, ..Snap::default() }, how.kept);
            }
            _ => {}
        }
        Outcome::Changed { revision }
    }

    pub(super) fn append(&mut self, stream: usize, at: u64, messages: Vec<Message>, identity: u64) -> Outcome {
        let found = &mut self.streams[stream];
        if at != found.end() {
            return Outcome::Conflict { expected: at, actual: found.end() };
        }
        if !messages.is_empty() {
            found.ownerless |= found.commits.is_empty();
            let completed = found.completed();
            found.commits.push(Commit { identity, messages, handled: None, completed });
        }
        Outcome::Changed { revision: found.end() }
    }
}

pub(super) fn count<I: Iterator>(items: I) -> u64 {
    u64::try_from(items.count()).unwrap()
}

pub(super) fn size(count: u64) -> usize {
    usize::try_from(count).unwrap()
}
