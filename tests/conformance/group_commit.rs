//! Units of work of many callers in one commit, each judged alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use sagastore::{ConflictRetry, Error, Executed, Inbound, MessageId, Persister, SnapshotFrequency};
use sqlx::Sqlite;
use tokio::task::JoinSet;

use crate::harness::sample::{Counter, Order, OrderEvent, added, instance, note};
use crate::harness::{Clause, Part, Process, TestDb, assert_error, cut_after, scaled, sqlite_clauses, until};

sqlite_clauses! {
    who_waits_is_committed_together: SQLITE_FILE,
    a_first_caller_whom_nobody_polls_holds_up_nobody: SQLITE_FILE,
    each_of_a_group_is_judged_alone: SQLITE_FILE,
    a_statement_that_fails_is_its_callers_only: SQLITE_FILE,
    a_statement_that_fails_in_a_large_group_undoes_what_the_others_wrote_before: SQLITE_FILE,
    a_transaction_that_the_database_ends_is_everyones: SQLITE_FILE,
    a_commit_that_fails_is_answered_to_all: SQLITE_FILE,
    many_callers_on_few_instances_lose_nothing: SQLITE,
    calls_that_are_dropped_at_any_step_leave_all_or_nothing: SQLITE,
    another_pool_is_refused: SQLITE_FILE,
    instances_in_memory_are_committed_together: SQLITE_FILE,
    a_killed_process_has_lost_nothing_that_it_answered: SQLITE_FILE,
}

/// Long enough for a caller that has decided to come to the queue.
pub(crate) const SETTLED: Duration = Duration::from_millis(100);

pub(crate) type Answer = Result<Executed<()>, Error>;

/// One call.
#[derive(Clone)]
pub(crate) struct Work {
    id: String,
    message: Option<MessageId>,
    events: Vec<OrderEvent>,
}

pub(crate) fn work(id: impl ToString, events: usize) -> Work {
    Work { id: id.to_string(), message: None, events: vec![note("n"); events] }
}

pub(crate) fn revision(answer: &Answer) -> u64 {
    match answer {
        Ok(Executed::Done { saved, .. }) => saved.revision().get(),
        other => panic!("it was not saved: {other:?}"),
    }
}

fn grouped(db: &TestDb<Sqlite>) -> Persister<Sqlite> {
    db.persister().with_group_commit(db.pool()).with_conflict_retry(ConflictRetry::NEVER)
}

pub(crate) async fn execute(
    db: &TestDb<Sqlite>,
    persister: &Persister<Sqlite>,
    work: Work,
    decided: &AtomicUsize,
) -> Answer {
    let (id, message) = (instance(&work.id), work.message.map(Inbound::from));
    let done = persister.execute(db.pool(), &Order, &id, message, |unit| {
        decided.fetch_add(1, Ordering::Relaxed);
        work.events.iter().cloned().try_for_each(|event| unit.publish(event).map(drop))
    });
    done.await
}

/// Has the first call wait for the file's lock, and the others for the first. Answers in order.
async fn together(db: &TestDb<Sqlite>, persister: &Persister<Sqlite>, works: Vec<Work>) -> anyhow::Result<Vec<Answer>> {
    let (blocker, decided) = (db.begin().await?, Arc::new(AtomicUsize::new(0)));
    let mut calls = Vec::new();
    for (at, work) in works.into_iter().enumerate() {
        let (db, persister, decided_there) = (db.clone(), persister.clone(), Arc::clone(&decided));
        calls.push(tokio::spawn(async move { execute(&db, &persister, work, &decided_there).await }));
        until("a call has decided", async || Ok(decided.load(Ordering::Relaxed) > at)).await?;
        if at == 0 {
            tokio::time::sleep(SETTLED).await;
        }
    }
    tokio::time::sleep(SETTLED).await;
    db.roll_back(blocker).await?;
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await?);
    }
    Ok(answers)
}

pub(crate) async fn start_orders(db: &TestDb<Sqlite>, count: usize) -> anyhow::Result<()> {
    for id in 0..count {
        db.publish(&Order, &id.to_string(), [note("first")]).await?;
    }
    Ok(())
}

async fn who_waits_is_committed_together(db: TestDb<Sqlite>) -> Clause {
    // One more than are written by one statement.
    const CALLS: usize = 34;
    start_orders(&db, CALLS).await?;
    let answers = together(&db, &grouped(&db), (0..CALLS).map(|id| work(id, 2)).collect()).await?;
    assert!(answers.iter().all(|answer| revision(answer) == 3), "{answers:?}");
    for id in 0..CALLS {
        assert_eq!(db.state(&Order, &id.to_string()).await?.unwrap().1, 3);
    }
    // The first alone, and all others with few statements, each of which has one time.
    let times = "SELECT COUNT(DISTINCT recorded_at) FROM saga_commit WHERE commit_no = 2";
    assert!(db.count(times).await? <= 3, "they were written one by one");
    Ok(())
}

