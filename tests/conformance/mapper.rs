//! Instances are found by their keys, which follow from their states.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::ensure;
use async_trait::async_trait;
use sagastore::{
    CorrelationKey, Envelope, Error, Handling, Instance, InstanceId, KeySet, MAX_CORRELATION_KEYS, Mapped, Mapper,
    MessageHandler,
};
use sqlx::Transaction;

use crate::harness::booking::{
    Booking, BookingData, BookingMessage, book, call, close, customer_key, number_key, remark, renumber,
};
use crate::harness::{Clause, Subject, TestDb, assert_error, clauses};

clauses! {
    an_instance_is_found_by_each_of_its_keys: BASIC,
    keys_change_with_the_state_in_the_same_transaction: BASIC,
    a_key_belongs_to_one_instance: BASIC,
    a_completed_instance_gives_up_its_keys: BASIC,
    an_instance_that_was_completed_beside_its_mapping_gives_up_its_keys_to_the_next_message: BASIC,
    a_message_of_a_completed_instance_does_not_start_the_next_one: BASIC,
    a_message_is_handled_once_also_when_its_key_changed_hands: BASIC,
    a_trigger_whose_instance_completes_meanwhile_starts_the_next_one: SERVERS,
    a_refresh_goes_on_after_an_instance_that_cannot_be_updated,
    keys_are_compared_byte_for_byte,
    of_many_who_start_by_one_key_at_once_one_starts: SEVERAL_CONNECTIONS,
    who_waits_for_a_start_that_is_rolled_back_starts_the_instance: SERVERS,
    starting_or_finding_by_a_key_is_one_call: BASIC,
    live_instances_get_a_new_kind_of_key,
    a_refresh_beside_messages_leaves_the_keys_of_the_last_state: SEVERAL_CONNECTIONS,
    an_instance_has_a_bounded_number_of_keys,
    what_was_handled_is_forgotten_after_its_retention,
}

async fn handle<DB: Subject>(
    db: &TestDb<DB>,
    handler: &MessageHandler<Booking, DB>,
    message: &Envelope,
) -> anyhow::Result<InstanceId> {
    match handler.handle(db.pool(), message).await? {
        Handling::Handled { instance_id, .. } => Ok(instance_id),
        other => anyhow::bail!("it was to be handled: {other:?}"),
    }
}

async fn an_instance_is_found_by_each_of_its_keys<DB: Subject>(db: TestDb<DB>) -> Clause {
    let handler = db.keyed(&Booking::default());
    let ann = handle(&db, &handler, &book("1", "ann")).await?;
    let bob = handle(&db, &handler, &book("2", "bob")).await?;
    assert_ne!(ann, bob);
    assert_eq!(handle(&db, &handler, &remark("1", "a")).await?, ann);
    assert_eq!(handle(&db, &handler, &call("ann", "b")).await?, ann);
    assert_eq!(handle(&db, &handler, &call("bob", "c")).await?, bob);
    assert_eq!(handle(&db, &handler, &book("1", "carl")).await?, ann, "a trigger finds what is there");
    assert_eq!(db.notes("1").await?, ["a", "b", "again by carl"]);
    assert_eq!(db.notes("2").await?, ["c"]);
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_correlation_key").await?, 4);
    Ok(())
}

async fn keys_change_with_the_state_in_the_same_transaction<DB: Subject>(db: TestDb<DB>) -> Clause {
    let handler = db.keyed(&Booking::default());
    let ann = handle(&db, &handler, &book("1", "ann")).await?;
    let mut tx = db.begin().await?;
    ensure!(handler.handle_in(&mut tx, &renumber("1", "2")).await?.is_handled());
    assert_eq!(KeySet::<Booking>::find::<DB>(&mut tx, "booking", &number_key("2")).await?, Some(ann.clone()));
    db.roll_back(tx).await?;
    assert_eq!((db.holder(&number_key("1")).await?, db.holder(&number_key("2")).await?), (Some(ann.clone()), None));

    assert_eq!(handle(&db, &handler, &renumber("1", "2")).await?, ann);
    assert_eq!((db.holder(&number_key("1")).await?, db.holder(&number_key("2")).await?), (None, Some(ann.clone())));
    assert_eq!(db.holder(&customer_key("ann")).await?, Some(ann.clone()));
    ensure!(matches!(handler.handle(db.pool(), &remark("1", "a")).await?, Handling::NotFound));
    assert_eq!(handle(&db, &handler, &remark("2", "b")).await?, ann);
    let other = handle(&db, &handler, &book("1", "bob")).await?;
    assert_ne!(other, ann, "the key is free for another");
    Ok(())
}

