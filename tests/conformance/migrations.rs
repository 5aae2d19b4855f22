//! Installing, upgrading and removing the schema.

use std::fs;
use std::path::Path;

use anyhow::Context;
use sagastore::lock::Lock;
use sagastore::{
    Error, GlobalPosition, GloballyOrderedStore, Inbox, KeySet, MIGRATIONS_TABLE, MessageId, MessageStore, Migrated,
    NewOutboxRecord, Offset, OutboxRepository, ParkedFilter, SnapshotFrequency, SnapshotRepository, check_schema,
    drop_schema, migrate, migrate_from, parked_messages,
};
use sqlx::Pool;
use sqlx::pool::PoolOptions;
use tokio::task::JoinSet;

use crate::harness::booking::{Booking, book, number_key};
use crate::harness::sample::{Counter, added, event, events, instance, stream};
use crate::harness::{
    Clause, HOUR, Kind, LONG_LEASE, Subject, TestDb, assert_error, clauses, client, cut_after, resource,
};

clauses! {
    a_second_migration_changes_nothing: BASIC,
    several_processes_may_migrate_at_once: SEVERAL_CONNECTIONS,
    without_tables_every_call_says_so: BASIC,
    without_tables_locks_inboxes_and_handlers_say_so: BASIC,
    each_single_missing_table_is_told,
    reading_and_writing_rows_is_all_the_right_that_is_needed: SERVERS,
    a_newer_schema_is_refused_and_left_alone,
    a_changed_or_unreadable_migration_is_refused,
    a_failed_migration_can_be_repeated_once_its_cause_is_gone,
    a_migration_that_fails_leaves_nothing_of_those_before_it: POSTGRES,
    a_migration_that_is_dropped_at_any_step_spoils_no_connection: SERVERS,
}

/// The migrations of this database, as files.
fn folder<DB: Subject>() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(DB::KIND.name())
}

/// A folder with the first so many migrations; all if there are not as many.
pub(crate) fn first_migrations<DB: Subject>(count: usize) -> anyhow::Result<tempfile::TempDir> {
    let copy = tempfile::tempdir()?;
    for name in migration_names::<DB>()?.iter().take(count) {
        fs::copy(folder::<DB>().join(name), copy.path().join(name))?;
    }
    Ok(copy)
}

fn migration_names<DB: Subject>() -> anyhow::Result<Vec<String>> {
    let entries: Result<Vec<_>, _> = fs::read_dir(folder::<DB>())?.collect();
    let mut names: Vec<_> = entries?.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

/// The objects that a user of the database sees, with what the migrations table remembers.
pub(crate) async fn schema<DB: Subject>(db: &TestDb<DB>) -> anyhow::Result<Vec<Vec<Option<String>>>> {
    let mut found = db
        .rows(match DB::KIND {
            Kind::Sqlite => {
                "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY type, name"
            }
            Kind::Postgres => {
                "SELECT table_name, column_name, data_type, column_default
                FROM information_schema.columns
                WHERE table_schema = current_schema()
                ORDER BY table_name, ordinal_position"
            }
            Kind::Mysql => {
                "SELECT table_name, column_name, column_type, column_default
                FROM information_schema.columns
                WHERE table_schema = DATABASE()
                ORDER BY table_name, ordinal_position"
            }
        })
        .await?;
    let there = found.iter().any(|row| row.contains(&Some(MIGRATIONS_TABLE.to_owned())));
    if there {
        let remembered =
            "SELECT version, description, installed_on, execution_time FROM saga_migrations ORDER BY version";
        found.extend(db.rows(remembered).await?);
    }
    Ok(found)
}

/// The versions of the migrations, as their names say.
pub(crate) fn versions<DB: Subject>() -> anyhow::Result<Vec<i64>> {
    let version = |name: &String| Ok(name.split('_').next().unwrap_or_default().parse()?);
    migration_names::<DB>()?.iter().map(version).collect()
}

pub(crate) fn newest<DB: Subject>() -> anyhow::Result<i64> {
    versions::<DB>()?.last().copied().context("no migrations")
}

async fn a_second_migration_changes_nothing<DB: Subject>(db: TestDb<DB>) -> Clause {
    check_schema(db.pool()).await?;
    let (before, version) = (schema(&db).await?, newest::<DB>()?);
    assert!(before.len() > 5);
    assert_eq!(migrate(db.pool()).await?, Migrated::NothingToDo { version });
    assert_eq!(migrate_from(db.pool(), &folder::<DB>()).await?, Migrated::NothingToDo { version });
    assert_eq!(schema(&db).await?, before);
    Ok(())
}

async fn several_processes_may_migrate_at_once<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (version, migrations) = (newest::<DB>()?, i64::try_from(migration_names::<DB>()?.len())?);
    for _ in 0..3 {
        drop_schema(db.pool()).await?;
        let (mut processes, mut ends) = (JoinSet::new(), Vec::new());
        for _ in 0..4 {
            let pool = db.second_pool(2).await?;
            processes.spawn(async move { migrate(&pool).await });
        }
        while let Some(end) = processes.join_next().await {
            ends.push(end??);
        }
        for end in ends {
            assert!(
                matches!(end, Migrated::NothingToDo { version: now } | Migrated::Applied { to: now, .. } if now == version)
            );
        }
        check_schema(db.pool()).await?;
        assert_eq!(db.count("SELECT COUNT(*) FROM saga_migrations").await?, migrations);
    }
    Ok(())
}

