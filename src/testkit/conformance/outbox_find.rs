//! Saving records and finding them.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sqlx::Database;

use super::bench::{Bench, Finding, ensure, found, same};
use super::sample::{HOSTILE_NAMES, as_sent, event, peculiar};
use crate::error::{Cause, Error, Result as CrateResult};
use crate::limits::MAX_MESSAGE_BYTES;
use crate::message::MessageKind;
use crate::outbox::{NewOutboxRecord, OutboxRecord, OutboxRepository};
use crate::timestamp::Timestamp;

pub(super) type OutboxBench<DB> = Bench<DB, dyn OutboxRepository<DB>>;

/// How far ahead a record is due.
const AHEAD: Duration = Duration::from_millis(1500);
/// How long after that it may still be missing.
const LATE: Duration = Duration::from_secs(20);
/// How far the clock of the database may be from that of this process.
const CLOCK_SKEW: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(50);
/// How many records a page of a clause has.
const PAGE: u32 = 100;

impl<DB: Database> OutboxBench<DB> {
    /// Empties the outbox of all that is due.
    pub(super) async fn drain(&self) -> Finding {
        let mut before = None;
        loop {
            let batch = self.subject.find_batch(&mut *self.conn().await?, None, PAGE).await?;
            if batch.is_empty() {
                return Ok(());
            }
            let ids: Vec<_> = batch.iter().map(|record| record.id).collect();
            ensure(before != ids.first().copied(), "a record that was acknowledged is found again")?;
            before = ids.first().copied();
            let mut tx = self.begin().await?;
            self.subject.delete_in_batches(&mut tx, PAGE, &ids).await?;
            tx.commit().await?;
        }
    }

    /// Saves records in a transaction of their own.
    pub(super) async fn save(&self, records: &[NewOutboxRecord]) -> Finding {
        let mut tx = self.begin().await?;
        self.subject.save(&mut tx, records).await?;
        Ok(tx.commit().await?)
    }

    /// So many records of as many aggregates, with their numbers; the outbox is emptied before.
    pub(super) async fn fill(&self, records: u32, aggregates: u32) -> Finding {
        self.drain().await?;
        let name = self.name("aggregate");
        let record = |number: u32| {
            let id = format!("{name}/{}", number % aggregates);
            Ok::<_, Cause>(NewOutboxRecord::new("conformance", id, event(number.to_string())?))
        };
        let records: Result<Vec<_>, Cause> = (0..records).map(record).collect();
        self.save(&records?).await
    }

    /// All that is due, in the order of delivery.
    pub(super) async fn all(&self) -> Result<Vec<OutboxRecord>, Cause> {
        self.paged(PAGE).await
    }

    async fn paged(&self, size: u32) -> Result<Vec<OutboxRecord>, Cause> {
        let mut all = Vec::<OutboxRecord>::new();
        loop {
            let after = all.last().map(|record| record.id);
            let page = self.subject.find_batch(&mut *self.conn().await?, after, size).await?;
            let Some(last) = page.last() else { return Ok(all) };
            ensure(page.len() <= usize::try_from(size)?, format!("a page of {size} has {} records", page.len()))?;
            ensure(after.is_none_or(|after| after < last.id), "a page does not come after the one before")?;
            all.extend(page);
        }
    }
}

/// What the records of a clause hold.
pub(super) fn numbers(records: &[OutboxRecord]) -> Result<Vec<u32>, Cause> {
    let number = |record: &OutboxRecord| Ok(std::str::from_utf8(record.payload())?.parse()?);
    records.iter().map(number).collect()
}

pub(super) async fn saved_records_come_back_whole<DB: Database>(bench: &OutboxBench<DB>) -> Finding {
    bench.drain().await?;
    let (kind, id) = ("a'\"\\\u{96ea}", bench.name("whole"));
    let sent = [
        NewOutboxRecord::new(kind, &*id, peculiar(MessageKind::Command)?),
        NewOutboxRecord::new(kind, &*id, peculiar(MessageKind::Event)?),
        NewOutboxRecord::new(kind, &*id, event("")?),
    ];
    bench.save(&sent).await?;
    let records = bench.all().await?;
    same("number of records", records.len(), sent.len())?;
    for (record, sent) in records.iter().zip(&sent) {
        let owner = (&*record.aggregate_type, &*record.aggregate_id, record.attempts);
        same("aggregate and attempts", owner, (kind, &*id, 0))?;
        same("the message", as_sent(&record.envelope), sent.envelope.clone())?;
        ensure(record.payload() == &sent.envelope.payload[..], "a payload came back changed")?;
    }
    Ok(())
}

