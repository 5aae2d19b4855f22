//! Reading streams: pages, waiting, and what a reader sees beside a writer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sagastore::{EventStream, MessageStore, Offset, PAGE_BYTES, PAGE_COMMITS, StreamName};
use tokio::sync::Notify;

use crate::harness::sample::{command, event, event_of, stream};
use crate::harness::{Clause, Subject, TestDb, clauses, scaled};

clauses! {
    a_page_holds_the_events_from_an_offset_up_to_a_limit: BASIC,
    a_missing_stream_is_told_from_one_that_is_read_beyond_its_end: BASIC,
    every_fetch_size_gives_every_event_once,
    a_stream_longer_than_a_page_of_commits_is_read_whole,
    a_stream_heavier_than_a_page_of_bytes_is_read_whole,
    a_reader_that_goes_on_gets_pages_of_a_bounded_weight,
    a_page_begins_and_ends_in_the_middle_of_a_commit,
    commits_without_events_are_passed_over,
    a_reader_at_the_end_finds_what_comes_later,
    a_waiting_reader_wakes_up_when_an_event_comes: SEVERAL_CONNECTIONS,
    a_dropped_wait_ends_at_once_and_loses_nothing,
    a_reader_beside_a_writer_sees_a_prefix_that_only_grows: SEVERAL_CONNECTIONS,
}

/// Appends commits of these many events each, in one transaction.
async fn append_commits<DB: Subject>(db: &TestDb<DB>, name: &StreamName, sizes: &[u32]) -> anyhow::Result<u32> {
    let (store, mut tx, mut end) = (db.store(), db.begin().await?, 0);
    for size in sizes {
        let messages: Vec<_> = (end..end + size).map(event).collect();
        store.append_messages(&mut tx, name, Offset::of(end), &messages).await?;
        end += size;
    }
    tx.commit().await?;
    Ok(end)
}

async fn page<DB: Subject>(db: &TestDb<DB>, name: &StreamName, from: u32, limit: u32) -> anyhow::Result<Vec<u64>> {
    let found = db.store().read_page(&mut *db.conn().await?, name, Offset::of(from), limit).await?;
    Ok(found.unwrap().iter().map(|event| event.offset.get()).collect())
}

/// Reads to the end, one event after the other.
async fn read_to_end<DB: Subject>(db: &TestDb<DB>, mut reader: EventStream) -> anyhow::Result<Vec<u64>> {
    let (store, mut conn, mut found) = (db.store(), db.conn().await?, Vec::new());
    while let Some(event) = reader.try_next(&store, &mut conn).await? {
        let number = format!("{{\"number\":{}}}", event.offset);
        assert_eq!(event.envelope.payload, number.as_bytes(), "at offset {}", event.offset);
        found.push(event.offset.get());
        assert_eq!(reader.offset().get(), event.offset.get() + 1);
    }
    Ok(found)
}

async fn open<DB: Subject>(db: &TestDb<DB>, name: &StreamName, from: u32) -> anyhow::Result<Option<EventStream>> {
    Ok(db.store().open_stream(&mut *db.conn().await?, name, Offset::of(from)).await?)
}

async fn a_page_holds_the_events_from_an_offset_up_to_a_limit<DB: Subject>(db: TestDb<DB>) -> Clause {
    let name = stream("a");
    append_commits(&db, &name, &[2, 2, 1]).await?;
    let all: Vec<u64> = (0..5).collect();
    for from in 0..7 {
        for limit in [0, 1, 2, 3, 4, 5, 6, u32::MAX] {
            let from_offset = usize::try_from(from)?.min(all.len());
            let until = from_offset.saturating_add(usize::try_from(limit)?).min(all.len());
            let found = page(&db, &name, from, limit).await?;
            assert_eq!(found, all[from_offset..until], "from {from}, at most {limit}");
        }
    }
    Ok(())
}

async fn a_missing_stream_is_told_from_one_that_is_read_beyond_its_end<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (there, missing) = (stream("there"), stream("missing"));
    append_commits(&db, &there, &[3]).await?;
    assert!(open(&db, &missing, 0).await?.is_none());
    assert_eq!(db.store().read_page(&mut *db.conn().await?, &missing, Offset::ZERO, 10).await?, None);
    for beyond in [3, 4, 999, u32::MAX] {
        let reader = open(&db, &there, beyond).await?.unwrap();
        assert_eq!(read_to_end(&db, reader).await?, [] as [u64; 0]);
        assert_eq!(page(&db, &there, beyond, 10).await?, [] as [u64; 0]);
    }
    let found = db.store().read_page(&mut *db.conn().await?, &there, Offset::MAX, 10).await?;
    assert_eq!(found.map(|events| events.len()), Some(0));
    Ok(())
}