async fn a_key_belongs_to_one_instance<DB: Subject>(db: TestDb<DB>) -> Clause {
    let handler = db.keyed(&Booking::default());
    let ann = handle(&db, &handler, &book("1", "ann")).await?;
    let bob = handle(&db, &handler, &book("2", "bob")).await?;
    let before = db.footprint().await?;
    let held = |found: &InstanceId, key: &str, expected: &InstanceId| found == expected && key == "number/1";
    assert_error!(
        handler.handle(db.pool(), &renumber("2", "1")).await,
        Error::KeyHeld { saga, instance, key } if saga == "booking" && held(&instance, &key, &bob)
    );
    assert_error!(
        handler.handle(db.pool(), &book("3", "ann")).await,
        Error::KeyHeld { key, .. } if key == "customer/ann"
    );
    let mut tx = db.begin().await?;
    assert_error!(handler.handle_in(&mut tx, &renumber("2", "1")).await, Error::KeyHeld { .. });
    ensure!(handler.handle_in(&mut tx, &renumber("2", "4")).await?.is_handled(), "the transaction is still usable");
    db.commit(tx).await?;
    assert_eq!(db.footprint().await?.commits, before.commits + 1, "of those that failed nothing is stored");
    assert_eq!(db.holder(&number_key("1")).await?, Some(ann));
    assert_eq!((db.holder(&number_key("2")).await?, db.holder(&number_key("3")).await?), (None, None));
    assert_eq!(db.holder(&number_key("4")).await?, Some(bob));
    Ok(())
}

async fn a_completed_instance_gives_up_its_keys<DB: Subject>(db: TestDb<DB>) -> Clause {
    let handler = db.keyed(&Booking::default());
    let first = handle(&db, &handler, &book("1", "ann")).await?;
    assert_eq!(handle(&db, &handler, &close("1")).await?, first);
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_correlation_key").await?, 0);
    ensure!(matches!(handler.handle(db.pool(), &remark("1", "a")).await?, Handling::NotFound));
    let second = handle(&db, &handler, &book("1", "ann")).await?;
    assert_ne!(second, first, "a new instance, not the old one again");
    assert_eq!(db.state(&Booking::default(), first.as_str()).await?.unwrap().1, 2);
    Ok(())
}

async fn a_message_of_a_completed_instance_does_not_start_the_next_one<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (handler, start) = (db.keyed(&Booking::default()), book("1", "ann"));
    handle(&db, &handler, &start).await?;
    handle(&db, &handler, &close("1")).await?;
    ensure!(handler.handle(db.pool(), &start).await?.is_already_handled());
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_stream").await?, 1);
    Ok(())
}

async fn a_message_is_handled_once_also_when_its_key_changed_hands<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (handler, note) = (db.keyed(&Booking::default()), remark("1", "for the first"));
    handle(&db, &handler, &book("1", "ann")).await?;
    handle(&db, &handler, &note).await?;
    handle(&db, &handler, &renumber("1", "2")).await?;
    handle(&db, &handler, &book("1", "bob")).await?;
    ensure!(handler.handle(db.pool(), &note).await?.is_already_handled());
    assert_eq!((db.notes("2").await?.len(), db.notes("1").await?.len()), (1, 0));
    Ok(())
}

/// Completes the instance that was found, once, before anything is done with it.
struct Completing<DB: Subject> {
    db: TestDb<DB>,
    keys: KeySet<Booking>,
    done: AtomicBool,
}