/// As in a loop that looks after several futures: whoever came later waited for ever.
async fn a_first_caller_whom_nobody_polls_holds_up_nobody(db: TestDb<Sqlite>) -> Clause {
    let (persister, decided) = (grouped(&db), AtomicUsize::new(0));
    db.publish(&Order, "0", [note("n")]).await?;
    let held = db.begin().await?;
    let mut first = Box::pin(execute(&db, &persister, work(1, 1), &decided));
    ensure!(tokio::time::timeout(SETTLED, &mut first).await.is_err(), "the file is locked");
    held.rollback().await?;
    for id in 2..4 {
        let later = tokio::time::timeout(Duration::from_secs(20), execute(&db, &persister, work(id, 1), &decided));
        assert_eq!(revision(&later.await?), 1);
    }
    assert_eq!(revision(&first.await), 1);
    Ok(())
}

async fn each_of_a_group_is_judged_alone(db: TestDb<Sqlite>) -> Clause {
    start_orders(&db, 9).await?;
    let persister = grouped(&db).with_snapshot_frequency(SnapshotFrequency::every(4));
    let message = MessageId::new();
    let handles = |id: usize| Work { message: Some(message), ..work(id, 1) };
    let ships = Work { events: vec![OrderEvent::Shipped], ..work(5, 0) };
    let huge = Work { events: vec![note("x".repeat(5 << 20))], ..work(6, 0) };
    let works = vec![
        work(0, 1),
        work(1, 1),
        work(1, 1),
        handles(2),
        handles(2),
        // The same message, to another instance.
        handles(3),
        // A snapshot is due.
        work(4, 3),
        ships,
        huge,
        work("new", 1),
        work("new", 1),
        work(7, 1),
    ];
    let answers = together(&db, &persister, works).await?;
    for won in [0, 5, 6, 7, 9, 11] {
        assert!(matches!(&answers[won], Ok(Executed::Done { .. })), "{won}: {:?}", answers[won]);
    }
    for (one, other) in [(1, 2), (9, 10)] {
        let (won, lost) = if answers[one].is_ok() { (one, other) } else { (other, one) };
        assert!(answers[won].is_ok() && answers[lost].as_ref().is_err_and(Error::is_conflict), "{answers:?}");
    }
    let repeats: Vec<_> = answers[3..5].iter().map(|answer| answer.as_ref().unwrap().is_already_handled()).collect();
    assert!(repeats == [true, false] || repeats == [false, true], "{repeats:?}");
    assert_error!(&answers[8], Error::TooLarge { .. });
    let mut revisions = Vec::new();
    for id in ["0", "1", "2", "3", "4", "5", "6", "7", "8", "new"] {
        revisions.push(db.state(&Order, id).await?.unwrap().1);
    }
    assert_eq!(revisions, [2, 2, 2, 2, 4, 2, 1, 2, 1, 1]);
    assert_eq!(db.snapshots().await?, [4]);
    assert_eq!(db.footprint().await?.completed, 1);
    Ok(())
}

async fn a_statement_that_fails_is_its_callers_only(db: TestDb<Sqlite>) -> Clause {
    start_orders(&db, 6).await?;
    db.sql(
        "CREATE TRIGGER own_rule BEFORE INSERT ON saga_commit WHEN NEW.message_count = 7
        BEGIN SELECT RAISE(ABORT, 'no sevens'); END",
    )
    .await?;
    let persister = grouped(&db);
    for extra in [None, Some("new")] {
        let before = db.state(&Order, "1").await?.unwrap().1;
        let mut works = vec![work(0, 1), work(1, 1), work(2, 7), work(3, 1), work(4, 1)];
        works.extend(extra.map(|id| work(id, 1)));
        let answers = together(&db, &persister, works).await?;
        for (at, answer) in answers.iter().enumerate() {
            if at == 2 {
                assert_error!(answer, Error::Storage { .. });
            } else {
                assert!(answer.is_ok(), "{at}: {answer:?}");
            }
        }
        assert_eq!(db.state(&Order, "1").await?.unwrap().1, before + 1);
        assert_eq!(db.state(&Order, "2").await?.unwrap().1, 1);
    }
    Ok(())
}

