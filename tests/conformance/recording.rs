//! What units of work leave in the outbox.

use std::collections::HashSet;

use anyhow::bail;
use sagastore::{Envelope, Executed, Inbound, MessageId, Outbox, OutboxRepository};

use crate::harness::sample::{Order, OrderCommand, instance, line, note};
use crate::harness::{Clause, Subject, TestDb, clauses, stream_of};

clauses! {
    failed_tries_send_nothing,
    the_outbox_holds_what_was_committed_and_nothing_else,
    several_units_in_one_transaction_keep_their_order,
    a_message_is_the_same_at_every_delivery: BASIC,
}

fn mail(text: &str) -> OrderCommand {
    OrderCommand::SendMail { text: text.to_owned() }
}

fn ids(messages: &[Envelope]) -> Vec<MessageId> {
    messages.iter().map(|message| message.message_id).collect()
}

async fn failed_tries_send_nothing<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (persister, id, message) = (db.persister(), instance("1"), Inbound::from(MessageId::new()));
    for attempt in 1..=5 {
        let done = persister.execute(db.pool(), &Order, &id, Some(message), |unit| {
            unit.publish(note(format!("attempt {attempt}")))?;
            unit.execute(&mail("sorry"))?;
            if attempt < 5 {
                bail!("attempt {attempt} failed");
            }
            Ok(ids(unit.recorded()))
        });
        match done.await {
            Ok(Executed::Done { value, .. }) => {
                assert_eq!(attempt, 5);
                let waiting: Vec<_> = db.outbox().await?.iter().map(|record| record.envelope.message_id).collect();
                assert_eq!(waiting, value);
            }
            Ok(Executed::AlreadyHandled(_)) => bail!("no attempt came through yet"),
            Err(fault) => assert!(attempt < 5, "{fault:?}"),
        }
    }
    let (data, revision) = db.state(&Order, "1").await?.unwrap();
    assert_eq!((&*data.note, revision), ("attempt 5", 1));
    Ok(())
}

async fn the_outbox_holds_what_was_committed_and_nothing_else<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut committed = HashSet::new();
    for (number, events) in [0, 1, 7, 0, 1, 7].into_iter().enumerate() {
        for commands in [0, 2] {
            let mut tx = db.begin().await?;
            let mut unit =
                db.persister().begin_unit_of_work(&Order, &mut tx, Outbox, &instance(&number.to_string())).await?;
            for text in 0..events {
                unit.publish(note(text.to_string()))?;
            }
            for _ in 0..commands {
                unit.execute(&mail("hello"))?;
            }
            let recorded = ids(unit.recorded());
            assert_eq!(db.persister().save(&mut tx, unit).await?.is_changed(), !recorded.is_empty());
            if number < 3 {
                db.commit(tx).await?;
                committed.extend(recorded);
            } else {
                db.roll_back(tx).await?;
            }
        }
    }
    let outbox = db.outbox().await?;
    assert_eq!(outbox.len(), 22);
    assert_eq!(outbox.iter().map(|record| record.envelope.message_id).collect::<HashSet<_>>(), committed);
    Ok(())
}

async fn several_units_in_one_transaction_keep_their_order<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut recorded = Vec::new();
    let mut tx = db.begin().await?;
    for round in 0..3 {
        let mut unit = db.persister().begin_unit_of_work(&Order, &mut tx, Outbox, &instance("1")).await?;
        unit.publish(note(format!("{round}")))?;
        unit.execute(&mail("hello"))?;
        unit.publish(line("tea", 1, 1))?;
        recorded.extend(ids(unit.recorded()));
        assert!(db.persister().save(&mut tx, unit).await?.is_changed());
    }
    db.commit(tx).await?;
    let waiting: Vec<_> = db.outbox().await?.iter().map(|record| record.envelope.message_id).collect();
    assert_eq!(waiting, recorded);
    let events = db.events(&stream_of(&Order, "1")).await?.unwrap();
    let published: Vec<_> = recorded.iter().enumerate().filter(|(at, _)| at % 3 != 1).map(|(_, id)| *id).collect();
    assert_eq!(events.iter().map(|event| event.envelope.message_id).collect::<Vec<_>>(), published);
    assert_eq!(db.footprint().await?.commits, 3);
    Ok(())
}

async fn a_message_is_the_same_at_every_delivery<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let mut unit = db.unit(&Order, "1").await?;
    unit.handling(Inbound { message_id: MessageId::new(), correlation_id: MessageId::new() })?;
    for number in 0..3 {
        unit.publish(note(number.to_string()))?;
    }
    assert!(db.save(unit).await?.is_changed());
    db.publish(&Order, "1", [note("later")]).await?;

    let first = db.outbox().await?;
    for _ in 0..2 {
        assert_eq!(db.outbox().await?, first, "reading changes nothing");
    }
    // What is left of a unit of work once one of its messages left is read from elsewhere.
    let mut tx = db.begin().await?;
    assert_eq!(db.store().delete_in_batches(&mut tx, 10, &[first[1].id]).await?, 1);
    db.commit(tx).await?;
    let left = db.outbox().await?;
    let expected = [&first[0], &first[2], &first[3]];
    assert_eq!(left.iter().map(|record| &record.envelope).collect::<Vec<_>>(), expected.map(|record| &record.envelope));
    assert_eq!(
        left.iter().map(sagastore::OutboxRecord::headers).collect::<Vec<_>>(),
        expected.map(|record| record.headers())
    );
    Ok(())
}
