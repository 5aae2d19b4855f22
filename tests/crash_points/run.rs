//! One scenario on one database: a process that nobody disturbs, then one for each point.

use anyhow::{Context, bail, ensure};

use super::audit::{Faults, audit};
use super::desk::Desk;
use super::point::{Place, Point, Side};
use super::process::{Ended, crash};
use super::scenarios::{Moment, Scenario};
use super::site::{Home, Site};
use super::{held, points, scaled, timeline};

/// A point is tried so often until it is met, where the same is done each time. A server that is slow can make its client ask once
/// more or once less.
const TRIES: usize = 4;
/// No more than one of so many points may be missed in the short form; none in the long one.
const MISSED_PART: usize = 10;
/// Of failures, how many are told.
const TOLD: usize = 5;
/// Of so many undisturbed processes, the one that asked the least is the measure: others on the server can make one ask again.
const UNDISTURBED: usize = 3;
const LET_AN_HOUR_PASS: &str = "UPDATE saga_lease SET expires_at = expires_at - 3600000000 WHERE client_id IS NOT NULL";

/// What came of a process.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) point: Option<Point>,
    pub(crate) ended: Ended,
    /// What the database held afterwards, and once the work was finished.
    pub(crate) held: Vec<String>,
    pub(crate) finished: Vec<String>,
}

/// What came of a scenario.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) before: usize,
    pub(crate) after: usize,
    pub(crate) lost: usize,
    pub(crate) doubled: usize,
    /// Processes that came to their end without meeting their point.
    pub(crate) missed: usize,
}

/// Counts also what fails.
pub(crate) async fn run<DB: Site>(scenario: Scenario, tally: &mut Tally) -> anyhow::Result<()> {
    let mut home = Home::<DB>::create(scenario).await?;
    let done = at_each_point(&mut home, tally).await;
    home.remove_with(done).await
}

async fn at_each_point<DB: Site>(home: &mut Home<DB>, tally: &mut Tally) -> anyhow::Result<()> {
    let scenario = home.scenario;
    let undisturbed = undisturbed(home).await.context("undisturbed")?;
    let points = points::of(&undisturbed.ended, scenario);
    let (mut runs, mut failures, mut missed) = (Vec::new(), Vec::new(), Vec::new());
    for point in points {
        let mut faults = Faults::default();
        let mut run = once(home, Some(point), &mut faults).await;
        for _ in 1..TRIES {
            if scenario.repeats_itself() && run.as_ref().is_ok_and(|run| !run.ended.killed) {
                run = once(home, Some(point), &mut faults).await;
            }
        }
        tally.lost += faults.lost.len();
        tally.doubled += faults.doubled.len();
        let run = match run {
            Ok(run) if run.ended.killed => run,
            Ok(run) => {
                tally.missed += 1;
                let way = other_way(&run.ended, &undisturbed.ended);
                if scenario.repeats_itself() {
                    println!("{}: {}: missed {point}: {way}", DB::KIND, scenario.name());
                }
                missed.push(format!("{point}: {way}"));
                continue;
            }
            Err(fault) => {
                let what = asked(point, &undisturbed.ended);
                failures.push(format!("killed {point} ({what}): {fault:?}"));
                continue;
            }
        };
        if point.side == Side::Before {
            tally.before += 1;
        } else {
            tally.after += 1;
        }
        if scenario.ends_alike() && run.finished != undisturbed.finished {
            failures.push(format!("killed {point}: the end is {:?}", run.finished));
        }
        runs.push(run);
    }
    let told = timeline::check::<DB>(&runs, scenario, &mut failures);
    say::<DB>(scenario, &undisturbed, tally, &told);
    tell(&failures, tally)?;
    let few = scaled((tally.before + tally.after) / MISSED_PART, 0);
    ensure!(!scenario.repeats_itself() || missed.len() <= few, "points were missed: {missed:#?}");
    ensure!(tally.before + tally.after >= points::floor(scenario), "too few points were tried: {tally:?}");
    Ok(())
}

async fn undisturbed<DB: Site>(home: &mut Home<DB>) -> anyhow::Result<Run> {
    let mut runs = Vec::new();
    for _ in 0..UNDISTURBED {
        let run = once(home, None, &mut Faults::default()).await?;
        ensure!(!run.ended.killed, "it was killed without a point");
        runs.push(run);
    }
    runs.into_iter().min_by_key(|run| run.ended.requests.len()).context("no run")
}

/// What is asked at a point.
fn asked(point: Point, undisturbed: &Ended) -> &str {
    let Place::Statement(number) = point.place else { return "" };
    let request = usize::try_from(number).unwrap().checked_sub(1).and_then(|at| undisturbed.requests.get(at));
    request.map_or("", |request| &request.text)
}