#[async_trait]
impl<DB: Subject> Mapper<Booking, DB> for Completing<DB> {
    async fn map(
        &self,
        tx: &mut Transaction<'_, DB>,
        saga: &Booking,
        message: &BookingMessage,
        envelope: &Envelope,
        trigger: bool,
    ) -> sagastore::Result<Mapped> {
        let mapped = self.keys.map(tx, saga, message, envelope, trigger).await?;
        if !self.done.swap(true, Ordering::Relaxed) {
            let closed = self.db.keyed(saga).handle(self.db.pool(), &close("1")).await?;
            assert!(closed.is_handled(), "{closed:?}");
        }
        Ok(mapped)
    }

    async fn update(
        &self,
        tx: &mut Transaction<'_, DB>,
        saga: &Booking,
        instance: &Instance<BookingData>,
        completed: bool,
    ) -> sagastore::Result<()> {
        self.keys.update(tx, saga, instance, completed).await
    }
}

async fn a_trigger_whose_instance_completes_meanwhile_starts_the_next_one<DB: Subject>(db: TestDb<DB>) -> Clause {
    let first = handle(&db, &db.keyed(&Booking::default()), &book("1", "ann")).await?;
    let keys = KeySet::new(
        |message: &BookingMessage| match message {
            BookingMessage::Book { number, .. } => Ok(Some(number_key(number))),
            _ => Ok(None),
        },
        |data: &BookingData| Ok(vec![number_key(&data.number)]),
    );
    let completing = Completing { db: db.clone(), keys, done: AtomicBool::new(false) };
    let handler = MessageHandler::mapped(Booking::default(), db.persister(), completing)?;
    let second = handle(&db, &handler, &book("1", "bob")).await?;
    assert_ne!(second, first);
    assert_eq!(db.state(&Booking::default(), second.as_str()).await?.unwrap().0.customer, "bob");
    Ok(())
}

async fn a_refresh_goes_on_after_an_instance_that_cannot_be_updated<DB: Subject>(db: TestDb<DB>) -> Clause {
    let both = Arc::new(AtomicBool::new(false));
    let handler = later_by_customer(&db, &both);
    for (number, customer) in [("1", "ann"), ("2", "ann"), ("3", "bob")] {
        handle(&db, &handler, &book(number, customer)).await?;
    }
    both.store(true, Ordering::Relaxed);
    let refreshed = handler.refresh_mapping(db.pool()).await?;
    assert_eq!((refreshed.updated, refreshed.failed, refreshed.failures.len()), (2, 1, 1));
    ensure!(matches!(&refreshed.failures[0].1, Error::KeyHeld { key, .. } if key == "customer/ann"));
    ensure!(db.holder(&customer_key("bob")).await?.is_some());
    Ok(())
}

async fn keys_are_compared_byte_for_byte<DB: Subject>(db: TestDb<DB>) -> Clause {
    let handler = db.keyed(&Booking::default());
    let long = "x".repeat(480);
    let numbers = ["a", "A", "á", "a\u{301}", "a ", " a", "a/", "a%", "' OR 1=1 --", "a\\", "\u{1F600}", &long];
    let mut ids = std::collections::HashSet::new();
    for number in numbers {
        ensure!(ids.insert(handle(&db, &handler, &book(number, number)).await?), "{number:?} found another instance");
    }
    for number in numbers {
        let id = handle(&db, &handler, &remark(number, number)).await?;
        assert_eq!(db.state(&Booking::default(), id.as_str()).await?.unwrap().0.number, number);
    }
    Ok(())
}

async fn of_many_who_start_by_one_key_at_once_one_starts<DB: Subject>(db: TestDb<DB>) -> Clause {
    for round in 0..5 {
        let number = round.to_string();
        let tasks = (0..8).map(|_| {
            let (handler, db, message) = (db.keyed(&Booking::default()), db.clone(), book(&number, &number));
            tokio::spawn(async move { handle(&db, &handler, &message).await })
        });
        let mut ids = std::collections::HashSet::new();
        for task in tasks.collect::<Vec<_>>() {
            ids.insert(task.await??);
        }
        assert_eq!((ids.len(), db.notes(&number).await?.len()), (1, 7));
    }
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_stream").await?, 5);
    Ok(())
}

