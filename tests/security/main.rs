//! Security, shown: TLS to servers that demand it; a role with no more rights than the manual gives it; passwords and
//! payloads that show nowhere; text from outside that does nothing to a terminal; no statement that is built from input.
//!
//! Databases are chosen as in the conformance suite. SAGASTORE_TEST_POSTGRES_TLS_URL and SAGASTORE_TEST_MYSQL_TLS_URL
//! name a role that is let in by TLS alone, on the host localhost, whose certificate is for that name only and signed by the
//! root in the file SAGASTORE_TEST_TLS_ROOT, not by that in SAGASTORE_TEST_TLS_OTHER_ROOT. What is logged is looked at in a
//! process of its own: the program starts itself once more.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a trial fails")]

use std::process::ExitCode;

use libtest_mimic::{Completion, Failed, Trial};

#[path = "../conformance/harness/arguments.rs"]
mod arguments;
#[path = "../cli/command.rs"]
mod command;
mod exports;
#[path = "../cli/fill.rs"]
mod fill;
mod leaks;
mod leaks_seen;
mod locks;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod login;
mod parking;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod role;
#[path = "../cli/secrets.rs"]
mod secrets;
#[path = "../cli/site.rs"]
mod site;
mod statements;
mod terminal;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod tls;
#[allow(dead_code, reason = "not all of the example is looked at here")]
#[path = "../../examples/sagas/town/mod.rs"]
mod town;

use site::Site;

fn main() -> ExitCode {
    if let Some(kind) = leaks_seen::asked_for() {
        leaks_seen::run(&kind);
        return ExitCode::SUCCESS;
    }
    let command_line = arguments::CommandLine::read();
    let mut trials = Vec::from(trials_on::<sqlx::Sqlite>());
    #[cfg(feature = "postgres")]
    trials.extend(trials_on::<sqlx::Postgres>().into_iter().chain(trials_on_a_server::<sqlx::Postgres>()));
    #[cfg(feature = "mysql")]
    trials.extend(trials_on::<sqlx::MySql>().into_iter().chain(trials_on_a_server::<sqlx::MySql>()));
    trials.push(trial::<sqlx::Sqlite, _>("no_statement_is_built_from_input", statements::are_literals));
    #[cfg(all(feature = "nats", feature = "rabbitmq"))]
    trials.push(trial::<sqlx::Sqlite, _>("an_emitter_shows_no_password", leaks::of_emitters));
    trials.retain(|trial| command_line.chooses(trial.name()));
    libtest_mimic::run(&command_line.arguments, trials).exit_code()
}

fn trials_on<DB: Site>() -> [Trial; 4] {
    [
        trial::<DB, _>("no_password_and_no_payload_shows_anywhere", leaks::nowhere::<DB>),
        trial::<DB, _>("the_command_shows_no_password_whatever_is_logged", leaks::of_the_command::<DB>),
        trial::<DB, _>("nothing_that_the_command_prints_acts_upon_a_terminal", terminal::is_left_alone::<DB>),
        trial::<DB, _>("a_forged_export_is_refused_and_leaves_nothing", exports::are_refused::<DB>),
    ]
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
fn trials_on_a_server<DB: login::Server>() -> [Trial; 5] {
    [
        trial::<DB, _>("the_role_of_the_manual_runs_everything", role::runs_everything::<DB>),
        trial::<DB, _>("the_role_of_the_manual_passes_the_suite_for_stores", role::passes_the_suite::<DB>),
        trial::<DB, _>("the_role_of_the_manual_changes_no_table", role::changes_no_table::<DB>),
        trial_by_tls::<DB, _>("all_works_by_tls_whose_certificate_is_verified", tls::works::<DB>),
        trial_by_tls::<DB, _>("who_cannot_verify_or_has_no_tls_is_refused", tls::is_demanded::<DB>),
    ]
}

fn trial<DB: Site, F>(name: &str, body: impl FnOnce() -> F + Send + 'static) -> Trial
where
    F: Future<Output = anyhow::Result<()>>,
{
    trial_with::<DB, F>(name, DB::VARIABLE, body)
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
fn trial_by_tls<DB: login::Server, F>(name: &str, body: impl FnOnce() -> F + Send + 'static) -> Trial
where
    F: Future<Output = anyhow::Result<()>>,
{
    trial_with::<DB, F>(name, Some(DB::TLS_VARIABLE), body)
}

fn trial_with<DB: Site, F>(name: &str, needs: Option<&'static str>, body: impl FnOnce() -> F + Send + 'static) -> Trial
where
    F: Future<Output = anyhow::Result<()>>,
{
    Trial::ignorable_test(format!("{}::{name}", DB::KIND), move || {
        let only = std::env::var("SAGASTORE_TEST_ONLY").unwrap_or_default();
        let named = only.split(',').any(|name| name.trim() == DB::KIND);
        if !only.is_empty() && !named {
            return Ok(Completion::ignored_with("SAGASTORE_TEST_ONLY does not name it"));
        }
        if let Some(variable) = needs.filter(|variable| std::env::var(variable).is_err()) {
            let missing = format!("{variable} is not set");
            return if named { Err(Failed::from(missing)) } else { Ok(Completion::ignored_with(missing)) };
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(body()).map(|()| Completion::Completed).map_err(|fault| Failed::from(format!("{fault:?}")))
    })
}
