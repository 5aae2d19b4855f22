//! Units of work in transactions of the library's own: events, commands, the handled message, a snapshot every so often,
//! timeouts, completion.

use std::time::Duration;

use anyhow::{Context, ensure};
use sagastore::{Error, Executed, MessageStore, Persister, UnitOfWork};

use super::Moment;
use crate::audit::commits_of;
use crate::desk::{Desk, SNAPSHOT_EVERY, message_id};
use crate::saga::{Order, OrderCommand, OrderEvent, instance, stream};
use crate::site::Site;

const ID: &str = "unit";
const EVENTS_IN_A_UNIT: u32 = 2;
const MESSAGES_IN_A_UNIT: usize = 3;
pub(super) const UNITS: usize = 5;
/// Later than any run.
const LATER: Duration = Duration::from_secs(3600);

pub(super) async fn work<DB: Site>(desk: &Desk<DB>) -> anyhow::Result<()> {
    work_by(desk, &desk.persister()).await
}

pub(super) async fn work_by<DB: Site>(desk: &Desk<DB>, persister: &Persister<DB>) -> anyhow::Result<()> {
    for number in 1..=UNITS {
        let _ = handle(desk, persister, number).await?;
    }
    Ok(())
}

async fn handle<DB: Site>(desk: &Desk<DB>, persister: &Persister<DB>, number: usize) -> anyhow::Result<Executed<()>> {
    let message = message_id(&format!("{ID} {number}"));
    let decide = |unit: &mut UnitOfWork<'_, Order>| decide(unit, number);
    Ok(persister.execute(&desk.pool, &desk.saga, &instance(ID), Some(message.into()), decide).await?)
}

fn decide(unit: &mut UnitOfWork<'_, Order>, unit_number: usize) -> Result<(), Error> {
    let number = u32::try_from(unit_number).unwrap();
    for _ in 1..EVENTS_IN_A_UNIT {
        unit.publish(OrderEvent::Stepped { number })?;
    }
    unit.publish(if unit_number == UNITS { OrderEvent::Closed } else { OrderEvent::Stepped { number } })?;
    unit.execute(&OrderCommand::Ship { number })?;
    let remind = OrderCommand::Remind { number };
    match number {
        1 => drop(unit.schedule("first", &remind, LATER)?),
        2 => {
            unit.schedule("first", &remind, LATER)?;
            unit.schedule("second", &remind, LATER)?;
        }
        3 => unit.cancel_timeout("second")?,
        5 => unit.cancel_timeouts(),
        _ => {}
    }
    Ok(())
}

pub(super) async fn check<DB: Site>(desk: &Desk<DB>, moment: Moment) -> anyhow::Result<()> {
    let commits = commits_of(desk, ID).await?;
    let count = commits.len();
    ensure!(moment == Moment::Killed || count == UNITS, "{count} of {UNITS} units of work are there");
    ensure!(commits.iter().all(|messages| messages.len() == MESSAGES_IN_A_UNIT), "a unit of work is not whole");
    check_snapshots(desk, count).await?;
    let (store, stream) = (DB::Store::default(), stream(ID));
    let pending = store.pending_timeouts(&mut *desk.pool.acquire().await?, &stream, None, 10).await?;
    let names: Vec<_> = pending.iter().map(|timeout| timeout.name.as_str()).collect();
    let expected: &[&str] = match count {
        0 | UNITS => &[],
        2 => &["first", "second"],
        _ => &["first"],
    };
    ensure!(names == expected, "after {count} units of work the timeouts are {names:?}");
    if moment == Moment::Finished {
        check_repeats(desk, &commits).await?;
    }
    Ok(())
}

/// One is kept, of the last unit of work at which one was due; none of a completed instance.
async fn check_snapshots<DB: Site>(desk: &Desk<DB>, units: usize) -> anyhow::Result<()> {
    let (mut last, mut revision) = (0, 0);
    for _ in 0..units {
        revision += u64::from(EVENTS_IN_A_UNIT);
        if revision - last >= SNAPSHOT_EVERY {
            last = revision;
        }
    }
    let expected = u64::from(last > 0 && units < UNITS);
    let found = desk.count("saga_snapshot").await?;
    ensure!(found == expected, "after {units} units of work there are {found} snapshots");
    let loaded = desk.persister().load_instance(&desk.saga, &mut *desk.pool.acquire().await?, &instance(ID)).await?;
    if expected == 1 {
        let taken = loaded.context("no instance")?.load_report().snapshot.map(|revision| revision.get());
        ensure!(taken == Some(last), "the snapshot is of revision {taken:?}, not {last}");
    }
    Ok(())
}

/// A message that comes again gets what it led to.
async fn check_repeats<DB: Site>(desk: &Desk<DB>, commits: &[Vec<sagastore::Envelope>]) -> anyhow::Result<()> {
    for (number, messages) in (1..).zip(commits) {
        let Executed::AlreadyHandled(handled) = handle(desk, &desk.persister(), number).await? else {
            anyhow::bail!("message {number} was handled twice");
        };
        ensure!(handled.messages == *messages, "message {number} led to other messages than before");
        let revision = u64::try_from(number)? * u64::from(EVENTS_IN_A_UNIT);
        ensure!(handled.revision.get() == revision, "message {number} led to revision {}", handled.revision);
    }
    Ok(())
}
