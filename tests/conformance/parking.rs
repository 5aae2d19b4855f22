//! An instance that keeps failing is parked with its messages, and holds up no other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::ensure;
use sagastore::{
    Envelope, Error, Handling, InstanceId, MAX_PARKED_ERROR_BYTES, MessageHandler, ParkAfter, ParkedFilter,
    ParkedMessage, Retried, discard_parked, parked_messages,
};

use crate::harness::booking::{Booking, book, call, close, fragile, number_key, remark, renumber};
use crate::harness::{Clause, Subject, TestDb, assert_error, clauses};

clauses! {
    a_message_that_keeps_failing_is_parked_with_its_error: BASIC_AND_ORDERED,
    later_messages_of_the_instance_wait_behind_and_others_go_on: BASIC_AND_ORDERED,
    retrying_handles_what_is_parked_in_order: BASIC_AND_ORDERED,
    retrying_stops_at_the_first_that_fails_again: BASIC,
    a_parked_message_that_the_saga_knows_no_more_stays_parked: BASIC,
    a_discarded_message_is_never_handled_and_those_behind_move_up: BASIC,
    a_parked_message_is_parked_once_however_often_it_comes: BASIC,
    a_failed_start_is_parked_under_the_key_by_which_it_came: BASIC,
    a_message_that_was_handled_before_is_not_parked: BASIC,
    a_start_that_is_given_up_gives_up_its_key: BASIC,
    a_parked_message_whose_instance_has_gone_is_told,
    what_can_be_tried_again_elsewhere_is_not_parked,
    messages_wait_their_turn_while_parked_ones_are_retried: SEVERAL_CONNECTIONS,
    two_who_retry_at_once_handle_each_message_once: SEVERAL_CONNECTIONS,
    parked_messages_are_listed_page_by_page,
    a_damaged_instance_is_parked,
    an_error_text_is_kept_up_to_its_limit,
}

const AT_ONCE: ParkAfter = ParkAfter { tries: 1, delay: Duration::ZERO };

struct Site<DB: Subject> {
    db: TestDb<DB>,
    handler: MessageHandler<Booking, DB>,
    broken: Arc<AtomicBool>,
    calls: Arc<std::sync::atomic::AtomicU32>,
}

impl<DB: Subject> Site<DB> {
    fn new(db: &TestDb<DB>, key: bool, park_after: ParkAfter) -> Self {
        let saga = Booking::default();
        let handler = if key { db.keyed(&saga) } else { db.direct(&saga) };
        let handler = handler.park_after(park_after);
        Self { db: db.clone(), handler, broken: saga.broken, calls: saga.calls }
    }

    fn break_saga(&self, broken: bool) {
        self.broken.store(broken, Ordering::Relaxed);
    }

    async fn handle(&self, message: &Envelope) -> sagastore::Result<Handling> {
        self.handler.handle(self.db.pool(), message).await
    }

    async fn parked(&self) -> anyhow::Result<Vec<ParkedMessage>> {
        Ok(parked_messages::<DB>(&mut *self.db.conn().await?, ParkedFilter::default(), 100).await?)
    }

    async fn retry(&self, instance: &InstanceId) -> sagastore::Result<Retried> {
        self.handler.retry_parked(self.db.pool(), instance).await
    }
}

async fn a_message_that_keeps_failing_is_parked_with_its_error<DB: Subject>(db: TestDb<DB>) -> Clause {
    for (key, number) in [(false, "1"), (true, "2")] {
        let site = Site::new(&db, key, ParkAfter { tries: 3, delay: Duration::from_millis(1) });
        ensure!(site.handle(&book(number, number)).await?.is_handled());
        site.break_saga(true);
        let (message, calls) = (fragile(number, "a"), site.calls.load(Ordering::Relaxed));
        let before = db.footprint().await?;
        let handling = site.handle(&message).await?;
        let Handling::Parked { instance_id, error: Some(Error::Handler { source, .. }) } = handling else {
            panic!("it keeps failing: {handling:?}");
        };
        assert_eq!((source.to_string().as_str(), site.calls.load(Ordering::Relaxed)), ("it broke", calls + 3));
        assert_eq!(db.footprint().await?, before);
        let parked = site.parked().await?.pop().unwrap();
        assert_eq!((&*parked.persistence_key, &parked.instance_id, parked.tries), ("booking", &instance_id, 3));
        assert_eq!(parked.message, message);
        ensure!(parked.last_error.contains("it broke"), "{}", parked.last_error);
        ensure!(parked.parked_at.as_micros() > 0);
    }
    Ok(())
}

