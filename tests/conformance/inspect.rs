//! Looking into a database.

use anyhow::{Context, ensure};
use sagastore::inspect::{Inspector, InstanceFilter, InstanceSummary, LifeCommit};
use sagastore::{
    CommitNumber, Error, Executed, MessageId, MessageKind, Outbox, Persister, Revision, SnapshotFrequency, StreamName,
};

use crate::harness::sample::{Counter, Order, OrderCommand, OrderEvent, added, events, instance, line, stream};
use crate::harness::{Clause, Subject, TestDb, assert_error, clauses, stream_of};

clauses! {
    instances_are_listed_oldest_first_page_by_page: BASIC,
    instances_are_chosen_by_saga_state_and_prefix: BASIC,
    a_prefix_is_text_and_no_pattern,
    one_instance_is_found_by_its_stream,
    streams_that_no_saga_owns_are_no_instances,
    a_life_is_told_in_order: BASIC,
    a_life_is_told_page_by_page_to_its_end,
    a_damaged_commit_is_told_with_what_is_wrong,
    snapshots_are_listed_with_their_state,
    leases_are_listed_page_by_page: BASIC,
    an_empty_schema_is_missed,
}

async fn all<DB: Subject>(db: &TestDb<DB>, filter: &InstanceFilter, page: u32) -> anyhow::Result<Vec<InstanceSummary>> {
    let (inspector, mut all) = (Inspector::new(db.pool()), Vec::<InstanceSummary>::new());
    loop {
        let found = inspector.instances(filter, all.last().map(|last| last.key), page).await?;
        ensure!(found.len() <= usize::try_from(page)?);
        if found.is_empty() {
            return Ok(all);
        }
        all.extend(found);
    }
}

fn names(instances: &[InstanceSummary]) -> Vec<&str> {
    instances.iter().map(|instance| instance.stream.as_str()).collect()
}

async fn instances_are_listed_oldest_first_page_by_page<DB: Subject>(db: TestDb<DB>) -> Clause {
    assert_eq!(all(&db, &InstanceFilter::default(), 10).await?, []);
    for id in ["c", "a", "b", "e", "d"] {
        db.publish(&Counter, id, [added(1)]).await?;
    }
    db.publish(&Counter, "a", [added(2), added(3)]).await?;
    for page in [1, 2, 5, 100] {
        let found = all(&db, &InstanceFilter::default(), page).await?;
        assert_eq!(names(&found), ["counter/c", "counter/a", "counter/b", "counter/e", "counter/d"], "{page}");
        let a = &found[1];
        assert_eq!((a.revision, a.commits, a.completed), (Revision::of(3), CommitNumber::of(2), false));
        assert_eq!((&*a.persistence_key, &a.instance_id), ("counter", &instance("a")));
        ensure!(a.last_recorded_at > a.created_at && found[0].created_at <= a.created_at, "{a:?}");
    }
    Ok(())
}

async fn complete<DB: Subject>(db: &TestDb<DB>, id: &str) -> anyhow::Result<()> {
    db.publish(&Order, id, [line("book", 1, 100)]).await?;
    let mut tx = db.begin().await?;
    let mut unit = db.persister().begin_unit_of_work(&Order, &mut tx, Outbox, &instance(id)).await?;
    unit.publish(OrderEvent::Shipped)?;
    let _ = db.persister().save_and_complete(&mut tx, unit).await?;
    db.commit(tx).await?;
    Ok(())
}

async fn instances_are_chosen_by_saga_state_and_prefix<DB: Subject>(db: TestDb<DB>) -> Clause {
    complete(&db, "old-1").await?;
    complete(&db, "old-2").await?;
    db.publish(&Order, "new-1", [line("book", 1, 100)]).await?;
    db.publish(&Counter, "old-1", [added(1)]).await?;
    let filter = |saga: Option<&str>, completed, prefix: Option<&str>| InstanceFilter {
        persistence_key: saga.map(str::to_owned),
        completed,
        instance_prefix: prefix.map(str::to_owned),
    };
    for (filter, expected) in [
        (filter(Some("order"), None, None), vec!["order/old-1", "order/old-2", "order/new-1"]),
        (filter(None, Some(true), None), vec!["order/old-1", "order/old-2"]),
        (filter(None, Some(false), None), vec!["order/new-1", "counter/old-1"]),
        (filter(None, None, Some("old-")), vec!["order/old-1", "order/old-2", "counter/old-1"]),
        (filter(Some("counter"), Some(false), Some("old-1")), vec!["counter/old-1"]),
        (filter(Some("Counter"), None, None), vec![]),
        (filter(Some("counter"), Some(true), None), vec![]),
    ] {
        assert_eq!(names(&all(&db, &filter, 2).await?), expected, "{filter:?}");
    }
    Ok(())
}

