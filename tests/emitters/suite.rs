//! Collects the trials and runs them.

use std::env;
use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Completion, Failed, Trial};

use crate::arguments::CommandLine;
use crate::broker::{Broker, Kind};

/// How long a trial may take.
const LIMIT: Duration = Duration::from_secs(120);

/// What a trial returns; an error fails it, as a panic does.
pub(crate) type Outcome = anyhow::Result<()>;

/// What became of a broker.
#[derive(Clone)]
enum Availability {
    Ready(Broker),
    /// Nobody asked for it.
    NotRun(String),
    /// It was asked for and cannot be had.
    Missing(String),
}

pub(crate) struct Suite {
    brokers: Vec<(Kind, Availability)>,
    trials: Vec<Trial>,
}

impl Suite {
    pub(crate) fn new() -> Self {
        let only = env::var("SAGASTORE_TEST_ONLY").unwrap_or_default();
        let only: Vec<&str> = only.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        let brokers = Kind::ALL.into_iter().map(|kind| (kind, look_at(kind, &only))).collect();
        Self { brokers, trials: Vec::new() }
    }

    pub(crate) fn add<F>(&mut self, kind: Kind, name: &str, body: impl FnOnce(Broker) -> F + Send + 'static)
    where
        F: Future<Output = Outcome> + 'static,
    {
        let availability = self.brokers.iter().find(|(other, _)| *other == kind).unwrap().1.clone();
        let trial = Trial::ignorable_test(format!("{}::{name}", kind.name()), move || match availability {
            Availability::Ready(broker) => run(body(broker)).map(|()| Completion::Completed),
            Availability::NotRun(reason) => Ok(Completion::ignored_with(reason)),
            Availability::Missing(reason) => Err(Failed::from(format!("{}: {reason}", kind.title()))),
        });
        self.trials.push(trial);
    }

    pub(crate) fn run(mut self, mut command_line: CommandLine) -> ExitCode {
        self.trials.retain(|trial| command_line.chooses(trial.name()));
        command_line.arguments.test_threads = Some(1);
        let conclusion = libtest_mimic::run(&command_line.arguments, self.trials);
        if !command_line.arguments.list {
            for (kind, availability) in self.brokers {
                if let Availability::NotRun(reason) | Availability::Missing(reason) = availability {
                    println!("not run: {} ({reason})", kind.title());
                }
            }
        }
        conclusion.exit_code()
    }
}

fn look_at(kind: Kind, only: &[&str]) -> Availability {
    let named = only.contains(&kind.name());
    if !only.is_empty() && !named {
        return Availability::NotRun("SAGASTORE_TEST_ONLY does not name it".to_owned());
    }
    match Broker::of(kind) {
        None if named => Availability::Missing(format!("{} is not set", kind.variable("URL"))),
        None => Availability::NotRun(format!("{} is not set", kind.variable("URL"))),
        Some(broker) => match broker.wait_until_reachable() {
            Ok(()) => Availability::Ready(broker),
            Err(fault) => Availability::Missing(format!("{fault:#}")),
        },
    }
}

fn run(body: impl Future<Output = Outcome>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|fault| Failed::from(format!("no runtime: {fault}")))?;
    let outcome = runtime.block_on(async { tokio::time::timeout(LIMIT, body).await });
    runtime.shutdown_timeout(Duration::from_secs(5));
    outcome
        .map_err(|_| Failed::from(format!("the trial took more than {LIMIT:?}")))?
        .map_err(|fault| Failed::from(format!("{fault:?}")))
}

/// Adds functions as trials of a broker.
macro_rules! trials {
    ($kind:expr; $($name:ident),+ $(,)?) => {
        pub(crate) fn trials(suite: &mut $crate::suite::Suite) {
            $(suite.add($kind, stringify!($name), $name);)+
        }
    };
}
pub(crate) use trials;
