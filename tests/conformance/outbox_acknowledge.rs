//! Acknowledging records: they leave the outbox, all others stay as they were.

use std::collections::HashSet;
use std::time::Duration;

use sagastore::{
    Begun, MessageId, NewOutboxRecord, Outbox, OutboxId, OutboxRecord, OutboxRepository, OutboxStats, Saved,
};
use tokio::task::JoinSet;

use crate::harness::sample::{Counter, Order, OrderCommand, added, event, instance, note};
use crate::harness::{Clause, Subject, TestDb, clauses, scaled};

clauses! {
    any_part_can_be_acknowledged_in_any_order_in_any_batches: BASIC,
    what_was_acknowledged_or_never_there_is_passed_over,
    an_empty_list_costs_no_statement,
    an_acknowledgement_that_is_rolled_back_did_not_happen,
    a_record_is_the_same_at_every_attempt,
    a_handled_message_stays_handled_when_its_messages_are_gone,
    the_oldest_record_is_measured_by_the_clock_of_the_database,
    each_record_is_acknowledged_once_however_many_try: SEVERAL_CONNECTIONS,
    the_second_of_two_transactions_waits_for_the_first: SERVERS,
    an_acknowledgement_is_not_lost_to_one_of_a_part: SERVERS,
    no_batch_holds_a_record_twice_while_others_acknowledge: SEVERAL_CONNECTIONS,
}

async fn acknowledge<DB: Subject>(db: &TestDb<DB>, batch_size: u32, ids: &[OutboxId]) -> anyhow::Result<u64> {
    db.will_relay();
    let mut tx = db.begin().await?;
    let gone = db.store().delete_in_batches(&mut tx, batch_size, ids).await?;
    tx.commit().await?;
    Ok(gone)
}

fn ids(records: &[OutboxRecord]) -> Vec<OutboxId> {
    records.iter().map(|record| record.id).collect()
}

async fn stats<DB: Subject>(db: &TestDb<DB>) -> anyhow::Result<OutboxStats> {
    Ok(db.store().stats(&mut *db.conn().await?).await?)
}

/// Units of work of one to five messages, and plain records among them.
async fn fill<DB: Subject>(db: &TestDb<DB>, units: i64) -> Clause {
    let (persister, mut tx) = (db.persister(), db.begin().await?);
    for number in 0..units {
        let id = (number % 3).to_string();
        let mut unit = persister.begin_unit_of_work(&Order, &mut tx, Outbox, &instance(&id)).await?;
        unit.execute_to(&OrderCommand::TakePayment { amount_cents: number }, "billing")?;
        for _ in 0..number % 5 {
            unit.publish(note(number.to_string()))?;
        }
        assert!(persister.save(&mut tx, unit).await?.is_changed());
        if number % 4 == 0 {
            let record = NewOutboxRecord::new("account", id, event(u32::try_from(number)?));
            db.store().save(&mut tx, &[record]).await?;
        }
    }
    Ok(tx.commit().await?)
}

async fn any_part_can_be_acknowledged_in_any_order_in_any_batches<DB: Subject>(db: TestDb<DB>) -> Clause {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for batch_size in [1, 3, 100] {
        fill(&db, 40).await?;
        let mut left = db.outbox().await?;
        let all = ids(&left);
        while !left.is_empty() {
            let mut chosen: Vec<_> = left.iter().map(|record| record.id).filter(|_| random.u32(..4) == 0).collect();
            let gone = u64::try_from(chosen.len())?;
            left.retain(|record| !chosen.contains(&record.id));
            // Some that are gone already, and some twice.
            chosen.extend(all.iter().filter(|id| random.u32(..20) == 0 && left.iter().all(|record| record.id != **id)));
            chosen.extend(chosen.clone().into_iter().filter(|_| random.u32(..10) == 0));
            random.shuffle(&mut chosen);
            assert_eq!(acknowledge(&db, batch_size, &chosen).await?, gone, "seed {seed}");
            assert_eq!(db.outbox().await?, left, "seed {seed}");
            let found = stats(&db).await?;
            assert_eq!(found.pending, u64::try_from(left.len())?, "seed {seed}");
            assert_eq!(found.oldest, left.iter().filter_map(|record| record.envelope.recorded_at).min(), "seed {seed}");
            assert_eq!(found.oldest_age.is_some(), !left.is_empty());
        }
    }
    assert_eq!(stats(&db).await?, OutboxStats::default());
    Ok(())
}