async fn later_messages_of_the_instance_wait_behind_and_others_go_on<DB: Subject>(db: TestDb<DB>) -> Clause {
    for (key, number, other) in [(false, "1", "2"), (true, "3", "4")] {
        let site = Site::new(&db, key, AT_ONCE);
        for number in [number, other] {
            ensure!(site.handle(&book(number, number)).await?.is_handled());
        }
        site.break_saga(true);
        ensure!(site.handle(&fragile(number, "a")).await?.is_parked());
        for note in ["b", "c"] {
            let waiting = site.handle(&remark(number, note)).await?;
            ensure!(matches!(waiting, Handling::Parked { error: None, .. }), "{waiting:?}");
            ensure!(site.handle(&remark(other, note)).await?.is_handled());
        }
        ensure!(db.notes(number).await?.is_empty());
        assert_eq!(db.notes(other).await?, ["b", "c"]);
        let tries: Vec<_> = site.parked().await?.iter().rev().take(3).rev().map(|parked| parked.tries).collect();
        assert_eq!(tries, [1, 0, 0]);
    }
    Ok(())
}

async fn retrying_handles_what_is_parked_in_order<DB: Subject>(db: TestDb<DB>) -> Clause {
    for (key, number) in [(false, "1"), (true, "2")] {
        let site = Site::new(&db, key, AT_ONCE);
        ensure!(site.handle(&book(number, number)).await?.is_handled());
        site.break_saga(true);
        let (failing, waiting) = (fragile(number, "a"), remark(number, "b"));
        for message in [&failing, &waiting, &fragile(number, "c")] {
            ensure!(site.handle(message).await?.is_parked());
        }
        let instance = site.parked().await?.pop().unwrap().instance_id;
        site.break_saga(false);
        let retried = site.retry(&instance).await?;
        assert_eq!((retried.released, retried.failed.is_none()), (3, true));
        assert_eq!(db.notes(number).await?, ["a", "b", "c"]);
        ensure!(site.parked().await?.is_empty());
        for message in [&failing, &waiting] {
            ensure!(site.handle(message).await?.is_already_handled(), "it was handled in the end");
        }
        ensure!(site.handle(&remark(number, "d")).await?.is_handled());
        assert_eq!(site.retry(&instance).await?.released, 0);
    }
    Ok(())
}

async fn retrying_stops_at_the_first_that_fails_again<DB: Subject>(db: TestDb<DB>) -> Clause {
    let site = Site::new(&db, true, AT_ONCE);
    ensure!(site.handle(&book("1", "ann")).await?.is_handled());
    site.break_saga(true);
    for message in [fragile("1", "a"), remark("1", "b")] {
        ensure!(site.handle(&message).await?.is_parked());
    }
    let instance = site.parked().await?.pop().unwrap().instance_id;
    for round in 2..4 {
        let before = db.footprint().await?;
        let retried = site.retry(&instance).await?;
        assert_eq!(retried.released, 0);
        ensure!(matches!(retried.failed, Some(Error::Handler { .. })));
        let tries: Vec<_> = site.parked().await?.iter().map(|parked| parked.tries).collect();
        assert_eq!((tries, db.footprint().await?), (vec![round, 0], before));
    }
    Ok(())
}

async fn a_discarded_message_is_never_handled_and_those_behind_move_up<DB: Subject>(db: TestDb<DB>) -> Clause {
    let site = Site::new(&db, false, AT_ONCE);
    ensure!(site.handle(&book("1", "ann")).await?.is_handled());
    site.break_saga(true);
    for message in [fragile("1", "a"), remark("1", "b")] {
        ensure!(site.handle(&message).await?.is_parked());
    }
    let parked = site.parked().await?;
    for commits in [false, true] {
        let mut tx = db.begin().await?;
        ensure!(discard_parked(&mut tx, parked[0].id).await?);
        if commits {
            db.commit(tx).await?
        } else {
            db.roll_back(tx).await?
        }
        assert_eq!(site.parked().await?.len(), if commits { 1 } else { 2 });
    }
    let mut tx = db.begin().await?;
    ensure!(!discard_parked(&mut tx, parked[0].id).await?);
    db.commit(tx).await?;
    assert_eq!(site.retry(&parked[0].instance_id).await?.released, 1);
    assert_eq!(db.notes("1").await?, ["b"]);
    Ok(())
}

