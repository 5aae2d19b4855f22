//! Faults come at the call they were planned for, and a persister meets them as it should.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sagastore::sqlite::SqliteStore;
use sagastore::testkit::{Fault, Faults, FaultyOutbox, FaultySnapshots, FaultyStore, Gate, Moment, Verb};
use sagastore::{
    Error, Executed, InstanceId, MessageId, Outbox, OutboxRepository, Persister, Revision, SagaStream,
    SnapshotFrequency, migrate,
};
use sqlx::{Pool, Sqlite};
use tempfile::TempDir;

use crate::databases;
use crate::order::{Order, OrderMessage, placed};

struct Fixture {
    _folder: TempDir,
    pool: Pool<Sqlite>,
    faults: Faults,
    persister: Persister<Sqlite>,
}

impl Fixture {
    async fn new() -> Self {
        let (folder, pool) = databases::sqlite().await;
        let _ = migrate(&pool).await.unwrap();
        let faults = Faults::new();
        let store = FaultyStore::new(Arc::new(SqliteStore::default()), &faults);
        Self { _folder: folder, pool, faults, persister: Persister::with_store(Arc::new(store)) }
    }

    async fn execute(&self, message: Option<MessageId>) -> Result<Executed<()>, Error> {
        let (order, id) = (Order::default(), id());
        let message = message.map(Into::into);
        self.persister.execute(&self.pool, &order, &id, message, |unit| unit.publish(placed()).map(drop)).await
    }

    /// The revision, by a persister without faults.
    async fn revision(&self) -> u64 {
        let mut conn = self.pool.acquire().await.unwrap();
        let order = Order::default();
        let unit = Persister::<Sqlite>::new().load_instance(&order, &mut conn, &id()).await.unwrap();
        unit.map_or(0, |unit| unit.instance().revision.get())
    }

    async fn waiting(&self) -> usize {
        let mut conn = self.pool.acquire().await.unwrap();
        SqliteStore::default().find_batch(&mut conn, None, 100).await.unwrap().len()
    }
}

fn id() -> InstanceId {
    InstanceId::new("1").unwrap()
}

fn disconnected() -> Fault {
    Fault::Error(Error::Disconnected { doing: "testing", source: "the cable was pulled".into() })
}

fn contention() -> Fault {
    Fault::Error(Error::Contention { doing: "testing", source: "busy".into() })
}

fn conflicts(executed: Executed<()>) -> u32 {
    match executed {
        Executed::Done { conflicts, .. } => conflicts,
        Executed::AlreadyHandled(_) => panic!("no message was named"),
    }
}

#[tokio::test]
async fn an_error_before_a_call_surfaces_typed_and_the_call_is_not_made() {
    for verb in [Verb::Load, Verb::CommitAlone] {
        let fixture = Fixture::new().await;
        fixture.faults.on(verb, 1, Moment::Before, disconnected());
        let error = fixture.execute(None).await.unwrap_err();
        assert!(matches!(error, Error::Disconnected { doing: "testing", .. }), "{error}");
        assert_eq!((fixture.revision().await, fixture.waiting().await), (0, 0));
        assert_eq!(conflicts(fixture.execute(None).await.unwrap()), 0);
        assert_eq!((fixture.revision().await, fixture.waiting().await), (1, 1));
        assert_eq!((fixture.faults.calls(verb), fixture.faults.left()), (2, 0));
    }
}

#[tokio::test]
async fn only_the_call_of_that_number_fails() {
    let fixture = Fixture::new().await;
    fixture.faults.on(Verb::CommitAlone, 3, Moment::Before, disconnected());
    let mut failed = Vec::new();
    for _ in 0..5 {
        failed.push(fixture.execute(None).await.is_err());
    }
    assert_eq!(failed, [false, false, true, false, false]);
    assert_eq!((fixture.revision().await, fixture.faults.calls(Verb::CommitAlone)), (4, 5));
    fixture.faults.on_next(Verb::Load, Moment::Before, disconnected());
    assert!(fixture.execute(None).await.is_err());
}

#[tokio::test]
async fn an_answer_that_is_lost_is_found_again_by_the_message() {
    let (fixture, message) = (Fixture::new().await, MessageId::new());
    fixture.faults.on(Verb::CommitAlone, 1, Moment::After, disconnected());
    let error = fixture.execute(Some(message)).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(fixture.revision().await, 1);
    assert!(fixture.execute(Some(message)).await.unwrap().is_already_handled());
    assert_eq!((fixture.revision().await, fixture.waiting().await), (1, 1));
}

#[tokio::test]
async fn contention_is_retried() {
    let fixture = Fixture::new().await;
    fixture.faults.on(Verb::CommitAlone, 1, Moment::Before, contention());
    fixture.faults.on(Verb::Load, 2, Moment::Before, contention());
    assert_eq!(conflicts(fixture.execute(None).await.unwrap()), 2);
    assert_eq!((fixture.revision().await, fixture.waiting().await), (1, 1));
    assert_eq!((fixture.faults.calls(Verb::Load), fixture.faults.calls(Verb::CommitAlone)), (3, 2));
}

