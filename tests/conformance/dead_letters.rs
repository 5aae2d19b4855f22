//! What becomes of messages that ran out of attempts.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sagastore::dispatcher::Dispatcher;
use sagastore::{DeadLetter, DeadLetters, NewOutboxRecord, OutboxRepository, Result, Timestamp};
use sqlx::Transaction;

use crate::harness::sample::{Counter, added, event, event_of, numbers};
use crate::harness::{Clause, Kind, Sent, Subject, TestDb, amount, attempts, clauses, quick};

clauses! {
    a_message_that_fails_holds_up_its_stream_and_no_other,
    dead_letters_are_listed_in_delivery_order,
    a_damaged_one_hides_no_other,
    names_that_are_no_text_hide_no_dead_letter: SQLITE_FILE,
    large_ones_are_listed_a_few_at_a_time,
    a_whole_stream_or_all_are_retried,
    what_is_discarded_lets_the_rest_pass,
    an_edited_message_is_delivered_in_its_place,
    what_waits_and_is_not_dead_is_left_alone,
    one_that_another_is_about_to_discard_hides_no_other: SERVERS,
    settling_one_waits_for_nobody_who_saves_a_record: SERVERS,
    settling_one_costs_the_same_however_many_records_wait,
    no_statement_that_settles_one_reads_all_that_waits: SQLITE_FILE,
}

/// Delivers what is not poisoned, in one attempt.
struct Fixture<DB: Subject> {
    db: TestDb<DB>,
    sent: Sent,
    poisoned: Arc<Mutex<HashSet<i64>>>,
}

impl<DB: Subject> Fixture<DB> {
    fn new(db: TestDb<DB>, poisoned: impl IntoIterator<Item = i64>) -> Self {
        db.will_relay();
        Self { db, sent: Sent::default(), poisoned: Arc::new(Mutex::new(poisoned.into_iter().collect())) }
    }

    fn dispatcher(&self, tries: u32) -> Dispatcher<DB> {
        let poisoned = Arc::clone(&self.poisoned);
        let emitter = self.sent.refusing(move |record| poisoned.lock().unwrap().contains(&amount(record)));
        self.db.dispatcher(emitter).with_settings(quick().with_retry(attempts(tries)))
    }

    async fn letters(&self) -> anyhow::Result<Vec<DeadLetter>> {
        Ok(self.db.store().dead_letters(&mut *self.db.conn().await?, None, 1000).await?)
    }

    fn cure(&self) {
        self.poisoned.lock().unwrap().clear();
    }