async fn a_prefix_is_text_and_no_pattern<DB: Subject>(db: TestDb<DB>) -> Clause {
    let ids = ["a%b", "a_b", "axb", "A%b", "üx", "u\u{308}x", "'\"\\", "[a"];
    for id in ids {
        db.publish(&Counter, id, [added(1)]).await?;
    }
    for id in ids {
        let prefix = id.chars().take(2).collect();
        let filter = InstanceFilter { instance_prefix: Some(prefix), ..InstanceFilter::default() };
        let found = all(&db, &filter, 100).await?;
        assert_eq!(found.len(), 1, "{id:?}: {found:?}");
        assert_eq!(found[0].instance_id, instance(id));
    }
    Ok(())
}

async fn one_instance_is_found_by_its_stream<DB: Subject>(db: TestDb<DB>) -> Clause {
    for id in ["1", "2", "3"] {
        db.publish(&Counter, id, [added(1)]).await?;
    }
    let inspector = Inspector::new(db.pool());
    let found = inspector.instance(&stream_of(&Counter, "2")).await?.context("it is there")?;
    assert_eq!(found.instance_id, instance("2"));
    assert_eq!(inspector.instance(&stream_of(&Counter, "4")).await?, None);
    Ok(())
}

async fn streams_that_no_saga_owns_are_no_instances<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.append(&stream("plain"), 0, &events(3)).await?;
    assert_eq!(all(&db, &InstanceFilter::default(), 10).await?, []);
    let inspector = Inspector::new(db.pool());
    assert_eq!(inspector.instance(&stream("plain")).await?, None);
    let life = inspector.life(&stream("plain"), CommitNumber::ZERO).await?;
    assert_eq!(life.len(), 1, "its commits can be looked at");
    Ok(())
}

async fn a_life_is_told_in_order<DB: Subject>(db: TestDb<DB>) -> Clause {
    let handled = MessageId::new();
    let executed = db
        .persister()
        .execute(db.pool(), &Order, &instance("1"), Some(handled.into()), |unit| {
            unit.publish(line("book", 2, 50))?;
            unit.execute(&OrderCommand::TakePayment { amount_cents: 100 })?;
            unit.publish(line("pen", 1, 5))?;
            Ok::<_, Error>(())
        })
        .await?;
    ensure!(matches!(executed, Executed::Done { .. }), "{executed:?}");
    let mut tx = db.begin().await?;
    let mut unit = db.persister().begin_unit_of_work(&Order, &mut tx, Outbox, &instance("1")).await?;
    unit.publish(OrderEvent::Shipped)?;
    let _ = db.persister().save_and_complete(&mut tx, unit).await?;
    db.commit(tx).await?;

    let life = Inspector::new(db.pool()).life(&stream_of(&Order, "1"), CommitNumber::ZERO).await?;
    let [first, second] = life.as_slice() else { anyhow::bail!("{life:?}") };
    assert_eq!((first.number, first.handled, first.completed), (CommitNumber::of(1), Some(handled), false));
    assert_eq!(first.causation_id, Some(handled));
    let messages = first.messages.as_ref().unwrap();
    let kinds: Vec<_> = messages.iter().map(|m| (m.offset.map(|o| o.get()), m.envelope.kind)).collect();
    assert_eq!(kinds, [(Some(0), MessageKind::Event), (None, MessageKind::Command), (Some(1), MessageKind::Event)]);
    assert_eq!(&*messages[1].envelope.type_name, "TakePayment");
    assert_eq!((second.number, second.handled, second.completed), (CommitNumber::of(2), None, true));
    assert_eq!(second.first_offset.get(), 2);
    ensure!(second.recorded_at > first.recorded_at);
    Ok(())
}

async fn whole_life<DB: Subject>(db: &TestDb<DB>, stream: &StreamName) -> anyhow::Result<(usize, Vec<LifeCommit>)> {
    let (mut life, mut pages, mut after) = (Vec::new(), 0, CommitNumber::ZERO);
    loop {
        let page = Inspector::new(db.pool()).life(stream, after).await?;
        let Some(last) = page.last() else { return Ok((pages, life)) };
        (after, pages) = (last.number, pages + 1);
        life.extend(page);
    }
}