pub(super) async fn records_of_one_aggregate_keep_their_order<DB: Database>(bench: &OutboxBench<DB>) -> Finding {
    bench.drain().await?;
    let name = bench.name("order");
    let record = |number: u32| {
        let id = format!("{name}/{}", number % 3);
        Ok::<_, Cause>(NewOutboxRecord::new("conformance", id, event(number.to_string())?))
    };
    let together: Result<Vec<_>, Cause> = (0..30).map(record).collect();
    bench.save(&together?).await?;
    for number in 30..45 {
        bench.save(&[record(number)?]).await?;
    }
    let mut tx = bench.begin().await?;
    for number in 45..60 {
        bench.subject.save(&mut tx, &[record(number)?]).await?;
    }
    tx.commit().await?;
    let mut by_aggregate = HashMap::<String, Vec<u32>>::new();
    for record in bench.all().await? {
        let number = numbers(std::slice::from_ref(&record))?;
        by_aggregate.entry(record.aggregate_id).or_default().extend(number);
    }
    same("number of aggregates", by_aggregate.len(), 3)?;
    for aggregate in 0..3 {
        let came = by_aggregate.remove(&format!("{name}/{aggregate}"));
        same("records of an aggregate", came, Some((aggregate..60).step_by(3).collect()))?;
    }
    Ok(())
}

pub(super) async fn names_that_differ_in_a_byte_are_different_aggregates<DB: Database>(
    bench: &OutboxBench<DB>,
) -> Finding {
    bench.drain().await?;
    let prefix = bench.name("names");
    let record =
        |name: &str| Ok::<_, Cause>(NewOutboxRecord::new(name, format!("{prefix}{name}"), event(name.to_owned())?));
    let records: Result<Vec<_>, Cause> = HOSTILE_NAMES.into_iter().map(record).collect();
    bench.save(&records?).await?;
    let records = bench.all().await?;
    same("number of records", records.len(), HOSTILE_NAMES.len())?;
    for record in &records {
        let name = std::str::from_utf8(record.payload())?;
        let owner = (&*record.aggregate_type, &*record.aggregate_id);
        same("the aggregate of a record", owner, (name, &*format!("{prefix}{name}")))?;
    }
    Ok(())
}

pub(super) async fn pages_give_every_record_once<DB: Database>(bench: &OutboxBench<DB>) -> Finding {
    bench.fill(20, 4).await?;
    for size in [1, 3, 7, 20, 21] {
        let records = bench.paged(size).await?;
        let ids: HashSet<_> = records.iter().map(|record| record.id).collect();
        same(&format!("records in pages of {size}"), (records.len(), ids.len()), (20, 20))?;
    }
    let none = bench.subject.find_batch(&mut *bench.conn().await?, None, 0).await?;
    same("number of records in a page of none", none.len(), 0)
}

pub(super) async fn batches_give_every_record_once_and_keep_to_the_limit<DB: Database>(
    bench: &OutboxBench<DB>,
) -> Finding {
    bench.fill(20, 4).await?;
    for (size, limit, expected) in [(3, None, 20), (20, None, 20), (7, Some(10), 10), (7, Some(0), 0), (30, Some(5), 5)]
    {
        let (mut given, mut largest) = (Vec::new(), 0);
        let mut take = |batch: Vec<OutboxRecord>| -> BoxFuture<'_, CrateResult<()>> {
            largest = largest.max(batch.len());
            given.extend(batch);
            async { Ok(()) }.boxed()
        };
        let count = bench.subject.find_in_batches(&mut *bench.conn().await?, size, limit, &mut take).await?;
        let ids: HashSet<_> = given.iter().map(|record| record.id).collect();
        let came = (count, u64::try_from(ids.len())?, u64::try_from(given.len())?);
        same("records given in batches: told, different, in all", came, (expected, expected, expected))?;
        ensure(largest <= usize::try_from(size)?, format!("a batch of {size} has {largest} records"))?;
    }
    Ok(())
}