async fn what_was_acknowledged_or_never_there_is_passed_over<DB: Subject>(db: TestDb<DB>) -> Clause {
    // Ids of records that were rolled back.
    let mut tx = db.begin().await?;
    let mut unit = db.persister().begin_unit_of_work(&Counter, &mut tx, Outbox, &instance("9")).await?;
    unit.publish(added(1))?;
    unit.publish(added(2))?;
    assert!(db.persister().save(&mut tx, unit).await?.is_changed());
    db.store().save(&mut tx, &[NewOutboxRecord::new("account", "9", event(9))]).await?;
    let never = ids(&db.store().find_batch(&mut tx, None, 10).await?);
    tx.rollback().await?;
    assert_eq!(never.len(), 3);
    assert_eq!(acknowledge(&db, 10, &never).await?, 0);

    db.sql("DELETE FROM saga_outbox_message").await?;
    let everything = |records: &[OutboxRecord]| records.iter().map(|record| record.id).collect::<Vec<_>>();
    fill(&db, 10).await?;
    let all = everything(&db.outbox().await?);
    let (part, rest) = all.split_at(7);
    assert_eq!(acknowledge(&db, 2, part).await?, 7);
    assert_eq!(acknowledge(&db, 2, part).await?, 0);
    assert_eq!(everything(&db.outbox().await?), rest);
    assert_eq!(acknowledge(&db, 100, &all).await?, u64::try_from(rest.len())?);
    assert_eq!(acknowledge(&db, 100, &[all.clone(), all].concat()).await?, 0);
    assert_eq!(db.outbox().await?, []);
    Ok(())
}

async fn an_empty_list_costs_no_statement<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.sql("ALTER TABLE saga_commit RENAME TO put_away_commit").await?;
    db.sql("ALTER TABLE saga_outbox_message RENAME TO put_away_message").await?;
    for batch_size in [0, 1, 100] {
        assert_eq!(acknowledge(&db, batch_size, &[]).await?, 0);
    }
    db.sql("ALTER TABLE put_away_message RENAME TO saga_outbox_message").await?;
    db.sql("ALTER TABLE put_away_commit RENAME TO saga_commit").await?;
    Ok(())
}

async fn an_acknowledgement_that_is_rolled_back_did_not_happen<DB: Subject>(db: TestDb<DB>) -> Clause {
    fill(&db, 10).await?;
    let (before, measured) = (db.outbox().await?, stats(&db).await?);
    for chosen in [ids(&before), ids(&before[2..9])] {
        let mut tx = db.begin().await?;
        let gone = db.store().delete_in_batches(&mut tx, 3, &chosen).await?;
        assert_eq!(gone, u64::try_from(chosen.len())?);
        let within = db.store().find_batch(&mut tx, None, 1000).await?;
        assert_eq!(within.len(), before.len() - chosen.len());
        tx.rollback().await?;
        assert_eq!(db.outbox().await?, before);
        let after = stats(&db).await?;
        assert_eq!((after.pending, after.oldest), (measured.pending, measured.oldest));
    }
    Ok(())
}

async fn a_record_is_the_same_at_every_attempt<DB: Subject>(db: TestDb<DB>) -> Clause {
    fill(&db, 6).await?;
    let first = db.outbox().await?;
    assert_eq!(db.outbox().await?, first);
    // Its neighbours in the unit of work leave before it, and it changes its lane.
    let (unit, others): (Vec<_>, Vec<_>) = first.iter().cloned().partition(|record| record.aggregate_id == "1");
    assert!(unit.len() > 4 && !others.is_empty());
    for gone in [0, 2, 1] {
        let kept: Vec<_> = db.outbox().await?.into_iter().filter(|record| record.aggregate_id == "1").collect();
        assert_eq!(acknowledge(&db, 10, &[kept[gone].id]).await?, 1);
        for record in db.outbox().await? {
            let before = first.iter().find(|before| before.id == record.id).unwrap();
            assert_eq!((&record, record.headers()), (before, before.headers()));
        }
    }
    Ok(())
}

