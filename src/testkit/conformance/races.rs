//! Several who want the same.

use futures_util::future::join_all;
use sqlx::Database;

use super::append::StoreBench;
use super::bench::{Finding, same};
use super::sample::{Unit, event, events};
use crate::error::{Cause, Error};
use crate::ids::Offset;
use crate::stream_name::StreamName;

/// How many want it at once.
const RIVALS: u32 = 8;

/// How many of those who append at one offset win; a conflict or a lost transaction is to lose.
async fn winners<DB: Database>(bench: &StoreBench<DB>, stream: &StreamName, offset: u32) -> Result<u32, Cause> {
    let rival = |number: u32| async move {
        let mut tx = bench.begin().await?;
        let appended =
            bench.subject.append_messages(&mut tx, stream, Offset::of(offset), &[event(number.to_string())?]).await;
        match appended {
            Ok(_) => Ok(won(tx.commit().await.map_err(|error| bench.subject.classify("committing", error)))?),
            Err(error) => {
                tx.rollback().await?;
                Ok(won(Err(error))?)
            }
        }
    };
    let mut winners = 0;
    for result in join_all((0..RIVALS).map(rival)).await {
        let result: Result<bool, Cause> = result;
        winners += u32::from(result?);
    }
    Ok(winners)
}

fn won(result: Result<(), Error>) -> Result<bool, Error> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.is_conflict() || error.is_transient() => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) async fn of_concurrent_appends_one_wins<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    bench.need_two_connections()?;
    let stream = bench.stream("race")?;
    for offset in 0..5 {
        if offset == 0 {
            bench.append(&stream, 0, &events(0..1)?).await?;
        }
        same("number of winners", winners(bench, &stream, offset + 1).await?, 1)?;
    }
    same("number of events", bench.payloads(&stream).await?.len(), 6)
}

pub(super) async fn of_concurrent_first_appends_one_wins<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    bench.need_two_connections()?;
    for _ in 0..3 {
        let stream = bench.stream("first")?;
        same("number of winners", winners(bench, &stream, 0).await?, 1)?;
        same("number of events", bench.payloads(&stream).await?.len(), 1)?;
    }
    Ok(())
}

pub(super) async fn of_concurrent_units_of_work_one_wins<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    bench.need_two_connections()?;
    let stream = bench.instance("race")?;
    for round in 1..=4 {
        let head = bench.head(&stream).await?;
        let rival = |number: u32| {
            let stream = &stream;
            async move {
                let unit = Unit::new(stream, head, &[event(number.to_string())?])?;
                let conn = &mut *bench.conn().await?;
                let written = bench.subject.commit_alone(conn, &unit.as_commit()).await;
                Ok::<_, Cause>(match written {
                    Ok(written) => written.is_some(),
                    Err(error) => won(Err(error))?,
                })
            }
        };
        let mut winners = 0;
        for written in join_all((0..RIVALS).map(rival)).await {
            winners += u32::from(written?);
        }
        same("number of winners", winners, 1)?;
        same("number of events", bench.payloads(&stream.name).await?.len(), round)?;
    }
    Ok(())
}
