//! As many units of work over a million instances as a given time allows: how long an append and a load take as the tables
//! grow, what the program holds on to, whether half of an inbox can be forgotten meanwhile, and whether all is delivered in order.
//!
//! It takes 40 minutes on each database, or SAGASTORE_SCALE_SECONDS, and runs only with SAGASTORE_LONG=1. Databases are chosen
//! as in the conformance suite. SQLite flushes its log at checkpoints only.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a trial fails")]

use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Completion, Failed, Trial};

#[path = "../conformance/harness/arguments.rs"]
mod arguments;
mod ask;
mod deliveries;
mod held;
mod load;
mod purge;
#[path = "../dispatcher_processes/site.rs"]
mod site;
mod window;

use ask::Ask;
use tokio::runtime::Runtime;

/// On each database.
const SECONDS: u64 = 40 * 60;

fn main() -> ExitCode {
    let mut command_line = arguments::CommandLine::read();
    // Each is a load of its own.
    command_line.arguments.test_threads = Some(1);
    let mut trials = vec![trial::<sqlx::Sqlite>()];
    #[cfg(feature = "postgres")]
    trials.push(trial::<sqlx::Postgres>());
    #[cfg(feature = "mysql")]
    trials.push(trial::<sqlx::MySql>());
    trials.retain(|trial| command_line.chooses(trial.name()));
    libtest_mimic::run(&command_line.arguments, trials).exit_code()
}

fn trial<DB: Ask>() -> Trial {
    Trial::ignorable_test(format!("{}::a_million_instances_take_no_more_of_anything_with_time", DB::KIND), || {
        if std::env::var_os("SAGASTORE_LONG").is_none() {
            return Ok(Completion::ignored_with("it is part of the long runs"));
        }
        let only = std::env::var("SAGASTORE_TEST_ONLY").unwrap_or_default();
        let named = only.split(',').any(|name| name.trim() == DB::KIND);
        if !only.is_empty() && !named {
            return Ok(Completion::ignored_with("SAGASTORE_TEST_ONLY does not name it"));
        }
        if let Some(missing) = DB::VARIABLE.filter(|variable| std::env::var(variable).is_err()) {
            let missing = format!("{missing} is not set");
            return if named { Err(Failed::from(missing)) } else { Ok(Completion::ignored_with(missing)) };
        }
        match runtime().block_on(load::run::<DB>(length())) {
            Ok(()) => Ok(Completion::Completed),
            Err(fault) => Err(Failed::from(format!("{fault:?}"))),
        }
    })
}

fn length() -> Duration {
    let seconds = std::env::var("SAGASTORE_SCALE_SECONDS").map_or(SECONDS, |seconds| seconds.parse().unwrap());
    Duration::from_secs(seconds)
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
