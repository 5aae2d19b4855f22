//! Does steps to a store and to its model, and compares what comes of them.

use std::collections::BTreeSet;
use std::fmt::Debug;

use anyhow::{Context, bail};
use sagastore::{
    Begun, Error, Executed, InstanceId, LoadReport, MessageId, Outbox, OutboxRepository, Persister, SagaStream, Saved,
    SnapshotFrequency, StreamName, UnitOfWork,
};
use sqlx::Transaction;

use super::ledger::{LEDGERS, Ledger, LedgerCommand, LedgerEvent};
use super::steps::{AGGREGATES, Action, Beginning, End, How, INBOUND, SAGA_STREAMS, SLOTS, Step, Theme, Work};
use super::world::{Aggregate, Message, Outcome, Report, Unit, What, World};
use crate::harness::{Subject, TestDb};

/// How many instances persisters keep that keep some: one fewer than there are, another all.
const KEPT: [usize; 2] = [2, 64];

/// A unit of work beside its model.
type Pair = (UnitOfWork<'static, Ledger>, Unit);

/// One list of steps on its way.
pub(super) struct Run<DB: Subject> {
    pub(super) db: TestDb<DB>,
    pub(super) world: World,
    /// Part of the names of all streams and aggregates of this run, and of nothing else.
    pub(super) token: String,
    /// What waited in the outbox before.
    pub(super) pending_before: u64,
    /// They take turns, as processes would.
    persisters: Vec<Persister<DB>>,
    held: [Option<Pair>; SLOTS],
    inbound: [MessageId; INBOUND],
    /// Numbers events, commands and commits.
    counter: u32,
    /// Streams that the step may have changed.
    pub(super) touched: BTreeSet<usize>,
}

impl<DB: Subject> Run<DB> {
    pub(super) async fn new(db: &TestDb<DB>, theme: Theme, token: String) -> anyhow::Result<Self> {
        let persister = db.persister();
        let persisters = match theme {
            Theme::Kept => KEPT.map(|capacity| persister.clone().with_instance_cache(db.pool(), capacity)).to_vec(),
            _ => vec![persister],
        };
        let pending_before = db.store().stats(&mut *db.conn().await?).await?.pending;
        let (world, held, inbound) = (World::default(), Default::default(), std::array::from_fn(|_| MessageId::new()));
        let (db, touched) = (db.clone(), BTreeSet::new());
        Ok(Self { db, world, token, pending_before, persisters, held, inbound, counter: 0, touched })
    }

    pub(super) async fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Transact(actions, end) => self.transact(actions, *end).await?,
            Step::Execute { beginning, work, in_transaction } => {
                self.execute(*beginning, *work, *in_transaction).await?;
            }
            Step::Record(slot, work) => {
                if let Some((unit, model)) = &mut self.held[*slot] {
                    record_both(unit, model, *work, &mut self.counter)?;
                }
            }
            Step::Forget(slot) => self.held[*slot] = None,
            Step::Look { stream, how } => self.look(*stream, *how).await?,
            Step::Find { batch, limit } => self.find(*batch, *limit).await?,
        }
        let touched = std::mem::take(&mut self.touched);
        self.check(touched).await
    }

    async fn transact(&mut self, actions: &[Action], end: End) -> anyhow::Result<()> {
        let mut tx = self.db.begin().await?;
        let mut world = self.world.clone();
        for action in actions {
            self.act(&mut tx, &mut world, action).await.with_context(|| format!("{action:?}"))?;
        }
        match end {
            End::Commit => {
                tx.commit().await?;
                self.world = world;
            }
            End::Rollback => tx.rollback().await?,
            End::Drop => drop(tx),
        }
        Ok(())
    }

    async fn act(&mut self, tx: &mut Transaction<'_, DB>, world: &mut World, action: &Action) -> anyhow::Result<()> {
        match *action {
            Action::Unit(beginning, work) => {
                let Some((mut unit, mut model)) = self.begin(tx, world, beginning).await? else { return Ok(()) };
                record_both(&mut unit, &mut model, work, &mut self.counter)?;
                self.save(tx, world, (unit, model), beginning.how, work.completing).await
            }
            Action::Drop(beginning, work) => {
                let Some((mut unit, mut model)) = self.begin(tx, world, beginning).await? else { return Ok(()) };
                record_both(&mut unit, &mut model, work, &mut self.counter)
            }
            Action::Hold(slot, beginning) => {
                if let Some(pair) = self.begin(tx, world, beginning).await? {
                    self.held[slot] = Some(pair);
                }
                Ok(())
            }
            Action::Save(slot, how, completing) => match self.held[slot].take() {
                Some(pair) => self.save(tx, world, pair, how, completing).await,
                None => Ok(()),
            },
            Action::Append { stream, beside, events, commands } => {
                self.append(tx, world, stream, beside, (events, commands)).await
            }
            Action::Read { stream, from, limit } => self.read(tx, world, stream, from, limit).await,
            Action::Snapshot(stream, step) => self.snapshot(tx, world, stream, step).await,
            Action::Store { aggregate, records, due } => self.store(tx, world, aggregate, records, due).await,
            Action::Acknowledge { ref picks, batch, gone } => self.acknowledge(tx, world, picks, batch, gone).await,
        }
    }

    async fn begin(
        &mut self,
        tx: &mut Transaction<'_, DB>,
        world: &World,
        beginning: Beginning,
    ) -> anyhow::Result<Option<Pair>> {
        let Beginning { stream, how, inbound, early } = beginning;
        let (persister, saga, id) = (self.persister(how), ledger(stream), self.instance(stream));
        let inbound = inbound.map(|number| self.inbound[number]);
        let begun = match inbound {
            Some(message) if early => persister.begin_handling(saga, tx, Outbox, &id, message).await,
            _ => persister.begin_unit_of_work(saga, tx, Outbox, &id).await.map(Begun::Unit),
        };
        let expected = world.begin(stream, how, inbound.filter(|_| early));
        let found = match begun {
            Ok(Begun::Unit(mut unit)) => {
                if let Some(message) = inbound {
                    unit.handling(message)?;
                }
                Ok(unit)
            }
            Ok(Begun::AlreadyHandled(handled)) => Err(outcome(Ok(Saved::AlreadyHandled(handled)))?),
            Err(error) => Err(outcome(Err(error))?),
        };
        match (found, expected) {
            (Ok(unit), Ok(mut model)) => {
                model.inbound = inbound;
                same("how it was loaded", world.streams[stream].report(how), report(unit.load_report()))?;
                same_unit(&unit, &model)?;
                Ok(Some((unit, model)))
            }
            (Err(found), Err(expected)) => same("beginning", expected, found).map(|()| None),
            (found, expected) => bail!("beginning gave {found:?}, and not {expected:?}"),
        }
    }

    async fn save(
        &mut self,
        tx: &mut Transaction<'_, DB>,
        world: &mut World,
        (unit, model): Pair,
        how: How,
        completing: bool,
    ) -> anyhow::Result<()> {
        let persister = self.persister(how);
        let saved = match completing {
            true => persister.save_and_complete(tx, unit).await,
            false => persister.save(tx, unit).await,
        };
        let aggregate = self.aggregate(model.stream);
        self.touched.insert(model.stream);
        let expected = world.save(model, aggregate, self.identity(), how, completing);
        same("saving", expected, outcome(saved)?)
    }

    async fn execute(&mut self, beginning: Beginning, work: Work, in_transaction: bool) -> anyhow::Result<()> {
        let Beginning { stream, how, inbound, .. } = beginning;
        let (persister, saga, id) = (self.persister(how), ledger(stream), self.instance(stream));
        let inbound = inbound.map(|number| self.inbound[number]);
        let (pool, counter) = (self.db.pool().clone(), self.counter);
        let message = inbound.map(Into::into);
        let decide = |unit: &mut UnitOfWork<'_, Ledger>| {
            if work.completing {
                unit.complete();
            }
            record(unit, work, &mut counter.clone())
        };
        let executed = if in_transaction {
            persister
                .execute_in_transaction(&pool, saga, &id, message, |mut attempt| async move {
                    let messages = decide(&mut attempt.unit)?;
                    Ok(attempt.finish(messages))
                })
                .await
        } else {
            persister.execute(&pool, saga, &id, message, decide).await
        };
        self.counter += 64;
        self.touched.insert(stream);
        let (found, messages) = match executed {
            Ok(Executed::Done { value, saved, conflicts }) => {
                same("conflicts", 0, conflicts)?;
                (outcome(Ok(saved))?, value)
            }
            Ok(Executed::AlreadyHandled(handled)) => (outcome(Ok(Saved::AlreadyHandled(handled)))?, Vec::new()),
            Err(error) => (outcome(Err(error))?, Vec::new()),
        };
        let expected = match self.world.begin(stream, how, inbound) {
            Ok(model) if model.completed && work.events > 0 => Outcome::Completed,
            Ok(mut model) => {
                model.record(messages);
                let aggregate = self.aggregate(stream);
                let identity = self.identity();
                self.world.save(model, aggregate, identity, how, work.completing)
            }
            Err(outcome) => outcome,
        };
        same("executing", expected, found)
    }

    async fn look(&self, stream: usize, how: How) -> anyhow::Result<()> {
        let mut conn = self.db.conn().await?;
        let found = self.persister(how).load_instance(ledger(stream), &mut conn, &self.instance(stream)).await;
        match (found, self.world.begin(stream, how, None)) {
            (Ok(None), Ok(_)) => same("commits of an unknown instance", 0, self.world.streams[stream].commits.len()),
            (Ok(Some(unit)), Ok(model)) => {
                same("how it was loaded", self.world.streams[stream].report(how), report(unit.load_report()))?;
                same_unit(&unit, &model)
            }
            (Err(error), Err(expected)) => same("loading", expected, outcome(Err(error))?),
            (found, expected) => bail!("loading gave {found:?}, and not {expected:?}"),
        }
    }

    pub(super) fn persister(&self, how: How) -> Persister<DB> {
        let frequency = match how.frequency {
            None => return self.turn().without_snapshots(),
            Some(0) => SnapshotFrequency::Never,
            Some(revisions) => SnapshotFrequency::every(revisions),
        };
        let kept = u32::try_from(how.kept).unwrap();
        self.turn().with_snapshot_frequency(frequency).with_kept_snapshots(kept)
    }

    fn turn(&self) -> Persister<DB> {
        let turn = usize::try_from(self.counter).unwrap() / 7 % self.persisters.len();
        self.persisters[turn].clone()
    }

    /// The two sagas share their instance ids.
    pub(super) fn instance(&self, stream: usize) -> InstanceId {
        InstanceId::new(format!("{}-{}", self.token, stream / LEDGERS.len())).unwrap()
    }

    pub(super) fn stream_name(&self, stream: usize) -> StreamName {
        if stream < SAGA_STREAMS { self.saga_stream(stream).name } else { self.plain_name(stream) }
    }

    fn plain_name(&self, stream: usize) -> StreamName {
        StreamName::new(format!("plain {} {stream}", self.token)).unwrap()
    }

    pub(super) fn saga_stream(&self, stream: usize) -> SagaStream {
        let key = sagastore::Saga::persistence_key(ledger(stream));
        SagaStream::new(key, &self.instance(stream)).unwrap()
    }

    fn aggregate(&self, stream: usize) -> Aggregate {
        let SagaStream { persistence_key, instance_id, .. } = self.saga_stream(stream);
        (persistence_key, instance_id.to_string())
    }

    /// That of records saved without a saga.
    pub(super) fn plain_aggregate(&self, number: usize) -> Aggregate {
        ("invoice".to_owned(), format!("{}-{}", self.token, number % AGGREGATES))
    }

    fn identity(&mut self) -> u64 {
        u64::from(self.next_number())
    }

    pub(super) fn next_number(&mut self) -> u32 {
        self.counter += 1;
        self.counter
    }
}