    async fn change<T>(
        &self,
        change: impl AsyncFnOnce(&mut Transaction<'static, DB>) -> Result<T>,
    ) -> anyhow::Result<T> {
        let mut tx = self.db.begin().await?;
        let changed = change(&mut tx).await?;
        self.db.commit(tx).await?;
        Ok(changed)
    }

    async fn retry(&self, which: DeadLetters<'_>) -> anyhow::Result<u64> {
        self.change(async |tx| self.db.store().retry_dead_letters(tx, which).await).await
    }
}

async fn a_message_that_fails_holds_up_its_stream_and_no_other<DB: Subject>(db: TestDb<DB>) -> Clause {
    for amount in 0..5 {
        db.publish(&Counter, "bad", [added(amount), added(amount + 100)]).await?;
        db.publish(&Counter, "good", [added(amount)]).await?;
    }
    let fixture = Fixture::new(db, [101]);
    let dispatcher = fixture.dispatcher(3);
    let dispatched = dispatcher.dispatch_once().await?;
    assert_eq!((dispatched.delivered, dispatched.failed, dispatched.dead), (5 + 3, 2, 1));
    assert_eq!(fixture.sent.of("good"), [0, 1, 2, 3, 4]);
    assert_eq!(fixture.sent.of("bad"), [0, 100, 1]);

    let letters = fixture.letters().await?;
    let letter = letters.first().context("no dead letter")?;
    assert_eq!((letters.len(), letter.record.attempts), (1, 3));
    ensure!(letter.last_error.contains("poison"), "{}", letter.last_error);
    assert_eq!(dispatcher.dispatch_once().await?.delivered, 0, "the stream does not wait behind its dead letter");

    // It runs out of attempts again, and has all of them again.
    assert_eq!(fixture.retry(DeadLetters::One(letter.record.id)).await?, 1);
    let dispatched = dispatcher.dispatch_once().await?;
    assert_eq!((dispatched.delivered, dispatched.failed, dispatched.dead), (0, 2, 1));
    fixture.cure();
    assert_eq!(fixture.retry(DeadLetters::One(letter.record.id)).await?, 1);
    assert_eq!(fixture.retry(DeadLetters::One(letter.record.id)).await?, 0);
    assert_eq!(dispatcher.dispatch_once().await?.delivered, 7);
    assert_eq!(fixture.sent.of("bad"), [0, 100, 1, 101, 2, 102, 3, 103, 4, 104]);
    ensure!(fixture.db.outbox().await?.is_empty() && fixture.letters().await?.is_empty());
    Ok(())
}

/// Three streams whose first message is poisoned.
async fn three<DB: Subject>(db: TestDb<DB>) -> anyhow::Result<Fixture<DB>> {
    for stream in ["a", "b", "c"] {
        db.publish(&Counter, stream, [added(666), added(1)]).await?;
        db.publish(&Counter, stream, [added(2)]).await?;
    }
    let fixture = Fixture::new(db, [666]);
    assert_eq!(fixture.dispatcher(1).dispatch_once().await?.dead, 3);
    Ok(fixture)
}

async fn dead_letters_are_listed_in_delivery_order<DB: Subject>(db: TestDb<DB>) -> Clause {
    let fixture = three(db).await?;
    let all = fixture.letters().await?;
    let of: Vec<_> = all.iter().map(|letter| letter.record.aggregate_id.as_str()).collect();
    assert_eq!(of, ["a", "b", "c"]);
    let (mut after, mut paged) = (None, Vec::new());
    loop {
        let page = fixture.db.store().dead_letters(&mut *fixture.db.conn().await?, after, 2).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.record.id);
        paged.extend(page);
    }
    assert_eq!(paged, all);
    Ok(())
}

async fn a_damaged_one_hides_no_other<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_damage();
    let fixture = three(db).await?;
    let spoilt = "UPDATE saga_outbox_message SET contents = 'x' WHERE dead_at IS NOT NULL AND aggregate_id <> 'b'";
    assert_eq!(fixture.db.sql(spoilt).await?, 2);
    let (store, mut conn) = (fixture.db.store(), fixture.db.conn().await?);
    for limit in [1, 2, 100] {
        let letters = store.dead_letters(&mut conn, None, limit).await?;
        assert_eq!(letters.iter().map(|letter| &*letter.record.aggregate_id).collect::<Vec<_>>(), ["b"]);
        ensure!(store.dead_letters(&mut conn, Some(letters[0].record.id), limit).await?.is_empty());
    }
    let first = store.damaged_dead_letters(&mut conn, None, 1).await?;
    let rest = store.damaged_dead_letters(&mut conn, Some(first[0].id), 1).await?;
    for (letter, of) in [(&first[0], "a"), (&rest[0], "c")] {
        assert_eq!((&*letter.aggregate_type, &*letter.aggregate_id, letter.attempts), ("counter", of, 1));
        ensure!(letter.last_error.contains("poison") && matches!(letter.error, sagastore::Error::Corrupt { .. }));
    }
    assert_eq!(store.stats(&mut conn).await?.dead_letters, 3);
    drop(conn);
    let one = DeadLetters::One(rest[0].id);
    assert_eq!(fixture.change(async |tx| store.discard_dead_letters(tx, one).await).await?, 1);
    assert_eq!(store.stats(&mut *fixture.db.conn().await?).await?.dead_letters, 2);
    Ok(())
}