async fn a_handled_message_stays_handled_when_its_messages_are_gone<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (persister, message, id) = (db.persister(), MessageId::new(), instance("1"));
    let mut tx = db.begin().await?;
    let begun = persister.begin_handling(&Order, &mut tx, Outbox, &id, message).await?;
    let Begun::Unit(mut unit) = begun else { panic!("it is new") };
    unit.publish(note("a"))?;
    unit.execute(&OrderCommand::TakePayment { amount_cents: 5 })?;
    let recorded: Vec<_> = unit.recorded().iter().map(|message| message.message_id).collect();
    assert!(persister.save(&mut tx, unit).await?.is_changed());
    tx.commit().await?;
    for left in [1, 0] {
        let waiting = db.outbox().await?;
        assert_eq!(acknowledge(&db, 10, &[waiting[0].id]).await?, 1);
        assert_eq!(ids(&db.outbox().await?), ids(&waiting)[1..]);
        assert_eq!(db.outbox().await?.len(), left);
        let mut tx = db.begin().await?;
        let begun = persister.begin_handling(&Order, &mut tx, Outbox, &id, message).await?;
        let Begun::AlreadyHandled(handled) = begun else { panic!("it is handled") };
        assert_eq!(handled.messages.iter().map(|message| message.message_id).collect::<Vec<_>>(), recorded);
        let mut unit = persister.begin_unit_of_work(&Order, &mut tx, Outbox, &id).await?;
        unit.handling(message)?;
        unit.publish(note("b"))?;
        assert!(matches!(persister.save(&mut tx, unit).await?, Saved::AlreadyHandled(_)));
        tx.commit().await?;
        assert_eq!(db.outbox().await?.len(), left, "nothing is sent again");
    }
    Ok(())
}

async fn the_oldest_record_is_measured_by_the_clock_of_the_database<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.save_records(&[NewOutboxRecord::new("account", "1", event(1))]).await?;
    let hour = Duration::from_secs(3600);
    for (shift, least, most) in [
        (0, Duration::ZERO, hour),
        (-3_600_000_000_i64, hour, 2 * hour),
        (7_200_000_000, Duration::ZERO, Duration::ZERO),
    ] {
        let moved = format!("UPDATE saga_outbox_message SET recorded_at = recorded_at + {shift}");
        assert_eq!(db.sql(moved).await?, 1);
        let (found, record) = (stats(&db).await?, db.outbox().await?.remove(0));
        assert_eq!((found.pending, found.oldest), (1, record.envelope.recorded_at));
        let age = found.oldest_age.unwrap();
        assert!(age >= least && age <= most, "{age:?} after {shift} µs");
    }
    Ok(())
}

async fn each_record_is_acknowledged_once_however_many_try<DB: Subject>(db: TestDb<DB>) -> Clause {
    fill(&db, scaled(60, 600)).await?;
    let all = ids(&db.outbox().await?);
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let (db, mut all) = (db.clone(), all.clone());
        tasks.spawn(async move {
            fastrand::shuffle(&mut all);
            let mut gone = 0;
            for chosen in all.chunks(5) {
                loop {
                    match acknowledge(&db, 3, chosen).await {
                        Ok(count) => break gone += count,
                        // Of two that take the same locks in another order, one is told to try again.
                        Err(fault) if is_contention(&fault) => {}
                        Err(fault) => return Err(fault),
                    }
                }
            }
            Ok(gone)
        });
    }
    let mut gone = 0;
    while let Some(counted) = tasks.join_next().await {
        gone += counted??;
    }
    assert_eq!(gone, u64::try_from(all.len())?);
    assert_eq!(db.outbox().await?, []);
    assert_eq!(stats(&db).await?.pending, 0);
    Ok(())
}

