//! Handling a message once.

use sqlx::Database;

use super::append::StoreBench;
use super::bench::{Finding, ensure, found, same};
use super::sample::{Unit, events};
use crate::error::Cause;
use crate::ids::{CommitNumber, MessageId};
use crate::message_store::{LoadFrom, LoadRequest};
use crate::saga::SagaStream;

/// The number of the commit that handled a message.
async fn handled_by<DB: Database>(
    bench: &StoreBench<DB>,
    stream: &SagaStream,
    from: LoadFrom,
    message: MessageId,
) -> Result<Option<CommitNumber>, Cause> {
    let request = LoadRequest { stream, from, handled: Some(message) };
    let loaded = bench.subject.load(&mut *bench.conn().await?, &request).await?;
    Ok(loaded.handled.map(|commit| commit.commit_number))
}

pub(super) async fn the_commit_that_handled_a_message_is_found<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    let (stream, ids) = (bench.instance("found")?, [MessageId::new(), MessageId::new()]);
    for id in ids {
        same("the handling of a new message", handled_by(bench, &stream, LoadFrom::Start, id).await?, None)?;
        let unit = Unit::new(&stream, bench.head(&stream).await?, &events(0..2)?)?.handling(id);
        ensure(bench.commit(&unit).await?, "a unit of work was refused")?;
    }
    bench.extend(&stream, &events(0..1)?).await?;
    for (number, id) in (1..).zip(ids) {
        for from in [LoadFrom::Start, LoadFrom::Commit(CommitNumber::of(3))] {
            let came = found("the handling commit", handled_by(bench, &stream, from, id).await?)?;
            same("number of the handling commit", came, CommitNumber::of(number))?;
        }
    }
    let request = LoadRequest { stream: &stream, from: LoadFrom::Start, handled: ids.first().copied() };
    let commit = found("the commit", bench.subject.load(&mut *bench.conn().await?, &request).await?.handled)?;
    same("number of messages of the handling commit", commit.messages(&stream.name)?.len(), 2)
}

pub(super) async fn a_message_is_handled_once_only<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    let (stream, id) = (bench.instance("once")?, MessageId::new());
    let first = Unit::new(&stream, bench.head(&stream).await?, &[])?.handling(id);
    ensure(bench.commit(&first).await?, "a unit of work was refused")?;
    let again = Unit::new(&stream, bench.head(&stream).await?, &events(0..1)?)?.handling(id);
    let mut tx = bench.begin().await?;
    ensure(bench.subject.commit(&mut tx, &again.as_commit()).await?.is_none(), "a message was handled a second time")?;
    let other = Unit::new(&stream, first_head(bench, &mut tx, &stream).await?, &events(0..1)?)?;
    let other = other.handling(MessageId::new());
    ensure(bench.subject.commit(&mut tx, &other.as_commit()).await?.is_some(), "another message was refused")?;
    tx.commit().await?;
    same("number of events", bench.payloads(&stream.name).await?.len(), 1)
}

async fn first_head<DB: Database>(
    bench: &StoreBench<DB>,
    conn: &mut DB::Connection,
    stream: &SagaStream,
) -> Result<crate::Head, Cause> {
    let request = LoadRequest { stream, from: LoadFrom::Start, handled: None };
    let loaded = bench.subject.load(conn, &request).await?;
    let key = loaded.stream.map(|row| row.key);
    Ok(crate::Head::after(key, found("the first commit", loaded.page.commits.first())?)?)
}

pub(super) async fn another_instance_may_handle_the_same_message<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    let (one, two, id) = (bench.instance("one")?, bench.instance("two")?, MessageId::new());
    for stream in [&one, &two] {
        same("its handling", handled_by(bench, stream, LoadFrom::Start, id).await?, None)?;
        let unit = Unit::new(stream, bench.head(stream).await?, &events(0..1)?)?.handling(id);
        ensure(bench.commit(&unit).await?, "a message that another instance handled was refused")?;
    }
    Ok(())
}
