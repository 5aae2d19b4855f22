//! What can be done to a store, as values that mean something in any state of it; so a step can be left
//! out of a list, and the rest still runs.

use fastrand::Rng;

/// Streams of sagas: two sagas, with instances of the same ids.
pub(super) const SAGA_STREAMS: usize = 4;
/// All streams; the others belong to no saga.
pub(super) const STREAMS: usize = SAGA_STREAMS + 2;
/// Units of work that can be held while others are saved.
pub(super) const SLOTS: usize = 3;
/// Inbound messages.
pub(super) const INBOUND: usize = 4;
/// Aggregates of records that are saved without a saga.
pub(super) const AGGREGATES: usize = 2;

/// How a persister is set up.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    /// `None`: it touches no snapshots; zero: it takes none.
    pub(super) frequency: Option<u64>,
    pub(super) kept: usize,
}

/// What a unit of work does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    pub(super) events: usize,
    pub(super) commands: usize,
    /// The last event is the one that ends the saga.
    pub(super) closing: bool,
    /// It is saved by `save_and_complete`.
    pub(super) completing: bool,
}

/// How a unit of work begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beginning {
    pub(super) stream: usize,
    pub(super) how: How,
    pub(super) inbound: Option<usize>,
    /// The inbound message is named to begin with, not afterwards.
    pub(super) early: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum SnapshotStep {
    Delete,
    /// As a unit of work takes it.
    Take,
    /// In an older form.
    TakeOtherVersion,
    /// Ahead of its stream.
    TakeTooNew,
    TakeUndecodable,
    /// Flips bits of the newest one.
    Damage,
}

/// Something done inside a transaction.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// Begin, work, save.
    Unit(Beginning, Work),
    /// Begin, work, and drop it.
    Drop(Beginning, Work),
    /// Begin and keep the unit for later.
    Hold(usize, Beginning),
    /// Save a unit that was begun earlier.
    Save(usize, How, bool),
    /// Append events and commands, at the end of the stream or beside it.
    Append {
        stream: usize,
        beside: u64,
        events: usize,
        commands: usize,
    },
    Read {
        stream: usize,
        from: u64,
        limit: u32,
    },
    Snapshot(usize, SnapshotStep),
    /// Save records without a saga.
    Store {
        aggregate: usize,
        records: usize,
        due: bool,
    },
    /// Acknowledge some of what waits, some of it twice, and something that is long gone.
    Acknowledge {
        picks: Vec<usize>,
        batch: u32,
        gone: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Commit,
    Rollback,
    Drop,
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Transact(Vec<Action>, End),
    /// `execute`, or `execute_in_transaction`.
    Execute {
        beginning: Beginning,
        work: Work,
        in_transaction: bool,
    },
    /// Record more in a held unit.
    Record(usize, Work),
    /// Drop a held unit.
    Forget(usize),
    /// Load an instance to look at it.
    Look {
        stream: usize,
        how: How,
    },
    Find {
        batch: u32,
        limit: Option<u64>,
    },
}

/// What a list of steps dwells on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Theme {
    /// Units of work that are begun, recorded, held, saved late.
    Units,
    /// Inbound messages, new and repeated.
    Handling,
    Snapshots,
    Outbox,
    /// `execute`, by persisters that keep instances in memory.
    Kept,
}

/// The steps of a seed.
pub(super) fn steps(theme: Theme, seed: u64, count: usize) -> Vec<Step> {
    let mut chance = Chance { rng: Rng::with_seed(seed), theme };
    (0..count).map(|_| chance.step()).collect()
}

struct Chance {
    rng: Rng,
    theme: Theme,
}

impl Chance {
    fn one_in(&mut self, count: u32) -> bool {
        self.rng.u32(0..count) == 0
    }

    fn saga_stream(&mut self) -> usize {
        self.rng.usize(0..SAGA_STREAMS)
    }

    fn slot(&mut self) -> usize {
        self.rng.usize(0..SLOTS)
    }