fn is_contention(fault: &anyhow::Error) -> bool {
    fault.downcast_ref::<sagastore::Error>().is_some_and(sagastore::Error::is_transient)
}

/// Begins an acknowledgement that has to wait for `db`'s open transaction.
fn acknowledge_later<DB: Subject>(
    db: &TestDb<DB>,
    chosen: Vec<OutboxId>,
) -> tokio::task::JoinHandle<anyhow::Result<u64>> {
    let db = db.clone();
    tokio::spawn(async move { acknowledge(&db, 100, &chosen).await })
}

/// Long enough for a statement to begin waiting for a lock.
const LOCK_WAIT: Duration = Duration::from_millis(300);

async fn the_second_of_two_transactions_waits_for_the_first<DB: Subject>(db: TestDb<DB>) -> Clause {
    for committed in [false, true] {
        fill(&db, 6).await?;
        let all = ids(&db.outbox().await?);
        let mut tx = db.begin().await?;
        let first = db.store().delete_in_batches(&mut tx, 100, &all).await?;
        assert_eq!(first, u64::try_from(all.len())?);
        let second = acknowledge_later(&db, all);
        tokio::time::sleep(LOCK_WAIT).await;
        assert!(!second.is_finished());
        if committed {
            tx.commit().await?
        } else {
            tx.rollback().await?
        }
        assert_eq!(second.await??, if committed { 0 } else { first });
        assert_eq!(db.outbox().await?, []);
    }
    Ok(())
}

async fn an_acknowledgement_is_not_lost_to_one_of_a_part<DB: Subject>(db: TestDb<DB>) -> Clause {
    for (first_takes, second_takes) in [(0..1, 0..3), (0..3, 0..1), (1..2, 1..3), (2..3, 0..2), (0..2, 0..3)] {
        db.publish_by(&db.persister(), &Counter, "1", [added(1), added(2), added(3)]).await?;
        let all = ids(&db.outbox().await?);
        let both: HashSet<_> = [&all[first_takes.clone()], &all[second_takes.clone()]].concat().into_iter().collect();
        let mut tx = db.begin().await?;
        let first = db.store().delete_in_batches(&mut tx, 100, &all[first_takes]).await?;
        let second = acknowledge_later(&db, all[second_takes].to_vec());
        tokio::time::sleep(LOCK_WAIT).await;
        tx.commit().await?;
        let gone = first + second.await??;
        let left = db.outbox().await?;
        assert_eq!(left.iter().filter(|record| both.contains(&record.id)).count(), 0, "{left:?}");
        assert_eq!(gone, u64::try_from(both.len())?);
        acknowledge(&db, 100, &ids(&left)).await?;
    }
    Ok(())
}

async fn no_batch_holds_a_record_twice_while_others_acknowledge<DB: Subject>(db: TestDb<DB>) -> Clause {
    fill(&db, scaled(150, 1500)).await?;
    let all = ids(&db.outbox().await?);
    // The second half of the messages of each unit of work, one by one, so that the first half changes its lane.
    let (kept, gone): (Vec<_>, Vec<_>) = all.iter().enumerate().partition(|(place, _)| place % 2 == 0);
    let kept: HashSet<_> = kept.into_iter().map(|(_, id)| *id).collect();
    let gone: Vec<_> = gone.into_iter().map(|(_, id)| *id).collect();
    let writer = db.clone();
    let writing = tokio::spawn(async move {
        for id in gone {
            acknowledge(&writer, 1, &[id]).await?;
        }
        anyhow::Ok(())
    });
    let mut reads = 0;
    while !writing.is_finished() {
        let found = ids(&db.store().find_batch(&mut *db.conn().await?, None, 10_000).await?);
        assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "a record twice, or out of order");
        let found: HashSet<_> = found.into_iter().collect();
        assert!(kept.is_subset(&found), "a record was passed over");
        reads += 1;
    }
    writing.await??;
    assert!(reads > 1, "only {reads} reads");
    Ok(())
}
