//! The store against a model of it: random steps, each with what it ought to do.
//!
//! SAGASTORE_TEST_SEED=n runs the steps of that seed only.

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::harness::{Clause, Subject, TestDb, clauses, scaled};

mod actions;
mod check;
mod ledger;
mod run;
mod steps;
mod world;

use run::Run;
use steps::{Step, Theme};

clauses! {
    random_units_of_work_do_what_the_model_says: BASIC,
    random_repeated_messages_do_what_the_model_says,
    random_snapshots_do_what_the_model_says,
    random_deliveries_do_what_the_model_says,
    random_units_of_work_on_kept_instances_do_what_the_model_says,
}

/// Each mode has seeds of its own, so that no list of steps is tried twice.
const SEEDS_OF_MODE: u64 = 10_000;
/// Steps of a seed.
const STEPS: usize = 60;
/// How long a failing list of steps is made shorter.
const SHRINK_FOR: Duration = Duration::from_secs(20);

async fn random_units_of_work_do_what_the_model_says<DB: Subject>(db: TestDb<DB>) -> Clause {
    run_seeds(db, Theme::Units).await
}

async fn random_repeated_messages_do_what_the_model_says<DB: Subject>(db: TestDb<DB>) -> Clause {
    run_seeds(db, Theme::Handling).await
}

async fn random_snapshots_do_what_the_model_says<DB: Subject>(db: TestDb<DB>) -> Clause {
    run_seeds(db, Theme::Snapshots).await
}

async fn random_deliveries_do_what_the_model_says<DB: Subject>(db: TestDb<DB>) -> Clause {
    run_seeds(db, Theme::Outbox).await
}

async fn random_units_of_work_on_kept_instances_do_what_the_model_says<DB: Subject>(db: TestDb<DB>) -> Clause {
    run_seeds(db, Theme::Kept).await
}

async fn run_seeds<DB: Subject>(db: TestDb<DB>, theme: Theme) -> Clause {
    db.will_relay();
    let seeds = match std::env::var("SAGASTORE_TEST_SEED") {
        Ok(seed) => vec![seed.parse()?],
        Err(_) => {
            let first = u64::from(db.mode() as u8) * SEEDS_OF_MODE;
            (first..first + scaled(6, 500)).collect()
        }
    };
    let (cases, first) = (seeds.len(), seeds[0]);
    for seed in seeds {
        let steps = steps::steps(theme, seed, STEPS);
        if let Err(first) = run(&db, theme, format!("s{seed}x"), &steps).await {
            let (steps, fault) = shrink(&db, theme, steps).await.unwrap_or((Vec::new(), first));
            anyhow::bail!("seed {seed} of {theme:?}, steps:\n{}{fault:#}", list(&steps));
        }
    }
    println!("models: {}: {theme:?}: {cases} cases of {STEPS} steps, from seed {first} on", db.mode());
    Ok(())
}

/// Runs steps; the error says at which it failed.
async fn run<DB: Subject>(db: &TestDb<DB>, theme: Theme, token: String, steps: &[Step]) -> Clause {
    let mut run = Run::new(db, theme, token).await?;
    for (number, step) in steps.iter().enumerate() {
        run.step(step).await.with_context(|| format!("step {number}"))?;
        if number % 10 == 9 {
            run.check_all().await?;
        }
    }
    run.check_all().await?;
    run.empty_outbox().await
}

/// Leaves out steps as long as it still fails, more at first and less later.
async fn shrink<DB: Subject>(
    db: &TestDb<DB>,
    theme: Theme,
    mut steps: Vec<Step>,
) -> Option<(Vec<Step>, anyhow::Error)> {
    let (begun, mut tries, mut fault) = (Instant::now(), 0, None);
    let mut size = steps.len();
    while size > 0 {
        let mut at = 0;
        while at < steps.len() && begun.elapsed() < SHRINK_FOR {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + size).min(steps.len()));
            tries += 1;
            match run(db, theme, format!("t{tries}x"), &fewer).await {
                Ok(()) => at += size,
                Err(found) => (steps, fault) = (fewer, Some(found)),
            }
        }
        size /= 2;
    }
    fault.map(|fault| (steps, fault))
}

fn list(steps: &[Step]) -> String {
    let mut text = String::new();
    for (number, step) in steps.iter().enumerate() {
        let _ = writeln!(text, "  {number}: {step:?}");
    }
    text
}
