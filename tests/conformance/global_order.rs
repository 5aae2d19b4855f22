//! All events in one order.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use sagastore::{Error, Executed, GlobalEvent, GlobalPosition, GloballyOrderedStore, MessageId, MessageStore, Offset};
use tokio::task::JoinSet;

use crate::harness::sample::{Counter, added, command, event, events, instance, stream};
use crate::harness::{Clause, Kind, Mode, Subject, TestDb, assert_error, clauses, scaled};

clauses! {
    all_events_come_once_in_a_rising_order_that_keeps_each_stream: GLOBAL_ORDER,
    a_reader_resumes_after_any_position_and_misses_nothing: GLOBAL_ORDER,
    the_limit_never_cuts_a_commit_and_never_stalls_the_reader: GLOBAL_ORDER,
    positions_above_32_bits_are_exact: GLOBAL_ORDER,
    a_tail_under_load_delivers_what_is_committed_and_nothing_else: GLOBAL_ORDER_SEVERAL_CONNECTIONS,
    nothing_is_held_back_when_all_is_quiet: GLOBAL_ORDER,
    a_transaction_that_has_written_can_read_the_order: GLOBAL_ORDER,
    positions_are_never_given_out_twice: GLOBAL_ORDER_SEVERAL_CONNECTIONS,
    an_event_of_an_older_open_transaction_is_never_skipped: POSTGRES,
    a_stream_is_never_inverted_by_an_old_transaction: POSTGRES,
    data_from_another_cluster_is_refused_until_it_is_rebased: POSTGRES,
    what_is_kept_in_memory_brings_no_number_of_another_cluster_back: POSTGRES,
    without_the_option_there_is_no_global_order: MYSQL,
    switching_on_gives_the_commits_that_are_there_their_places: MYSQL,
    a_store_that_does_not_agree_with_its_database_refuses_to_write: MYSQL,
}

/// Reads all that comes after `after`, so many at once.
pub(crate) async fn read_after<DB: Subject>(
    db: &TestDb<DB>,
    after: GlobalPosition,
    limit: u32,
) -> anyhow::Result<Vec<GlobalEvent>> {
    let (store, mut conn, mut found) = (db.store(), db.conn().await?, Vec::<GlobalEvent>::new());
    loop {
        let from = found.last().map_or(after, |event| event.position);
        let page = store.read_global(&mut conn, from, limit).await?;
        if page.is_empty() {
            return Ok(found);
        }
        found.extend(page);
    }
}

