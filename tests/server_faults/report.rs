//! How a run ended.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::done::Done;
use super::ledger::{self, Entry};
use super::place::Place;
use super::reconcile::{self, Outcome};
use super::site::Site;

pub(crate) const NO_DISK: &str = "a full disk (there is no small disk: tests/run makes one, as root)";

/// How soon each client must get what it wants once nothing fails any more: within the wait for a connection and that for
/// a lock, with room for a busy machine.
const BACK_WITHIN: Duration = Duration::from_secs(40);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// After so many of them a client must have met one. A server may also wait, for a while, until there is room again.
const ENOUGH_FILLS: u32 = 3;
pub(crate) const FILLED: &str = "times the disk full";
/// Fewer would be no load.
const LEAST_SAVES: usize = 300;
const LEAST_TOKENS: usize = 10;

/// What was done to the database.
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) length: Duration,
    pub(crate) done: Done,
    pub(crate) not_run: Option<&'static str>,
    pub(crate) notes: Vec<String>,
}

/// Waits until each client got what it wanted from now on.
pub(crate) async fn until_all_went(place: &Place) -> anyhow::Result<()> {
    let (path, since, began) = (place.ledger(), ledger::now(), Instant::now());
    let clients: BTreeSet<String> = ledger::read(&path, 0)?.into_iter().map(|entry| entry.client).collect();
    let from = fs::metadata(&path)?.len();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let mut waiting = clients.clone();
        // From a line's beginning on: it was whole when the length was read.
        for entry in ledger::read(&path, from)?.iter().filter(|entry| entry.at >= since && entry.succeeded()) {
            waiting.remove(&entry.client);
        }
        if waiting.is_empty() {
            return Ok(());
        }
        ensure!(began.elapsed() < BACK_WITHIN, "after {BACK_WITHIN:?} without faults these hang: {waiting:?}");
    }
}

/// Compares what clients were told with what is there, and says what came of it.
pub(crate) async fn conclude<DB: Site>(report: Report, place: &Place) -> anyhow::Result<()> {
    let Report { seed, length, done: Done { counts: faults, ends, full }, not_run, notes } = report;
    let outcome = reconcile::reconcile::<DB>(place, &full).await;
    let outcome = outcome.with_context(|| format!("seed {seed}, after {faults:?}"))?;
    let entries = ledger::read(&place.ledger(), 0)?;
    let (outage, client) = longest_outage(&entries);
    let (back, last) = ends.iter().map(|end| longest_way_back(&entries, *end)).max().unwrap_or_default();
    for (kind, (count, first)) in &outcome.errors {
        println!("server faults: {}: {count} times {kind}, such as: {first}", DB::KIND);
    }
    if let Some(what) = not_run {
        println!("server faults: {}: not run: {what}", DB::KIND);
    }
    let mut faults_text: Vec<_> = faults.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    faults_text.extend(DB::PROVOKED.iter().map(|(kind, what)| format!("{} {what}", seen(&outcome, kind))));
    let notes: String = notes.iter().map(|note| format!("; {note}")).collect();
    let Outcome {
        answered,
        absent,
        present,
        again,
        deliveries,
        revived,
        tokens,
        refused,
        fenced_writes,
        snapshots,
        ..
    } = &outcome;
    println!(
        "server faults: {}: {} s, seed {seed}: {}; {answered} messages answered and handled once, {absent} failed and \
         absent, {present} failed and present, {again} came again; {} messages delivered, {} deliveries repeated, {revived} dead \
         letters retried, 0 lost, 0 out of order; {tokens} leases, {fenced_writes} fenced writes, {refused} refused, 0 overlapped; {snapshots} \
         snapshots as replayed; longest outage of a client {:.1} s ({client}), all back within {:.1} s \
         of each fault's end ({last}){notes}",
        DB::KIND,
        length.as_secs(),
        faults_text.join(", "),
        deliveries.messages,
        deliveries.repeats,
        seconds(outage),
        seconds(back),
    );
    for (kind, count) in &faults {
        ensure!(*count > 0, "there were no {kind}");
    }
    let fills = faults.iter().find(|(kind, _)| *kind == FILLED).map_or(0, |(_, count)| *count);
    ensure!(
        fills < ENOUGH_FILLS || saw_full::<DB>(&outcome),
        "the disk was full {fills} times, and no client was told"
    );
    for (kind, what) in DB::PROVOKED {
        ensure!(seen(&outcome, kind) > 0, "no client was told of {what} ({kind})");
    }
    let within = Duration::from_millis(back);
    ensure!(within <= BACK_WITHIN, "{last} got nothing for {within:?} after a fault was over");
    ensure!(*answered >= LEAST_SAVES, "only {answered} messages were answered");
    ensure!(*tokens >= LEAST_TOKENS && *fenced_writes >= *tokens / 2, "{tokens} leases, {fenced_writes} fenced writes");
    ensure!(*snapshots > 0 && *refused > 0 && *again > 0, "{snapshots} snapshots, {refused} refused, {again} again");
    ensure!(*revived > 0, "no message ran out of attempts");
    ensure!(*absent > 0, "no message failed: nothing was disturbed");
    Ok(())
}

fn saw_full<DB: Site>(outcome: &Outcome) -> bool {
    let code = |kind: &str| kind.split_once('(').map(|(_, code)| code.trim_end_matches(')').to_owned());
    outcome.errors.keys().filter_map(|kind| code(kind)).any(|code| DB::FULL.contains(&code.as_str()))
}

/// How often calls failed so.
fn seen(outcome: &Outcome, kind: &str) -> usize {
    let own = format!("Own{kind}");
    outcome.errors.iter().filter(|(known, _)| *known == kind || **known == own).map(|(_, (count, _))| count).sum()
}

fn seconds(millis: u64) -> f64 {
    Duration::from_millis(millis).as_secs_f64()
}

/// The longest time that a client waited from one success to the next, in milliseconds.
fn longest_outage(entries: &[Entry]) -> (u64, String) {
    let (mut last, mut longest) = (BTreeMap::<&str, u64>::new(), (0, String::new()));
    for entry in entries.iter().filter(|entry| entry.succeeded()) {
        if let Some(before) = last.insert(&entry.client, entry.at) {
            longest = longest.max((entry.at.saturating_sub(before), entry.client.clone()));
        }
    }
    longest
}

/// The longest time from then until a client's next success.
fn longest_way_back(entries: &[Entry], since: u64) -> (u64, String) {
    let mut first = BTreeMap::<&str, u64>::new();
    for entry in entries.iter().filter(|entry| entry.succeeded() && entry.at >= since) {
        first.entry(&entry.client).or_insert(entry.at - since);
    }
    let last = first.into_iter().max_by_key(|(_, waited)| *waited);
    last.map_or_else(|| (0, "nobody".to_owned()), |(client, waited)| (waited, client.to_owned()))
}