async fn a_parked_message_is_parked_once_however_often_it_comes<DB: Subject>(db: TestDb<DB>) -> Clause {
    for (key, number) in [(false, "1"), (true, "2")] {
        let site = Site::new(&db, key, AT_ONCE);
        let before = site.parked().await?.len();
        ensure!(site.handle(&book(number, number)).await?.is_handled());
        site.break_saga(true);
        let (failing, waiting) = (fragile(number, "a"), remark(number, "b"));
        for message in [&failing, &failing, &waiting, &waiting, &failing] {
            ensure!(site.handle(message).await?.is_parked());
        }
        assert_eq!(site.parked().await?.len(), before + 2);
    }
    Ok(())
}

async fn a_failed_start_is_parked_under_the_key_by_which_it_came<DB: Subject>(db: TestDb<DB>) -> Clause {
    let site = Site::new(&db, true, AT_ONCE);
    ensure!(site.handle(&book("1", "ann")).await?.is_handled());
    // Its number is free, and its customer is another's.
    let (start, note) = (book("2", "ann"), remark("2", "a"));
    let handling = site.handle(&start).await?;
    let Handling::Parked { instance_id, error: Some(Error::KeyHeld { .. }) } = handling else {
        panic!("it cannot start: {handling:?}");
    };
    let waiting = site.handle(&note).await?;
    ensure!(matches!(&waiting, Handling::Parked { instance_id: id, error: None } if *id == instance_id), "{waiting:?}");
    ensure!(site.handle(&close("1")).await?.is_handled());
    assert_eq!(site.retry(&instance_id).await?.released, 2);
    assert_eq!(db.notes("2").await?, ["a"]);
    assert_eq!(db.state(&Booking::default(), instance_id.as_str()).await?.unwrap().1, 2, "under that very id");
    ensure!(site.handle(&call("ann", "b")).await?.is_handled());
    Ok(())
}

async fn a_message_that_was_handled_before_is_not_parked<DB: Subject>(db: TestDb<DB>) -> Clause {
    for (key, number) in [(false, "1"), (true, "2")] {
        let (site, start) = (Site::new(&db, key, AT_ONCE), book(number, number));
        ensure!(site.handle(&start).await?.is_handled());
        site.break_saga(true);
        ensure!(site.handle(&fragile(number, "a")).await?.is_parked());
        let parked = site.parked().await?.len();
        ensure!(site.handle(&start).await?.is_already_handled());
        assert_eq!(site.parked().await?.len(), parked);
    }
    Ok(())
}

async fn a_start_that_is_given_up_gives_up_its_key<DB: Subject>(db: TestDb<DB>) -> Clause {
    let site = Site::new(&db, true, AT_ONCE);
    ensure!(site.handle(&book("1", "ann")).await?.is_handled());
    for message in [book("2", "ann"), remark("2", "a")] {
        ensure!(site.handle(&message).await?.is_parked());
    }
    for (left, parked) in site.parked().await?.into_iter().enumerate() {
        assert_eq!(db.holder(&number_key("2")).await?, Some(parked.instance_id), "it is kept for the next message");
        let mut tx = db.begin().await?;
        ensure!(discard_parked(&mut tx, parked.id).await?);
        db.commit(tx).await?;
        assert_eq!(db.holder(&number_key("2")).await?.is_some(), left == 0);
    }
    ensure!(site.handle(&renumber("1", "2")).await?.is_handled(), "another may have it");
    Ok(())
}