/// Counts to three with snapshots and a timeout, and adds a record to the outbox.
pub(crate) async fn use_it<DB: Subject>(db: &TestDb<DB>, pool: &Pool<DB>) -> anyhow::Result<i64> {
    let persister = db.persister().with_snapshot_frequency(SnapshotFrequency::every(2));
    let (id, store, mut sum) = (instance("1"), db.store(), 0);
    for _ in 0..3 {
        let done = persister.execute(pool, &Counter, &id, Some(sagastore::MessageId::new().into()), |unit| {
            unit.publish(added(1))?;
            unit.schedule("reminder", &added(1), HOUR)?;
            Ok::<_, Error>(unit.instance().data)
        });
        let sagastore::Executed::Done { value, .. } = done.await? else { anyhow::bail!("it was not handled before") };
        sum = value;
    }
    let mut tx = persister.begin(pool).await?;
    store.save(&mut tx, &[NewOutboxRecord::new("kind", "id", event(1))]).await?;
    let records = store.find_batch(&mut tx, None, 10).await?;
    assert_eq!(records.len(), 4);
    // Where it stands among the records of another stream is not promised.
    let saved = records.iter().find(|record| record.aggregate_type == "kind").unwrap();
    assert_eq!(store.delete_in_batches(&mut tx, 10, &[saved.id]).await?, 1);
    tx.commit().await?;
    Ok(sum)
}

