//! The command `sagastore`, run as a program on each database. Databases are chosen as in the conformance suite.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a trial fails")]

use std::process::ExitCode;

use libtest_mimic::{Completion, Failed, Trial};

#[path = "../conformance/harness/arguments.rs"]
mod arguments;
mod command;
mod fill;
mod parked;
mod refusals;
mod secrets;
mod site;
mod transfer;
mod verbs;

use site::Site;

fn main() -> ExitCode {
    let command_line = arguments::CommandLine::read();
    let mut trials = trials_on::<sqlx::Sqlite>();
    #[cfg(feature = "postgres")]
    trials.extend(trials_on::<sqlx::Postgres>());
    #[cfg(feature = "mysql")]
    trials.extend(trials_on::<sqlx::MySql>());
    trials.push(trial::<sqlx::Sqlite, _>("an_export_goes_through_all_databases", transfer::through_all));
    trials.push(trial::<sqlx::Sqlite, _>("read_verbs_leave_a_file_as_it_is", verbs::read_only));
    trials.push(trial::<sqlx::Sqlite, _>("what_is_not_understood_has_its_own_exit_status", refusals::usage));
    trials.push(trial::<sqlx::Sqlite, _>("no_error_shows_an_url_or_a_password", refusals::unreachable));
    trials.push(trial::<sqlx::Sqlite, _>("a_file_that_is_no_export_is_left_alone", refusals::no_export));
    trials.retain(|trial| command_line.chooses(trial.name()));
    libtest_mimic::run(&command_line.arguments, trials).exit_code()
}

fn trials_on<DB: Site>() -> Vec<Trial> {
    vec![
        trial::<DB, _>("every_verb_says_what_there_is_and_no_secret", verbs::every::<DB>),
        trial::<DB, _>("instances_are_chosen", verbs::instances::<DB>),
        trial::<DB, _>("damage_is_found", verbs::damage::<DB>),
        trial::<DB, _>("dead_letters_are_listed_retried_and_discarded", verbs::dead_letters::<DB>),
        trial::<DB, _>("parked_messages_and_timeouts_are_shown", parked::parked::<DB>),
        trial::<DB, _>("killed_exports_and_imports_go_on", transfer::killed::<DB>),
        trial::<DB, _>("an_export_is_verified", transfer::verified::<DB>),
    ]
}

fn trial<DB: Site, F>(name: &str, body: impl FnOnce() -> F + Send + 'static) -> Trial
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
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(body()).map(|()| Completion::Completed).map_err(|fault| Failed::from(format!("{fault:?}")))
    })
}