pub(super) fn ledger(stream: usize) -> &'static Ledger {
    &LEDGERS[stream % LEDGERS.len()]
}

/// Records in a unit of work; events first, since a completed instance takes none.
fn record(unit: &mut UnitOfWork<'_, Ledger>, work: Work, counter: &mut u32) -> sagastore::Result<Vec<Message>> {
    let cause = unit.sender().inbound().map(|inbound| inbound.message_id);
    let mut messages = Vec::new();
    let mut next = || {
        *counter += 1;
        *counter
    };
    for number in 1..=work.events {
        let last = work.closing && number == work.events;
        let event = if last { LedgerEvent::Closed } else { LedgerEvent::Noted { number: next() } };
        let id = unit.publish(event)?;
        messages.push(Message { id, cause: cause.unwrap_or(id), what: What::Event(event) });
    }
    for _ in 0..work.commands {
        let command = LedgerCommand::Tell { number: next() };
        let id = unit.execute(&command)?;
        messages.push(Message { id, cause: cause.unwrap_or(id), what: What::Command(command) });
    }
    Ok(messages)
}

fn record_both(
    unit: &mut UnitOfWork<'static, Ledger>,
    model: &mut Unit,
    work: Work,
    counter: &mut u32,
) -> anyhow::Result<()> {
    let recorded = record(unit, work, counter);
    if model.completed && work.events > 0 {
        let Err(Error::Completed { .. }) = recorded else { bail!("a completed instance took an event") };
    } else {
        model.record(recorded?);
    }
    same_unit(unit, model)
}

