//! Handles message after message, and writes down what became of each.

use std::time::Duration;

use anyhow::Context;
use sagastore::MessageId;

use super::Manner;
use super::kind::{kind, own};
use super::work::{Fault, Worker};
use crate::ledger::Told;
use crate::load::{CALL_WITHIN, Load};
use crate::site::Site;

/// How many instances there are.
const INSTANCES: u32 = 200;
/// Before a message is handled again, or the next one is after a failure.
const PAUSE: Duration = Duration::from_millis(50);
/// One of so many messages comes once more though it was handled.
const REPEATS: u32 = 20;

pub(crate) async fn run<DB: Site>(load: Load<DB>, number: usize, manner: Manner) -> anyhow::Result<()> {
    let (worker, client) = (Worker::new(load.pool(number), manner)?, format!("writer-{number}"));
    while load.goes_on() {
        let (message, name) = (MessageId::new(), fastrand::u32(..INSTANCES).to_string());
        // What failed is tried again at times, and left as it is at others.
        while !once(&load, &worker, &client, message, &name).await? && fastrand::bool() && load.goes_on() {}
        if fastrand::u32(..REPEATS) == 0 {
            once(&load, &worker, &client, message, &name).await?;
        }
    }
    Ok(())
}

/// True if it is handled.
async fn once<DB: Site>(
    load: &Load<DB>,
    worker: &Worker<DB>,
    client: &str,
    message: MessageId,
    name: &str,
) -> anyhow::Result<bool> {
    load.tell(client, Told::Tries(message, worker.manner(), name.to_owned()));
    let handled = tokio::time::timeout(CALL_WITHIN, worker.handle(message, name)).await;
    match handled.with_context(|| format!("{client} hangs with message {message}"))? {
        Ok(true) => load.tell(client, Told::Saved(message)),
        Ok(false) => load.tell(client, Told::Again(message)),
        Err(fault) => {
            load.tell(client, Told::Failed(message, fault.may_have_happened(), why::<DB>(fault)));
            tokio::time::sleep(PAUSE).await;
            return Ok(false);
        }
    }
    Ok(true)
}

fn why<DB: Site>(fault: Fault) -> String {
    match fault {
        Fault::Library(error) => kind::<DB>(&error),
        Fault::Own(error) => own::<DB>(error),
    }
}
