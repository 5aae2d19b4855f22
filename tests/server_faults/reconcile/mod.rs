//! Compares what the clients were told with what is there.

mod deliveries;
mod fate;
mod locks;
mod stored;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use anyhow::{Context, ensure};
use sagastore::check::check_data;
use sagastore::verify_replay::ReplayVerifier;
use sagastore::{MessageId, Persister};
use sqlx::Pool;

use self::deliveries::Deliveries;
use self::fate::{Fate, Fates};
use self::stored::Stored;
use super::clients::work::Worker;
use super::clients::{Manner, leases};
use super::place::Place;
use super::site::{Patience, Site};
use super::tally::{KEYED, NAMED};
use super::{journal, ledger};

/// What comparing came to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Messages that were answered, each of which is handled once.
    pub(crate) answered: usize,
    /// Messages that failed, and are not handled.
    pub(crate) absent: usize,
    /// Messages whose answer was lost, and that are handled.
    pub(crate) present: usize,
    /// How often a message came again that was handled.
    pub(crate) again: usize,
    pub(crate) deliveries: Deliveries,
    /// How often a dead letter was retried.
    pub(crate) revived: u64,
    pub(crate) tokens: usize,
    pub(crate) refused: usize,
    pub(crate) fenced_writes: usize,
    pub(crate) snapshots: u64,
    /// The kinds of errors that clients saw, with how often and what the first one said.
    pub(crate) errors: BTreeMap<String, (usize, String)>,
}

/// `full` are the times at which the disk was full.
pub(crate) async fn reconcile<DB: Site>(place: &Place, full: &[RangeInclusive<u64>]) -> anyhow::Result<Outcome> {
    let pool = DB::connect(place, None, Patience::Advised).await?;
    let entries = ledger::read(&place.ledger(), 0)?;
    let fates = Fates::of::<DB>(&entries, full)?;
    let mut outcome = Outcome { again: fates.again, errors: fates.errors.clone(), ..Outcome::default() };
    let stored = Stored::read(&pool, &fates.of).await?;
    for (message, fate) in &fates.of {
        let present = stored.is_whole(*message, fate).with_context(|| format!("message {message}, {fate:?}"))?;
        match (fate.answered, present) {
            (true, true) => outcome.answered += 1,
            (true, false) => anyhow::bail!("message {message} was answered and is not handled: {fate:?}"),
            (false, false) => outcome.absent += 1,
            (false, true) => {
                ensure!(fate.is_uncertain(), "message {message} failed for certain and is handled: {fate:?}");
                outcome.present += 1;
            }
        }
    }
    handle_again(&pool, &fates, &stored).await?;
    deliver_the_rest(place, &pool).await?;
    let stored = Stored::read(&pool, &fates.of).await?;
    for (message, fate) in &fates.of {
        ensure!(stored.is_whole(*message, fate)?, "message {message} was handled again and is not there: {fate:?}");
    }
    stored.check_keys::<DB>(&pool).await?;
    outcome.deliveries = Deliveries::compare(&stored.streams, &journal::read(&place.journal())?)?;
    outcome.tokens = leases::check(&entries)?;
    let revived = entries.iter().map(|entry| if let ledger::Told::Revived(count) = entry.told { count } else { 0 });
    outcome.revived = revived.sum();
    outcome.refused = entries.iter().filter(|entry| matches!(entry.told, ledger::Told::Refused(_))).count();
    outcome.fenced_writes = locks::check(&pool, &entries).await?;
    outcome.snapshots = check(&pool).await?;
    pool.close().await;
    Ok(outcome)
}

/// Handles again what was not answered: that tells what became of it, and never doubles.
async fn handle_again<DB: Site>(pool: &Pool<DB>, fates: &Fates, stored: &Stored) -> anyhow::Result<()> {
    let mut workers = Vec::new();
    for manner in Manner::ALL {
        workers.push((manner, Worker::new(pool, manner)?));
    }
    for (message, fate) in fates.of.iter().filter(|(_, fate)| !fate.answered) {
        let (_, worker) = workers.iter().find(|(manner, _)| *manner == fate.manner).context("no such manner")?;
        let handled = worker.handle(*message, &fate.name).await?;
        let present = stored.is_whole(*message, fate)?;
        ensure!(handled != present, "message {message} was told as new: {handled}, and is there: {present}");
        ensure!(!worker.handle(*message, &fate.name).await?, "message {message} was handled twice");
    }
    Ok(())
}

async fn deliver_the_rest<DB: Site>(place: &Place, pool: &Pool<DB>) -> anyhow::Result<()> {
    let (dispatcher, began) = (journal::dispatcher(place, pool.clone(), 0)?, std::time::Instant::now());
    loop {
        let _ = dispatcher.dispatch_once().await?;
        let waiting = journal::waiting(pool).await?;
        if waiting == 0 {
            return Ok(());
        }
        ensure!(began.elapsed() < journal::DRAINED_WITHIN, "{waiting} messages are still not delivered");
    }
}

/// The library's own check finds nothing, and snapshots are what the events make. Gives the number of snapshots.
async fn check<DB: Site>(pool: &Pool<DB>) -> anyhow::Result<u64> {
    let mut first = None;
    let checked = check_data(pool, &mut |finding| _ = first.get_or_insert(finding)).await?;
    ensure!(checked.findings == 0, "the check found {} faults, the first: {first:?}", checked.findings);
    for saga in [NAMED, KEYED] {
        let verified = ReplayVerifier::new(&saga, Persister::<DB>::new()).run(pool, |_| Ok(())).await?;
        ensure!(verified.is_clean(), "replaying {} found {:?}", saga.persistence_key, verified.findings.first());
    }
    Ok(checked.snapshots)
}

/// What became of a message, as its client sees it.
type Of = BTreeMap<MessageId, Fate>;
