//! Which databases are there.

use std::collections::HashMap;
use std::env;
use std::time::Duration;

use super::mode::Kind;

/// How long a server may take to answer.
const REACHABLE_WITHIN: Duration = Duration::from_secs(10);

/// What it may name beside databases, for the tests of the emitters.
const BROKERS: [&str; 2] = ["nats", "rabbitmq"];

/// What became of a database.
#[derive(Clone, Debug)]
pub(crate) enum Availability {
    Ready,
    /// Nobody asked for it.
    NotRun(String),
    /// It was asked for and cannot be had.
    Missing(String),
}

/// All databases, looked at once.
pub(crate) struct Databases(HashMap<Kind, Availability>);

impl Databases {
    pub(crate) fn look() -> Self {
        let only = chosen();
        let only: Vec<&str> = only.iter().map(String::as_str).collect();
        for name in &only {
            assert!(
                Kind::ALL.iter().any(|kind| kind.name() == *name) || BROKERS.contains(name),
                "SAGASTORE_TEST_ONLY names {name:?}, which is none of sqlite, postgres, mysql, nats, rabbitmq"
            );
        }
        Self(Kind::ALL.into_iter().map(|kind| (kind, look_at(kind, &only))).collect())
    }

    pub(crate) fn availability(&self, kind: Kind) -> &Availability {
        &self.0[&kind]
    }

    /// As [`availability`](Self::availability), of a server in front of the database.
    pub(crate) fn availability_in_front(&self, kind: Kind, variable: &str) -> Availability {
        match self.availability(kind) {
            Availability::Ready if env::var_os(variable).is_none() => {
                let reason = format!("{variable} is not set");
                if chosen().iter().any(|name| name == kind.name()) {
                    Availability::Missing(reason)
                } else {
                    Availability::NotRun(reason)
                }
            }
            other => other.clone(),
        }
    }

    /// A sentence for each database that is not run, and one for what optional features would add.
    pub(crate) fn not_run(&self) -> Vec<String> {
        let sentence = |kind: &Kind| match self.availability(*kind) {
            Availability::Ready => None,
            Availability::NotRun(reason) | Availability::Missing(reason) => {
                Some(format!("not run: {} ({reason})", kind.title()))
            }
        };
        let mut sentences: Vec<_> = Kind::ALL.iter().filter_map(sentence).collect();
        let lacking: Vec<_> = OPTIONAL.iter().filter(|(_, is_built)| !is_built).map(|(name, _)| *name).collect();
        if !lacking.is_empty() {
            sentences.push(format!("not run: tests of the features {}; cargo test --all-features", lacking.join(", ")));
        }
        sentences
    }
}

/// Features with tests, of this and of other programs.
const OPTIONAL: [(&str, bool); 6] = [
    ("cli", cfg!(feature = "cli")),
    ("export", cfg!(feature = "export")),
    ("metrics", cfg!(feature = "metrics")),
    ("nats", cfg!(feature = "nats")),
    ("rabbitmq", cfg!(feature = "rabbitmq")),
    ("testkit", cfg!(feature = "testkit")),
];

/// The databases named in SAGASTORE_TEST_ONLY.
fn chosen() -> Vec<String> {
    let only = env::var("SAGASTORE_TEST_ONLY").unwrap_or_default();
    only.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn look_at(kind: Kind, only: &[&str]) -> Availability {
    let named = only.contains(&kind.name());
    if !only.is_empty() && !named {
        return Availability::NotRun("SAGASTORE_TEST_ONLY does not name it".to_owned());
    }
    let lacking = |reason: String| {
        if named { Availability::Missing(reason) } else { Availability::NotRun(reason) }
    };
    if !super::subject::is_built_in(kind) {
        return lacking(format!("this build lacks the feature {:?}", kind.name()));
    }
    let Some(variable) = kind.url_variable() else { return Availability::Ready };
    let Ok(url) = env::var(variable) else { return lacking(format!("{variable} is not set")) };
    match reach(kind, &url) {
        Ok(()) => Availability::Ready,
        Err(fault) => Availability::Missing(fault.to_string()),
    }
}

fn reach(kind: Kind, url: &str) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let answer = tokio::time::timeout(REACHABLE_WITHIN, super::subject::ping(kind, url)).await;
        answer.map_err(|_| anyhow::anyhow!("the server does not answer"))?
    })
}