pub(super) async fn an_error_of_the_callback_ends_the_batches<DB: Database>(bench: &OutboxBench<DB>) -> Finding {
    bench.fill(10, 2).await?;
    let mut calls = 0;
    let mut refuse = |_: Vec<OutboxRecord>| -> BoxFuture<'_, CrateResult<()>> {
        calls += 1;
        async { Err(Error::invalid("callback", "it refuses")) }.boxed()
    };
    let ended = bench.subject.find_in_batches(&mut *bench.conn().await?, 3, None, &mut refuse).await;
    let told = matches!(&ended, Err(Error::InvalidInput { what: "callback", .. }));
    ensure(told, format!("it ended with {ended:?}"))?;
    same("number of calls", calls, 1)?;
    same("number of records after that", bench.all().await?.len(), 10)
}

pub(super) async fn a_record_is_not_given_before_it_is_due<DB: Database>(bench: &OutboxBench<DB>) -> Finding {
    bench.drain().await?;
    let from_now = |after: Duration| {
        let micros = i64::try_from(after.as_micros()).unwrap_or(i64::MAX);
        Timestamp::from_micros(Timestamp::now().as_micros().saturating_add(micros))
    };
    let record = |id: &str, due_at| {
        Ok::<_, Cause>(NewOutboxRecord { due_at, ..NewOutboxRecord::new("due", bench.name(id), event(id.to_owned())?) })
    };
    let due_at = from_now(AHEAD);
    let past = Timestamp::from_micros(1);
    bench.save(&[record("later", Some(due_at))?, record("now", None)?, record("past", Some(past))?]).await?;
    let payloads = |records: &[OutboxRecord]| -> HashSet<Vec<u8>> {
        records.iter().map(|record| record.payload().to_vec()).collect()
    };
    let at_once: HashSet<_> = [b"now".to_vec(), b"past".to_vec()].into();
    let records = bench.all().await?;
    let is_early = from_now(CLOCK_SKEW) < due_at;
    ensure(!is_early || payloads(&records) == at_once, "what is due later was given, or what is due was not")?;
    let latest = tokio::time::Instant::now() + AHEAD + LATE;
    while bench.all().await?.len() < 3 {
        ensure(tokio::time::Instant::now() < latest, "a record that was due was not given")?;
        tokio::time::sleep(PAUSE).await;
    }
    let early = due_at > from_now(CLOCK_SKEW);
    ensure(!early, "a record was given before it was due")
}

pub(super) async fn a_record_that_is_rolled_back_was_never_there<DB: Database>(bench: &OutboxBench<DB>) -> Finding {
    bench.fill(1, 1).await?;
    let lost = NewOutboxRecord::new("conformance", bench.name("lost"), event("99")?);
    let mut tx = bench.begin().await?;
    bench.subject.save(&mut tx, &[lost]).await?;
    tx.rollback().await?;
    same("records", numbers(&bench.all().await?)?, vec![0])
}

pub(super) async fn a_record_that_cannot_be_stored_is_refused<DB: Database>(bench: &OutboxBench<DB>) -> Finding {
    bench.drain().await?;
    let large = NewOutboxRecord::new("conformance", "1", event(vec![b'x'; MAX_MESSAGE_BYTES + 1])?);
    let nameless = NewOutboxRecord::new("", "1", event("x")?);
    let mut tx = bench.begin().await?;
    let refused = bench.subject.save(&mut tx, &[large]).await;
    ensure(matches!(refused, Err(Error::TooLarge { .. })), format!("a message over the limit gave {refused:?}"))?;
    let refused = bench.subject.save(&mut tx, &[nameless]).await;
    ensure(matches!(refused, Err(Error::InvalidInput { .. })), format!("an empty name gave {refused:?}"))?;
    let good = NewOutboxRecord::new("conformance", "1", event("7")?);
    bench.subject.save(&mut tx, &[good]).await?;
    tx.commit().await?;
    same("records", numbers(&bench.all().await?)?, vec![7])?;
    found("the record", bench.all().await?.first()).map(drop)
}