async fn who_waits_for_a_start_that_is_rolled_back_starts_the_instance<DB: Subject>(db: TestDb<DB>) -> Clause {
    let handler = db.keyed(&Booking::default());
    let mut tx = db.begin().await?;
    ensure!(handler.handle_in(&mut tx, &book("1", "ann")).await?.is_handled());
    let waiting = tokio::spawn({
        let (handler, db) = (handler.clone(), db.clone());
        async move { handle(&db, &handler, &book("1", "ann")).await }
    });
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    ensure!(!waiting.is_finished(), "it waits for the other's end");
    db.roll_back(tx).await?;
    let id = waiting.await??;
    assert_eq!(db.holder(&number_key("1")).await?, Some(id.clone()));
    assert_eq!(db.state(&Booking::default(), id.as_str()).await?.unwrap().1, 1);
    Ok(())
}

async fn starting_or_finding_by_a_key_is_one_call<DB: Subject>(db: TestDb<DB>) -> Clause {
    let key = CorrelationKey::of(["customer", "ann", "2024-02-29"])?;
    let mut tx = db.begin().await?;
    let id = KeySet::<Booking>::start_or_find(&mut tx, "booking", &key).await?;
    assert_eq!(KeySet::<Booking>::start_or_find(&mut tx, "booking", &key).await?, id);
    assert_ne!(KeySet::<Booking>::start_or_find(&mut tx, "another", &key).await?, id, "each saga has its own keys");
    db.commit(tx).await?;
    let mut tx = db.begin().await?;
    assert_eq!(KeySet::<Booking>::start_or_find(&mut tx, "booking", &key).await?, id);
    db.roll_back(tx).await.map_err(Into::into)
}

/// Bookings that were first found by number alone, and then also by customer.
fn later_by_customer<DB: Subject>(db: &TestDb<DB>, also_by_customer: &Arc<AtomicBool>) -> MessageHandler<Booking, DB> {
    let both = Arc::clone(also_by_customer);
    let keys = KeySet::new(
        |message: &BookingMessage| match message {
            BookingMessage::Call { customer, .. } => CorrelationKey::of(["customer", customer]).map(Some),
            BookingMessage::Book { number, .. }
            | BookingMessage::Close { number }
            | BookingMessage::Renumber { number, .. } => CorrelationKey::of(["number", number]).map(Some),
            _ => Ok(None),
        },
        move |data: &BookingData| {
            let mut keys = vec![number_key(&data.number)];
            keys.extend(both.load(Ordering::Relaxed).then(|| customer_key(&data.customer)));
            Ok(keys)
        },
    );
    MessageHandler::mapped(Booking::default(), db.persister(), keys).unwrap()
}

async fn live_instances_get_a_new_kind_of_key<DB: Subject>(db: TestDb<DB>) -> Clause {
    let both = Arc::new(AtomicBool::new(false));
    let handler = later_by_customer(&db, &both);
    for n in 0..120 {
        handle(&db, &handler, &book(&n.to_string(), &format!("c{n}"))).await?;
    }
    handle(&db, &handler, &close("7")).await?;
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_correlation_key").await?, 119);
    both.store(true, Ordering::Relaxed);
    ensure!(matches!(handler.handle(db.pool(), &call("c3", "a")).await?, Handling::NotFound));
    let sent = db.outbox().await?.len();
    assert_eq!(handler.refresh_mapping(db.pool()).await?.updated, 119);
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_correlation_key").await?, 2 * 119);
    let id = handle(&db, &handler, &call("c3", "a")).await?;
    assert_eq!(db.state(&Booking::default(), id.as_str()).await?.unwrap().0.number, "3");
    assert_eq!(handler.refresh_mapping(db.pool()).await?.updated, 119, "it can be done again");
    assert_eq!(db.outbox().await?.len(), sent + 2, "it sends nothing");
    assert_eq!(db.direct(&Booking::default()).refresh_mapping(db.pool()).await?.updated, 0);
    Ok(())
}

