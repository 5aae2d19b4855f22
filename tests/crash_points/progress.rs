//! How far this process has come, and the point at which it stops to be killed.

use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

use super::point::{Place, Point};

static STOP: OnceLock<Option<Point>> = OnceLock::new();
static STATEMENTS: AtomicU32 = AtomicU32::new(0);
static PUBLISHES: AtomicU32 = AtomicU32::new(0);
static COMMITS: AtomicU32 = AtomicU32::new(0);
static STEPS: AtomicU32 = AtomicU32::new(0);
/// Statements by which the driver opens the file come before.
static BEGUN: AtomicBool = AtomicBool::new(false);
static COMMITTING: AtomicBool = AtomicBool::new(false);

/// Stops here, once it is reached.
pub(crate) fn stop_at(point: Option<Point>) {
    STOP.get_or_init(|| point);
}

/// From here on statements are counted.
pub(crate) fn begin() {
    BEGUN.store(true, SeqCst);
}

/// The driver has run a statement of SQLite. Who is not to be killed tells which.
pub(crate) fn statement_ended(text: &str) {
    if !BEGUN.load(SeqCst) {
        return;
    }
    if STOP.get().is_some_and(Option::is_none) {
        println!("asked {text}");
    }
    let number = STATEMENTS.fetch_add(1, SeqCst) + 1;
    reach(Point::after(Place::Statement(number)));
}

/// SQLite is about to take a step: the one that follows a commit shows that it is made, the one that follows a statement
/// is the first of the next.
pub(crate) fn step() {
    let (number, next) = (STEPS.fetch_add(1, SeqCst) + 1, STATEMENTS.load(SeqCst) + 1);
    if COMMITTING.swap(false, SeqCst) {
        reach(Point::after(Place::Commit(COMMITS.load(SeqCst))));
    }
    reach(Point::before(Place::Statement(next)));
    reach(Point::before(Place::Step(number)));
}

/// SQLite is about to make a commit.
pub(crate) fn committing() {
    reach(Point::before(Place::Commit(COMMITS.load(SeqCst) + 1)));
    COMMITS.fetch_add(1, SeqCst);
    COMMITTING.store(true, SeqCst);
}

/// Delivers, by what is given.
pub(crate) fn publish<R>(deliver: impl FnOnce() -> R) -> R {
    let number = PUBLISHES.fetch_add(1, SeqCst) + 1;
    reach(Point::before(Place::Publish(number)));
    let delivered = deliver();
    reach(Point::after(Place::Publish(number)));
    delivered
}

fn reach(point: Point) {
    if STOP.get().copied().flatten() != Some(point) {
        return;
    }
    say("here");
    // Nothing more is done in this thread; the others have nothing to do without it, or are killed in the middle of it.
    loop {
        std::thread::park();
    }
}

/// Tells the parent how far it has come: publishes, commits that were made, steps.
pub(crate) fn say(word: &str) {
    let counts = [&PUBLISHES, &COMMITS, &STEPS].map(|count| count.load(SeqCst).to_string());
    let mut out = std::io::stdout().lock();
    writeln!(out, "{word} {}", counts.join(" ")).unwrap();
    out.flush().unwrap();
}
