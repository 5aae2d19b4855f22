//! The points of a scenario, and how many there are at the least.

use super::point::{Place, Point};
use super::process::Ended;
use super::scenarios::Scenario;
use super::site::Site;
use super::{scaled, seed};

/// All points; true if none was left out but steps of SQLite's virtual machine, of which there are too many: of these, one in
/// each of so many equal parts of the whole is taken by chance.
pub(crate) fn of(undisturbed: &Ended, scenario: Scenario) -> (Vec<Point>, bool) {
    let requests = u32::try_from(undisturbed.requests.len()).unwrap();
    let mut points = Vec::new();
    let mut both = |place: fn(u32) -> Place, count: u32| {
        for number in 1..=count {
            points.push(Point::before(place(number)));
            points.push(Point::after(place(number)));
        }
    };
    both(Place::Statement, undisturbed.statements + requests);
    both(Place::Publish, undisturbed.publishes);
    both(Place::Commit, undisturbed.commits);
    let mut chance = fastrand::Rng::with_seed(seed());
    let (steps, parts) = (u64::from(undisturbed.steps), parts(scenario).min(undisturbed.steps));
    for part in 0..u64::from(parts) {
        let (first, end) = (part * steps / u64::from(parts), (part + 1) * steps / u64::from(parts));
        points.push(Point::before(Place::Step(u32::try_from(chance.u64(first..end) + 1).unwrap())));
    }
    (points, true)
}

/// The tables are made by few statements for the driver, each of many for SQLite.
fn parts(scenario: Scenario) -> u32 {
    if scenario.begins_without_tables() { scaled(100, 2_000) } else { scaled(20, 400) }
}

/// So many points are tried at the least, or the counting has broken.
pub(crate) fn floor<DB: Site>(_scenario: Scenario) -> usize {
    1
}
