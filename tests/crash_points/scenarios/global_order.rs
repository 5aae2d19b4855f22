//! A reader of the global order keeps a table of its own, and moves on in the same transaction.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use sagastore::{GlobalPosition, GloballyOrderedStore, Persister};

use super::Moment;
use crate::audit::commits_of;
use crate::desk::{self, Desk, message_id};
use crate::saga::{OrderEvent, instance};
use crate::site::Site;

const IDS: [&str; 2] = ["one", "two"];
const UNITS: u32 = 4;
const EVENTS_IN_A_UNIT: u32 = 2;
const READER: &str = "crash-reader";
/// The reader takes a unit of work at a time.
const PAGE: u32 = EVENTS_IN_A_UNIT;
pub(super) const CHANGES: usize = 8;
/// On PostgreSQL any transaction of the cluster can hold the reader back.
const READABLE_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(5);

fn persister<DB: Site>() -> Persister<DB> {
    desk::persister(DB::ordered_store())
}

pub(super) async fn prepare<DB: Site>(desk: &Desk<DB>) -> anyhow::Result<()> {
    DB::enable_order(&desk.pool).await
}

pub(super) async fn work<DB: Site>(desk: &Desk<DB>) -> anyhow::Result<()> {
    for number in 1..=UNITS {
        let message = message_id(&format!("{READER} {number}"));
        let id = instance(IDS[usize::try_from(number)? % IDS.len()]);
        let persister = persister::<DB>();
        let done = persister.execute(&desk.pool, &desk.saga, &id, Some(message.into()), |unit| {
            for _ in 0..EVENTS_IN_A_UNIT {
                unit.publish(OrderEvent::Stepped { number })?;
            }
            Ok::<_, sagastore::Error>(())
        });
        let _ = done.await?;
    }
    let (began, wanted) = (Instant::now(), usize::try_from(UNITS * EVENTS_IN_A_UNIT)?);
    while desk.own().await?.len() < wanted {
        if !project(desk).await? {
            ensure!(began.elapsed() < READABLE_WITHIN, "the reader is held back");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    Ok(())
}

/// Takes the next events; false if there are none yet.
async fn project<DB: Site>(desk: &Desk<DB>) -> anyhow::Result<bool> {
    let store = Arc::new(DB::ordered_store());
    let mut tx = persister::<DB>().begin(&desk.pool).await?;
    let from = store.consumer_position(&mut tx, READER).await?;
    let events = store.read_global(&mut tx, from, PAGE).await?;
    let Some(last) = events.last() else {
        tx.rollback().await?;
        return Ok(false);
    };
    for event in &events {
        DB::write_own(&mut tx, &event.event.envelope.message_id.to_string()).await?;
    }
    ensure!(store.move_consumer(&mut tx, READER, from, last.position).await?, "another reader has moved on");
    tx.commit().await?;
    Ok(true)
}

pub(super) async fn check<DB: Site>(desk: &Desk<DB>, moment: Moment) -> anyhow::Result<()> {
    let mut units = 0;
    for id in IDS {
        units += commits_of(desk, id).await?.len();
    }
    let all = usize::try_from(UNITS)?;
    ensure!(moment == Moment::Killed || units == all, "{units} of {all} units of work are there");
    if units == 0 {
        return Ok(());
    }
    let (store, began) = (DB::ordered_store(), Instant::now());
    let events = loop {
        let mut conn = desk.pool.acquire().await?;
        let events = store.read_global(&mut conn, GlobalPosition::START, 1000).await?;
        if events.len() >= units * usize::try_from(EVENTS_IN_A_UNIT)? {
            break events;
        }
        drop(conn);
        ensure!(began.elapsed() < READABLE_WITHIN, "{units} units of work, {} events are readable", events.len());
        tokio::time::sleep(LOOK_EVERY).await;
    };
    let position = store.consumer_position(&mut *desk.pool.acquire().await?, READER).await?;
    let passed = events.iter().filter(|event| event.position <= position);
    let mut passed: Vec<_> = passed.map(|event| event.event.envelope.message_id.to_string()).collect();
    passed.sort();
    let own = desk.own().await?;
    ensure!(own == passed, "the reader passed {passed:?}, and its own rows are {own:?}");
    ensure!(moment == Moment::Killed || own.len() == events.len(), "the reader missed events");
    Ok(())
}
