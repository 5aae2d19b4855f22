//! A log of the shape of a real one, as process mining has them: many short cases, a few very long ones.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sagastore::{
    ConflictRetry, Envelope, Inbound, LoadReport, OutboxRecord, Persister, Revision, Saga, Timestamp, message_types,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::harness::sample::instance;
use crate::harness::{Clause, Subject, TestDb, clauses, scaled};

clauses! {
    a_log_fed_by_many_tasks_is_kept_whole_and_fed_again_changes_nothing,
}

/// Tasks that feed at once.
const TASKS: usize = 8;
/// Events of the long cases; one is just too short for a snapshot.
const LONG_CASES: [usize; 4] = [999, 1000, 1337, 1814];
/// From so many events on a case has a snapshot.
const SNAPSHOT_FREQUENCY: usize = 1000;
/// Events of one unit of work of a long case.
const LONG_UNIT: usize = 37;

const ACTIVITIES: [&str; 9] = [
    "Bauantrag prüfen",
    "Bauantrag pru\u{308}fen",
    "01_HOOFD_010 – 'ontvangst'",
    "اعتماد",
    "雪/%\\_",
    "\u{1F4E6}\u{200D}\u{1F69A} shipped ",
    "shipped",
    "a \"quoted\" one; -- and a comment",
    "line\nbreak\tand tab",
];

#[derive(Clone, Copy, Debug, Default)]
struct Case;

/// What a case's events come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct CaseState {
    fingerprint: u64,
    last_at: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum CaseEvent {
    Logged { activity: String, at: String },
}
message_types!(CaseEvent { Logged: "CaseLogged" 1 });

const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

impl Saga for Case {
    type Data = CaseState;
    type Event = CaseEvent;

    fn persistence_key(&self) -> &str {
        "case"
    }

    fn new_data(&self) -> CaseState {
        CaseState { fingerprint: FNV_START, last_at: None }
    }

