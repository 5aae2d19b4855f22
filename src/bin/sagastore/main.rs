//! The command `sagastore`: looking into a database, checking it, taking streams from one to another.

mod arguments;
mod check;
mod confirm;
mod connect;
mod dead_letters;
mod export;
mod import;
mod instances;
mod locks;
mod migrate;
mod outbox;
mod output;
mod parked;
mod payload;
mod progress;
mod secrets;
mod show;
mod verdict;
mod verify_replay;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, OutboxVerb, Verb};
use connect::Access;
use output::Output;
use secrets::Secrets;
use verdict::{Failure, Outcome};

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(fault) => return usage(&fault),
    };
    let secrets = Secrets::of(arguments.database_url.as_deref());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(arguments)),
        Err(fault) => Err(Failure::failed(format!("the runtime does not start: {fault}"))),
    };
    verdict::end(outcome, &secrets)
}

/// What clap says, without an URL that was given in a wrong place.
fn usage(fault: &clap::Error) -> ExitCode {
    if !fault.use_stderr() {
        // Help and version.
        return if fault.print().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    // Not all of them need be Unicode.
    let secrets = Secrets::in_arguments(std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()));
    eprint!("{}", output::plain_lines(&secrets.hidden_in(&fault.render().to_string())));
    ExitCode::from(verdict::USAGE)
}

async fn run(arguments: Arguments) -> Outcome {
    let url = arguments.database_url.as_deref();
    let mut output = Output::new(arguments.json);
    match arguments.verb {
        Verb::Migrate => migrate::run(&connect::to(url, Access::Create).await?, &mut output).await,
        Verb::Check => check::run(&connect::to(url, Access::Read).await?, &mut output).await,
        Verb::Instances(wanted) => instances::run(&connect::to(url, Access::Read).await?, &wanted, &mut output).await,
        Verb::Show(wanted) => show::run(&connect::to(url, Access::Read).await?, &wanted, &mut output).await,
        Verb::Parked { verb } => {
            let access = if verb.is_some() { Access::Write } else { Access::Read };
            parked::run(&connect::to(url, access).await?, verb.as_ref(), &mut output).await
        }
        Verb::Outbox { verb: None } => outbox::run(&connect::to(url, Access::Read).await?, &mut output).await,
        Verb::Outbox { verb: Some(OutboxVerb::DeadLetters(verb)) } => {
            let access = if verb.writes() { Access::Write } else { Access::Read };
            dead_letters::run(&connect::to(url, access).await?, &verb, &mut output).await
        }
        Verb::Export { file } => export::run(&connect::to(url, Access::Read).await?, &file, &mut output).await,
        Verb::Import(wanted) => import::run(&connect::to(url, Access::Write).await?, &wanted, &mut output).await,
        Verb::VerifyReplay { file } => verify_replay::run(&file, &mut output),
        Verb::Locks => locks::run(&connect::to(url, Access::Read).await?, &mut output).await,
    }
}