async fn a_parked_message_whose_instance_has_gone_is_told<DB: Subject>(db: TestDb<DB>) -> Clause {
    let site = Site::new(&db, true, AT_ONCE);
    ensure!(site.handle(&book("1", "ann")).await?.is_handled());
    site.break_saga(true);
    for message in [fragile("1", "a"), close("1"), remark("1", "b")] {
        ensure!(site.handle(&message).await?.is_parked());
    }
    let instance = site.parked().await?.pop().unwrap().instance_id;
    site.break_saga(false);
    let strict = site.handler.clone().error_if_not_found();
    let retried = strict.retry_parked(db.pool(), &instance).await?;
    ensure!(matches!(retried.failed, Some(Error::InstanceNotFound { .. })), "{retried:?}");
    assert_eq!((retried.released, site.parked().await?.pop().unwrap().tries), (2, 1));
    assert_eq!(site.retry(&instance).await?.released, 1, "passed over");
    Ok(())
}

async fn what_can_be_tried_again_elsewhere_is_not_parked<DB: Subject>(db: TestDb<DB>) -> Clause {
    let site = Site::new(&db, false, AT_ONCE);
    let strict = site.handler.clone().error_if_not_found();
    assert_error!(strict.handle(db.pool(), &remark("1", "a")).await, Error::InstanceNotFound { .. });
    db.sql("ALTER TABLE saga_commit RENAME TO saga_commit_away").await?;
    let failed = site.handle(&book("1", "ann")).await;
    db.sql("ALTER TABLE saga_commit_away RENAME TO saga_commit").await?;
    assert_error!(failed, Error::SchemaMissing { .. });
    ensure!(site.parked().await?.is_empty());
    let bad = Envelope::new(sagastore::MessageKind::Command, "Book", 1, "application/json", "{")?;
    assert_error!(site.handle(&bad).await, Error::UndecodableMessage { .. });
    ensure!(site.parked().await?.is_empty(), "nobody knows for which instance it is");
    Ok(())
}

/// New messages come while parked ones are handled: they wait behind, or are handled after the last of them.
async fn messages_wait_their_turn_while_parked_ones_are_retried<DB: Subject>(db: TestDb<DB>) -> Clause {
    for (key, number) in [(false, "1"), (true, "2")] {
        let site = Arc::new(Site::new(&db, key, AT_ONCE));
        ensure!(site.handle(&book(number, number)).await?.is_handled());
        site.break_saga(true);
        ensure!(site.handle(&fragile(number, "0")).await?.is_parked());
        let instance = site.parked().await?.pop().unwrap().instance_id;
        for n in 1..5 {
            ensure!(site.handle(&remark(number, n.to_string())).await?.is_parked());
        }
        site.break_saga(false);
        let coming = tokio::spawn({
            let (site, number) = (Arc::clone(&site), number.to_owned());
            async move {
                for n in 5..25 {
                    let handling = site.handle(&remark(&number, n.to_string())).await?;
                    ensure!(handling.is_handled() || handling.is_parked(), "{handling:?}");
                }
                anyhow::Ok(())
            }
        });
        let _ = site.retry(&instance).await?;
        coming.await??;
        ensure!(site.parked().await?.is_empty(), "what was parked meanwhile was handled too");
        let expected: Vec<_> = (0..25).map(|n| n.to_string()).collect();
        assert_eq!(db.notes(number).await?, expected);
    }
    Ok(())
}