    fn apply_event(&self, state: &mut CaseState, event: &CaseEvent, _: &Envelope) {
        let CaseEvent::Logged { activity, at } = event;
        for byte in activity.bytes().chain([b'\n']) {
            state.fingerprint = (state.fingerprint ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        state.last_at = Some(at.clone());
    }
}

/// All cases, each with its events in order.
type Cases = BTreeMap<String, Vec<CaseEvent>>;

/// Always the same log for the same number of short cases.
fn log(short_cases: usize) -> Cases {
    const DAY: i64 = 86_400_000_000;
    let mut random = fastrand::Rng::with_seed(1948);
    let lengths = (0..short_cases).map(|number| 1 + number % 25).chain(LONG_CASES);
    let case = |(number, length): (usize, usize)| {
        // From 1948 to 2020.
        let mut at = random.i64(-8035 * DAY..18_262 * DAY - 2_000_000_000_000);
        let events = (0..length).map(|_| {
            // Half of the events happen at the time of the one before.
            at += if random.bool() { 0 } else { random.i64(0..1_000_000_000) };
            let activity = ACTIVITIES[random.usize(..ACTIVITIES.len())].to_owned();
            CaseEvent::Logged { activity, at: Timestamp::from_micros(at).to_string() }
        });
        let events: Vec<_> = events.collect();
        (format!("case É/{number} '%_"), events)
    };
    lengths.enumerate().map(case).collect()
}

/// How many events of a case one unit of work has.
fn unit_size(events: &[CaseEvent]) -> usize {
    if events.len() > 25 { LONG_UNIT } else { 1 }
}

/// The message by which one unit of work of a case is fed.
fn message(case: &str, step: usize) -> Inbound {
    Inbound::from(sagastore::MessageId::from(Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{case}\n{step}").as_bytes())))
}

/// Where the snapshot of a case is: at the end of the unit of work that reached it.
fn snapshot_at(events: &[CaseEvent]) -> Option<usize> {
    let reached = SNAPSHOT_FREQUENCY.div_ceil(LONG_UNIT) * LONG_UNIT;
    (events.len() >= SNAPSHOT_FREQUENCY).then(|| events.len().min(reached))
}

/// The state by the definition of the fingerprint, not by the saga.
fn expected(events: &[CaseEvent]) -> CaseState {
    let (mut text, mut last_at) = (String::new(), None);
    for CaseEvent::Logged { activity, at } in events {
        text = text + activity + "\n";
        last_at = Some(at.clone());
    }
    let step = |hash: u128, byte: u8| ((hash ^ u128::from(byte)) * 1_099_511_628_211) % (1 << 64);
    let hash = text.bytes().fold(14_695_981_039_346_656_037, step);
    CaseState { fingerprint: u64::try_from(hash).unwrap(), last_at }
}

/// Feeds the cases that fall to a task, one unit of work of each in turn. Says how many units of work
/// were new, and how many were not.
async fn feed<DB: Subject>(db: TestDb<DB>, cases: Arc<Cases>, task: usize) -> anyhow::Result<(usize, usize)> {
    let patient = ConflictRetry { retries: 50, delay: Duration::from_millis(2), cap: Duration::from_millis(100) };
    let persister = db.persister().with_conflict_retry(patient);
    let (mut new, mut known) = (0, 0);
    for step in 0.. {
        let mut left = false;
        for (case, events) in cases.iter().skip(task).step_by(TASKS) {
            let Some(unit) = events.chunks(unit_size(events)).nth(step) else { continue };
            left = true;
            let (id, handled) = (instance(case), Some(message(case, step)));
            let done = persister.execute(db.pool(), &Case, &id, handled, |work| {
                for event in unit {
                    work.publish(event.clone())?;
                }
                Ok::<_, sagastore::Error>(())
            });
            match done.await?.is_already_handled() {
                true => known += 1,
                false => new += 1,
            }
        }
        if !left {
            break;
        }
    }
    Ok((new, known))
}

/// Feeds all cases by many tasks at once.
async fn feed_all<DB: Subject>(db: &TestDb<DB>, cases: &Arc<Cases>) -> anyhow::Result<(usize, usize)> {
    let tasks: Vec<_> = (0..TASKS).map(|task| tokio::spawn(feed(db.clone(), Arc::clone(cases), task))).collect();
    let mut sum = (0, 0);
    for task in tasks {
        let (new, known) = task.await??;
        sum = (sum.0 + new, sum.1 + known);
    }
    Ok(sum)
}

/// Every case as another process finds it: its state, and what had to be read for it.
async fn check_cases<DB: Subject>(db: &TestDb<DB>, cases: &Cases) -> Clause {
    let (pool, persister): (_, Persister<DB>) = (db.small_pool(2).await?, db.persister());
    let mut conn = pool.acquire().await?;
    for (case, events) in cases {
        let unit = persister.load_instance(&Case, &mut conn, &instance(case)).await?;
        let unit = unit.unwrap_or_else(|| panic!("{case} is not there"));
        assert_eq!(unit.instance().revision.get(), u64::try_from(events.len())?, "{case}");
        assert_eq!(unit.instance().data, expected(events), "{case}");
        let snapshot = snapshot_at(events);
        let LoadReport { snapshot: used, ignored_snapshot, replayed_events, .. } = *unit.load_report();
        let revision = snapshot.map(|at| Revision::of(u32::try_from(at).unwrap()));
        assert_eq!((used, ignored_snapshot), (revision, None), "{case}");
        assert_eq!(replayed_events, u64::try_from(events.len() - snapshot.unwrap_or(0))?, "{case}");
    }
    // In memory there is no other connection.
    drop(conn);
    let mut snapshots: Vec<_> = cases.values().filter_map(|events| snapshot_at(events)).collect();
    let mut found = db.snapshots().await?;
    snapshots.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, snapshots.into_iter().map(|at| u64::try_from(at).unwrap()).collect::<Vec<_>>());
    Ok(())
}

/// One record per event, and the events of each case in their order.
fn check_outbox(records: &[OutboxRecord], cases: &Cases) -> Clause {
    let mut found = Cases::new();
    for record in records {
        assert_eq!((&*record.aggregate_type, record.event_type()), ("case", "CaseLogged"));
        found.entry(record.aggregate_id.clone()).or_default().push(serde_json::from_slice(record.payload())?);
    }
    assert_eq!(found.keys().collect::<Vec<_>>(), cases.keys().collect::<Vec<_>>());
    for (case, events) in cases {
        assert!(found[case] == *events, "the outbox has other events of {case}, or in another order");
    }
    let in_step =
        |record: &OutboxRecord, case: &str, step| record.envelope.causation_id == message(case, step).message_id;
    for (case, events) in cases {
        let own = records.iter().filter(|record| record.aggregate_id == *case);
        let caused = own.enumerate().all(|(at, record)| in_step(record, case, at / unit_size(events)));
        assert!(caused, "an event of {case} is not caused by the message that it came with");
    }
    Ok(())
}

async fn a_log_fed_by_many_tasks_is_kept_whole_and_fed_again_changes_nothing<DB: Subject>(db: TestDb<DB>) -> Clause {
    let cases = Arc::new(log(scaled(150, 3000)));
    let units = cases.values().map(|events| events.len().div_ceil(unit_size(events))).sum();
    assert_eq!(feed_all(&db, &cases).await?, (units, 0));
    check_cases(&db, &cases).await?;
    let (footprint, records) = (db.footprint().await?, db.outbox().await?);
    assert_eq!(footprint.commits, i64::try_from(units)?);
    check_outbox(&records, &cases)?;

    assert_eq!(feed_all(&db, &cases).await?, (0, units));
    assert_eq!(db.footprint().await?, footprint);
    let ids = |records: &[OutboxRecord]| records.iter().map(|record| record.id).collect::<Vec<_>>();
    assert!(ids(&db.outbox().await?) == ids(&records), "feeding again changed the outbox");
    check_cases(&db, &cases).await
}