async fn every_fetch_size_gives_every_event_once<DB: Subject>(db: TestDb<DB>) -> Clause {
    const PAGE: u32 = 6;
    for length in [1, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 2 * PAGE + 1] {
        for per_commit in [1, 4] {
            let name = stream(&format!("{length} in commits of {per_commit}"));
            let mut sizes = vec![per_commit; usize::try_from(length / per_commit)?];
            sizes.extend((length % per_commit > 0).then_some(length % per_commit));
            append_commits(&db, &name, &sizes).await?;
            for fetch_size in [0, 1, 2, PAGE, 2 * PAGE, 1000] {
                for from in [0, 1, length - 1] {
                    let reader = open(&db, &name, from).await?.unwrap().with_fetch_size(fetch_size);
                    let expected: Vec<u64> = (u64::from(from)..u64::from(length)).collect();
                    assert_eq!(read_to_end(&db, reader).await?, expected, "{name}, {fetch_size} at once, from {from}");
                }
            }
        }
    }
    Ok(())
}

async fn a_stream_longer_than_a_page_of_commits_is_read_whole<DB: Subject>(db: TestDb<DB>) -> Clause {
    let page_commits = usize::try_from(PAGE_COMMITS)?;
    for commits in [page_commits - 1, page_commits, page_commits + 1, 2 * page_commits + 1] {
        let name = stream(&format!("{commits} commits"));
        let end = append_commits(&db, &name, &vec![1; commits]).await?;
        let all: Vec<u64> = (0..u64::from(end)).collect();
        assert_eq!(page(&db, &name, 0, u32::MAX).await?, all);
        for fetch_size in [PAGE_COMMITS - 1, PAGE_COMMITS, 2000] {
            let reader = open(&db, &name, 0).await?.unwrap().with_fetch_size(fetch_size);
            assert_eq!(read_to_end(&db, reader).await?, all, "{commits} commits, {fetch_size} at once");
        }
    }
    Ok(())
}

async fn a_stream_heavier_than_a_page_of_bytes_is_read_whole<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (name, heavy) = (stream("a"), 3 * 1024 * 1024);
    let payload = |number: u32| vec![u8::try_from(number).unwrap(); heavy];
    for number in 0..5 {
        db.append(&name, number, &[event_of("application/octet-stream", payload(number))]).await?;
    }
    let found = db.events(&name).await?.unwrap();
    assert_eq!(found.len(), 5);
    for (number, event) in (0..).zip(&found) {
        assert!(event.envelope.payload == payload(number), "event {number} is as it was");
    }
    Ok(())
}

/// As many events as were asked for were held in memory, whatever they weighed.
async fn a_reader_that_goes_on_gets_pages_of_a_bounded_weight<DB: Subject>(db: TestDb<DB>) -> Clause {
    const HEAVY: usize = 1024 * 1024;
    let (name, store) = (stream("heavy"), db.store());
    for number in 0..20 {
        let mut tx = db.begin().await?;
        let messages = [command(0), event_of("application/octet-stream", vec![b' '; HEAVY])];
        store.append_messages(&mut tx, &name, Offset::of(number), &messages).await?;
        tx.commit().await?;
    }
    let (mut conn, mut read, mut pages) = (db.conn().await?, 0, 0);
    while let Some(page) = store.read_bounded_page(&mut conn, &name, Offset::of(read), 500).await?
        && !page.is_empty()
    {
        let weight: usize = page.iter().map(|event| event.envelope.payload.len()).sum();
        assert!(weight <= PAGE_BYTES + HEAVY, "{weight} bytes");
        assert_eq!(page[0].offset, Offset::of(read));
        read += u32::try_from(page.len())?;
        pages += 1;
    }
    assert_eq!((read, pages), (20, 3));
    Ok(())
}

async fn a_page_begins_and_ends_in_the_middle_of_a_commit<DB: Subject>(db: TestDb<DB>) -> Clause {
    let name = stream("a");
    append_commits(&db, &name, &[10, 10, 10]).await?;
    assert_eq!(page(&db, &name, 7, 1).await?, [7]);
    assert_eq!(page(&db, &name, 7, 20).await?, (7..27).collect::<Vec<_>>());
    assert_eq!(page(&db, &name, 20, 3).await?, [20, 21, 22]);
    Ok(())
}

