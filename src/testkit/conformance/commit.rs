//! Committing units of work.

use sqlx::Database;

use super::append::StoreBench;
use super::bench::{Finding, ensure, found, same};
use super::sample::{Unit, event, events};
use crate::ids::MessageId;
use crate::message_store::{LoadFrom, LoadRequest};

pub(super) async fn a_unit_of_work_on_an_old_head_is_refused<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    let stream = bench.instance("old")?;
    let start = bench.head(&stream).await?;
    bench.extend(&stream, &[event("first")?]).await?;
    let late = Unit::new(&stream, start, &[event("late")?])?;
    ensure(!bench.commit(&late).await?, "a unit of work that was loaded before the first commit was taken")?;
    let head = bench.head(&stream).await?;
    bench.extend(&stream, &[]).await?;
    let late = Unit::new(&stream, head, &[event("late")?])?;
    ensure(!bench.commit(&late).await?, "a unit of work that was loaded before a commit without events was taken")?;
    same("events", bench.payloads(&stream.name).await?, vec!["first".to_owned()])
}

pub(super) async fn a_refused_unit_of_work_leaves_the_transaction_usable<DB: Database>(
    bench: &StoreBench<DB>,
) -> Finding {
    let (stream, other) = (bench.instance("refused")?, bench.instance("other")?);
    let start = bench.head(&stream).await?;
    bench.extend(&stream, &[event("first")?]).await?;
    let next = Unit::new(&stream, bench.head(&stream).await?, &[event("second")?])?;
    let elsewhere = Unit::new(&other, bench.head(&other).await?, &[event("0")?])?;
    let late = Unit::new(&stream, start, &[event("late")?])?;
    let mut tx = bench.begin().await?;
    ensure(bench.subject.commit(&mut tx, &late.as_commit()).await?.is_none(), "a late unit of work was taken")?;
    ensure(bench.subject.commit(&mut tx, &next.as_commit()).await?.is_some(), "the next unit of work was refused")?;
    ensure(
        bench.subject.commit(&mut tx, &elsewhere.as_commit()).await?.is_some(),
        "one of another stream was refused",
    )?;
    tx.commit().await?;
    same("events", bench.payloads(&stream.name).await?, vec!["first".to_owned(), "second".to_owned()])?;
    same("events of the other", bench.payloads(&other.name).await?.len(), 1)
}

/// Another unit of work has the number that the lost one had.
pub(super) async fn a_unit_of_work_on_a_head_that_was_rolled_back_is_refused<DB: Database>(
    bench: &StoreBench<DB>,
) -> Finding {
    let stream = bench.instance("vanished")?;
    bench.extend(&stream, &[event("first")?]).await?;
    let lost = Unit::new(&stream, bench.head(&stream).await?, &[event("lost")?])?;
    let mut tx = bench.begin().await?;
    ensure(bench.subject.commit(&mut tx, &lost.as_commit()).await?.is_some(), "a unit of work was refused")?;
    let request = LoadRequest { stream: &stream, from: LoadFrom::Start, handled: None };
    let loaded = bench.subject.load(&mut tx, &request).await?;
    let key = loaded.stream.map(|row| row.key);
    let last = found("the commit that was just written", loaded.page.commits.last())?;
    let vanished = crate::Head::after(key, last)?;
    tx.rollback().await?;
    bench.extend(&stream, &[event("second")?]).await?;
    let after = Unit::new(&stream, vanished, &[event("third")?])?;
    ensure(!bench.commit(&after).await?, "a unit of work was taken that follows a commit that is not there")?;
    same("events", bench.payloads(&stream.name).await?, vec!["first".to_owned(), "second".to_owned()])
}

pub(super) async fn a_completed_instance_is_loaded_as_completed<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    let (stream, at_once) = (bench.instance("done")?, bench.instance("at-once")?);
    bench.extend(&stream, &events(0..1)?).await?;
    ensure(!bench.head(&stream).await?.completed, "an instance is completed that was not")?;
    for stream in [&stream, &at_once] {
        let unit = Unit::new(stream, bench.head(stream).await?, &events(0..1)?)?.completing();
        ensure(bench.commit(&unit).await?, "the completing unit of work was refused")?;
        ensure(bench.head(stream).await?.completed, "a completed instance is loaded as not completed")?;
    }
    let first = bench.load(&stream, LoadFrom::Start).await?.page.commits.into_iter().next();
    ensure(!found("the first commit", first)?.completed, "the commit before the last completed the instance too")?;
    same("number of events", bench.payloads(&stream.name).await?.len(), 2)
}

