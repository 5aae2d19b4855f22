//! Appending to streams.

use sqlx::Database;

use super::bench::{Bench, Finding, ensure, found, same};
use super::sample::{HOSTILE_NAMES, command, event, events};
use crate::envelope::Envelope;
use crate::error::{Cause, Error};
use crate::ids::Offset;
use crate::limits::MAX_MESSAGE_BYTES;
use crate::message_store::MessageStore;
use crate::stream_name::StreamName;

pub(super) type StoreBench<DB> = Bench<DB, dyn MessageStore<DB>>;

impl<DB: Database> StoreBench<DB> {
    pub(super) fn stream(&self, name: &str) -> Result<StreamName, Cause> {
        Ok(StreamName::new(self.name(name))?)
    }

    /// Appends in a transaction of its own.
    pub(super) async fn append(
        &self,
        stream: &StreamName,
        offset: u32,
        messages: &[Envelope],
    ) -> Result<Offset, Cause> {
        let mut tx = self.begin().await?;
        let end = self.subject.append_messages(&mut tx, stream, Offset::of(offset), messages).await?;
        tx.commit().await?;
        Ok(end)
    }

    /// The payloads of a stream from an offset on, checked for density.
    pub(super) async fn payloads(&self, stream: &StreamName) -> Result<Vec<String>, Cause> {
        let page = self.subject.read_page(&mut *self.conn().await?, stream, Offset::ZERO, 1000).await?;
        let mut payloads = Vec::new();
        for (offset, event) in (0..).zip(page.unwrap_or_default()) {
            same("offset of an event that was read", event.offset, Offset::of(offset))?;
            payloads.push(String::from_utf8_lossy(&event.envelope.payload).into_owned());
        }
        Ok(payloads)
    }
}

pub(super) async fn a_stream_that_was_never_written_is_not_there<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    let (stream, mut conn) = (bench.stream("never")?, bench.conn().await?);
    let page = bench.subject.read_page(&mut conn, &stream, Offset::ZERO, 10).await?;
    ensure(page.is_none(), "a page of it was read")?;
    same("its next offset", bench.subject.next_offset(&mut conn, &stream).await?, None)?;
    ensure(bench.subject.last_event(&mut conn, &stream).await?.is_none(), "it has a last event")?;
    let opened = bench.subject.open_stream(&mut conn, &stream, Offset::ZERO).await?;
    ensure(opened.is_none(), "it was opened")
}

pub(super) async fn appended_events_get_dense_offsets_in_order<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    let stream = bench.stream("dense")?;
    for (from, to) in [(0, 1), (1, 4), (4, 14)] {
        let end = bench.append(&stream, from, &events(from..to)?).await?;
        same("offset after an append", end, Offset::of(to))?;
    }
    let expected: Vec<_> = (0..14).map(|number: u32| number.to_string()).collect();
    same("events that were read", bench.payloads(&stream).await?, expected)
}

pub(super) async fn appended_commands_take_no_offset<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    let stream = bench.stream("commands")?;
    let messages = [command("x")?, event("0")?, command("y")?, event("1")?];
    same("offset after two events", bench.append(&stream, 0, &messages).await?, Offset::of(2))?;
    same("events that were read", bench.payloads(&stream).await?, vec!["0".to_owned(), "1".to_owned()])
}

/// Appends at an offset that is not the end, and fails unless that is the conflict that it should be.
async fn conflict<DB: Database>(bench: &StoreBench<DB>, stream: &StreamName, offset: u32, end: u32) -> Finding {
    let mut tx = bench.begin().await?;
    let appended = bench.subject.append_messages(&mut tx, stream, Offset::of(offset), &[event("lost")?]).await;
    tx.commit().await?;
    match appended {
        Err(Error::Conflict { expected, actual, .. }) => {
            same("ends in the conflict", (expected, actual), (Offset::of(offset), Offset::of(end)))
        }
        other => Err(format!("an append at {offset} of a stream that ends at {end} gave {other:?}").into()),
    }
}

pub(super) async fn an_append_below_the_end_is_a_conflict_that_tells_both_ends<DB: Database>(
    bench: &StoreBench<DB>,
) -> Finding {
    let stream = bench.stream("below")?;
    bench.append(&stream, 0, &events(0..3)?).await?;
    conflict(bench, &stream, 0, 3).await?;
    conflict(bench, &stream, 2, 3).await?;
    same("number of events", bench.payloads(&stream).await?.len(), 3)
}

