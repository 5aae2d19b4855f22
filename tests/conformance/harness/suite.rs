//! Collects the trials and runs them.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Completion, Failed, Trial};

use super::databases::{Availability, Databases};
use super::mode::{Kind, Mode};
use super::{Clause, CommandLine, Subject, TestDb, scaled};

/// How long a clause may take before it counts as hanging, also on a slow disk.
fn limit() -> Duration {
    Duration::from_secs(scaled(300, 3_600))
}

/// All trials.
pub(crate) struct Suite {
    databases: Databases,
    unprepared: bool,
    trials: Vec<Trial>,
}

impl Suite {
    pub(crate) fn new() -> Self {
        let unprepared = std::env::var("SAGASTORE_TEST_UNPREPARED").is_ok_and(|value| value == "1");
        let mut suite = Self { databases: Databases::look(), unprepared, trials: Vec::new() };
        for kind in Kind::ALL {
            let name = format!("{}::harness::the_database_is_there", kind.name());
            suite.trial(kind, name, || Ok(()));
        }
        suite
    }

    /// Adds a clause for one database, in those of its modes that are of this database.
    pub(crate) fn add<DB, F>(
        &mut self,
        module: &str,
        clause: &str,
        modes: &[Mode],
        body: impl Fn(TestDb<DB>) -> F + Copy + Send + 'static,
    ) where
        DB: Subject,
        F: Future<Output = Clause> + 'static,
    {
        let noun = module.rsplit("::").next().unwrap_or(module);
        let mut modes = modes.to_vec();
        if self.unprepared && modes.contains(&Mode::Postgres) && !modes.contains(&Mode::PostgresUnprepared) {
            modes.push(Mode::PostgresUnprepared);
        }
        for mode in modes.into_iter().filter(|mode| mode.kind() == DB::KIND) {
            let name = format!("{mode}::{noun}::{clause}");
            self.trial(DB::KIND, name, move || run(mode, body));
        }
    }

    /// Adds a clause that needs a further server in front of a database, whose URL is in this variable.
    pub(crate) fn add_in_front<DB, F>(
        &mut self,
        variable: &'static str,
        name: &str,
        mode: Mode,
        body: impl Fn(TestDb<DB>) -> F + Copy + Send + 'static,
    ) where
        DB: Subject,
        F: Future<Output = Clause> + 'static,
    {
        let availability = self.databases.availability_in_front(DB::KIND, variable);
        self.trial_if(availability, DB::KIND, format!("{mode}::{name}"), move || run(mode, body));
    }

    fn trial(&mut self, kind: Kind, name: String, body: impl FnOnce() -> Result<(), Failed> + Send + 'static) {
        self.trial_if(self.databases.availability(kind).clone(), kind, name, body);
    }

    fn trial_if(
        &mut self,
        availability: Availability,
        kind: Kind,
        name: String,
        body: impl FnOnce() -> Result<(), Failed> + Send + 'static,
    ) {
        self.trials.push(Trial::ignorable_test(name, move || match availability {
            Availability::Ready => body().map(|()| Completion::Completed),
            Availability::NotRun(reason) => Ok(Completion::ignored_with(reason)),
            Availability::Missing(reason) => Err(Failed::from(format!("{}: {reason}", kind.title()))),
        }));
    }

    pub(crate) fn run(mut self, command_line: &CommandLine) -> ExitCode {
        let arguments = &command_line.arguments;
        self.trials.retain(|trial| command_line.chooses(trial.name()));
        self.trials.sort_by(|a, b| a.name().cmp(b.name()));
        let conclusion = libtest_mimic::run(arguments, self.trials);
        if !arguments.list {
            for sentence in self.databases.not_run() {
                println!("{sentence}");
            }
        }
        conclusion.exit_code()
    }
}

/// Runs one clause on a database of its own, and looks at what it left.
fn run<DB, F>(mode: Mode, body: impl Fn(TestDb<DB>) -> F) -> Result<(), Failed>
where
    DB: Subject,
    F: Future<Output = Clause>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|fault| Failed::from(format!("no runtime: {fault}")))?;
    let db = runtime.block_on(TestDb::<DB>::create(mode)).map_err(|fault| failed("setting up", &fault))?;
    let chance = chance();
    fastrand::seed(chance);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            match tokio::time::timeout(limit(), body(db.clone())).await {
                Ok(done) => done.map_err(|fault| failed("the clause", &fault)),
                Err(_) => Err(Failed::from(format!("the clause took more than {:?}", limit()))),
            }
        })
    }));
    let passed = matches!(outcome, Ok(Ok(())));
    if !passed {
        eprintln!("{mode}: a clause failed with {CHANCE}={chance}");
    }
    let checked = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            let checked = if passed { db.check_invariants().await } else { Ok(()) };
            db.remove().await?;
            checked
        })
    }));
    // Blocked threads of a clause that hangs must not hang the suite.
    runtime.shutdown_timeout(Duration::from_secs(5));
    outcome.unwrap_or_else(|panic| resume_unwind(panic))?;
    checked.unwrap_or_else(|panic| resume_unwind(panic)).map_err(|fault| failed("after the clause", &fault))
}

/// The seed of what a clause leaves to chance itself; its tasks have chances of their own.
const CHANCE: &str = "SAGASTORE_TEST_CHANCE";

fn chance() -> u64 {
    std::env::var(CHANCE).ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..))
}

fn failed(when: &str, fault: &anyhow::Error) -> Failed {
    Failed::from(format!("{when}: {fault:?}"))
}

/// Adds a clause for every database of this build.
macro_rules! each_database {
    ($suite:ident, $name:ident, $modes:expr) => {
        $suite.add::<sqlx::Sqlite, _>(module_path!(), stringify!($name), $modes, $name::<sqlx::Sqlite>);
        #[cfg(feature = "postgres")]
        $suite.add::<sqlx::Postgres, _>(module_path!(), stringify!($name), $modes, $name::<sqlx::Postgres>);
        #[cfg(feature = "mysql")]
        $suite.add::<sqlx::MySql, _>(module_path!(), stringify!($name), $modes, $name::<sqlx::MySql>);
    };
}
pub(crate) use each_database;
