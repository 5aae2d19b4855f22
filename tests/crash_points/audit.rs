//! What must hold whenever nobody is at work.

use std::collections::{HashMap, HashSet};

use anyhow::ensure;
use sagastore::check::check_data;
use sagastore::{CommitNumber, Envelope, MessageId, MessageStore, Offset, OutboxRepository};

use super::desk::Desk;
use super::saga::{instance, stream};
use super::scenarios::Scenario;
use super::site::Site;

const PAGE: u32 = 1000;

/// Messages with which something is wrong.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) lost: HashSet<MessageId>,
    pub(crate) doubled: HashSet<MessageId>,
}

/// The instances that are there.
pub(crate) async fn instances<DB: Site>(desk: &Desk<DB>) -> anyhow::Result<Vec<String>> {
    DB::texts(&mut *desk.pool.acquire().await?, DB::INSTANCES.to_owned()).await
}

/// The messages of each unit of work of an instance, which must follow one another without a gap.
pub(crate) async fn commits_of<DB: Site>(desk: &Desk<DB>, id: &str) -> anyhow::Result<Vec<Vec<Envelope>>> {
    let (store, stream) = (DB::Store::default(), stream(id));
    let mut conn = desk.pool.acquire().await?;
    let (mut commits, mut number, mut next) = (Vec::new(), CommitNumber::ZERO, Offset::ZERO);
    loop {
        let page = store.read_commits(&mut conn, &stream, number).await?;
        for commit in &page.commits {
            ensure!(commit.commit_number == number.checked_add(1)?, "{id}: a unit of work is missing after {number}");
            ensure!(commit.first_offset == next, "{id}: {} comes after {next}", commit.first_offset);
            (number, next) = (commit.commit_number, commit.end()?);
            commits.push(commit.messages(&stream)?);
        }
        if !page.more {
            return Ok(commits);
        }
    }
}

/// Messages with which something is wrong are added to `faults`.
pub(crate) async fn audit<DB: Site>(desk: &Desk<DB>, scenario: Scenario, faults: &mut Faults) -> anyhow::Result<()> {
    let damage = DB::damage(&desk.pool).await?;
    ensure!(damage.is_empty(), "the database is damaged: {damage:?}");
    let mut found = Vec::new();
    check_data(&desk.pool, &mut |finding| found.push(finding)).await?;
    ensure!(found.is_empty(), "the check found {found:?}");
    let mut streams = Vec::new();
    for id in instances(desk).await? {
        check_replay(desk, &id).await?;
        streams.push(commits_of(desk, &id).await?.concat());
    }
    account(desk, scenario, &streams, faults).await
}

/// With or without a snapshot, the instance is the same.
async fn check_replay<DB: Site>(desk: &Desk<DB>, id: &str) -> anyhow::Result<()> {
    let (by_snapshot, by_events) = (desk.persister(), desk.persister().without_snapshots());
    let mut conn = desk.pool.acquire().await?;
    let mut loaded = Vec::new();
    for persister in [by_snapshot, by_events] {
        let unit = persister.load_instance(&desk.saga, &mut conn, &instance(id)).await?;
        loaded.push(unit.map(|unit| (unit.instance().revision, unit.instance().data.clone())));
    }
    ensure!(loaded[0] == loaded[1], "{id}: with its snapshot it is {:?}, without {:?}", loaded[0], loaded[1]);
    Ok(())
}

/// Every message that was committed waits, is dead, or was delivered, and those of a stream were delivered in order.
async fn account<DB: Site>(
    desk: &Desk<DB>,
    scenario: Scenario,
    streams: &[Vec<Envelope>],
    faults: &mut Faults,
) -> anyhow::Result<()> {
    let (store, mut conn) = (DB::Store::default(), desk.pool.acquire().await?);
    let mut there = HashSet::new();
    let dead: HashSet<_> =
        store.dead_letters(&mut conn, None, PAGE).await?.iter().map(|dead| dead.record.envelope.message_id).collect();
    for record in store.find_batch(&mut conn, None, PAGE).await? {
        let id = record.envelope.message_id;
        if !there.insert(id) || dead.contains(&id) {
            faults.doubled.insert(id);
        }
    }
    let mut first = HashMap::new();
    for (place, id) in desk.journal.noted("published")?.into_iter().enumerate() {
        first.entry(id.parse::<MessageId>()?).or_insert(place);
    }
    ensure!(scenario.relays() || first.is_empty(), "something was delivered that nobody relayed");
    for stream in streams {
        let mut before = None;
        for message in stream {
            let (id, place) = (message.message_id, first.get(&message.message_id).copied());
            if place.is_none() && !there.contains(&id) && !dead.contains(&id) {
                faults.lost.insert(id);
            }
            if let Some(place) = place {
                ensure!(before.is_none_or(|before| before < place), "message {id} was delivered before an earlier one");
                before = Some(place);
            }
        }
        let skipped = stream.iter().position(|message| {
            let id = message.message_id;
            !first.contains_key(&id) && !dead.contains(&id)
        });
        let later = stream.iter().skip(skipped.unwrap_or(stream.len()));
        let passed = later.map(|message| message.message_id).find(|id| first.contains_key(id));
        ensure!(passed.is_none(), "message {passed:?} was delivered, and an earlier one was not");
    }
    Ok(())
}
