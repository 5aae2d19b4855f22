//! Running one unit of work, and checking what only shows when an instance is loaded again.

use std::fmt::Debug;

use super::SagaTest;
use super::diff::diff_debug;
use super::history::Folded;
use super::step::{Outcome, Step};
use crate::codec;
use crate::envelope::Inbound;
use crate::error::{Cause, Error};
use crate::message::MessageKind;
use crate::message_store::HeadTrust;
use crate::persister::save::check_timeouts;
use crate::recorder::{Outbox, Recorder};
use crate::saga::Saga;
use crate::source::Source;
use crate::unit_of_work::UnitOfWork;

/// What a unit of work that did not fail came to.
struct Done<D> {
    step: Step,
    data: D,
}

impl<S: Saga<Data: PartialEq + Debug>> SagaTest<S> {
    /// Runs a unit of work and keeps what it did, if it did not fail.
    #[track_caller]
    pub(super) fn run<F>(&mut self, inbound: Option<Inbound>, decide: F) -> Step
    where
        F: FnOnce(&mut UnitOfWork<'_, S>) -> Result<(), Cause>,
    {
        match self.try_run(inbound, decide) {
            Ok(Done { step, data }) => {
                let folded = self.check_replay(&data);
                self.folded = self.folded.take().map(|_| folded);
                self.check_snapshot(&data);
                step
            }
            Err(error) => Step::of(Outcome::Failed(error)),
        }
    }

    fn try_run<F>(&mut self, inbound: Option<Inbound>, decide: F) -> Result<Done<S::Data>, Cause>
    where
        F: FnOnce(&mut UnitOfWork<'_, S>) -> Result<(), Cause>,
    {
        let replay = self.history.replay(&self.saga, &self.codecs, self.folded.as_ref())?;
        let recorder = Recorder::with_codecs(Outbox, self.codecs.clone(), self.limits);
        let mut recorder = recorder.with_source(Source::Manual(self.source.clone()));
        if let Some(inbound) = inbound {
            recorder.set_inbound(inbound)?;
        }
        let head = self.history.head()?;
        let mut unit = UnitOfWork {
            saga: &self.saga,
            stream: self.history.stream.clone(),
            instance: replay.instance,
            head,
            head_trust: HeadTrust::Check,
            recorder,
            completing: false,
            fences: Vec::new(),
            timeouts: Vec::new(),
            report: crate::LoadReport::default(),
        };
        decide(&mut unit)?;
        check_timeouts(&unit.timeouts, &self.limits)?;
        let completes = unit.completes();
        let UnitOfWork { instance, recorder, timeouts, .. } = unit;

        let messages = recorder.recorded().to_vec();
        let events = messages.iter().filter(|message| message.kind == MessageKind::Event).count();
        let events = u64::try_from(events).unwrap_or(u64::MAX);
        if head.next_offset.checked_add(events)? != instance.revision.next_offset() {
            let detail = "the recorder has it, the instance has not; use UnitOfWork::publish";
            return Err(Error::invalid("event", detail).into());
        }
        if recorder.inbound().is_some() || completes || !messages.is_empty() || !timeouts.is_empty() {
            self.history.append(&messages, completes, (self.source.now(), &self.limits))?;
        }
        let now = self.source.now();
        for change in &timeouts {
            self.pending.change(change, now);
        }
        if completes && self.saga.completion_cancels_timeouts() {
            self.pending.clear();
        }
        let timeouts = timeouts.into_iter().map(|change| (now, change)).collect();
        let step = Step { outcome: Outcome::Handled, expected: false, messages, timeouts, completes };
        Ok(Done { step, data: instance.data })
    }

    #[track_caller]
    fn check_replay(&self, data: &S::Data) -> Folded<S::Data> {
        let folded = match self.history.replay(&self.saga, &self.codecs, self.folded.as_ref()) {
            Ok(replay) => Folded { instance: replay.instance, head: replay.head },
            Err(error) => panic!("what the saga published cannot be loaded again: {error}"),
        };
        let replayed = &folded.instance.data;
        if replayed != data {
            let difference = diff_debug(("when published", data), ("when replayed", replayed));
            panic!(
                "replaying the events gives another state than publishing them did; apply_event must depend on \
                 nothing but the stored event and its envelope (not on recorded_at, which is not set at first)\n\
                 {difference}"
            );
        }
        folded
    }

    /// Begins to replay only what is new.
    pub(super) fn begin_folding(&mut self) {
        let replay = self.history.replay(&self.saga, &self.codecs, None);
        // What cannot be loaded is told by the first delivery.
        self.folded = replay.ok().map(|replay| Folded { instance: replay.instance, head: replay.head });
    }

    /// Replays all again, from the first event.
    #[track_caller]
    pub(super) fn end_folding(&mut self) {
        if let Some(folded) = self.folded.take() {
            self.check_replay(&folded.instance.data);
        }
    }

    #[track_caller]
    fn check_snapshot(&self, data: &S::Data) {
        if !self.snapshots {
            return;
        }
        let (codec, limit) = (self.codecs.snapshots(), self.limits.snapshot_bytes);
        let hint = "if no snapshots are taken of this saga, say without_snapshots()";
        let encoded = codec::encode(codec, "state of the instance", "snapshot in bytes", limit, data);
        let decoded = encoded.map_err(Cause::from).and_then(|body| self.codecs.decode(codec.content_type(), &body));
        let decoded: S::Data = match decoded {
            Ok(decoded) => decoded,
            Err(error) => panic!("the state cannot be kept in a snapshot: {error}; {hint}"),
        };
        if decoded != *data {
            let difference = diff_debug(("before", data), ("after", &decoded));
            panic!("a snapshot of the state gives another state; {hint}\n{difference}");
        }
    }
}