async fn names_that_are_no_text_hide_no_dead_letter<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_damage();
    let fixture = three(db).await?;
    for column in ["aggregate_type", "aggregate_id", "contents", "last_error"] {
        let spoilt = format!(
            "UPDATE saga_outbox_message SET {column} = CAST(x'7bff7d' AS TEXT) WHERE message_no =
            (SELECT MIN(message_no) FROM saga_outbox_message WHERE dead_at IS NOT NULL)"
        );
        assert_eq!(fixture.db.sql(spoilt).await?, 1);
        let (store, mut conn) = (fixture.db.store(), fixture.db.conn().await?);
        assert_eq!(store.dead_letters(&mut conn, None, 100).await?.len(), 2, "{column}");
        let damaged = store.damaged_dead_letters(&mut conn, None, 100).await?;
        assert_eq!(damaged.len(), 1, "{column}");
    }
    Ok(())
}

async fn large_ones_are_listed_a_few_at_a_time<DB: Subject>(db: TestDb<DB>) -> Clause {
    const BYTES: usize = 3 * 1024 * 1024;
    for _ in 0..5 {
        db.save_records(&[NewOutboxRecord::new("account", "1", event_of("text/plain", vec![b'x'; BYTES]))]).await?;
    }
    db.sql("UPDATE saga_outbox_message SET attempts = 1, dead_at = 1").await?;
    let (mut conn, mut after, mut pages) = (db.conn().await?, None, Vec::new());
    loop {
        let page = db.store().dead_letters(&mut conn, after, 100).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.record.id);
        pages.push(page.len());
    }
    assert_eq!(pages, [3, 2], "as much as fits into a page, and what made it full");
    Ok(())
}

async fn a_whole_stream_or_all_are_retried<DB: Subject>(db: TestDb<DB>) -> Clause {
    let fixture = three(db).await?;
    fixture.cure();
    let b = DeadLetters::Of { aggregate_type: "counter", aggregate_id: "b" };
    assert_eq!(fixture.retry(b).await?, 1);
    assert_eq!(fixture.dispatcher(1).dispatch_once().await?.delivered, 3);
    assert_eq!(fixture.sent.of("b"), [666, 1, 2]);
    for other in [("counter", "x"), ("Counter", "a"), ("", ""), ("counter", "A")] {
        let other = DeadLetters::Of { aggregate_type: other.0, aggregate_id: other.1 };
        assert_eq!(fixture.retry(other).await?, 0);
    }
    assert_eq!(fixture.retry(DeadLetters::All).await?, 2);
    assert_eq!(fixture.dispatcher(1).dispatch_once().await?.delivered, 6);
    assert_eq!((fixture.sent.of("a"), fixture.sent.of("c")), (vec![666, 1, 2], vec![666, 1, 2]));
    Ok(())
}

async fn what_is_discarded_lets_the_rest_pass<DB: Subject>(db: TestDb<DB>) -> Clause {
    let fixture = three(db).await?;
    let one = fixture.letters().await?[0].record.id;
    let discard =
        async |which| fixture.change(async |tx| fixture.db.store().discard_dead_letters(tx, which).await).await;
    assert_eq!(discard(DeadLetters::One(one)).await?, 1);
    assert_eq!(discard(DeadLetters::One(one)).await?, 0);
    assert_eq!(fixture.dispatcher(1).dispatch_once().await?.delivered, 2);
    assert_eq!(fixture.sent.of("a"), [1, 2]);
    assert_eq!(discard(DeadLetters::Of { aggregate_type: "counter", aggregate_id: "b" }).await?, 1);
    assert_eq!(discard(DeadLetters::All).await?, 1);
    assert_eq!(fixture.dispatcher(1).dispatch_once().await?.delivered, 4);
    ensure!(fixture.db.outbox().await?.is_empty());
    Ok(())
}

async fn an_edited_message_is_delivered_in_its_place<DB: Subject>(db: TestDb<DB>) -> Clause {
    let fixture = three(db).await?;
    let letter = fixture.letters().await?.remove(0);
    let mut message = letter.record.envelope.clone();
    message.payload = br#"{"Added":{"amount":7}}"#.to_vec().into();
    let edit = async |id, message| {
        fixture.change(async |tx| fixture.db.store().edit_and_retry_dead_letter(tx, id, message).await).await
    };
    assert!(edit(letter.record.id, &message).await?);
    assert!(!edit(letter.record.id, &message).await?, "it is dead no more");
    assert_eq!(fixture.dispatcher(1).dispatch_once().await?.delivered, 3);
    assert_eq!(fixture.sent.of("a"), [7, 1, 2]);
    let first = fixture.sent.records().remove(0);
    assert_eq!((first.id, first.envelope.message_id), (letter.record.id, letter.record.envelope.message_id));
    assert_eq!(fixture.letters().await?.len(), 2);
    Ok(())
}