async fn without_tables_every_call_says_so<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_damage();
    let (store, name, id) = (db.store(), stream("a"), instance("1"));
    drop_schema(db.pool()).await?;
    assert_error!(check_schema(db.pool()).await, Error::SchemaMissing { .. });
    macro_rules! missing {
        ($($call:expr),+ $(,)?) => {
            $(assert_error!($call, Error::SchemaMissing { .. });)+
        };
    }
    missing!(db.persister().execute(db.pool(), &Counter, &id, None, |unit| unit.publish(added(1))).await);
    let mut conn = db.conn().await?;
    missing!(
        store.read_page(&mut conn, &name, Offset::ZERO, 1).await,
        store.next_offset(&mut conn, &name).await,
        store.last_event(&mut conn, &name).await,
        store.open_stream(&mut conn, &name, Offset::ZERO).await,
        store.read_commits(&mut conn, &name, sagastore::CommitNumber::ZERO).await,
        store.load_saga_snapshot(&mut conn, "counter", &id).await,
        store.find_batch(&mut conn, None, 1).await,
        store.stats(&mut conn).await,
        store.pending_timeouts(&mut conn, &name, None, 1).await,
        store.timeout_stats(&mut conn).await,
        store.consumer_position(&mut conn, "reader").await,
        db.persister().load_instance(&Counter, &mut conn, &id).await,
    );
    if DB::KIND != Kind::Mysql {
        missing!(store.read_global(&mut conn, GlobalPosition::START, 1).await, store.global_tail(&mut conn).await,);
    }
    drop(conn);
    macro_rules! missing_in_transaction {
        ($($tx:ident: $call:expr),+ $(,)?) => {
            $(
                let mut $tx = db.begin().await?;
                assert_error!($call, Error::SchemaMissing { .. });
                $tx.rollback().await?;
            )+
        };
    }
    missing_in_transaction!(
        tx: store.append_messages(&mut tx, &name, Offset::ZERO, &events(1)).await,
        tx: store.append_messages(&mut tx, &name, Offset::of(1), &events(1)).await,
        tx: store.append_messages(&mut tx, &name, Offset::ZERO, &[]).await,
        tx: store.delete_saga_snapshots(&mut tx, "counter", &id).await,
        tx: store.release_due_timeouts(&mut tx, 1).await,
        tx: store.save(&mut tx, &[NewOutboxRecord::new("kind", "id", event(1))]).await,
        tx: store.move_consumer(&mut tx, "reader", GlobalPosition::START, GlobalPosition::START).await,
        tx: db.persister().begin_unit_of_work(&Counter, &mut tx, sagastore::Outbox, &id).await,
    );
    // And they come back.
    let _ = migrate(db.pool()).await?;
    assert_eq!(use_it(&db, db.pool()).await?, 3);
    Ok(())
}

async fn without_tables_locks_inboxes_and_handlers_say_so<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_damage();
    drop_schema(db.pool()).await?;
    let (lock, inbox, handler) = (db.lock(LONG_LEASE), Inbox::new("reader")?, db.keyed(&Booking::default()));
    assert_error!(lock.obtain_no_wait(&resource("1"), &client("one")).await, Error::SchemaMissing { .. });
    assert_error!(lock.purge().await, Error::SchemaMissing { .. });
    assert_error!(inbox.forget(db.pool(), HOUR).await, Error::SchemaMissing { .. });
    assert_error!(handler.handle(db.pool(), &book("1", "ann")).await, Error::SchemaMissing { .. });
    let mut tx = db.begin().await?;
    assert_error!(inbox.receive(&mut tx, MessageId::new()).await, Error::SchemaMissing { .. });
    tx.rollback().await?;
    let (mut tx, key) = (db.begin().await?, number_key("1"));
    assert_error!(KeySet::<Booking>::start_or_find(&mut tx, "booking", &key).await, Error::SchemaMissing { .. });
    tx.rollback().await?;
    Ok(())
}

async fn each_single_missing_table_is_told<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_damage();
    for table in tables(&db).await? {
        drop_schema(db.pool()).await?;
        let _ = migrate(db.pool()).await?;
        db.sql("DROP VIEW saga_event").await?;
        db.sql(format!("DROP TABLE {table}")).await?;
        assert_error!(Box::pin(use_table(&db, &table)).await, Error::SchemaMissing { .. });
    }
    Ok(())
}

