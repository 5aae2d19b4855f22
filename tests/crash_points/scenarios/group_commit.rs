//! Units of work of many callers are committed together. SQLite only: see `site::Site::in_groups`.

use anyhow::{Context, ensure};
use sagastore::Persister;
use tokio::task::JoinSet;

use super::Moment;
use crate::audit::commits_of;
use crate::desk::{Desk, message_id};
use crate::saga::{OrderCommand, OrderEvent, instance};
use crate::site::Site;

pub(super) const CONNECTIONS: u32 = 3;
const CALLERS: u32 = 6;
const UNITS: u32 = 3;

fn id(caller: u32) -> String {
    format!("caller-{caller}")
}

pub(super) async fn work<DB: Site>(desk: &Desk<DB>) -> anyhow::Result<()> {
    let (persister, mut callers) = (DB::in_groups(desk.persister(), &desk.pool), JoinSet::new());
    for caller in 0..CALLERS {
        let (persister, desk) = (persister.clone(), desk.clone());
        callers.spawn(async move { call(&persister, &desk, caller).await });
    }
    while let Some(called) = callers.join_next().await {
        called??;
    }
    Ok(())
}

async fn call<DB: Site>(persister: &Persister<DB>, desk: &Desk<DB>, caller: u32) -> anyhow::Result<()> {
    let id = id(caller);
    let instance = instance(&id);
    for number in 1..=UNITS {
        let message = message_id(&format!("{id} {number}"));
        let done = persister.execute(&desk.pool, &desk.saga, &instance, Some(message.into()), |unit| {
            unit.publish(OrderEvent::Stepped { number })?;
            unit.execute(&OrderCommand::Ship { number })?;
            Ok::<_, sagastore::Error>(())
        });
        let _ = done.await?;
        desk.journal.note("answered", &format!("{id} {number}"))?;
    }
    Ok(())
}

pub(super) async fn check<DB: Site>(desk: &Desk<DB>, moment: Moment) -> anyhow::Result<()> {
    let answered = desk.journal.noted("answered")?;
    for caller in 0..CALLERS {
        let id = id(caller);
        let units = u32::try_from(commits_of(desk, &id).await?.len())?;
        ensure!(units <= UNITS, "{id} has {units} units of work");
        ensure!(moment == Moment::Killed || units == UNITS, "{id} has {units} units of work");
        for line in answered.iter().filter(|line| line.starts_with(&id)) {
            let (_, number) = line.split_once(' ').context("a torn line")?;
            ensure!(number.parse::<u32>()? <= units, "{line} was answered, and is not there");
        }
    }
    Ok(())
}