/// As [`read_after`], but waits until so many events can be read: other transactions of the same
/// server may hold them back for a while.
pub(crate) async fn read_all<DB: Subject>(db: &TestDb<DB>, count: usize) -> anyhow::Result<Vec<GlobalEvent>> {
    let begun = Instant::now();
    loop {
        let found = read_after(db, GlobalPosition::START, 100).await?;
        if found.len() >= count {
            assert_eq!(found.len(), count);
            return Ok(found);
        }
        anyhow::ensure!(begun.elapsed() < Duration::from_secs(30), "{} of {count} events are read", found.len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn ids(events: &[GlobalEvent]) -> Vec<MessageId> {
    events.iter().map(|event| event.event.envelope.message_id).collect()
}

/// Positions strictly rise, and each stream is dense from zero.
fn assert_order(found: &[GlobalEvent]) {
    assert!(found.is_sorted_by(|a, b| a.position < b.position), "positions rise");
    let mut ends = HashMap::new();
    for event in found {
        let end = ends.entry(event.event.stream.clone()).or_insert(Offset::ZERO);
        assert_eq!(event.event.offset, *end, "of stream {}", event.event.stream);
        *end = end.checked_add(1).unwrap();
    }
}

/// Three streams in turn, in commits of one to three events, some with commands.
async fn write_in_turn<DB: Subject>(db: &TestDb<DB>) -> anyhow::Result<Vec<MessageId>> {
    let (mut written, mut ends) = (Vec::new(), [0, 0, 0]);
    for round in 0..12 {
        let at = usize::try_from(round % 3)?;
        let messages = events(1 + round % 4 % 3);
        let with_commands: Vec<_> = messages.iter().cloned().chain([command(round)]).collect();
        db.append(&stream(&format!("stream {at}")), ends[at], &with_commands).await?;
        ends[at] += u32::try_from(messages.len())?;
        written.extend(messages.iter().map(|message| message.message_id));
    }
    db.append(&stream("commands only"), 0, &[command(0)]).await?;
    Ok(written)
}

async fn all_events_come_once_in_a_rising_order_that_keeps_each_stream<DB: Subject>(db: TestDb<DB>) -> Clause {
    assert_eq!(read_after(&db, GlobalPosition::START, 10).await?, []);
    let written = write_in_turn(&db).await?;
    let found = read_all(&db, written.len()).await?;
    assert_eq!(ids(&found), written);
    assert_order(&found);
    // Each is the event of its stream.
    let mut conn = db.conn().await?;
    for GlobalEvent { event, .. } in &found {
        let page = db.store().read_page(&mut conn, &event.stream, event.offset, 1).await?;
        assert_eq!(page.as_deref(), Some(std::slice::from_ref(event)));
    }
    Ok(())
}

async fn a_reader_resumes_after_any_position_and_misses_nothing<DB: Subject>(db: TestDb<DB>) -> Clause {
    let written = write_in_turn(&db).await?;
    let found = read_all(&db, written.len()).await?;
    for (at, event) in found.iter().enumerate() {
        for limit in [1, 2, 100] {
            let position = event.position.to_string().parse()?;
            assert_eq!(read_after(&db, position, limit).await?, found[at + 1..], "{limit} at once");
        }
    }
    Ok(())
}

async fn the_limit_never_cuts_a_commit_and_never_stalls_the_reader<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.append(&stream("a"), 0, &events(5)).await?;
    db.append(&stream("b"), 0, &events(5)).await?;
    let found = read_all(&db, 10).await?;
    let (store, mut conn) = (db.store(), db.conn().await?);
    for (limit, expected) in [(1, 5), (5, 5), (6, 10), (1000, 10)] {
        let page = store.read_global(&mut conn, GlobalPosition::START, limit).await?;
        assert_eq!(page, found[..expected], "at most about {limit}");
    }
    // From within a commit.
    for (limit, expected) in [(1, 3..5), (2, 3..5), (100, 3..10)] {
        let page = store.read_global(&mut conn, found[2].position, limit).await?;
        let least = expected.start + 1;
        assert!(found[3..].starts_with(&page) && page.len() + 3 >= least, "at most about {limit}: {}", page.len());
        if limit == 100 {
            assert_eq!(page, found[expected]);
        }
    }
    Ok(())
}

async fn positions_above_32_bits_are_exact<DB: Subject>(db: TestDb<DB>) -> Clause {
    let name = stream("a");
    db.append(&name, 0, &events(1)).await?;
    let mut end = 1;
    for start in [2_200_000_000_i64, 1 << 53, i64::MAX - 10] {
        match DB::KIND {
            Kind::Sqlite => {
                db.sql(format!("UPDATE sqlite_sequence SET seq = {} WHERE name = 'saga_commit'", start - 1)).await?
            }
            Kind::Mysql => db.sql(format!("UPDATE saga_global_order SET position = {}", start - 1)).await?,
            Kind::Postgres => {
                db.sql(format!("ALTER TABLE saga_commit ALTER COLUMN position RESTART WITH {start}")).await?
            }
        };
        for position in start..start + 2 {
            db.append(&name, end, &[event(end), event(end + 1)]).await?;
            end += 2;
            let table = if DB::KIND == Kind::Mysql { "saga_position" } else { "saga_commit" };
            assert_eq!(db.count(format!("SELECT MAX(position) FROM {table}")).await?, position);
        }
    }
    let found = read_all(&db, usize::try_from(end)?).await?;
    assert_order(&found);
    for (at, event) in found.iter().enumerate() {
        assert_eq!(read_after(&db, event.position, 3).await?, found[at + 1..]);
    }
    Ok(())
}

async fn a_tail_under_load_delivers_what_is_committed_and_nothing_else<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (writers, appends) = (scaled(6, 50), scaled(30, 200));
    let mut tasks = JoinSet::new();
    for writer in 0..writers {
        let db = db.clone();
        tasks.spawn(async move {
            let (store, mut committed) = (db.store(), Vec::new());
            for round in 0..appends {
                let name = stream(&format!("writer {writer}, stream {}", round % 10));
                let mut tx = db.begin().await?;
                let end = store.next_offset(&mut tx, &name).await?.unwrap_or_default();
                let messages = events(1 + round % 3);
                store.append_messages(&mut tx, &name, end, &messages).await?;
                // Not in step with the streams: each has some of both.
                if round % 7 == 3 {
                    tx.rollback().await?;
                } else {
                    tx.commit().await?;
                    committed.extend(messages.iter().map(|message| message.message_id));
                }
            }
            anyhow::Ok(committed)
        });
    }
    let (mut tail, mut committed, mut running) = (Vec::<GlobalEvent>::new(), HashSet::new(), true);
    let mut quiet_since = Instant::now();
    while running || tail.len() < committed.len() {
        anyhow::ensure!(quiet_since.elapsed() < Duration::from_secs(30), "{} of {}", tail.len(), committed.len());
        let after = tail.last().map_or(GlobalPosition::START, |event| event.position);
        let page = db.store().read_global(&mut *db.conn().await?, after, 7).await?;
        if !page.is_empty() {
            quiet_since = Instant::now();
        }
        tail.extend(page);
        while let Some(done) = tasks.try_join_next() {
            committed.extend(done??);
        }
        running = !tasks.is_empty();
    }
    assert_order(&tail);
    assert_eq!(tail.len(), committed.len());
    assert_eq!(ids(&tail).into_iter().collect::<HashSet<_>>(), committed);
    assert_eq!(read_all(&db, committed.len()).await?, tail, "a second reader sees the same order");
    Ok(())
}

async fn nothing_is_held_back_when_all_is_quiet<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.append(&stream("a"), 0, &events(1)).await?;
    let begun = Instant::now();
    loop {
        let tail = db.store().global_tail(&mut *db.conn().await?).await?;
        if tail.held_back_commits == 0 {
            assert_eq!(tail.held_back_by, None);
            return Ok(());
        }
        // Other clauses use the same server.
        anyhow::ensure!(begun.elapsed() < Duration::from_secs(30), "{tail:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// On PostgreSQL the transaction's own number was taken for one of another cluster, unless others had been given out since.
async fn a_transaction_that_has_written_can_read_the_order<DB: Subject>(db: TestDb<DB>) -> Clause {
    const ROUNDS: usize = 10;
    let (mut written, store) = (Vec::new(), db.store());
    for round in 0..ROUNDS {
        let (messages, found) = (events(2), read_all(&db, written.len()).await?);
        let after = found.last().map_or(GlobalPosition::START, |event| event.position);
        let mut tx = db.begin().await?;
        store.append_messages(&mut tx, &stream(&round.to_string()), Offset::ZERO, &messages).await?;
        let (page, tail) = (store.read_global(&mut tx, after, 10).await?, store.global_tail(&mut tx).await?);
        db.commit(tx).await?;
        let own: Vec<_> = messages.iter().map(|message| message.message_id).collect();
        if DB::KIND == Kind::Postgres {
            // It is still open, for itself as for others.
            assert_eq!(page, []);
            assert!(tail.held_back_commits >= 1, "{tail:?}");
        } else {
            assert_eq!((ids(&page), tail.held_back_commits), (own.clone(), 0));
        }
        written.extend(own);
    }
    assert_eq!(ids(&read_all(&db, written.len()).await?), written);
    Ok(())
}

async fn positions_are_never_given_out_twice<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.append(&stream("kept"), 0, &events(1)).await?;
    db.append(&stream("purged"), 0, &events(2)).await?;
    let last = read_all(&db, 3).await?[2].position;
    db.sql(
        "DELETE FROM saga_commit
        WHERE stream_id = (SELECT stream_id FROM saga_stream WHERE stream_name = 'purged')",
    )
    .await?;
    // By another process.
    let other = db.second_pool(1).await?;
    let mut tx = db.persister().begin(&other).await?;
    db.store().append_messages(&mut tx, &stream("new"), Offset::ZERO, &events(1)).await?;
    tx.commit().await?;
    let found = read_all(&db, 2).await?;
    assert!(found[1].position > last, "{} after {last}", found[1].position);
    assert_eq!(read_after(&db, last, 10).await?, found[1..]);
    Ok(())
}

async fn an_event_of_an_older_open_transaction_is_never_skipped<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.append(&stream("first"), 0, &events(1)).await?;
    let first = read_all(&db, 1).await?;
    let mut late = db.begin().await?;
    db.store().append_messages(&mut late, &stream("late"), Offset::ZERO, &events(1)).await?;
    db.append(&stream("fast"), 0, &events(2)).await?;

    // What was written later is not given out while the older transaction can still commit.
    assert_eq!(read_after(&db, first[0].position, 10).await?, []);
    let tail = db.store().global_tail(&mut *db.conn().await?).await?;
    assert!(tail.held_back_commits >= 1, "{tail:?}");
    assert!(tail.held_back_by.is_some(), "{tail:?}");

    late.commit().await?;
    let found = read_all(&db, 4).await?;
    assert_eq!(found[0], first[0]);
    assert_eq!(read_after(&db, first[0].position, 1).await?, found[1..]);
    let streams: HashSet<_> = found.iter().map(|event| event.event.stream.to_string()).collect();
    assert_eq!(streams, ["first", "fast", "late"].map(str::to_owned).into());
    Ok(())
}

async fn a_stream_is_never_inverted_by_an_old_transaction<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.sql("CREATE TABLE of_the_application (note TEXT)").await?;
    let name = stream("a");
    let mut old = db.begin().await?;
    // From its first write on, the transaction has its number.
    DB::execute(&mut old, "INSERT INTO of_the_application VALUES ('old')".into()).await?;
    db.append(&name, 0, &events(2)).await?;
    db.store().append_messages(&mut old, &name, Offset::of(2), &events(2)).await?;
    old.commit().await?;
    db.append(&name, 4, &events(1)).await?;
    let found = read_all(&db, 5).await?;
    assert_order(&found);
    for (at, event) in found.iter().enumerate() {
        assert_eq!(read_after(&db, event.position, 1).await?, found[at + 1..]);
    }
    Ok(())
}