async fn a_statement_that_fails_in_a_large_group_undoes_what_the_others_wrote_before(db: TestDb<Sqlite>) -> Clause {
    const UNITS: usize = 50;
    start_orders(&db, UNITS).await?;
    db.sql(
        "CREATE TRIGGER own_rule BEFORE INSERT ON saga_commit WHEN NEW.message_count = 7
        BEGIN SELECT RAISE(ABORT, 'no sevens'); END",
    )
    .await?;
    let bad = UNITS - 2;
    let works = (0..UNITS).map(|at| work(at, if at == bad { 7 } else { 1 })).collect();
    let answers = together(&db, &grouped(&db), works).await?;
    for (at, answer) in answers.iter().enumerate() {
        assert_eq!(answer.is_err(), at == bad, "{at}: {answer:?}");
    }
    assert_eq!(db.footprint().await?.commits, i64::try_from(UNITS * 2 - 1)?);
    Ok(())
}

async fn a_transaction_that_the_database_ends_is_everyones(db: TestDb<Sqlite>) -> Clause {
    start_orders(&db, 5).await?;
    db.sql(
        "CREATE TRIGGER own_rule BEFORE INSERT ON saga_commit WHEN NEW.message_count = 7
        BEGIN SELECT RAISE(ROLLBACK, 'no sevens'); END",
    )
    .await?;
    let persister = grouped(&db);
    let works = vec![work(0, 1), work(1, 1), work(2, 7), work("new", 1)];
    let answers = together(&db, &persister, works.clone()).await?;
    assert!(answers[0].is_ok());
    for answer in &answers[1..] {
        assert_error!(answer, Error::Storage { .. });
    }
    assert_eq!((db.state(&Order, "1").await?.unwrap().1, db.state(&Order, "new").await?), (1, None));
    db.sql("DROP TRIGGER own_rule").await?;
    let answers = together(&db, &persister, works).await?;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    Ok(())
}

async fn a_commit_that_fails_is_answered_to_all(db: TestDb<Sqlite>) -> Clause {
    start_orders(&db, 5).await?;
    db.create_own_table().await?;
    db.sql("CREATE TABLE own_child (n BIGINT NOT NULL REFERENCES own_table (n) DEFERRABLE INITIALLY DEFERRED)").await?;
    db.sql(
        "CREATE TRIGGER own_rule AFTER INSERT ON saga_commit WHEN NEW.message_count = 7
        BEGIN INSERT INTO own_child (n) VALUES (1); END",
    )
    .await?;
    let persister = grouped(&db);
    let works = vec![work(0, 1), work(1, 1), work(2, 7), work(3, 1), work("new", 1)];
    let answers = together(&db, &persister, works.clone()).await?;
    assert!(answers[0].is_ok());
    for answer in &answers[1..] {
        assert_error!(answer, Error::Storage { .. });
    }
    let commits = db.footprint().await?.commits;
    assert_eq!((commits, db.state(&Order, "new").await?), (6, None));
    db.sql("INSERT INTO own_table (n) VALUES (1)").await?;
    let answers = together(&db, &persister, works).await?;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    Ok(())
}

async fn many_callers_on_few_instances_lose_nothing(db: TestDb<Sqlite>) -> Clause {
    const CALLERS: usize = 32;
    const INSTANCES: usize = 8;
    let each = scaled(15, 300);
    let retry = ConflictRetry { retries: 500, ..ConflictRetry::default() };
    let persister = db.persister().with_group_commit(db.pool()).with_conflict_retry(retry);
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (db, persister) = (db.clone(), persister.clone());
        callers.spawn(async move {
            for _ in 0..each {
                let (id, message) = (instance(&(caller % INSTANCES).to_string()), Inbound::from(MessageId::new()));
                let once = || persister.execute(db.pool(), &Counter, &id, Some(message), |unit| unit.publish(added(1)));
                assert!(!once().await?.is_already_handled());
                if fastrand::u32(0..10) == 0 {
                    assert!(once().await?.is_already_handled());
                }
            }
            Ok::<_, Error>(())
        });
    }
    while let Some(done) = callers.join_next().await {
        done??;
    }
    let total = u64::try_from(CALLERS / INSTANCES)? * each;
    for id in 0..INSTANCES {
        assert_eq!(db.state(&Counter, &id.to_string()).await?, Some((i64::try_from(total)?, total)));
    }
    Ok(())
}

/// So many calls must have been dropped.
const MANY_CUTS: usize = 20;

