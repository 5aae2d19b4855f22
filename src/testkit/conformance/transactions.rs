//! What transactions do to streams.

use sqlx::Database;

use super::append::StoreBench;
use super::bench::{Finding, ensure, found, same};
use super::sample::{Unit, events, saga_stream};
use crate::ids::Offset;
use crate::message_store::{Head, LoadFrom, LoadRequest};

pub(super) async fn an_append_that_is_rolled_back_leaves_nothing<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    let (stream, fresh) = (bench.stream("back")?, bench.stream("fresh")?);
    bench.append(&stream, 0, &events(0..1)?).await?;
    let mut tx = bench.begin().await?;
    bench.subject.append_messages(&mut tx, &stream, Offset::of(1), &events(8..9)?).await?;
    bench.subject.append_messages(&mut tx, &fresh, Offset::ZERO, &events(8..9)?).await?;
    tx.rollback().await?;
    same("events that were read", bench.payloads(&stream).await?, vec!["0".to_owned()])?;
    same("events of a stream that was rolled back", bench.payloads(&fresh).await?.len(), 0)?;
    same("offset after the next append", bench.append(&stream, 1, &events(1..2)?).await?, Offset::of(2))?;
    same("offset after the first append", bench.append(&fresh, 0, &events(0..1)?).await?, Offset::of(1)).map(drop)
}

pub(super) async fn a_transaction_sees_its_own_appends<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    let (stream, mut tx) = (bench.stream("own")?, bench.begin().await?);
    for number in 0..3 {
        bench.subject.append_messages(&mut tx, &stream, Offset::of(number), &events(number..number + 1)?).await?;
        let next = bench.subject.next_offset(&mut tx, &stream).await?;
        same("next offset", next, Some(Offset::of(number + 1)))?;
        let page = found("the page", bench.subject.read_page(&mut tx, &stream, Offset::ZERO, 10).await?)?;
        same("number of events", u32::try_from(page.len())?, number + 1)?;
    }
    Ok(tx.rollback().await?)
}

pub(super) async fn a_unit_of_work_that_is_rolled_back_leaves_nothing<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    let stream = saga_stream("conformance", &bench.name("back"))?;
    let unit = Unit::new(&stream, Head::default(), &events(0..2)?)?;
    let mut tx = bench.begin().await?;
    ensure(bench.subject.commit(&mut tx, &unit.as_commit()).await?.is_some(), "the unit of work was refused")?;
    tx.rollback().await?;
    let request = LoadRequest { stream: &stream, from: LoadFrom::Start, handled: None };
    let loaded = bench.subject.load(&mut *bench.conn().await?, &request).await?;
    same("number of commits", loaded.page.commits.len(), 0)
}

pub(super) async fn a_transaction_sees_its_own_unit_of_work<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    let stream = saga_stream("conformance", &bench.name("own"))?;
    let unit = Unit::new(&stream, Head::default(), &events(0..2)?)?;
    let mut tx = bench.begin().await?;
    ensure(bench.subject.commit(&mut tx, &unit.as_commit()).await?.is_some(), "the unit of work was refused")?;
    let request = LoadRequest { stream: &stream, from: LoadFrom::Start, handled: None };
    let loaded = bench.subject.load(&mut tx, &request).await?;
    same("number of commits", loaded.page.commits.len(), 1)?;
    Ok(tx.rollback().await?)
}

pub(super) async fn nobody_else_sees_what_is_not_committed<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    bench.need_two_connections()?;
    let (stream, mut tx) = (bench.stream("unseen")?, bench.begin().await?);
    bench.subject.append_messages(&mut tx, &stream, Offset::ZERO, &events(0..1)?).await?;
    same("number of events that another sees", bench.payloads(&stream).await?.len(), 0)?;
    tx.commit().await?;
    same("number of events after the commit", bench.payloads(&stream).await?.len(), 1)
}
