//! A process is killed at every statement, on both sides of it; then the database is opened again, looked at, and another
//! process finishes the work.
//!
//! Each [scenario](scenarios::Scenario) is first run undisturbed, to count its points, then once for each point. The program
//! starts itself once more as the process that is killed, by SIGKILL; the parent is the other process. What is looked at
//! is in [`audit`], in [`timeline`] and in each scenario.
//!
//! **PostgreSQL, MariaDB.** A [proxy](proxy::Proxy) reads what the process asks its server: on PostgreSQL a
//! simple query, or a run of messages up to Sync; on MariaDB a packet with a command. *Before* a request: it is
//! not passed on. *After*: it is passed on, and of the whole answer nothing. Preparing a statement is a request of its own,
//! as are those by which the driver sets up a session. What the process sends at once, such as all statements of a migration,
//! is one request: the server gets it whole or not at all.
//!
//! **SQLite.** The process stops by itself to be killed. *After* a statement: when the driver has run it. *Before*: at the
//! first step of SQLite's virtual machine after the statement before; that is in the statement, before it writes.
//! *Before* a commit: in SQLite's commit hook, before the log is written. *After*: at the first step that follows, before
//! the driver knows. `BEGIN` and `COMMIT` are no statements of the driver's: the commit has its own points, and for
//! the rest points are taken by chance among all steps of the virtual machine, by the seed that is printed
//! (SAGASTORE_CRASH_SEED sets it). Not reached: the middle of a write to a file, and a loss of power.
//!
//! **Publishing** is an append to a file, and has points of its own.
//!
//! Databases are chosen as in the conformance suite. The short form takes every other scenario, by the seed, unless a name is
//! given, and leaves out what [`points`] says; the long form (SAGASTORE_LONG=1) takes every scenario, request and statement,
//! and more steps of SQLite's virtual machine.

#![cfg_attr(
    not(all(feature = "postgres", feature = "mysql")),
    allow(dead_code, reason = "a build may have any of the databases")
)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a trial fails")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{LazyLock, Mutex};

use libtest_mimic::{Completion, Failed, Trial};
use tokio::runtime::Runtime;

#[path = "../conformance/harness/arguments.rs"]
mod arguments;
mod audit;
mod desk;
mod held;
mod journal;
mod point;
mod points;
mod process;
mod progress;
mod proxy;
mod run;
mod saga;
mod scenarios;
mod site;
mod timeline;
mod wire;

use run::Tally;
use scenarios::Scenario;
use site::Site;

/// Unoptimised, what connects and works in one future needs more than a thread usually has.
const STACK_BYTES: usize = 16 * 1024 * 1024;

/// What came of each database's scenarios.
static TALLIES: Mutex<BTreeMap<&str, Vec<Tally>>> = Mutex::new(BTreeMap::new());

fn main() -> ExitCode {
    if let Some(part) = process::asked_for() {
        runtime().block_on(process::run(&part)).unwrap();
        return ExitCode::SUCCESS;
    }
    let command_line = arguments::CommandLine::read();
    let mut trials = trials_on::<sqlx::Sqlite>();
    #[cfg(feature = "postgres")]
    trials.extend(trials_on::<sqlx::Postgres>());
    #[cfg(feature = "mysql")]
    trials.extend(trials_on::<sqlx::MySql>());
    trials.retain(|trial| command_line.chooses(trial.name()));
    let conclusion = libtest_mimic::run(&command_line.arguments, trials);
    conclude();
    conclusion.exit_code()
}

/// One line for each database.
fn conclude() {
    for (kind, tallies) in TALLIES.lock().unwrap().iter() {
        let sum = |count: fn(&Tally) -> usize| tallies.iter().map(count).sum::<usize>();
        let (before, after) = (sum(|tally| tally.before), sum(|tally| tally.after));
        let (lost, doubled, missed) = (sum(|tally| tally.lost), sum(|tally| tally.doubled), sum(|tally| tally.missed));
        println!(
            "crash points: {kind}: {} points in {} scenarios ({before} before, {after} after), {missed} missed, {lost} lost, \
            {doubled} doubled",
            before + after,
            tallies.len(),
        );
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn trials_on<DB: Site>() -> Vec<Trial> {
    let scenarios = Scenario::ALL.iter().copied().filter(|scenario| scenario.is_on::<DB>());
    scenarios.enumerate().map(|(number, scenario)| trial::<DB>(scenario, is_due(number))).collect()
}

/// Unless all were asked for, or some by name, the short form takes every other scenario: which of them, the seed says.
fn is_due(number: usize) -> bool {
    scaled(false, true) || std::env::args().len() > 1 || u64::try_from(number).unwrap() % 2 == seed() % 2
}

fn trial<DB: Site>(scenario: Scenario, is_due: bool) -> Trial {
    let name = format!("{}::{}_survives_a_kill_at_every_statement", DB::KIND, scenario.name());
    Trial::ignorable_test(name, move || {
        let only = std::env::var("SAGASTORE_TEST_ONLY").unwrap_or_default();
        let named = only.split(',').any(|name| name.trim() == DB::KIND);
        if !only.is_empty() && !named {
            return Ok(Completion::ignored_with("SAGASTORE_TEST_ONLY does not name it"));
        }
        if DB::VARIABLE.is_some_and(|variable| std::env::var(variable).is_err()) {
            let missing = format!("{} is not set", DB::VARIABLE.unwrap_or_default());
            return if named { Err(Failed::from(missing)) } else { Ok(Completion::ignored_with(missing)) };
        }
        if !is_due {
            return Ok(Completion::ignored_with("it is the turn of the others"));
        }
        let trial = move || {
            let mut tally = Tally::default();
            let done = runtime().block_on(run::run::<DB>(scenario, &mut tally));
            TALLIES.lock().unwrap().entry(DB::KIND).or_default().push(tally);
            done.map(|()| Completion::Completed).map_err(|fault| Failed::from(format!("{fault:?}")))
        };
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(trial).unwrap();
        thread.join().unwrap_or_else(|_| Err(Failed::from("it panicked")))
    })
}

/// Of what is left to chance.
fn seed() -> u64 {
    static SEED: LazyLock<u64> = LazyLock::new(|| {
        let seed = std::env::var("SAGASTORE_CRASH_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| fastrand::u64(..));
        println!("crash points: SAGASTORE_CRASH_SEED={seed}");
        seed
    });
    *SEED
}

/// `short`, or `long` in the long runs (SAGASTORE_LONG=1).
fn scaled<N>(short: N, long: N) -> N {
    if std::env::var_os("SAGASTORE_LONG").is_some() { long } else { short }
}
