//! The points of a scenario, and how many there are at the least.

use super::point::{Place, Point};
use super::process::Ended;
use super::scenarios::Scenario;
use super::wire::Request;
use super::{scaled, seed};

/// The points to try. The short form leaves out requests that only prepare a statement, of those that only read one side by
/// chance, and of equal ones in a row or in one transaction all but the first, the last and some by chance, one on average. Of the steps of
/// SQLite's virtual machine, of which there are too many, one in each of so many equal parts of the whole is taken by chance.
pub(crate) fn of(undisturbed: &Ended, scenario: Scenario) -> Vec<Point> {
    let mut chance = fastrand::Rng::with_seed(seed());
    let mut points = Vec::new();
    let (mut number, all) = (0, scaled(false, true));
    for together in undisturbed.requests.chunk_by(|one, next| next.inside || one.text == next.text) {
        for (place, Request { text, .. }) in together.iter().enumerate() {
            number += 1;
            let equal = |requests: &[Request]| requests.iter().filter(|other| other.text == *text).count();
            let (before, later) = (equal(&together[..place]), equal(&together[place + 1..]));
            // Each of those between the first and the last has the same chance.
            let chosen = before == 0 || later == 0 || chance.usize(..before + later) == 0;
            if all || chosen && !text.starts_with("prepare ") {
                let only = (!all && text.starts_with("SELECT ")).then(|| chance.bool());
                points.extend((only != Some(false)).then(|| Point::before(Place::Statement(number))));
                points.extend((only != Some(true)).then(|| Point::after(Place::Statement(number))));
            }
        }
    }
    let mut both = |place: Place| points.extend([Point::before(place), Point::after(place)]);
    (1..=undisturbed.publishes).for_each(|number| both(Place::Publish(number)));
    (1..=undisturbed.commits).for_each(|number| both(Place::Commit(number)));
    let (steps, parts) = (u64::from(undisturbed.steps), u64::from(parts(scenario).min(undisturbed.steps)));
    for part in 0..parts {
        let step = chance.u64(part * steps / parts..(part + 1) * steps / parts) + 1;
        points.push(Point::before(Place::Step(u32::try_from(step).unwrap())));
    }
    points
}

/// The tables are made by few statements for the driver, each of many for SQLite.
fn parts(scenario: Scenario) -> u32 {
    if scenario.begins_without_tables() { scaled(60, 2_000) } else { scaled(12, 400) }
}

/// So many points are tried at the least, on any database and in the short form, or the counting has broken.
pub(crate) fn floor(scenario: Scenario) -> usize {
    match scenario {
        #[cfg(feature = "export")]
        Scenario::Import => 15,
        Scenario::SessionLocks => 30,
        // On PostgreSQL a migration is one transaction.
        Scenario::UnitOfWork | Scenario::KeptInstance | Scenario::Leases | Scenario::Migration => 40,
        Scenario::GlobalOrder | Scenario::GroupCommit => 60,
        Scenario::OwnTransaction => 80,
        Scenario::MessageHandler | Scenario::Dispatcher | Scenario::Upkeep => 100,
    }
}