async fn data_from_another_cluster_is_refused_until_it_is_rebased<DB: Subject>(db: TestDb<DB>) -> Clause {
    /// By how much the other cluster had counted further.
    const AHEAD: i64 = 1_000_000_000;
    let mut written = write_in_turn(&db).await?;
    let here = read_all(&db, written.len()).await?;
    db.sql(format!("UPDATE saga_commit SET xid = xid + {AHEAD}")).await?;
    let (store, mut conn) = (db.store(), db.conn().await?);
    assert_error!(store.read_global(&mut conn, GlobalPosition::START, 10).await, Error::GlobalOrderRestored);
    assert_error!(store.global_tail(&mut conn).await, Error::GlobalOrderRestored);
    let first = stream("stream 0");
    let end = store.next_offset(&mut conn, &first).await?.unwrap();
    drop(conn);
    // Somebody writes all the same, to a stream that is there and to one that is not.
    let too_early = [events(1), events(1)];
    db.append(&stream("early"), 0, &too_early[0]).await?;
    db.append(&first, u32::try_from(end.get())?, &too_early[1]).await?;
    written.extend(too_early.iter().map(|events| events[0].message_id));

    let _ = sagastore::migrate(db.pool()).await?;
    let new = events(1);
    db.append(&stream("new"), 0, &new).await?;
    written.push(new[0].message_id);
    let found = read_all(&db, written.len()).await?;
    assert_order(&found);
    assert_eq!(ids(&found), written);
    // Positions that the other cluster gave out still mean their places.
    for (at, event) in here.iter().enumerate() {
        let text = event.position.to_string();
        let parts: Vec<&str> = text.split(':').collect();
        let there = format!("{}:{}:{}:{}", parts[0], parts[1].parse::<i64>()? + AHEAD, parts[2], parts[3]);
        assert_eq!(read_after(&db, there.parse()?, 3).await?, found[at + 1..], "after {there}");
    }
    Ok(())
}

