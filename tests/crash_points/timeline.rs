//! What the runs at neighbouring points say together. What others see of a database changes at commits only, so between two
//! of them every run finds the same; and a commit is there after it, and is not before it.

use std::collections::BTreeMap;

use super::point::{Place, Point, Side};
use super::run::Run;
use super::scenarios::Scenario;
use super::site::Site;

/// How much could be said.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) compared: usize,
    pub(crate) changes: usize,
}

/// Adds to `failures` what does not fit together.
pub(crate) fn check<DB: Site>(runs: &[Run], scenario: Scenario, all: bool, failures: &mut Vec<String>) -> Told {
    let mut told = Told::default();
    if !scenario.repeats_itself() {
        return told;
    }
    if DB::VARIABLE.is_none() {
        by_commits(runs, &mut told, failures);
    } else {
        by_requests(runs, scenario.begins_without_tables() && DB::SCHEMA_COMMITS, &mut told, failures);
    }
    if let Some(expected) = scenario.changes().filter(|expected| all && *expected != told.changes) {
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
            failures.push(format!(
                "after {commits} commits, {one:?} and {other:?}: {:?} and {:?}",
                first.held, run.held
            ));
        }
    }
    let held: Vec<_> = after.values().map(|run| &run.held).collect();
    told.changes = held.windows(2).filter(|pair| pair[0] != pair[1]).count();
}

/// On servers the runs before and after each request are compared, and those after it and before the next, if they asked
/// the same until then.
fn by_requests(runs: &[Run], schema_commits: bool, told: &mut Told, failures: &mut Vec<String>) {
    let mut at = BTreeMap::<(u32, Side), &Run>::new();
    for run in runs {
        if let Some(Point { place: Place::Statement(number), side }) = run.point {
            at.insert((number, side), run);
        }
    }
    for ((number, side), run) in &at {
        let next = if *side == Side::Before { (*number, Side::After) } else { (*number + 1, Side::Before) };
        let Some(next) = at.get(&next) else { continue };
        if !next.ended.requests.starts_with(&run.ended.requests) {
            continue;
        }
        told.compared += 1;
        let Some(request) = run.ended.requests.last() else { continue };
        let (text, changed) = (&request.text, run.held != next.held);
        told.changes += usize::from(changed);
        let may_change = *side == Side::Before && (schema_commits || !request.inside || text.starts_with("COMMIT"));
        if changed && !may_change {
            failures.push(format!("{:?} ({text:?}): it held {:?}, then {:?}", run.point, run.held, next.held));
        }
    }
}
