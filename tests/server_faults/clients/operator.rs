//! Retries dead letters.

use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinSet;

use super::kind::kind;
use crate::journal;
use crate::ledger::Told;
use crate::load::{CALL_WITHIN, Load};
use crate::site::Site;

const NAME: &str = "operator";
const PERIOD: Duration = Duration::from_millis(500);

pub(crate) fn start<DB: Site>(load: &Load<DB>, clients: &mut JoinSet<anyhow::Result<()>>) {
    clients.spawn(run(load.clone()));
}

async fn run<DB: Site>(load: Load<DB>) -> anyhow::Result<()> {
    while load.goes_on() {
        let revived = tokio::time::timeout(CALL_WITHIN, journal::revive(load.pool(1))).await;
        let revived = revived.context("the operator hangs")?;
        load.tell(NAME, revived.map_or_else(|error| Told::Erred(kind::<DB>(&error)), Told::Revived));
        tokio::time::sleep(PERIOD).await;
    }
    Ok(())
}