/// An instance in memory remembered the number of the other cluster, and the next commit had it: nobody could read on.
async fn what_is_kept_in_memory_brings_no_number_of_another_cluster_back<DB: Subject>(db: TestDb<DB>) -> Clause {
    let persister = db.persister().with_instance_cache(db.pool(), 8);
    let add = async |amount: i64| {
        let id = instance("1");
        let added = persister.execute(db.pool(), &Counter, &id, None, |unit| {
            unit.publish(added(amount))?;
            Ok::<_, Error>(unit.load_report().cached)
        });
        let Executed::Done { value, .. } = added.await? else { anyhow::bail!("it was done before") };
        anyhow::Ok(value)
    };
    db.publish(&Counter, "1", [added(1)]).await?;
    db.sql("UPDATE saga_commit SET xid = xid + 1000000000").await?;
    assert!(!add(10).await?);
    let _ = sagastore::migrate(db.pool()).await?;
    assert!(add(100).await?, "it was not kept");
    db.publish(&Counter, "2", [added(1)]).await?;
    assert_order(&read_all(&db, 4).await?);
    assert_eq!(db.state(&Counter, "1").await?, Some((111, 3)));
    Ok(())
}

/// A store with the option, on a database that may not have it.
fn ordered<DB: Subject>() -> DB::Store {
    DB::store(Mode::MysqlOrdered)
}