async fn a_life_is_told_page_by_page_to_its_end<DB: Subject>(db: TestDb<DB>) -> Clause {
    const COMMITS: u32 = 620;
    let name = stream("long");
    let mut tx = db.begin().await?;
    for at in 0..COMMITS {
        let offset = sagastore::Offset::of(at);
        sagastore::MessageStore::append_messages(&db.store(), &mut tx, &name, offset, &events(1)).await?;
    }
    db.commit(tx).await?;
    db.append(&stream("next"), 0, &events(1)).await?;
    let (pages, life) = whole_life(&db, &name).await?;
    ensure!(pages >= 2, "{pages}");
    let numbers: Vec<_> = life.iter().map(|commit| commit.number.get()).collect();
    assert_eq!(numbers, (1..=u64::from(COMMITS)).collect::<Vec<_>>());
    Ok(())
}

async fn a_damaged_commit_is_told_with_what_is_wrong<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_damage();
    for amount in 1..=3 {
        db.publish(&Counter, "1", [added(amount)]).await?;
    }
    db.sql("UPDATE saga_commit SET checksum = 0 WHERE commit_no = 2").await?;
    let (_, life) = whole_life(&db, &stream_of(&Counter, "1")).await?;
    let whole: Vec<_> = life.iter().map(|commit| commit.messages.is_ok()).collect();
    assert_eq!(whole, [true, false, true]);
    assert!(matches!(life[1].messages, Err(Error::Corrupt { .. })));
    Ok(())
}

async fn snapshots_are_listed_with_their_state<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_damage();
    let persister: Persister<DB> = db.persister().with_snapshot_frequency(SnapshotFrequency::every(2));
    for _ in 0..4 {
        db.publish_by(&persister, &Counter, "1", [added(1)]).await?;
    }
    let (inspector, name) = (Inspector::new(db.pool()), stream_of(&Counter, "1"));
    let found = inspector.snapshots(&name).await?;
    let places: Vec<_> = found.iter().map(|s| (s.revision.get(), s.commit_number.get(), s.intact)).collect();
    assert_eq!(places, [(2, 2, true), (4, 4, true)]);
    ensure!(found.iter().all(|snapshot| snapshot.size > 0 && snapshot.data_version == 1), "{found:?}");
    db.sql("UPDATE saga_snapshot SET data_version = 9 WHERE revision = 4").await?;
    let found = inspector.snapshots(&name).await?;
    assert_eq!(found.iter().map(|snapshot| snapshot.intact).collect::<Vec<_>>(), [true, false]);
    assert_eq!(inspector.snapshots(&stream("none")).await?, []);
    Ok(())
}

async fn leases_are_listed_page_by_page<DB: Subject>(db: TestDb<DB>) -> Clause {
    let row = |namespace: &str, id: &str, client: &str, expires: i64| {
        format!(
            "INSERT INTO saga_lease
                (namespace, resource_id, client_id, request_id, token, obtained_at, expires_at, lock_delay)
            VALUES ({}, {}, {client}, {}, 7, 1, {expires}, 0)",
            DB::text(namespace),
            DB::text(id),
            if db.mode().kind().name() == "postgres" {
                "'00000000-0000-0000-0000-000000000000'".to_owned()
            } else {
                DB::bytes(&[0; 16])
            }
        )
    };
    let (later, client) = (i64::MAX / 2, DB::text("me"));
    for sql in [
        row("b", "1", &client, later),
        row("a", "2", &client, 5),
        row("a", "1", "NULL", later),
        row("a", "10", &client, later),
    ] {
        db.sql(sql).await?;
    }
    for page in [1, 3, 10] {
        let (inspector, mut found) = (Inspector::new(db.pool()), Vec::new());
        loop {
            let after =
                found.last().map(|last: &sagastore::inspect::LeaseSummary| (&last.namespace, &last.resource_id));
            let more = inspector.leases(after, page).await?;
            if more.is_empty() {
                break;
            }
            found.extend(more);
        }
        let seen: Vec<_> = found.iter().map(|l| (l.namespace.as_str(), l.resource_id.as_str(), l.held)).collect();
        assert_eq!(seen, [("a", "1", false), ("a", "10", true), ("a", "2", false), ("b", "1", true)], "{page}");
        assert_eq!(found[0].client_id, None);
        assert_eq!(found[3].token.get(), 7);
    }
    Ok(())
}

async fn an_empty_schema_is_missed<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_damage();
    sagastore::drop_schema(db.pool()).await?;
    let inspector = Inspector::new(db.pool());
    assert_error!(inspector.instances(&InstanceFilter::default(), None, 1).await, Error::SchemaMissing { .. });
    assert_error!(inspector.life(&stream("a"), CommitNumber::ZERO).await, Error::SchemaMissing { .. });
    assert_error!(inspector.leases(None, 1).await, Error::SchemaMissing { .. });
    let _ = sagastore::migrate(db.pool()).await?;
    Ok(())
}