async fn a_refresh_beside_messages_leaves_the_keys_of_the_last_state<DB: Subject>(db: TestDb<DB>) -> Clause {
    let handler = db.keyed(&Booking::default());
    let id = handle(&db, &handler, &book("0", "ann")).await?;
    let renumbering = tokio::spawn({
        let (handler, db) = (handler.clone(), db.clone());
        async move {
            for n in 0..30 {
                handle(&db, &handler, &renumber(&n.to_string(), &(n + 1).to_string())).await?;
            }
            anyhow::Ok(())
        }
    });
    let mut refreshed = 0;
    while !renumbering.is_finished() {
        refreshed += handler.refresh_mapping(db.pool()).await?.updated;
    }
    renumbering.await??;
    ensure!(refreshed > 0);
    assert_eq!(db.holder(&number_key("30")).await?, Some(id));
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_correlation_key").await?, 2, "no key of an older state is left");
    Ok(())
}

async fn an_instance_has_a_bounded_number_of_keys<DB: Subject>(db: TestDb<DB>) -> Clause {
    let keys = |count: usize| {
        KeySet::new(
            |message: &BookingMessage| match message {
                BookingMessage::Book { number, .. } => CorrelationKey::of([number]).map(Some),
                _ => Ok(None),
            },
            move |_: &BookingData| (0..count).map(|n| CorrelationKey::of([n.to_string()])).collect(),
        )
    };
    let most = MessageHandler::mapped(Booking::default(), db.persister(), keys(MAX_CORRELATION_KEYS))?;
    let more = MessageHandler::mapped(Booking::default(), db.persister(), keys(MAX_CORRELATION_KEYS + 1))?;
    assert_error!(more.handle(db.pool(), &book("0", "ann")).await, Error::TooLarge { size: 101, limit: 100, .. });
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_correlation_key").await?, 0);
    handle(&db, &most, &book("0", "ann")).await?;
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_correlation_key").await?, i64::try_from(MAX_CORRELATION_KEYS)?);
    Ok(())
}

async fn what_was_handled_is_forgotten_after_its_retention<DB: Subject>(db: TestDb<DB>) -> Clause {
    let handler = db.keyed(&Booking::default());
    for n in 0..4 {
        handle(&db, &handler, &book(&n.to_string(), &n.to_string())).await?;
    }
    assert_eq!(handler.forget(db.pool(), std::time::Duration::from_secs(3600)).await?, 0);
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    assert_eq!(handler.forget(db.pool(), std::time::Duration::ZERO).await?, 4);
    Ok(())
}

/// Its keys led to it for ever, and every later trigger was passed over.
async fn an_instance_that_was_completed_beside_its_mapping_gives_up_its_keys_to_the_next_message<DB: Subject>(
    db: TestDb<DB>,
) -> Clause {
    let handler = db.keyed(&Booking::default());
    let first = handle(&db, &handler, &book("1", "ann")).await?;
    let closed = db.direct(&Booking::default()).handle(db.pool(), &close(first.as_str())).await?;
    ensure!(closed.is_handled(), "{closed:?}");
    assert_eq!(db.holder(&number_key("1")).await?, Some(first.clone()));
    ensure!(matches!(handler.handle(db.pool(), &remark("1", "late")).await?, Handling::NotFound));
    let second = handle(&db, &handler, &book("1", "ann")).await?;
    assert_ne!(second, first);
    assert_eq!(
        (db.holder(&number_key("1")).await?, db.holder(&customer_key("ann")).await?),
        (Some(second.clone()), Some(second.clone()))
    );
    assert_eq!(handle(&db, &handler, &remark("1", "a")).await?, second);
    let mut tx = db.begin().await?;
    ensure!(handler.handle_in(&mut tx, &remark("1", "b")).await?.is_handled());
    db.commit(tx).await?;
    assert_eq!(db.notes("1").await?, ["a", "b"]);
    Ok(())
}