async fn what_waits_and_is_not_dead_is_left_alone<DB: Subject>(db: TestDb<DB>) -> Clause {
    let fixture = three(db).await?;
    fixture.db.save_records(&[NewOutboxRecord::new("counter", "a", event(5))]).await?;
    let waiting = "SELECT COUNT(*) FROM saga_outbox_message WHERE dead_at IS NULL";
    let before = fixture.db.count(waiting).await?;
    let all = fixture.change(async |tx| fixture.db.store().discard_dead_letters(tx, DeadLetters::All).await).await?;
    assert_eq!((all, fixture.db.count(waiting).await?), (3, before));
    let records = fixture.db.outbox().await?;
    assert_eq!(records.len(), 7);
    assert_eq!(numbers(&records[6..]), [5]);
    Ok(())
}

/// MariaDB found no failed message at all while a transaction was about to remove any of them: what waited behind the others was
/// delivered before them.
async fn one_that_another_is_about_to_discard_hides_no_other<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.publish(&Counter, "discarded", [added(1)]).await?;
    db.publish(&Counter, "kept", [added(2)]).await?;
    let fixture = Fixture::new(db, [1, 2]);
    assert_eq!(fixture.dispatcher(1).dispatch_once().await?.dead, 2);
    fixture.db.publish(&Counter, "kept", [added(3)]).await?;
    // Among so many that are due later, the failed ones are looked up by their index.
    let mut tx = fixture.db.begin().await?;
    for number in 0..200 {
        let mut record = NewOutboxRecord::new("later", number.to_string(), event(number));
        record.due_at = Some(Timestamp::from_micros(i64::MAX / 2));
        fixture.db.store().save(&mut tx, &[record]).await?;
    }
    fixture.db.commit(tx).await?;
    let discarded = fixture.letters().await?[0].record.id;
    let mut tx = fixture.db.begin().await?;
    assert_eq!(fixture.db.store().discard_dead_letters(&mut tx, DeadLetters::One(discarded)).await?, 1);

    let listed: Vec<_> = fixture.letters().await?.iter().map(|letter| amount(&letter.record)).collect();
    assert_eq!(listed, [1, 2]);
    assert_eq!(fixture.dispatcher(1).dispatch_once().await?.delivered, 0, "it was delivered before its turn");
    tx.rollback().await?;

    fixture.cure();
    assert_eq!(fixture.retry(DeadLetters::All).await?, 2);
    assert_eq!(fixture.dispatcher(1).dispatch_once().await?.delivered, 3);
    assert_eq!(fixture.sent.of("kept"), [2, 3]);
    Ok(())
}

/// A record that waits for long.
fn later() -> NewOutboxRecord {
    let mut record = NewOutboxRecord::new("later", "1", event(1));
    record.due_at = Some(Timestamp::from_micros(i64::MAX / 2));
    record
}

/// MariaDB read the whole slow lane, and waited for the transaction of whoever had put a record into it.
async fn settling_one_waits_for_nobody_who_saves_a_record<DB: Subject>(db: TestDb<DB>) -> Clause {
    let fixture = three(db).await?;
    let letters = fixture.letters().await?;
    let mut saving = fixture.db.begin().await?;
    fixture.db.store().save(&mut saving, &[later()]).await?;
    let settle = async {
        let store = fixture.db.store();
        let [a, b, c] = [0, 1, 2].map(|at: usize| letters[at].record.id);
        let discard = async |tx: &mut _| store.discard_dead_letters(tx, DeadLetters::One(a)).await;
        assert_eq!(fixture.change(discard).await?, 1);
        let mut message = letters[1].record.envelope.clone();
        message.payload = br#"{"Added":{"amount":7}}"#.to_vec().into();
        let edit = async |tx: &mut _| store.edit_and_retry_dead_letter(tx, b, &message).await;
        assert!(fixture.change(edit).await?);
        assert_eq!(fixture.retry(DeadLetters::One(c)).await?, 1);
        // That of the last stream is noted as failed again.
        let dispatched = fixture.dispatcher(1).dispatch_once().await?;
        assert_eq!((dispatched.delivered, dispatched.dead), (2 + 3, 1));
        let discard = async |tx: &mut _| store.discard_dead_letters(tx, DeadLetters::All).await;
        assert_eq!(fixture.change(discard).await?, 1);
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(10), settle).await.context("it waits")??;
    fixture.db.commit(saving).await?;
    Ok(())
}

