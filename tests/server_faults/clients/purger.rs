//! Purges leases, and makes an inbox forget.

use std::time::Duration;

use anyhow::Context;
use sagastore::{Error, Inbox, MessageId};
use tokio::task::JoinSet;

use super::kind::kind;
use super::{guarded, leases};
use crate::ledger::Told;
use crate::load::{CALL_WITHIN, Load};
use crate::site::Site;

const NAME: &str = "purger";
const PERIOD: Duration = Duration::from_millis(300);
/// Of an inbox that nobody else uses.
const RETENTION: Duration = Duration::from_millis(500);

pub(crate) fn start<DB: Site>(load: &Load<DB>, clients: &mut JoinSet<anyhow::Result<()>>) {
    clients.spawn(run(load.clone()));
}

async fn run<DB: Site>(load: Load<DB>) -> anyhow::Result<()> {
    while load.goes_on() {
        let purged = tokio::time::timeout(CALL_WITHIN * 2, once(&load)).await.context("the purger hangs")?;
        load.tell(NAME, purged.map_or_else(|error| Told::Erred(kind::<DB>(&error)), |()| Told::Went));
        tokio::time::sleep(PERIOD).await;
    }
    Ok(())
}

async fn once<DB: Site>(load: &Load<DB>) -> Result<(), Error> {
    let (pool, inbox) = (load.pool(0), Inbox::new("forgetful")?);
    leases::lock(load, 0)?.purge().await?;
    let mut tx = guarded::begin(pool).await?;
    let _ = inbox.receive(&mut tx, MessageId::new()).await?;
    let store = <DB as sagastore::Backend>::Store::default();
    tx.commit().await.map_err(|error| sagastore::MessageStore::classify(&store, "committing", error))?;
    inbox.forget(pool, RETENTION).await.map(drop)
}