#[tokio::test]
async fn a_failure_after_the_commit_call_is_rolled_back_with_the_transaction() {
    let fixture = Fixture::new().await;
    fixture.faults.on(Verb::Commit, 1, Moment::After, disconnected());
    let (order, persister) = (Order::default(), &fixture.persister);
    let mut tx = persister.begin(&fixture.pool).await.unwrap();
    let mut unit = persister.begin_unit_of_work(&order, &mut tx, Outbox, &id()).await.unwrap();
    unit.publish(placed()).unwrap();
    assert!(matches!(persister.save(&mut tx, unit).await, Err(Error::Disconnected { .. })));
    tx.rollback().await.unwrap();
    assert_eq!((fixture.revision().await, fixture.waiting().await), (0, 0));

    let mut tx = persister.begin(&fixture.pool).await.unwrap();
    let mut unit = persister.begin_unit_of_work(&order, &mut tx, Outbox, &id()).await.unwrap();
    unit.publish(placed()).unwrap();
    assert_eq!(persister.save(&mut tx, unit).await.unwrap().revision(), Revision::of(1));
    tx.commit().await.unwrap();
    assert_eq!((fixture.revision().await, fixture.faults.calls(Verb::Commit)), (1, 2));
}

#[tokio::test]
async fn a_call_that_stalls_takes_so_long() {
    let (fixture, stall) = (Fixture::new().await, Duration::from_millis(300));
    fixture.faults.on(Verb::Load, 1, Moment::Before, Fault::Stall(stall));
    let begun = Instant::now();
    assert_eq!(conflicts(fixture.execute(None).await.unwrap()), 0);
    assert!(begun.elapsed() >= stall);
}

#[tokio::test]
async fn a_call_that_is_held_lets_another_be_faster() {
    let (fixture, gate) = (Fixture::new().await, Gate::new());
    fixture.faults.on(Verb::CommitAlone, 1, Moment::Before, Fault::Wait(gate.clone()));
    let faster = async {
        gate.reached().await;
        let executed = fixture.execute(None).await.unwrap();
        gate.open();
        conflicts(executed)
    };
    let (held, faster) = tokio::join!(fixture.execute(None), faster);
    assert_eq!((conflicts(held.unwrap()), faster), (1, 0));
    assert_eq!((fixture.revision().await, fixture.faults.calls(Verb::CommitAlone)), (2, 3));
}

#[tokio::test]
async fn a_snapshot_that_fails_leaves_no_half_of_the_unit_of_work() {
    let fixture = Fixture::new().await;
    let snapshots = FaultySnapshots::new(Arc::new(SqliteStore::default()), &fixture.faults);
    let persister = fixture.persister.clone().with_snapshot_repository(Arc::new(snapshots));
    let fixture = Fixture { persister: persister.with_snapshot_frequency(SnapshotFrequency::every(1)), ..fixture };
    for moment in [Moment::Before, Moment::After] {
        fixture.faults.on_next(Verb::SaveSagaSnapshot, moment, disconnected());
        assert!(matches!(fixture.execute(None).await, Err(Error::Disconnected { .. })));
        assert_eq!((fixture.revision().await, fixture.waiting().await), (0, 0));
    }
    fixture.faults.on_next(Verb::LoadSagaSnapshot, Moment::Before, disconnected());
    assert!(fixture.execute(None).await.is_err());
    assert_eq!(conflicts(fixture.execute(None).await.unwrap()), 0);
    assert_eq!((fixture.revision().await, fixture.faults.left()), (1, 0));
}

#[tokio::test]
async fn an_outbox_that_fails_leaves_no_half_of_the_unit_of_work() {
    let fixture = Fixture::new().await;
    let outbox = FaultyOutbox::new(Arc::new(SqliteStore::default()), &fixture.faults);
    let persister = fixture.persister.clone().with_outbox_repository(Arc::new(outbox));
    let fixture = Fixture { persister, ..fixture };
    fixture.faults.on(Verb::SaveRecords, 1, Moment::After, disconnected());
    assert!(matches!(fixture.execute(None).await, Err(Error::Disconnected { .. })));
    assert_eq!((fixture.revision().await, fixture.waiting().await), (0, 0));
    let saved = fixture.execute(None).await.unwrap();
    assert_eq!((conflicts(saved), fixture.revision().await, fixture.waiting().await), (0, 1, 1));
}

#[tokio::test]
async fn a_timeout_that_fails_leaves_no_half_of_the_unit_of_work() {
    let (fixture, order, id) = (Fixture::new().await, Order::default(), id());
    let schedule = || async {
        let scheduled = fixture.persister.execute(&fixture.pool, &order, &id, None, |unit| {
            unit.publish(placed())?;
            unit.schedule("late", &OrderMessage::PaymentLate, Duration::ZERO).map(drop)
        });
        scheduled.await
    };
    fixture.faults.on(Verb::ChangeTimeouts, 1, Moment::After, disconnected());
    assert!(matches!(schedule().await, Err(Error::Disconnected { .. })));
    assert_eq!((fixture.revision().await, fixture.waiting().await), (0, 0));
    assert_eq!(conflicts(schedule().await.unwrap()), 0);
    let stream = SagaStream::new("order", &id).unwrap();
    let mut conn = fixture.pool.acquire().await.unwrap();
    let pending = fixture.persister.store().pending_timeouts(&mut conn, &stream.name, None, 10).await.unwrap();
    assert_eq!((pending.len(), fixture.faults.calls(Verb::PendingTimeouts)), (1, 1));
}

#[tokio::test]
async fn a_store_with_faults_that_do_not_come_passes_the_suite() {
    let fixture = Fixture::new().await;
    let inner = Arc::new(SqliteStore::default());
    let store = Arc::new(FaultyStore::new(inner.clone(), &fixture.faults));
    sagastore::testkit::conformance::message_store(&fixture.pool, store).await.assert_passed();
    let snapshots = Arc::new(FaultySnapshots::new(inner.clone(), &fixture.faults));
    sagastore::testkit::conformance::snapshot_repository(&fixture.pool, snapshots).await.assert_passed();
    let outbox = Arc::new(FaultyOutbox::new(inner, &fixture.faults));
    sagastore::testkit::conformance::outbox_repository(&fixture.pool, outbox).await.assert_passed();
}
