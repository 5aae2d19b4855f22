//! Reading streams.

use sqlx::Database;

use super::append::StoreBench;
use super::bench::{Finding, ensure, found, same};
use super::sample::{as_sent, event, events, every_byte, peculiar};
use crate::ids::Offset;
use crate::message::MessageKind;

/// A payload that fits no page of a database.
const LARGE: usize = 1024 * 1024;

pub(super) async fn every_field_of_an_event_comes_back<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    let stream = bench.stream("fields")?;
    let sent = [peculiar(MessageKind::Event)?, event("plain")?, peculiar(MessageKind::Event)?];
    bench.append(&stream, 0, &sent).await?;
    let page = bench.subject.read_page(&mut *bench.conn().await?, &stream, Offset::ZERO, 10).await?;
    let page = found("the page", page)?;
    same("number of events", page.len(), sent.len())?;
    for (event, sent) in page.iter().zip(&sent) {
        ensure(event.envelope.recorded_at.is_some(), "an event has no time of recording")?;
        let came = as_sent(&event.envelope);
        same("metadata", &came.metadata, &sent.metadata)?;
        ensure(came.payload == sent.payload, "a payload came back changed")?;
        same("an event", &came, sent)?;
    }
    Ok(())
}

pub(super) async fn large_and_empty_payloads_come_back_byte_for_byte<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    let stream = bench.stream("payloads")?;
    let large: Vec<u8> = every_byte().into_iter().cycle().take(LARGE).collect();
    let sent = [event(large)?, event("")?, event(every_byte())?];
    bench.append(&stream, 0, &sent).await?;
    let page = bench.subject.read_page(&mut *bench.conn().await?, &stream, Offset::ZERO, 10).await?;
    let page = found("the page", page)?;
    same("number of events", page.len(), sent.len())?;
    for (event, sent) in page.iter().zip(&sent) {
        same("length of a payload", event.envelope.payload.len(), sent.payload.len())?;
        ensure(event.envelope.payload == sent.payload, "a payload came back changed")?;
    }
    Ok(())
}

pub(super) async fn a_page_has_as_many_events_as_asked_for<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    let stream = bench.stream("pages")?;
    for (from, to) in [(0, 4), (4, 5), (5, 12)] {
        bench.append(&stream, from, &events(from..to)?).await?;
    }
    let mut conn = bench.conn().await?;
    for limit in [1, 2, 3, 5, 11, 12, 13] {
        let page = bench.subject.read_page(&mut conn, &stream, Offset::ZERO, limit).await?;
        let expected = usize::try_from(limit.min(12))?;
        same(&format!("number of events in a page of {limit} of 12"), found("the page", page)?.len(), expected)?;
    }
    Ok(())
}

pub(super) async fn a_page_begins_at_its_offset<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    let stream = bench.stream("from")?;
    for (from, to) in [(0, 4), (4, 5), (5, 9)] {
        bench.append(&stream, from, &events(from..to)?).await?;
    }
    let mut conn = bench.conn().await?;
    for from in 0..9 {
        let page = bench.subject.read_page(&mut conn, &stream, Offset::of(from), 3).await?;
        let came: Vec<_> = found("the page", page)?.iter().map(|event| event.offset).collect();
        let expected: Vec<_> = (from..9.min(from + 3)).map(Offset::of).collect();
        same(&format!("offsets of a page from {from}"), came, expected)?;
    }
    Ok(())
}

pub(super) async fn a_page_beyond_the_end_is_empty<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    let stream = bench.stream("end")?;
    bench.append(&stream, 0, &events(0..2)?).await?;
    for from in [Offset::of(2), Offset::of(3), Offset::MAX] {
        let page = bench.subject.read_page(&mut *bench.conn().await?, &stream, from, 10).await?;
        same("number of events in it", found("the page", page)?.len(), 0)?;
    }
    Ok(())
}

pub(super) async fn the_last_event_and_the_next_offset_are_told<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    let stream = bench.stream("last")?;
    for number in 0..3 {
        bench.append(&stream, number, &events(number..number + 1)?).await?;
        let mut conn = bench.conn().await?;
        let next = bench.subject.next_offset(&mut conn, &stream).await?;
        same("next offset", next, Some(Offset::of(number + 1)))?;
        let last = found("the last event", bench.subject.last_event(&mut conn, &stream).await?)?;
        same("offset of the last event", last.offset, Offset::of(number))?;
        same("the last event", last.envelope.payload.to_vec(), number.to_string().into_bytes())?;
    }
    Ok(())
}

pub(super) async fn the_time_of_recording_rises_strictly<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    let stream = bench.stream("times")?;
    for number in 0..10 {
        bench.append(&stream, number, &events(number..number + 1)?).await?;
    }
    let page = bench.subject.read_page(&mut *bench.conn().await?, &stream, Offset::ZERO, 10).await?;
    let times: Vec<_> = found("the page", page)?.iter().map(|event| event.envelope.recorded_at).collect();
    let rises = times.iter().zip(times.iter().skip(1)).all(|(one, next)| one < next);
    ensure(rises, format!("the times of ten appends are {times:?}"))
}
