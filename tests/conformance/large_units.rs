//! Units of work that are larger than what a page of any reader holds.

use sagastore::{GlobalPosition, GloballyOrderedStore, MessageKind, OutboxRepository, PAGE_BYTES, Revision};

use crate::harness::sample::{Order, OrderEvent, instance, note};
use crate::harness::{Clause, Subject, TestDb, clauses};

clauses! {
    the_outbox_is_read_past_a_unit_larger_than_a_page,
    the_global_order_is_read_past_a_unit_larger_than_a_page: GLOBAL_ORDER,
    an_instance_is_loaded_past_a_unit_larger_than_a_page,
}

/// Bytes of one note: four of them fill a page and still fit into a unit of work.
const NOTE_BYTES: usize = PAGE_BYTES / 4 + 1;

/// Saves one unit of four large notes between two small ones; six events in all.
async fn save_units<DB: Subject>(db: &TestDb<DB>) -> Clause {
    let large: Vec<OrderEvent> = ["a", "b", "c", "d"].map(|letter| note(letter.repeat(NOTE_BYTES))).into();
    for events in [vec![note("first")], large, vec![note("last")]] {
        let mut tx = db.begin().await?;
        let persister = db.persister();
        let mut unit = persister.begin_unit_of_work(&Order, &mut tx, sagastore::Outbox, &instance("1")).await?;
        for event in events {
            unit.publish(event)?;
        }
        assert!(persister.save(&mut tx, unit).await?.is_changed());
        tx.commit().await?;
    }
    Ok(())
}

async fn the_outbox_is_read_past_a_unit_larger_than_a_page<DB: Subject>(db: TestDb<DB>) -> Clause {
    save_units(&db).await?;
    for batch_size in [1, 2, 4, 100] {
        let (store, mut conn, mut after, mut sizes) = (db.store(), db.conn().await?, None, Vec::new());
        loop {
            let batch = store.find_batch(&mut conn, after, batch_size).await?;
            let Some(last) = batch.last() else { break };
            after = Some(last.id);
            assert!(batch.iter().all(|record| record.envelope.kind == MessageKind::Event));
            sizes.extend(batch.iter().map(|record| record.payload().len() > NOTE_BYTES));
        }
        assert_eq!(sizes, [false, true, true, true, true, false], "batches of {batch_size}");
    }
    Ok(())
}

async fn the_global_order_is_read_past_a_unit_larger_than_a_page<DB: Subject>(db: TestDb<DB>) -> Clause {
    save_units(&db).await?;
    let events = super::global_order::read_all(&db, 6).await?;
    assert_eq!(events.len(), 6);
    let middle = events[2].position;
    let rest = db.store().read_global(&mut *db.conn().await?, middle, 1).await?;
    assert_eq!(rest.first().map(|event| event.event.offset), Some(sagastore::Offset::of(3)));
    assert!(middle > GlobalPosition::START);
    Ok(())
}

async fn an_instance_is_loaded_past_a_unit_larger_than_a_page<DB: Subject>(db: TestDb<DB>) -> Clause {
    save_units(&db).await?;
    let loaded = db.persister().load_instance(&Order, &mut *db.conn().await?, &instance("1")).await?.unwrap();
    assert_eq!((loaded.instance().revision, &*loaded.instance().data.note), (Revision::of(6), "last"));
    let events = db.events(&sagastore::StreamName::of_saga("order", &instance("1"))?).await?.unwrap();
    assert_eq!(events.len(), 6);
    Ok(())
}