async fn commits_without_events_are_passed_over<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (name, store, mut tx) = (stream("a"), db.store(), db.begin().await?);
    for number in 0..40 {
        for _ in 0..number % 4 {
            store.append_messages(&mut tx, &name, Offset::of(number), &[command(0)]).await?;
        }
        store.append_messages(&mut tx, &name, Offset::of(number), &[event(number)]).await?;
    }
    store.append_messages(&mut tx, &name, Offset::of(40), &[command(0)]).await?;
    tx.commit().await?;
    for from in 0..=40 {
        let reader = open(&db, &name, from).await?.unwrap().with_fetch_size(3);
        assert_eq!(read_to_end(&db, reader).await?, (u64::from(from)..40).collect::<Vec<_>>());
        assert_eq!(page(&db, &name, from, 2).await?, (u64::from(from)..40).take(2).collect::<Vec<_>>());
    }
    Ok(())
}

async fn a_reader_at_the_end_finds_what_comes_later<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (name, store) = (stream("a"), db.store());
    append_commits(&db, &name, &[2]).await?;
    let mut reader = open(&db, &name, 2).await?.unwrap();
    for number in 2..6 {
        assert_eq!(reader.try_next(&store, &mut *db.conn().await?).await?, None);
        db.append(&name, number, &[event(number)]).await?;
        let found = reader.try_next(&store, &mut *db.conn().await?).await?.unwrap();
        assert_eq!(found.offset, Offset::of(number));
    }
    Ok(())
}

async fn a_waiting_reader_wakes_up_when_an_event_comes<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (name, interval) = (stream("a"), Duration::from_millis(100));
    append_commits(&db, &name, &[1]).await?;
    let mut reader = open(&db, &name, 1).await?.unwrap().with_poll_interval(interval);
    let waiting = tokio::spawn({
        let db = db.clone();
        async move { reader.next(&db.store(), db.pool()).await.map(|event| (event.offset, Instant::now())) }
    });
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(!waiting.is_finished(), "there is nothing yet");
    let appended = Instant::now();
    db.append(&name, 1, &[event(1)]).await?;
    let (offset, woken) = waiting.await??;
    assert_eq!(offset, Offset::of(1));
    // One interval, one read, and what a loaded machine adds.
    assert!(woken - appended < interval + Duration::from_secs(10), "woken after {:?}", woken - appended);
    Ok(())
}

async fn a_dropped_wait_ends_at_once_and_loses_nothing<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (name, store) = (stream("a"), db.store());
    append_commits(&db, &name, &[1]).await?;
    let mut reader = open(&db, &name, 1).await?.unwrap();
    for wait in [1, 5, 20, 300] {
        let begun = Instant::now();
        let waited = tokio::time::timeout(Duration::from_millis(wait), reader.next(&store, db.pool())).await;
        assert!(waited.is_err(), "there is nothing to find");
        assert!(begun.elapsed() < Duration::from_millis(wait + 10_000));
        db.check_invariants().await?;
    }
    db.append(&name, 1, &[event(1), event(2)]).await?;
    for expected in [1, 2] {
        assert_eq!(reader.next(&store, db.pool()).await?.offset, Offset::of(expected));
    }
    Ok(())
}

async fn a_reader_beside_a_writer_sees_a_prefix_that_only_grows<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (name, count) = (stream("a"), scaled(200, 2000));
    db.append(&name, 0, &[event(0)]).await?;
    let scanned = Arc::new(Notify::new());
    let writer = tokio::spawn({
        let (db, name, scanned) = (db.clone(), name.clone(), Arc::clone(&scanned));
        async move {
            for number in 1..count {
                if number == count / 2 {
                    scanned.notified().await;
                }
                db.append(&name, number, &[event(number)]).await?;
            }
            Ok::<_, sagastore::Error>(())
        }
    });
    let (mut seen, mut scans, mut fetch_size) = (0, 0, 1);
    while seen < count {
        let reader = open(&db, &name, 0).await?.unwrap().with_fetch_size(fetch_size);
        let found = read_to_end(&db, reader).await?;
        assert_eq!(found, (0..u64::try_from(found.len())?).collect::<Vec<_>>(), "no hole");
        let length = u32::try_from(found.len())?;
        assert!(length >= seen, "{seen} events were seen before, and {length} now");
        scanned.notify_one();
        (seen, scans, fetch_size) = (length, scans + 1, (fetch_size * 3) % 500 + 1);
    }
    writer.await??;
    assert!(scans > 1, "the reader was beside the writer");
    assert_eq!(page(&db, &name, 0, u32::MAX).await?, (0..u64::from(count)).collect::<Vec<_>>());
    Ok(())
}