async fn use_table<DB: Subject>(db: &TestDb<DB>, table: &str) -> sagastore::Result<()> {
    if table == "saga_lease" {
        return db.lock(LONG_LEASE).obtain_no_wait(&resource("1"), &client("one")).await.map(drop);
    }
    let (store, mut conn) = (db.store(), db.conn().await.unwrap());
    match table {
        "saga_outbox_message" | "saga_outbox" => store.find_batch(&mut conn, None, 1).await.map(drop),
        "saga_snapshot" => store.load_saga_snapshot(&mut conn, "counter", &instance("1")).await.map(drop),
        "saga_timeout" => store.timeout_stats(&mut conn).await.map(drop),
        "saga_consumer" => store.consumer_position(&mut conn, "reader").await.map(drop),
        "saga_inbox" => Inbox::new("reader")?.has_received::<DB>(&mut conn, MessageId::new()).await.map(drop),
        "saga_correlation_key" => KeySet::<Booking>::find::<DB>(&mut conn, "booking", &number_key("1")).await.map(drop),
        "saga_parked_message" => parked_messages::<DB>(&mut conn, ParkedFilter::default(), 1).await.map(drop),
        "saga_global_epoch" => store.read_global(&mut conn, GlobalPosition::START, 1).await.map(drop),
        "saga_commit" | "saga_stream" => store.read_page(&mut conn, &stream("a"), Offset::ZERO, 1).await.map(drop),
        _ => panic!("what needs {table}?"),
    }
}

/// All that migrating makes, but for what it remembers, and for the global order where that is an option.
pub(crate) async fn tables<DB: Subject>(db: &TestDb<DB>) -> anyhow::Result<Vec<String>> {
    let rows = db
        .rows(match DB::KIND {
            Kind::Sqlite => "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
            Kind::Postgres => "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()",
            Kind::Mysql => {
                "SELECT table_name
                FROM information_schema.tables
                WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE'"
            }
        })
        .await?;
    let names = rows.into_iter().filter_map(|mut row| row.swap_remove(0));
    let optional = [MIGRATIONS_TABLE, "saga_global_order", "saga_position"];
    let tables: Vec<_> = names.filter(|name| !optional.contains(&name.as_str())).collect();
    assert!(tables.len() >= 10, "{tables:?}");
    Ok(tables)
}

async fn reading_and_writing_rows_is_all_the_right_that_is_needed<DB: Subject>(db: TestDb<DB>) -> Clause {
    let restricted = db.restricted_pool().await?;
    check_schema(&restricted).await?;
    assert_eq!(use_it(&db, &restricted).await?, 3);
    let (store, mut tx) = (db.store(), db.persister().begin(&restricted).await?);
    store.append_messages(&mut tx, &stream("a"), Offset::ZERO, &events(3)).await?;
    assert_eq!(store.delete_saga_snapshots(&mut tx, "counter", &instance("1")).await?, 1);
    assert!(store.move_consumer(&mut tx, "reader", GlobalPosition::START, "0:0:1:0".parse()?).await?);
    tx.commit().await?;
    let mut conn = restricted.acquire().await?;
    if DB::KIND == Kind::Postgres {
        store.read_global(&mut conn, GlobalPosition::START, 10).await?;
        store.global_tail(&mut conn).await?;
    }
    assert_eq!(store.stats(&mut conn).await?.pending, 3);
    assert_eq!(DB::rows(&mut conn, "SELECT * FROM saga_event".into()).await?.len(), 6);
    // And the role has no more than that.
    assert!(DB::execute(&mut conn, "DROP TABLE saga_commit".into()).await.is_err());
    assert!(DB::execute(&mut conn, "CREATE TABLE more (a INTEGER)".into()).await.is_err());
    Ok(())
}

async fn a_newer_schema_is_refused_and_left_alone<DB: Subject>(db: TestDb<DB>) -> Clause {
    let known = newest::<DB>()?;
    let future = format!(
        "INSERT INTO saga_migrations (version, description, success, checksum, execution_time)
        VALUES (9999, 'of the future', TRUE, {}, 0)",
        DB::bytes(b"future")
    );
    db.sql(future).await?;
    let before = schema(&db).await?;
    for refused in [
        check_schema(db.pool()).await,
        migrate(db.pool()).await.map(drop),
        migrate_from(db.pool(), &folder::<DB>()).await.map(drop),
    ] {
        assert_error!(refused, Error::SchemaNewer { found, known: newest } => {
            assert_eq!((found, newest), (9999, known));
        });
    }
    assert_eq!(schema(&db).await?, before);
    Ok(())
}

