//! Group commit, instances in memory and wake-ups, with tasks that go on in any order.
//!
//! SAGASTORE_TEST_SEED=n runs the order of that seed only.

use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context, ensure};
use fastrand::Rng;
use sagastore::dispatcher::DispatcherSettings;
use sagastore::{ConflictRetry, Error, Executed, Inbound, MessageId, OutboxWaker, Persister};
use sqlx::Sqlite;

use crate::harness::sample::{Counter, added, instance};
use crate::harness::{Clause, Relay, Sent, TestDb, cut_after, scaled, shuffled, sqlite_clauses, until};

sqlite_clauses! {
    tasks_in_any_order_lose_nothing_and_repeat_nothing: SQLITE,
    commits_in_any_order_wake_the_dispatcher: SQLITE_FILE,
}

/// Tasks that share the instances.
const TASKS: u32 = 12;
const INSTANCES: u32 = 3;
/// Messages of each task.
const MESSAGES: u32 = 4;
/// One call in so many is dropped half-way, and made again.
const DROPS: u32 = 4;
/// Most polls before a call is dropped.
const POLLS: u32 = 12;
/// Nobody looks into the outbox by himself while the test runs.
const NEVER: Duration = Duration::from_secs(3600);

fn seeds(long: u64) -> anyhow::Result<RangeInclusive<u64>> {
    Ok(match std::env::var("SAGASTORE_TEST_SEED") {
        Ok(seed) => seed.parse().map(|seed| seed..=seed)?,
        Err(_) => 1..=scaled(5, long),
    })
}

/// With groups and instances in memory, many or few, in turns.
fn persister(db: &TestDb<Sqlite>, seed: u64) -> Persister<Sqlite> {
    let retry = ConflictRetry { retries: 500, ..ConflictRetry::default() };
    let persister = db.persister().with_conflict_retry(retry);
    match seed % 4 {
        0 => persister.with_group_commit(db.pool()),
        1 => persister.with_instance_cache(db.pool(), 64),
        2 => persister.with_group_commit(db.pool()).with_instance_cache(db.pool(), 64),
        _ => persister.with_group_commit(db.pool()).with_instance_cache(db.pool(), 1),
    }
}

/// Hands messages to instances, some of them more than once, until each is handled. Gives how many each instance took.
async fn task(db: &TestDb<Sqlite>, persister: &Persister<Sqlite>, mut random: Rng) -> anyhow::Result<Vec<u32>> {
    let mut taken = vec![0; INSTANCES as usize];
    for _ in 0..MESSAGES {
        let number = random.u32(0..INSTANCES);
        let (id, message) = (instance(&number.to_string()), Inbound::from(MessageId::new()));
        let once = || persister.execute(db.pool(), &Counter, &id, Some(message), |unit| unit.publish(added(1)));
        while random.u32(0..DROPS) == 0 {
            if let Some(done) = cut_after(random.u32(1..=POLLS), once()).await {
                drop(done?);
            }
        }
        drop(once().await?);
        ensure!(once().await?.is_already_handled(), "what was answered is forgotten");
        taken[number as usize] += 1;
    }
    Ok(taken)
}

async fn tasks_in_any_order_lose_nothing_and_repeat_nothing(db: TestDb<Sqlite>) -> Clause {
    let mut expected = vec![0; INSTANCES as usize];
    let seeds = seeds(1_000)?;
    for seed in seeds.clone() {
        let persister = persister(&db, seed);
        let tasks = (0..TASKS).map(|number| task(&db, &persister, Rng::with_seed(seed * 1_000 + u64::from(number))));
        for taken in shuffled(Rng::with_seed(seed), tasks).await {
            let taken = taken.with_context(|| format!("SAGASTORE_TEST_SEED={seed}"))?;
            expected.iter_mut().zip(taken).for_each(|(sum, taken)| *sum += u64::from(taken));
        }
        for (number, sum) in expected.iter().enumerate() {
            let found = db.state(&Counter, &number.to_string()).await?.unwrap_or_default();
            ensure!(found == (i64::try_from(*sum)?, *sum), "SAGASTORE_TEST_SEED={seed}: {found:?} of {sum}");
        }
    }
    println!(
        "schedules: {}: tasks in {} orders, seeds {seeds:?}, {} messages",
        db.mode(),
        seeds.clone().count(),
        expected.iter().sum::<u64>()
    );
    Ok(())
}

async fn commits_in_any_order_wake_the_dispatcher(db: TestDb<Sqlite>) -> Clause {
    db.will_relay();
    let (sent, waker) = (Sent::default(), OutboxWaker::new());
    let settings = DispatcherSettings::default().with_poll_interval(NEVER)?;
    let relay = Relay::start(db.dispatcher(sent.emitter()).with_settings(settings).with_waker(waker.clone()));
    let (mut expected, seeds) = (0, seeds(500)?);
    for seed in seeds.clone() {
        let persister = persister(&db, seed).with_waker(waker.clone());
        let tasks = (0..TASKS).map(|number| {
            let (id, persister, db) = (instance(&number.to_string()), &persister, &db);
            async move { persister.execute(db.pool(), &Counter, &id, None, |unit| unit.publish(added(1))).await }
        });
        for done in shuffled(Rng::with_seed(seed), tasks).await {
            let done: Result<Executed<_>, Error> = done;
            drop(done.with_context(|| format!("SAGASTORE_TEST_SEED={seed}"))?);
            expected += 1;
        }
        until("each message, of which a commit told", async || Ok(sent.len() >= expected)).await?;
    }
    ensure!(relay.stop().await?.delivered == u64::try_from(expected)?, "each is delivered once");
    println!(
        "schedules: {}: commits in {} orders, seeds {seeds:?}, {expected} messages",
        db.mode(),
        seeds.clone().count()
    );
    Ok(())
}