pub(super) async fn a_unit_of_work_committed_alone_is_there_at_once<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    let stream = bench.instance("alone")?;
    let first = Unit::new(&stream, bench.head(&stream).await?, &[event("0")?])?;
    let late = Unit::new(&stream, bench.head(&stream).await?, &[event("late")?])?;
    let written = bench.subject.commit_alone(&mut *bench.conn().await?, &first.as_commit()).await?;
    ensure(written.is_some(), "a unit of work was refused")?;
    same("number of events", bench.payloads(&stream.name).await?.len(), 1)?;
    let written = bench.subject.commit_alone(&mut *bench.conn().await?, &late.as_commit()).await?;
    ensure(written.is_none(), "a late unit of work was taken")?;
    let next = Unit::new(&stream, bench.head(&stream).await?, &[event("1")?])?;
    let written = bench.subject.commit_alone(&mut *bench.conn().await?, &next.as_commit()).await?;
    ensure(written.is_some(), "the next unit of work was refused")?;
    same("events", bench.payloads(&stream.name).await?, vec!["0".to_owned(), "1".to_owned()])
}

pub(super) async fn each_unit_of_work_of_a_group_is_judged_alone<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    let (one, two) = (bench.instance("group-1")?, bench.instance("group-2")?);
    let (first, second) = (bench.head(&one).await?, bench.head(&two).await?);
    let units = [
        Unit::new(&one, first, &[event("one")?])?,
        Unit::new(&one, first, &[event("late")?])?,
        Unit::new(&two, second, &[event("two")?])?,
    ];
    let commits: Vec<_> = units.iter().map(Unit::as_commit).collect();
    let answers = bench.subject.commit_group(&mut *bench.conn().await?, &commits).await;
    let mut written = Vec::new();
    for answer in answers {
        written.push(answer?.is_some());
    }
    same("answers", written, vec![true, false, true])?;
    same("events of the first", bench.payloads(&one.name).await?, vec!["one".to_owned()])?;
    same("events of the second", bench.payloads(&two.name).await?, vec!["two".to_owned()])
}

pub(super) async fn a_unit_of_work_gives_the_head_that_a_load_finds<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    let (stream, other) = (bench.instance("head")?, bench.instance("other-head")?);
    bench.extend(&other, &[event("first")?]).await?;
    for messages in [events(0..2)?, Vec::new(), events(2..3)?] {
        let head = bench.head(&stream).await?;
        let unit = Unit::new(&stream, head, &messages)?.handling(MessageId::new());
        let mut tx = bench.begin().await?;
        let given = bench.subject.commit(&mut tx, &unit.as_commit()).await?;
        tx.commit().await?;
        same("head in a transaction", given, Some(bench.head(&stream).await?))?;
        let unit = Unit::new(&stream, bench.head(&stream).await?, &messages)?.handling(MessageId::new());
        let given = bench.subject.commit_alone(&mut *bench.conn().await?, &unit.as_commit()).await?;
        same("head of a unit of work committed alone", given, Some(bench.head(&stream).await?))?;
        let (one, two) = (bench.head(&stream).await?, bench.head(&other).await?);
        let units = [Unit::new(&stream, one, &events(0..1)?)?, Unit::new(&other, two, &events(0..1)?)?];
        let commits: Vec<_> = units.iter().map(Unit::as_commit).collect();
        let given = bench.subject.commit_group(&mut *bench.conn().await?, &commits).await;
        for (stream, given) in [&stream, &other].into_iter().zip(given) {
            same("head of one of a group", given?, Some(bench.head(stream).await?))?;
        }
    }
    let last = Unit::new(&stream, bench.head(&stream).await?, &[])?.completing();
    let given = bench.subject.commit_alone(&mut *bench.conn().await?, &last.as_commit()).await?;
    same("head of a completed instance", given, Some(bench.head(&stream).await?))
}