async fn a_changed_or_unreadable_migration_is_refused<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (copy, names) = (first_migrations::<DB>(usize::MAX)?, migration_names::<DB>()?);
    assert!(matches!(migrate_from(db.pool(), copy.path()).await?, Migrated::NothingToDo { .. }));
    let changed = copy.path().join(&names[0]);
    fs::write(&changed, fs::read_to_string(&changed)? + "\n-- changed")?;
    let before = schema(&db).await?;
    assert_error!(migrate_from(db.pool(), copy.path()).await, Error::Migration { .. });
    assert_error!(migrate_from(db.pool(), &copy.path().join("missing")).await, Error::Migration { .. });
    assert_eq!(schema(&db).await?, before);
    Ok(())
}

async fn a_failed_migration_can_be_repeated_once_its_cause_is_gone<DB: Subject>(db: TestDb<DB>) -> Clause {
    drop_schema(db.pool()).await?;
    db.sql("CREATE TABLE saga_event (of_somebody_else INTEGER)").await?;
    assert_error!(migrate(db.pool()).await, Error::Migration { .. });
    assert_error!(check_schema(db.pool()).await, Error::SchemaMissing { .. });
    // Nor is anything in the way of another try, such as a lock.
    assert_error!(migrate(db.pool()).await, Error::Migration { .. });
    db.sql("DROP TABLE saga_event").await?;
    assert!(matches!(migrate(db.pool()).await?, Migrated::Applied { .. }));
    check_schema(db.pool()).await?;
    assert_eq!(use_it(&db, db.pool()).await?, 3);
    Ok(())
}

/// All is one transaction, in which the lock of whoever migrates is, too: behind a pooler of transactions one that outlived it was left
/// to a session of strangers.
async fn a_migration_that_fails_leaves_nothing_of_those_before_it<DB: Subject>(db: TestDb<DB>) -> Clause {
    drop_schema(db.pool()).await?;
    db.sql("CREATE TABLE saga_timeout (of_somebody_else INTEGER)").await?;
    let alone = schema(&db).await?;
    assert_error!(migrate(db.pool()).await, Error::Migration { .. });
    assert_eq!(schema(&db).await?, alone);
    db.sql("DROP TABLE saga_timeout").await?;
    assert!(matches!(migrate(db.pool()).await?, Migrated::Applied { from: 0, .. }));
    assert_eq!(use_it(&db, db.pool()).await?, 3);
    Ok(())
}

/// What the next one wrote on a connection was lost with a transaction of which nobody knew.
async fn a_migration_that_is_dropped_at_any_step_spoils_no_connection<DB: Subject>(db: TestDb<DB>) -> Clause {
    const MAX_STEPS: u32 = 500;
    let pool = PoolOptions::<DB>::new().max_connections(1).connect_with(db.home().options.clone()).await?;
    let (persister, id) = (db.persister(), instance("1"));
    // Whatever goes on with it is one statement, without a transaction.
    let _ = persister.execute(&pool, &Counter, &id, None, |unit| unit.publish(added(1))).await?;
    for steps in 1..MAX_STEPS {
        let done = cut_after(steps, migrate(&pool)).await;
        let counted = persister.execute(&pool, &Counter, &id, None, |unit| unit.publish(added(1)));
        let counted = tokio::time::timeout(std::time::Duration::from_secs(10), counted).await;
        let _ = counted.context("the connection does not come home")??;
        let expected = (i64::from(steps) + 1, u64::from(steps) + 1);
        assert_eq!(db.state(&Counter, "1").await?, Some(expected), "dropped after {steps} steps");
        if let Some(done) = done {
            assert!(steps > 3 && matches!(done?, Migrated::NothingToDo { .. }));
            return Ok(());
        }
    }
    anyhow::bail!("it does not come to an end")
}
