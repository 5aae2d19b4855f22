//! A mixed load while its database fails: the server is stopped, killed and started again, connections are ended and cut
//! in the middle of a message, locks are held for too long, the disk is full; on SQLite the process of the load is killed,
//! and another one holds the file. Afterwards what the clients were told is compared with what is there.
//!
//! SQLite needs nothing. The servers must be the trial's own: tests/run gives SAGASTORE_TEST_POSTGRES_FAULTS_URL and
//! SAGASTORE_TEST_POSTGRES_FAULTS_CONTROL, a program that takes `start`, `stop` and `kill`, and the same for MYSQL; without,
//! these trials are ignored. SAGASTORE_TEST_SMALL_DISK is the folder of a disk that SAGASTORE_TEST_SMALL_DISK_CONTROL can
//! `fill` and `free`. SAGASTORE_FAULTS_SECONDS says how long a trial goes on, SAGASTORE_FAULTS_SEED which faults come when.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a trial fails")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Completion, Failed, Trial};
use tokio::runtime::Runtime;

#[path = "../conformance/harness/arguments.rs"]
mod arguments;
mod clients;
mod deck;
mod disk;
mod done;
mod journal;
mod ledger;
mod load;
#[cfg(feature = "mysql")]
mod mysql;
mod place;
#[cfg(feature = "postgres")]
mod postgres;
mod process;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod proxy;
mod reconcile;
mod report;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod server;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod server_run;
mod site;
mod sqlite;
mod sqlite_run;
mod tally;

fn main() -> ExitCode {
    if let Some(place) = process::asked_for() {
        runtime().block_on(process::run(place)).unwrap();
        return ExitCode::SUCCESS;
    }
    let mut command_line = arguments::CommandLine::read();
    // Each is a load of its own.
    command_line.arguments.test_threads = Some(1);
    let mut trials = vec![trial("sqlite", None, sqlite_run::run)];
    #[cfg(feature = "postgres")]
    trials.push(trial("postgres", Some("SAGASTORE_TEST_POSTGRES_FAULTS"), server_run::run::<sqlx::Postgres>));
    #[cfg(feature = "mysql")]
    trials.push(trial("mysql", Some("SAGASTORE_TEST_MYSQL_FAULTS"), server_run::run::<sqlx::MySql>));
    trials.retain(|trial| command_line.chooses(trial.name()));
    libtest_mimic::run(&command_line.arguments, trials).exit_code()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn trial<F>(kind: &'static str, variables: Option<&str>, body: impl FnOnce(PathBuf) -> F + Send + 'static) -> Trial
where
    F: Future<Output = anyhow::Result<()>>,
{
    let needed = variables.map_or_else(Vec::new, |prefix| vec![format!("{prefix}_URL"), format!("{prefix}_CONTROL")]);
    Trial::ignorable_test(format!("{kind}::what_was_answered_is_there_whatever_fails_meanwhile"), move || {
        let only = std::env::var("SAGASTORE_TEST_ONLY").unwrap_or_default();
        let named = only.split(',').any(|name| name.trim() == kind);
        if !only.is_empty() && !named {
            return Ok(Completion::ignored_with("SAGASTORE_TEST_ONLY does not name it"));
        }
        if let Some(missing) = needed.iter().find(|variable| std::env::var(variable).is_err()) {
            let missing = format!("{missing} is not set: no server is stopped, killed or cut off");
            return if named { Err(Failed::from(missing)) } else { Ok(Completion::ignored_with(missing)) };
        }
        let folder = tempfile::tempdir()?;
        match runtime().block_on(body(folder.path().to_owned())) {
            Ok(()) => Ok(Completion::Completed),
            Err(fault) => Err(Failed::from(format!("{fault:?}\nwhat the clients were told is in {:?}", folder.keep()))),
        }
    })
}

/// `short`, or `long` in the long runs (SAGASTORE_LONG=1).
fn scaled<N>(short: N, long: N) -> N {
    if std::env::var_os("SAGASTORE_LONG").is_some() { long } else { short }
}

/// How long faults are injected.
fn length() -> anyhow::Result<Duration> {
    let seconds = std::env::var("SAGASTORE_FAULTS_SECONDS").map_or(Ok(scaled(60, 600)), |text| text.parse())?;
    Ok(Duration::from_secs(seconds))
}

/// Which faults come when.
fn seed() -> anyhow::Result<u64> {
    Ok(std::env::var("SAGASTORE_FAULTS_SEED").map_or_else(|_| Ok(fastrand::u64(..100_000)), |text| text.parse())?)
}