    fn step(&mut self) -> Step {
        let executes = if self.theme == Theme::Kept { 15 + self.rng.u32(0..2) * 85 } else { 15 };
        match self.rng.u32(0..100) {
            chance if chance < executes => {
                let in_transaction = if self.theme == Theme::Kept { self.one_in(4) } else { self.rng.bool() };
                Step::Execute { beginning: self.beginning(None), work: self.work(), in_transaction }
            }
            15..27 => Step::Record(self.slot(), self.work()),
            27..29 => Step::Forget(self.slot()),
            29..34 => Step::Look { stream: self.saga_stream(), how: self.how() },
            34..37 => Step::Find { batch: self.rng.u32(1..5), limit: self.rng.bool().then(|| self.rng.u64(0..8)) },
            _ => {
                let count = if self.one_in(3) { self.rng.usize(2..6) } else { 1 };
                // What meets in one stream is more telling.
                let focus = self.rng.bool().then(|| self.saga_stream());
                let actions = (0..count).map(|_| self.action(focus)).collect();
                let end = match self.rng.u32(0..10) {
                    0..2 => End::Rollback,
                    2 => End::Drop,
                    _ => End::Commit,
                };
                Step::Transact(actions, end)
            }
        }
    }

    fn action(&mut self, focus: Option<usize>) -> Action {
        let stream = focus.unwrap_or_else(|| self.rng.usize(0..STREAMS));
        match (self.rng.u32(0..100), self.theme) {
            (0..30, Theme::Snapshots) => Action::Snapshot(self.saga_stream(), self.snapshot()),
            (0..20, Theme::Outbox) => self.store(),
            (20..45, Theme::Outbox) => self.acknowledge(),
            (0..24, _) => Action::Unit(self.beginning(focus), self.work()),
            (24..27, _) => Action::Drop(self.beginning(focus), self.work()),
            (27..42, _) => Action::Hold(self.slot(), self.beginning(focus)),
            (42..66, _) => Action::Save(self.slot(), self.how(), self.one_in(8)),
            (66..76, _) => {
                let beside = if self.rng.bool() { 0 } else { self.rng.u64(0..3) };
                Action::Append { stream, beside, events: self.rng.usize(0..3), commands: self.rng.usize(0..2) }
            }
            (76..82, _) => Action::Read { stream, from: self.rng.u64(0..12), limit: self.rng.u32(0..8) },
            (82..88, Theme::Kept) => Action::Unit(self.beginning(focus), self.work()),
            (82..88, _) => Action::Snapshot(self.saga_stream(), self.snapshot()),
            (88..93, _) => self.store(),
            _ => self.acknowledge(),
        }
    }

    fn store(&mut self) -> Action {
        let (aggregate, records) = (self.rng.usize(0..AGGREGATES), self.rng.usize(0..4));
        Action::Store { aggregate, records, due: !self.one_in(4) }
    }

    fn acknowledge(&mut self) -> Action {
        let picks = (0..self.rng.usize(0..8)).map(|_| self.rng.usize(0..64)).collect();
        Action::Acknowledge { picks, batch: self.rng.u32(0..5), gone: self.rng.bool() }
    }

    fn beginning(&mut self, focus: Option<usize>) -> Beginning {
        let handles =
            if matches!(self.theme, Theme::Handling | Theme::Kept) { self.rng.bool() } else { self.one_in(4) };
        let inbound = handles.then(|| self.rng.usize(0..INBOUND));
        let stream = focus.unwrap_or_else(|| self.saga_stream());
        Beginning { stream, how: self.how(), inbound, early: self.rng.bool() }
    }

    fn work(&mut self) -> Work {
        let events = if self.one_in(4) { 0 } else { self.rng.usize(1..5) };
        let commands = if self.rng.bool() { 0 } else { self.rng.usize(1..3) };
        Work { events, commands, closing: self.one_in(30), completing: self.one_in(30) }
    }

    fn how(&mut self) -> How {
        if self.theme == Theme::Kept {
            // Of a snapshot that others took or deleted meanwhile nothing is known.
            return How { frequency: Some(3), kept: 2 };
        }
        let frequency = match self.rng.u32(0..10) {
            0 => None,
            1 => Some(0),
            2 => Some(1000),
            _ => Some(self.rng.u64(1..7)),
        };
        How { frequency, kept: self.rng.usize(1..4) }
    }

    fn snapshot(&mut self) -> SnapshotStep {
        match self.rng.u32(0..8) {
            0 => SnapshotStep::Delete,
            1 => SnapshotStep::TakeOtherVersion,
            2 => SnapshotStep::TakeTooNew,
            3 => SnapshotStep::TakeUndecodable,
            4..6 => SnapshotStep::Damage,
            _ => SnapshotStep::Take,
        }
    }
}