async fn two_who_retry_at_once_handle_each_message_once<DB: Subject>(db: TestDb<DB>) -> Clause {
    let site = Arc::new(Site::new(&db, true, AT_ONCE));
    ensure!(site.handle(&book("1", "ann")).await?.is_handled());
    site.break_saga(true);
    for n in 0..10 {
        ensure!(site.handle(&fragile("1", &n.to_string())).await?.is_parked());
    }
    let instance = site.parked().await?.pop().unwrap().instance_id;
    site.break_saga(false);
    let tasks = (0..3).map(|_| {
        let (site, instance) = (Arc::clone(&site), instance.clone());
        tokio::spawn(async move { site.retry(&instance).await })
    });
    let mut released = 0;
    for task in tasks.collect::<Vec<_>>() {
        released += task.await??.released;
    }
    assert_eq!(released, 10);
    assert_eq!(db.notes("1").await?, (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
    Ok(())
}

async fn parked_messages_are_listed_page_by_page<DB: Subject>(db: TestDb<DB>) -> Clause {
    let site = Site::new(&db, false, AT_ONCE);
    for number in ["1", "2", "3"] {
        ensure!(site.handle(&book(number, number)).await?.is_handled());
    }
    site.break_saga(true);
    for n in 0..4 {
        for number in ["1", "2", "3"] {
            ensure!(site.handle(&fragile(number, &n.to_string())).await?.is_parked());
        }
    }
    let mut conn = db.conn().await?;
    let (mut after, mut ids) = (None, Vec::new());
    loop {
        let filter = ParkedFilter { persistence_key: Some("booking"), after, ..ParkedFilter::default() };
        let page = parked_messages::<DB>(&mut conn, filter, 5).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        ids.extend(page.iter().map(|parked| parked.id));
    }
    ensure!(ids.len() == 12 && ids.is_sorted());
    let one = InstanceId::new("2")?;
    let filter = ParkedFilter { instance_id: Some(&one), ..ParkedFilter::default() };
    let of_one = parked_messages::<DB>(&mut conn, filter, 100).await?;
    ensure!(of_one.len() == 4 && of_one.iter().all(|parked| parked.instance_id == one));
    let other = ParkedFilter { persistence_key: Some("Booking"), ..ParkedFilter::default() };
    ensure!(parked_messages::<DB>(&mut conn, other, 100).await?.is_empty());
    Ok(())
}

async fn a_damaged_instance_is_parked<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_damage();
    let site = Site::new(&db, false, AT_ONCE);
    ensure!(site.handle(&book("1", "ann")).await?.is_handled());
    db.sql("UPDATE saga_commit SET checksum = checksum + 1").await?;
    let handling = site.handle(&remark("1", "a")).await?;
    ensure!(matches!(handling, Handling::Parked { error: Some(Error::Corrupt { .. }), .. }), "{handling:?}");
    db.sql("UPDATE saga_commit SET checksum = checksum - 1").await?;
    assert_eq!(site.retry(&InstanceId::new("1")?).await?.released, 1);
    assert_eq!(db.notes("1").await?, ["a"]);
    Ok(())
}

async fn an_error_text_is_kept_up_to_its_limit<DB: Subject>(db: TestDb<DB>) -> Clause {
    use sagastore::{Cause, InTransaction, UnitOfWork};
    struct Wordy;
    #[async_trait::async_trait]
    impl<DB: Subject> InTransaction<Booking, DB> for Wordy {
        async fn run(
            &self,
            _: &mut sqlx::Transaction<'_, DB>,
            _: &mut UnitOfWork<'_, Booking>,
            _: &Envelope,
        ) -> Result<(), Cause> {
            Err(format!("a\0b{}", "é".repeat(5_000)).into())
        }
    }
    let site = Site::new(&db, false, AT_ONCE);
    let wordy = site.handler.clone().in_transaction(Wordy);
    ensure!(wordy.handle(db.pool(), &book("1", "ann")).await?.is_parked());
    let kept = site.parked().await?.pop().unwrap().last_error;
    ensure!(kept.len() <= MAX_PARKED_ERROR_BYTES && kept.len() > MAX_PARKED_ERROR_BYTES - 4 && kept.contains("éé"));
    ensure!(!kept.contains('\0'));
    Ok(())
}

/// It was taken for somebody else's, and released without an effect.
async fn a_parked_message_that_the_saga_knows_no_more_stays_parked<DB: Subject>(db: TestDb<DB>) -> Clause {
    let site = Site::new(&db, false, AT_ONCE);
    ensure!(site.handle(&book("1", "ann")).await?.is_handled());
    site.break_saga(true);
    ensure!(site.handle(&fragile("1", "a")).await?.is_parked());
    site.break_saga(false);
    let parked = site.parked().await?.pop().unwrap();
    // As if the message had another name when it was parked.
    db.sql("UPDATE saga_parked_message SET contents = REPLACE(contents, '\"Fragile\"', '\"Delicate\"')").await?;
    ensure!(&*site.parked().await?.pop().unwrap().message.type_name == "Delicate");
    let retried = site.retry(&parked.instance_id).await?;
    assert_eq!(retried.released, 0);
    assert_error!(retried.failed.map_or(Ok(()), Err), Error::UndecodableMessage { type_name, .. } if type_name == "Delicate");
    assert_eq!(site.parked().await?.len(), 1);
    ensure!(db.notes("1").await?.is_empty());
    Ok(())
}