pub(super) async fn an_append_beyond_the_end_is_a_conflict_that_tells_both_ends<DB: Database>(
    bench: &StoreBench<DB>,
) -> Finding {
    let (stream, none) = (bench.stream("beyond")?, bench.stream("absent")?);
    bench.append(&stream, 0, &events(0..3)?).await?;
    conflict(bench, &stream, 4, 3).await?;
    conflict(bench, &none, 1, 0).await?;
    same("number of events", bench.payloads(&stream).await?.len(), 3)?;
    same("number of events", bench.payloads(&none).await?.len(), 0)
}

pub(super) async fn a_conflict_leaves_the_transaction_usable<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    let stream = bench.stream("usable")?;
    bench.append(&stream, 0, &events(0..1)?).await?;
    let mut tx = bench.begin().await?;
    let lost = bench.subject.append_messages(&mut tx, &stream, Offset::ZERO, &events(5..6)?).await;
    ensure(matches!(lost, Err(Error::Conflict { .. })), format!("the late append gave {lost:?}"))?;
    bench.subject.append_messages(&mut tx, &stream, Offset::of(1), &events(1..2)?).await?;
    tx.commit().await?;
    same("events that were read", bench.payloads(&stream).await?, vec!["0".to_owned(), "1".to_owned()])
}

pub(super) async fn an_append_of_nothing_changes_nothing_and_checks_the_offset<DB: Database>(
    bench: &StoreBench<DB>,
) -> Finding {
    let (stream, none) = (bench.stream("nothing")?, bench.stream("absent")?);
    bench.append(&stream, 0, &events(0..2)?).await?;
    same("offset after nothing", bench.append(&stream, 2, &[]).await?, Offset::of(2))?;
    same("offset after nothing", bench.append(&none, 0, &[]).await?, Offset::ZERO)?;
    let next = bench.subject.next_offset(&mut *bench.conn().await?, &none).await?;
    same("next offset of a stream to which nothing was appended", next, None)?;
    let mut tx = bench.begin().await?;
    let late = bench.subject.append_messages(&mut tx, &stream, Offset::of(1), &[]).await;
    ensure(matches!(late, Err(Error::Conflict { .. })), format!("nothing appended below the end gave {late:?}"))
}

pub(super) async fn an_id_that_stands_twice_in_an_append_is_refused<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    let (stream, twice) = (bench.stream("twice")?, event("0")?);
    let mut tx = bench.begin().await?;
    let refused = bench.subject.append_messages(&mut tx, &stream, Offset::ZERO, &[twice.clone(), twice]).await;
    ensure(matches!(refused, Err(Error::DuplicateMessage { .. })), format!("it gave {refused:?}"))?;
    tx.commit().await?;
    same("number of events", bench.payloads(&stream).await?.len(), 0)
}

pub(super) async fn a_message_over_the_limit_is_refused_and_the_transaction_usable<DB: Database>(
    bench: &StoreBench<DB>,
) -> Finding {
    let (stream, large) = (bench.stream("large")?, event(vec![b'x'; MAX_MESSAGE_BYTES + 1])?);
    let mut tx = bench.begin().await?;
    let refused = bench.subject.append_messages(&mut tx, &stream, Offset::ZERO, &[large]).await;
    ensure(matches!(refused, Err(Error::TooLarge { .. })), format!("it gave {refused:?}"))?;
    bench.subject.append_messages(&mut tx, &stream, Offset::ZERO, &events(0..1)?).await?;
    tx.commit().await?;
    same("events that were read", bench.payloads(&stream).await?, vec!["0".to_owned()])
}

pub(super) async fn names_that_differ_in_a_byte_are_different_streams<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    let prefix = bench.name("names");
    let named = |name: &str| StreamName::new(format!("{prefix}{name}"));
    for name in HOSTILE_NAMES {
        bench.append(&named(name)?, 0, &[event(name)?]).await?;
    }
    for name in HOSTILE_NAMES {
        same("events of a stream", bench.payloads(&named(name)?).await?, vec![name.to_owned()])?;
        let last = bench.subject.last_event(&mut *bench.conn().await?, &named(name)?).await?;
        same("the stream that an event names", found("the last event", last)?.stream, named(name)?)?;
    }
    Ok(())
}