async fn calls_that_are_dropped_at_any_step_leave_all_or_nothing(db: TestDb<Sqlite>) -> Clause {
    let retry = ConflictRetry { retries: 500, ..ConflictRetry::default() };
    let persister = db.persister().with_group_commit(db.pool()).with_conflict_retry(retry);
    let (least, most) = (Duration::from_millis(scaled(1500, 20_000)), Duration::from_secs(60));
    let (mut callers, began, all_cuts) = (JoinSet::new(), Instant::now(), Arc::new(AtomicUsize::new(0)));
    for caller in 0..8_usize {
        let (db, persister, all_cuts) = (db.clone(), persister.clone(), Arc::clone(&all_cuts));
        callers.spawn(async move {
            let (mut answered, mut cuts) = (0_u64, 0_u64);
            let id = instance(&caller.to_string());
            let is_enough = || all_cuts.load(Ordering::Relaxed) > MANY_CUTS;
            while began.elapsed() < least || began.elapsed() < most && !is_enough() {
                let call = persister.execute(db.pool(), &Counter, &id, None, |unit| {
                    unit.publish(added(1))?;
                    unit.publish(added(1)).map(drop)
                });
                match cut_after(fastrand::u32(1..12), call).await {
                    Some(done) => answered += u64::from(!done?.is_already_handled()),
                    None => {
                        cuts += 1;
                        all_cuts.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            Ok::<_, Error>((caller, answered, cuts))
        });
    }
    while let Some(done) = callers.join_next().await {
        let (caller, answered, cuts) = done??;
        let units = db.state(&Counter, &caller.to_string()).await?.map_or(0, |(_, revision)| revision / 2);
        assert!((answered..=answered + cuts).contains(&units), "{answered} answered, {cuts} cut, {units} there");
    }
    assert!(all_cuts.load(Ordering::Relaxed) > MANY_CUTS, "hardly any call was dropped");
    Ok(())
}

async fn another_pool_is_refused(db: TestDb<Sqlite>) -> Clause {
    let (persister, other, decided) = (grouped(&db), db.second_pool(2).await?, AtomicUsize::new(0));
    let id = instance("1");
    let refused = persister.execute(&other, &Counter, &id, None, |unit| unit.publish(added(1)));
    assert_error!(refused.await, Error::InvalidInput { what: "pool", .. });
    assert_eq!(revision(&execute(&db, &persister, work(1, 1), &decided).await), 1);
    Ok(())
}

async fn a_killed_process_has_lost_nothing_that_it_answered(db: TestDb<Sqlite>) -> Clause {
    let mut answered = std::collections::HashMap::<String, u64>::new();
    for _ in 0..scaled(2, 20) {
        let mut process = Process::start(&db, "counting", Part::Counting)?;
        let (start, mut heard, mut killed) = (Instant::now(), 0, false);
        while let Ok(line) = process.hear() {
            let Some((id, revision)) = line.split_once(' ') else { break };
            answered.insert(id.to_owned(), revision.parse()?);
            heard += 1;
            if !killed && heard > 50 && start.elapsed() > Duration::from_millis(700) {
                process.signal("KILL")?;
                killed = true;
            }
        }
        assert!(killed, "it ended by itself");
    }
    assert!(answered.values().sum::<u64>() > 50, "{answered:?}");
    for (id, revision) in answered {
        let there = db.state(&Counter, &id).await?.map_or(0, |(_, revision)| revision);
        assert!(there >= revision, "instance {id}: revision {revision} was answered, {there} is there");
    }
    Ok(())
}

async fn instances_in_memory_are_committed_together(db: TestDb<Sqlite>) -> Clause {
    let persister = grouped(&db).with_instance_cache(db.pool(), 64);
    let works = || (0..6).map(|number| work(number, 1)).collect::<Vec<_>>();
    for revision_after in 1..=3 {
        let before = db.count("SELECT COUNT(DISTINCT recorded_at) FROM saga_commit").await?;
        for answer in together(&db, &persister, works()).await? {
            assert_eq!(revision(&answer), revision_after);
        }
        if revision_after > 1 {
            // The first alone, and the others with one statement, each of which has one time. Two may have the same, and
            // a call that is held up on its way to the queue is written by itself.
            let times = db.count("SELECT COUNT(DISTINCT recorded_at) FROM saga_commit").await? - before;
            ensure!((1..=3).contains(&times), "six calls were written at {times} times");
        }
    }
    // Each of them was in memory until somebody else wrote.
    for number in 0..6 {
        db.publish(&Order, &number.to_string(), [note("by another")]).await?;
    }
    for answer in together(&db, &persister, works()).await? {
        assert_eq!(revision(&answer), 5);
    }
    Ok(())
}
