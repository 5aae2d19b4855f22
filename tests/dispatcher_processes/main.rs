//! Dispatchers as processes of their own. Some are paused for longer than their leases and killed, while messages are
//! committed: every message is delivered, and the first deliveries of each stream are in order. One has a long backlog
//! before it, another replays a long history: they need little memory. The clocks of some step.
//!
//! The program starts itself once more for each process. SAGASTORE_PROCESSES_SEED says what the program itself leaves to chance: whom
//! it disturbs, whose clock steps how far, what is committed. Databases are chosen as in the conformance suite. Clocks step only where
//! SAGASTORE_TEST_FAKETIME names libfaketime's library for programs of several threads.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a trial fails")]

use std::process::ExitCode;
use std::sync::LazyLock;

use libtest_mimic::{Completion, Failed, Trial};

#[path = "../conformance/harness/arguments.rs"]
mod arguments;
mod backlog;
mod chaos;
mod clocked;
mod clocks;
mod disturbed;
mod journal;
mod long_history;
mod process;
mod producer;
mod site;

use site::Site;
use tokio::runtime::Runtime;

fn main() -> ExitCode {
    if let Some(kind) = process::asked_for() {
        runtime().block_on(process::run(&kind)).unwrap();
        return ExitCode::SUCCESS;
    }
    let mut command_line = arguments::CommandLine::read();
    // Each is a load of its own.
    command_line.arguments.test_threads = Some(1);
    let mut trials = Vec::from(trials_on::<sqlx::Sqlite>());
    #[cfg(feature = "postgres")]
    trials.extend(trials_on::<sqlx::Postgres>());
    #[cfg(feature = "mysql")]
    trials.extend(trials_on::<sqlx::MySql>());
    trials.retain(|trial| command_line.chooses(trial.name()));
    libtest_mimic::run(&command_line.arguments, trials).exit_code()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn trials_on<DB: Site>() -> [Trial; 4] {
    let on_clocks = if clocked::has_clock_of_process::<DB>() {
        "clocks_that_step_lose_no_message_and_repeat_no_token"
    } else {
        "clocks_that_step_move_no_lease_and_no_timeout"
    };
    [
        trial::<DB, _>("paused_and_killed_dispatchers_lose_nothing_and_keep_the_order", chaos::run::<DB>),
        trial::<DB, _>("a_long_backlog_is_relayed_in_little_memory", backlog::run::<DB>),
        trial_needing::<DB, _>(Some(clocks::LIBRARY), on_clocks, clocks::run::<DB>),
        trial::<DB, _>("a_long_history_is_replayed_in_little_memory", long_history::run::<DB>),
    ]
}

fn trial<DB: Site, F>(name: &str, body: impl FnOnce() -> F + Send + 'static) -> Trial
where
    F: Future<Output = anyhow::Result<()>>,
{
    trial_needing::<DB, F>(None, name, body)
}

/// A trial that is not run, and says so, without what this variable names.
fn trial_needing<DB: Site, F>(
    needs: Option<&'static str>,
    name: &str,
    body: impl FnOnce() -> F + Send + 'static,
) -> Trial
where
    F: Future<Output = anyhow::Result<()>>,
{
    Trial::ignorable_test(format!("{}::{name}", DB::KIND), move || {
        let only = std::env::var("SAGASTORE_TEST_ONLY").unwrap_or_default();
        let named = only.split(',').any(|name| name.trim() == DB::KIND);
        if !only.is_empty() && !named {
            return Ok(Completion::ignored_with("SAGASTORE_TEST_ONLY does not name it"));
        }
        if DB::VARIABLE.is_some_and(|variable| std::env::var(variable).is_err()) {
            let missing = format!("{} is not set", DB::VARIABLE.unwrap_or_default());
            return if named { Err(Failed::from(missing)) } else { Ok(Completion::ignored_with(missing)) };
        }
        if let Some(variable) = needs.filter(|variable| std::env::var_os(variable).is_none()) {
            return Ok(Completion::ignored_with(format!("{variable} is not set")));
        }
        match runtime().block_on(body()) {
            Ok(()) => Ok(Completion::Completed),
            Err(fault) => Err(Failed::from(format!("{fault:?}"))),
        }
    })
}

/// Of what is left to chance.
fn seed() -> u64 {
    static SEED: LazyLock<u64> = LazyLock::new(|| {
        let seed = std::env::var("SAGASTORE_PROCESSES_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| fastrand::u64(..100_000));
        println!("dispatcher processes: SAGASTORE_PROCESSES_SEED={seed}");
        seed
    });
    *SEED
}

/// `short`, or `long` in the long runs (SAGASTORE_LONG=1).
fn scaled<N>(short: N, long: N) -> N {
    if std::env::var_os("SAGASTORE_LONG").is_some() { long } else { short }
}
