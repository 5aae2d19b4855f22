//! Stores that break one promise each, and the clauses of the suite that find it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use sagastore::sqlite::SqliteStore;
use sagastore::testkit::conformance::{self, Report};
use sagastore::{MessageId, MessageStore, OutboxRepository, SagaStream, SnapshotRepository, migrate};
use sqlx::Sqlite;

use crate::databases;

mod messages;
mod outbox;
mod snapshots;

/// What is wrong with a store.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Flaw {
    /// Says nothing of a conflict.
    SwallowsConflicts,
    /// Tells the offset of the last event for the next.
    OffByOne,
    DropsMetadata,
    /// Gives one event less than asked for.
    ShortPages,
    /// Does not store the last event of a unit of work.
    LosesTheLastEvent,
    ForgetsWhatWasHandled,
    ForgetsCompletion,
    /// Writes whatever the unit of work was loaded with.
    IgnoresTheHead,
    /// Says that there is nothing after the first page.
    EndsAtOnePage,
    /// Writes in a transaction of its own and leaves the caller's alone.
    IgnoresTheTransaction,
    Panics,
    /// Lower and upper case are one to it.
    ConfusesNames,
    /// Has every stream, though it be empty.
    InventsStreams,
    /// Has no stream from beyond its end.
    ForgetsStreamsAtTheirEnd,
    /// Its clock stands still.
    StopsTime,
    GivesTheHeadBefore,
    CutsPayloads,
    /// Commands take offsets.
    NumbersCommands,
    /// Gives messages ids of its own.
    RenamesMessages,
    /// Whatever is asked for, the whole history is loaded.
    LoadsAll,
    /// Has every commit, though it be not there.
    InventsHeads,
    /// A message that one instance handled is handled for all.
    HandlesOnceForAll,
    /// Does not write units of work without messages.
    SkipsEmptyUnits,
    /// All sagas are one to it.
    ForgetsOwners,
    /// A page of commits leaves the first one out.
    SkipsBetweenPages,
    KeepsDeletedSnapshots,
    GivesTheOldestSnapshot,
    KeepsAllSnapshots,
    /// Does not delete those beyond the one that is saved.
    KeepsSnapshotsBeyond,
    MendsDamagedSnapshots,
    CutsSnapshots,
    /// Finds no difference between sagas.
    SharesSnapshots,
    KeepsOneSnapshotForAll,
    AcknowledgesTooMuch,
    AcknowledgesNothing,
    DeliversBeforeDue,
    ReversesTheOrder,
    SharesTheLock,
    SharesSlots,
    ForgetsWhereAPageEnds,
    /// Says that nothing waits.
    CountsNothing,
    /// Gives what waits for a dead letter.
    BuriesAlive,
    /// Goes on after an error of the callback.
    IgnoresTheCallback,
    /// Gives the slot of another.
    MovesDispatchers,
    /// A subscription is never over.
    FeelsHeartbeatsForEver,
    /// Aggregates of one name in other letters are one to it.
    ConfusesAggregates,
}

/// The store on SQLite with a flaw.
struct Broken {
    inner: SqliteStore,
    flaw: Flaw,
    pool: sqlx::Pool<Sqlite>,
    /// For flaws that need to remember.
    memory: AtomicBool,
    handled: Mutex<Vec<(MessageId, SagaStream)>>,
}

impl Broken {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == flaw
    }

    fn remembers(&self) -> bool {
        self.memory.swap(true, Ordering::Relaxed)
    }
}

enum Part {
    Messages,
    Snapshots,
    Outbox,
}

async fn report(flaw: Flaw, part: Part) -> Report {
    let (_folder, pool) = databases::sqlite().await;
    let _ = migrate(&pool).await.unwrap();
    let memory = AtomicBool::new(false);
    let store =
        Arc::new(Broken { inner: SqliteStore::default(), flaw, pool: pool.clone(), memory, handled: Mutex::default() });
    match part {
        Part::Messages => conformance::message_store(&pool, store as Arc<dyn MessageStore<Sqlite>>).await,
        Part::Snapshots => conformance::snapshot_repository(&pool, store as Arc<dyn SnapshotRepository<Sqlite>>).await,
        Part::Outbox => conformance::outbox_repository(&pool, store as Arc<dyn OutboxRepository<Sqlite>>).await,
    }
}

/// The suite finds the flaw, by these clauses and no others. Of races, only those named must be lost.
async fn finds(flaw: Flaw, part: Part, clauses: &[&str]) {
    let report = report(flaw, part).await;
    let mut failed = report.failed();
    failed.retain(|clause| clauses.contains(clause) || !clause.starts_with("of_concurrent"));
    assert_eq!(failed, clauses, "{flaw:?}\n{report}");
    assert!(!report.is_passed());
    assert!(report.to_string().contains(&format!("  FAILED   {}: ", clauses[0])), "{report}");
}