/// The shortest of some tries to settle one that is gone: what else the machine does only adds to it.
async fn shortest<DB: Subject>(db: &TestDb<DB>, letter: &DeadLetter) -> anyhow::Result<Duration> {
    let (store, id, mut shortest) = (db.store(), letter.record.id, Duration::MAX);
    let mut tx = db.begin().await?;
    if DB::KIND == Kind::Postgres {
        // As it may come to do by itself, for statements that are prepared.
        DB::execute(&mut tx, "SET LOCAL plan_cache_mode = force_generic_plan".to_owned()).await?;
    }
    for _ in 0..50 {
        let began = Instant::now();
        assert!(!store.edit_and_retry_dead_letter(&mut tx, id, &letter.record.envelope).await?);
        assert_eq!(store.retry_dead_letters(&mut tx, DeadLetters::One(id)).await?, 0);
        assert_eq!(store.discard_dead_letters(&mut tx, DeadLetters::One(id)).await?, 0);
        shortest = shortest.min(began.elapsed());
    }
    db.roll_back(tx).await?;
    Ok(shortest)
}

async fn settling_one_costs_the_same_however_many_records_wait<DB: Subject>(db: TestDb<DB>) -> Clause {
    const DOUBLINGS: u32 = 15;
    db.publish(&Counter, "a", [added(666)]).await?;
    let fixture = Fixture::new(db, [666]);
    assert_eq!(fixture.dispatcher(1).dispatch_once().await?.dead, 1);
    let (letter, db) = (fixture.letters().await?.remove(0), &fixture.db);
    assert_eq!(db.sql("DELETE FROM saga_outbox_message").await?, 1);
    db.save_records(&[later()]).await?;
    let few = shortest(db, &letter).await?;
    let all = "partition_no, recorded_at, stream_id, commit_no, message_index, available_at, aggregate_type, \
        aggregate_id, contents, body";
    for time in 0..DOUBLINGS {
        let doubled = format!("INSERT INTO saga_outbox_message ({all}) SELECT {all} FROM saga_outbox_message");
        assert_eq!(db.sql(doubled).await?, 1 << time);
    }
    if DB::KIND == Kind::Postgres {
        db.sql("ANALYZE saga_outbox_message").await?;
    }
    let many = shortest(db, &letter).await?;
    db.sql("DELETE FROM saga_outbox_message").await?;
    // Looking at each would take several times as long.
    ensure!(many < 3 * few + Duration::from_millis(1), "{few:?} with one, {many:?} with 2^{DOUBLINGS}");
    Ok(())
}

/// By its plans: those of a failed delivery, a retry, a discard and an edit.
async fn no_statement_that_settles_one_reads_all_that_waits<DB: Subject>(db: TestDb<DB>) -> Clause {
    let source = include_str!("../../src/sqlite/dead_letter.rs");
    let statements: Vec<_> =
        source.split('"').filter(|text| text.starts_with("UPDATE ") || text.starts_with("DELETE ")).collect();
    assert_eq!(statements.len(), 4);
    for statement in statements {
        let plan = db.rows(format!("EXPLAIN QUERY PLAN {statement}")).await?;
        let steps: Vec<_> = plan.into_iter().filter_map(|mut row| row.pop().flatten()).collect();
        let is_whole = |step: &String| step.starts_with("SCAN") && !step.contains("INDEX saga_outbox_message_failed");
        ensure!(!steps.is_empty() && !steps.iter().any(is_whole), "{steps:?} of {statement}");
    }
    Ok(())
}