/// Where a process did not do as the undisturbed one.
fn other_way(ended: &Ended, undisturbed: &Ended) -> String {
    let (asked, wanted) = (&ended.requests, &undisturbed.requests);
    let same = asked.iter().zip(wanted).take_while(|(one, other)| one == other).count();
    format!("after {same} of {} requests {:?}, not {:?}", wanted.len(), asked.get(same), wanted.get(same))
}

fn say<DB: Site>(scenario: Scenario, undisturbed: &Run, tally: &Tally, told: &timeline::Told) {
    let Tally { before, after, missed, .. } = tally;
    let Ended { publishes, commits, steps, requests, .. } = &undisturbed.ended;
    let (name, requests) = (scenario.name(), requests.len());
    let counted = match DB::VARIABLE {
        None => format!("{requests} statements, {commits} commits, {steps} steps, {publishes} publishes"),
        Some(_) => format!("{requests} requests, {publishes} publishes"),
    };
    let timeline::Told { changes, compared, other_ways } = told;
    println!(
        "{}: {name}: {counted}; {before} points before, {after} after, {missed} missed; {changes} changes of what \
        others see, {compared} comparisons, {other_ways} not to be compared",
        DB::KIND
    );
}

fn tell(failures: &[String], tally: &Tally) -> anyhow::Result<()> {
    if !failures.is_empty() {
        let first: Vec<_> = failures.iter().take(TOLD).map(String::as_str).collect();
        bail!("{} failures, the first of them:\n{}", failures.len(), first.join("\n\n"));
    }
    ensure!(tally.lost == 0 && tally.doubled == 0, "messages were lost or doubled: {tally:?}");
    Ok(())
}

async fn once<DB: Site>(home: &mut Home<DB>, point: Option<Point>, faults: &mut Faults) -> anyhow::Result<Run> {
    DB::start_over(home).await.context("starting over")?;
    home.desk_journal()?.clear()?;
    let ended = crash(home, point).await?;
    let pool = DB::reopen(home).await?;
    let run = look_and_finish(home.scenario, &home.desk(pool.clone())?, faults).await;
    DB::close(pool).await;
    let (held, finished) = run?;
    Ok(Run { point, ended, held, finished })
}

/// What the database holds after the kill, and once the work is finished.
async fn look_and_finish<DB: Site>(
    scenario: Scenario,
    desk: &Desk<DB>,
    faults: &mut Faults,
) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let held = held::held(desk, scenario).await?;
    let look = async {
        if !scenario.begins_without_tables() {
            audit(desk, scenario, faults).await?;
        }
        scenario.check(desk, Moment::Killed).await
    };
    look.await.with_context(|| format!("after the kill, with {held:?}"))?;
    let finish = async {
        let before = let_leases_expire(desk, scenario).await?;
        scenario.work(desk).await.context("finishing the work")?;
        audit(desk, scenario, faults).await?;
        scenario.check(desk, Moment::Finished).await?;
        check_tokens(&before, &leases(desk).await?, scenario)
    };
    finish.await.with_context(|| format!("finishing after the kill, with {held:?}"))?;
    let finished = held::held(desk, scenario).await?;
    Ok((held, finished))
}

/// Whatever the process that was killed had leased is free for others now.
async fn let_leases_expire<DB: Site>(desk: &Desk<DB>, scenario: Scenario) -> anyhow::Result<Vec<(String, i64)>> {
    if scenario.begins_without_tables() {
        return Ok(Vec::new());
    }
    DB::run(&mut *desk.pool.acquire().await?, LET_AN_HOUR_PASS.to_owned()).await?;
    leases(desk).await
}

async fn leases<DB: Site>(desk: &Desk<DB>) -> anyhow::Result<Vec<(String, i64)>> {
    let lines = DB::texts(&mut *desk.pool.acquire().await?, DB::LEASES.to_owned()).await?;
    let pair = |line: String| {
        let (name, token) = line.rsplit_once(' ').context("a lease without a token")?;
        Ok((name.to_owned(), token.parse()?))
    };
    lines.into_iter().map(pair).collect()
}

/// Tokens never fall, and rise where the work obtained the lease again.
fn check_tokens(before: &[(String, i64)], after: &[(String, i64)], scenario: Scenario) -> anyhow::Result<()> {
    for (name, old) in before {
        let new = after.iter().find(|(other, _)| other == name).map(|(_, token)| *token);
        let rises = scenario == Scenario::Leases;
        ensure!(new.is_none_or(|new| if rises { new > *old } else { new >= *old }), "{name}: {new:?} after {old}");
    }
    Ok(())
}
