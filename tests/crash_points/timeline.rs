//! What the runs at neighbouring points say together. What others see of a database changes at commits only, so between two
//! of them every run finds the same; and a commit is there after it, and is not before it.

use std::collections::BTreeMap;

use super::point::{Place, Point, Side};
use super::run::Run;
use super::scenarios::Scenario;
use super::site::Site;
use super::wire::Request;

/// How much could be said.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) compared: usize,
    pub(crate) changes: usize,
    /// Neighbours that came to their points in different ways, so that nothing can be said.
    pub(crate) other_ways: usize,
}

/// Adds to `failures` what does not fit together.
pub(crate) fn check<DB: Site>(runs: &[Run], scenario: Scenario, failures: &mut Vec<String>) -> Told {
    let mut told = Told::default();
    if !scenario.repeats_itself() {
        return told;
    }
    if DB::VARIABLE.is_none() {
        by_commits(runs, &mut told, failures);
    } else {
        by_requests(runs, scenario.begins_without_tables() && DB::SCHEMA_COMMITS, &mut told, failures);
    }
    let expected = scenario.changes().filter(|_| told.other_ways == 0);
    if let Some(expected) = expected.filter(|expected| *expected != told.changes) {
        failures.push(format!("{} commits changed what others see, not {expected}", told.changes));
    }
    told
}

/// On SQLite every process tells how many commits were made.
fn by_commits(runs: &[Run], told: &mut Told, failures: &mut Vec<String>) {
    let mut after = BTreeMap::<u32, &Run>::new();
    for run in runs {
        let first = *after.entry(run.ended.commits).or_insert(run);
        told.compared += 1;
        if first.held != run.held {
            let (one, other, commits) = (first.point, run.point, run.ended.commits);
            failures
                .push(format!("after {commits} commits, {one:?} and {other:?}: {:?} and {:?}", first.held, run.held));
        }
    }
    let held: Vec<_> = after.values().map(|run| &run.held).collect();
    told.changes = held.windows(2).filter(|pair| pair[0] != pair[1]).count();
}

/// On servers each run is compared with the next one, if they asked the same until then.
fn by_requests(runs: &[Run], schema_commits: bool, told: &mut Told, failures: &mut Vec<String>) {
    let mut at = BTreeMap::<(usize, Side), &Run>::new();
    for run in runs {
        if let Some(Point { place: Place::Statement(number), side }) = run.point {
            at.insert((usize::try_from(number).unwrap(), side), run);
        }
    }
    let at: Vec<_> = at.into_iter().collect();
    for pair in at.windows(2) {
        let [((number, side), run), ((end, end_side), next)] = pair else { continue };
        let (one, other) = (&run.ended.requests, &next.ended.requests);
        if !other.starts_with(one) {
            told.other_ways += 1;
            continue;
        }
        told.compared += 1;
        if run.held == next.held {
            continue;
        }
        told.changes += 1;
        // What the server did between the two.
        let first = if *side == Side::Before { *number } else { number + 1 };
        let last = if *end_side == Side::After { *end } else { end - 1 };
        let between = &other[first - 1..last];
        let can = |request: &Request| {
            let commits = schema_commits || !request.inside || request.text.starts_with("COMMIT");
            commits && !request.text.starts_with("prepare ")
        };
        if !between.iter().any(can) {
            failures.push(format!("{:?} {between:?}: it held {:?}, then {:?}", run.point, run.held, next.held));
        }
    }
}