async fn without_the_option_there_is_no_global_order<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.append(&stream("a"), 0, &events(1)).await?;
    let mut conn = db.conn().await?;
    for store in [db.store(), ordered::<DB>()] {
        let read = store.read_global(&mut conn, GlobalPosition::START, 10).await;
        assert_error!(read, Error::Unsupported { .. });
        assert_error!(store.global_tail(&mut conn).await, Error::Unsupported { .. });
    }
    Ok(())
}

async fn switching_on_gives_the_commits_that_are_there_their_places<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut written = write_in_turn(&db).await?;
    // A commit that is being written belongs to them.
    let mut late = db.begin().await?;
    let messages = events(2);
    db.store().append_messages(&mut late, &stream("late"), Offset::ZERO, &messages).await?;
    written.extend(messages.iter().map(|message| message.message_id));
    let switching = tokio::spawn({
        let db = db.clone();
        async move { DB::set_up(db.pool(), Mode::MysqlOrdered).await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!switching.is_finished(), "it waits for the open transaction");
    late.commit().await?;
    switching.await??;
    DB::set_up(db.pool(), Mode::MysqlOrdered).await?;

    let (store, mut tx, messages) = (ordered::<DB>(), db.begin().await?, events(1));
    store.append_messages(&mut tx, &stream("late"), Offset::of(2), &messages).await?;
    written.extend(messages.iter().map(|message| message.message_id));
    tx.commit().await?;
    let found = store.read_global(&mut *db.conn().await?, GlobalPosition::START, 1000).await?;
    assert_order(&found);
    assert_eq!(ids(&found), written);
    Ok(())
}

async fn a_store_that_does_not_agree_with_its_database_refuses_to_write<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (name, messages) = (stream("a"), events(1));
    let mut tx = db.begin().await?;
    let early = ordered::<DB>().append_messages(&mut tx, &name, Offset::ZERO, &messages).await;
    assert_error!(early, Error::Unsupported { .. });
    tx.rollback().await?;
    assert_eq!(db.events(&name).await?, None);

    DB::set_up(db.pool(), Mode::MysqlOrdered).await?;
    assert_error!(db.append(&name, 0, &messages).await, Error::Unsupported { .. });
    let mut tx = db.begin().await?;
    ordered::<DB>().append_messages(&mut tx, &name, Offset::ZERO, &messages).await?;
    tx.commit().await?;
    assert_eq!(ordered::<DB>().read_global(&mut *db.conn().await?, GlobalPosition::START, 10).await?.len(), 1);
    Ok(())
}