fn same_unit(unit: &UnitOfWork<'_, Ledger>, model: &Unit) -> anyhow::Result<()> {
    let instance = unit.instance();
    same("the state", &model.data, &instance.data)?;
    same("the revision", model.revision(), instance.revision.get())?;
    same("being completed", model.completed, unit.is_completed())?;
    same("what is recorded", &model.recorded, &Message::all(unit.recorded())?)
}

fn report(found: &LoadReport) -> Report {
    Report {
        snapshot: found.snapshot.map(sagastore::Revision::get),
        ignored: found.ignored_snapshot,
        commits: found.replayed_commits,
        events: found.replayed_events,
    }
}

pub(super) fn outcome(result: sagastore::Result<Saved>) -> anyhow::Result<Outcome> {
    Ok(match result {
        Ok(Saved::Unchanged { revision }) => Outcome::Unchanged { revision: revision.get() },
        Ok(Saved::Changed { revision }) => Outcome::Changed { revision: revision.get() },
        Ok(Saved::AlreadyHandled(handled)) => {
            let messages = Message::all(&handled.messages)?;
            Outcome::AlreadyHandled { revision: handled.revision.get(), messages }
        }
        Err(Error::Conflict { expected, actual, .. }) => {
            Outcome::Conflict { expected: expected.get(), actual: actual.get() }
        }
        Err(Error::Completed { .. }) => Outcome::Completed,
        Err(Error::ForeignInstance { .. }) => Outcome::Foreign,
        Err(error) => return Err(error.into()),
    })
}

pub(super) fn same<T: Debug + PartialEq>(what: &str, expected: T, found: T) -> anyhow::Result<()> {
    anyhow::ensure!(expected == found, "{what}: expected {expected:?}, found {found:?}");
    Ok(())
}
