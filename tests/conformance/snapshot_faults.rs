//! Snapshots that cannot be used: ignored if they are damaged or do not fit, never if the database
//! cannot tell or if they are another saga's.

use bytes::Bytes;
use sagastore::{
    CommitNumber, Envelope, Error, Revision, Saga, Snapshot, SnapshotFault, SnapshotFrequency, SnapshotRepository,
};
use tracing::Level;

use crate::harness::sample::{Counter, CounterEvent, added, instance};
use crate::harness::{Clause, Log, Subject, TestDb, assert_error, clauses};

clauses! {
    a_snapshot_with_a_flipped_bit_in_its_body_is_ignored,
    a_snapshot_with_a_changed_column_is_ignored,
    a_whole_snapshot_that_does_not_fit_is_ignored,
    a_snapshot_of_another_data_version_is_ignored,
    a_snapshot_newer_than_its_stream_is_ignored,
    a_damaged_snapshot_hides_no_older_one_and_no_event,
    an_ignored_snapshot_is_warned_about,
    a_snapshot_of_another_saga_is_an_error,
    a_database_that_cannot_tell_is_an_error_and_not_no_snapshot,
}

/// Two units of work, a snapshot of 2^40 and some at revision 2, and one unit of work after it.
struct Fixture<DB: Subject> {
    db: TestDb<DB>,
    good: Snapshot,
    sum: i64,
    revision: u32,
}

impl<DB: Subject> Fixture<DB> {
    async fn new(db: TestDb<DB>) -> anyhow::Result<Self> {
        let mut fixture = Self { db, good: snapshot(2, 2, 1, "application/json", "?"), sum: 0, revision: 0 };
        fixture.add(1 << 40).await?;
        fixture.add(0x1234_5678).await?;
        fixture.good = fixture.newest().await?;
        assert!(fixture.good.is_intact() && fixture.good.revision == Revision::of(2));
        fixture.add(7).await?;
        assert_eq!(fixture.newest().await?, fixture.good);
        Ok(fixture)
    }

    /// Adds in a unit of work of its own; every second one is due a snapshot.
    async fn add(&mut self, amount: i64) -> Clause {
        let persister = self.db.persister().with_snapshot_frequency(SnapshotFrequency::every(2));
        self.db.publish_by(&persister, &Counter, "1", [added(amount)]).await?;
        self.sum += amount;
        self.revision += 1;
        Ok(())
    }

    async fn newest(&self) -> anyhow::Result<Snapshot> {
        let mut conn = self.db.conn().await?;
        Ok(self.db.store().load_saga_snapshot(&mut conn, "counter", &instance("1")).await?.unwrap())
    }

    /// Makes this the only snapshot.
    async fn put(&self, snapshot: &Snapshot) -> Clause {
        let mut tx = self.db.begin().await?;
        self.db.store().delete_saga_snapshots(&mut tx, "counter", &instance("1")).await?;
        self.db.store().save_saga_snapshot(&mut tx, snapshot, 1).await?;
        Ok(tx.commit().await?)
    }

    /// Puts the good snapshot, with one column changed.
    async fn put_with(&self, column: &str, value: &str) -> Clause {
        self.put(&self.good).await?;
        let unit = self.db.load_by(&self.db.persister(), &Counter, "1").await?;
        assert_eq!(unit.load_report().snapshot, Some(self.good.revision), "the good snapshot is in use");
        assert_eq!(self.db.sql(format!("UPDATE saga_snapshot SET {column} = {value}")).await?, 1);
        Ok(())
    }

    /// State and revision are those of the events, and the next unit of work takes a fresh snapshot.
    async fn check_ignored(&mut self, fault: SnapshotFault, what: &str) -> Clause {
        let unit = self.db.load_by(&self.db.persister(), &Counter, "1").await?;
        let (report, instance) = (*unit.load_report(), unit.instance());
        assert_eq!((instance.data, instance.revision), (self.sum, Revision::of(self.revision)), "{what}");
        assert_eq!((report.snapshot, report.ignored_snapshot), (None, Some(fault)), "{what}");
        assert_eq!(report.replayed_events, u64::from(self.revision), "{what}");
        self.add(1).await?;
        let fresh = self.newest().await?;
        assert!(fresh.is_intact() && fresh.revision == Revision::of(self.revision), "{what}: {fresh:?}");
        let unit = self.db.load_by(&self.db.persister(), &Counter, "1").await?;
        assert_eq!((unit.instance().data, unit.instance().revision), (self.sum, fresh.revision), "{what}");
        assert_eq!((unit.load_report().snapshot, unit.load_report().ignored_snapshot), (Some(fresh.revision), None));
        Ok(())
    }
}

/// A snapshot of the counter with a checksum that fits.
fn snapshot(revision: u32, commit: u32, version: u32, content_type: &str, body: impl Into<Bytes>) -> Snapshot {
    let (revision, commit) = (Revision::of(revision), CommitNumber::of(commit));
    Snapshot::new("counter", &instance("1"), revision, commit, version, content_type, body)
}

async fn a_snapshot_with_a_flipped_bit_in_its_body_is_ignored<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut fixture = Fixture::new(db).await?;
    let whole = fixture.good.body.clone();
    assert!(whole.len() > 4, "{whole:?}");
    for bit in 0..whole.len() * 8 {
        let mut body = whole.to_vec();
        body[bit / 8] ^= 1 << (bit % 8);
        fixture.put_with("body", &DB::bytes(&body)).await?;
        fixture.check_ignored(SnapshotFault::Damaged, &format!("bit {bit}")).await?;
    }
    Ok(())
}

async fn a_snapshot_with_a_changed_column_is_ignored<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut fixture = Fixture::new(db).await?;
    let changes = [
        ("revision", "1"),
        ("revision", "3"),
        ("revision", "1000"),
        ("revision", "-1"),
        ("commit_no", "1"),
        ("commit_no", "0"),
        ("commit_no", "3"),
        ("commit_no", "1000"),
        ("commit_no", "-1"),
        ("data_version", "0"),
        ("data_version", "2"),
        ("data_version", "-1"),
        ("data_version", "4294967297"),
        ("content_type", "'application/json'"),
        ("content_type", "'application/x-unknown'"),
        ("content_type", "''"),
        ("checksum", "0"),
        ("checksum", "checksum + 1"),
        ("checksum", "checksum + 4294967296"),
        ("checksum", "-checksum"),
        ("body", &DB::bytes(b"")),
        ("body", &DB::bytes(b"more than it was")),
    ];
    for (column, value) in changes {
        fixture.put_with(column, value).await?;
        fixture.check_ignored(SnapshotFault::Damaged, &format!("{column} = {value}")).await?;
    }
    Ok(())
}

async fn a_whole_snapshot_that_does_not_fit_is_ignored<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut fixture = Fixture::new(db).await?;
    let (codec, body) = (fixture.good.content_type.clone(), fixture.good.body.clone());
    let longer: Vec<u8> = body.iter().copied().chain([0]).collect();
    let cases = [
        (snapshot(2, 2, 2, &codec, body.clone()), SnapshotFault::DataVersion),
        (snapshot(2, 2, 1, "application/x-unknown", body.clone()), SnapshotFault::Undecodable),
        (snapshot(2, 2, 1, "application/json", body.clone()), SnapshotFault::Undecodable),
        (snapshot(2, 2, 1, "application/json", "\"text\""), SnapshotFault::Undecodable),
        (snapshot(2, 2, 1, &codec, body.slice(..body.len() - 1)), SnapshotFault::Undecodable),
        (snapshot(2, 2, 1, &codec, longer), SnapshotFault::Undecodable),
        (snapshot(2, 2, 1, &codec, ""), SnapshotFault::Undecodable),
        (snapshot(2, 1, 1, &codec, body.clone()), SnapshotFault::NotInStream),
        (snapshot(1, 2, 1, &codec, body.clone()), SnapshotFault::NotInStream),
        (snapshot(2, 0, 1, &codec, body.clone()), SnapshotFault::NotInStream),
        (snapshot(0, 0, 1, &codec, body.clone()), SnapshotFault::NotInStream),
        (snapshot(1000, 1000, 1, &codec, body.clone()), SnapshotFault::NotInStream),
        (snapshot(1000, 2, 1, &codec, body), SnapshotFault::NotInStream),
    ];
    for (unusable, fault) in cases {
        fixture.put(&unusable).await?;
        fixture.check_ignored(fault, &format!("{unusable:?}")).await?;
    }
    Ok(())
}

/// The counter in another form: its state is text.
struct TextCounter;

impl Saga for TextCounter {
    type Data = String;
    type Event = CounterEvent;

    fn persistence_key(&self) -> &str {
        "counter"
    }

    fn new_data(&self) -> String {
        "0".to_owned()
    }

    fn apply_event(&self, data: &mut String, event: &CounterEvent, _: &Envelope) {
        let CounterEvent::Added { amount } = event;
        *data = (data.parse::<i64>().unwrap() + amount).to_string();
    }

    fn data_version(&self) -> u32 {
        2
    }
}

async fn a_snapshot_of_another_data_version_is_ignored<DB: Subject>(db: TestDb<DB>) -> Clause {
    let fixture = Fixture::new(db).await?;
    let (db, sum) = (&fixture.db, fixture.sum);
    let persister = db.persister().with_snapshot_frequency(SnapshotFrequency::every(3));
    let unit = db.load_by(&persister, &TextCounter, "1").await?;
    assert_eq!((&unit.instance().data, unit.instance().revision.get()), (&sum.to_string(), 3));
    assert_eq!(unit.load_report().ignored_snapshot, Some(SnapshotFault::DataVersion));
    // The new release replaces it, and the old one, still running beside it, then ignores that one.
    db.publish_by(&persister, &TextCounter, "1", [added(1)]).await?;
    let unit = db.load_by(&persister, &TextCounter, "1").await?;
    assert_eq!((&unit.instance().data, unit.load_report().replayed_events), (&(sum + 1).to_string(), 0));
    let unit = db.load_by(&persister, &Counter, "1").await?;
    assert_eq!((unit.instance().data, unit.instance().revision.get()), (sum + 1, 4));
    assert_eq!(unit.load_report().ignored_snapshot, Some(SnapshotFault::DataVersion));
    Ok(())
}

async fn a_snapshot_newer_than_its_stream_is_ignored<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut fixture = Fixture::new(db).await?;
    fixture.db.will_damage();
    // The stream is restored as it was before its last two units of work; the snapshot is not.
    assert_eq!(fixture.db.sql("DELETE FROM saga_commit WHERE commit_no > 1").await?, 2);
    (fixture.sum, fixture.revision) = (1 << 40, 1);
    fixture.check_ignored(SnapshotFault::NotInStream, "a stream cut off").await?;
    assert_eq!(fixture.db.snapshots().await?, [2]);
    Ok(())
}

async fn a_damaged_snapshot_hides_no_older_one_and_no_event<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut fixture = Fixture::new(db).await?;
    fixture.add(1).await?;
    assert_eq!(fixture.db.snapshots().await?, [2, 4]);
    let damage = "UPDATE saga_snapshot SET checksum = checksum + 1 WHERE revision = 4";
    assert_eq!(fixture.db.sql(damage).await?, 1);
    let unit = fixture.db.load_by(&fixture.db.persister(), &Counter, "1").await?;
    assert_eq!((unit.instance().data, unit.instance().revision), (fixture.sum, Revision::of(4)));
    assert_eq!(unit.load_report().ignored_snapshot, Some(SnapshotFault::Damaged));
    Ok(())
}

async fn an_ignored_snapshot_is_warned_about<DB: Subject>(db: TestDb<DB>) -> Clause {
    let fixture = Fixture::new(db).await?;
    let log = Log::catch(Level::WARN);
    fixture.put_with("checksum", "checksum + 1").await?;
    assert!(log.lines(&["a snapshot is ignored"]).is_empty(), "nothing is wrong yet");
    fixture.db.load_by(&fixture.db.persister(), &Counter, "1").await?;
    let warnings = log.lines(&["WARN", "a snapshot is ignored", "counter/1", "revision=2", "Damaged"]);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    Ok(())
}

async fn a_snapshot_of_another_saga_is_an_error<DB: Subject>(db: TestDb<DB>) -> Clause {
    let fixture = Fixture::new(db).await?;
    let (db, id) = (&fixture.db, instance("1"));
    assert_eq!(db.sql("UPDATE saga_snapshot SET persistence_key = 'invoice'").await?, 1);
    let is_foreign = |result: sagastore::Result<()>| {
        assert_error!(result, Error::ForeignInstance { instance, asked, found } => {
            assert_eq!((instance.as_str(), &*asked, &*found), ("1", "counter", "invoice"));
        });
    };
    let mut conn = db.conn().await?;
    is_foreign(db.persister().load_instance(&Counter, &mut conn, &id).await.map(drop));
    is_foreign(db.store().load_saga_snapshot(&mut conn, "counter", &id).await.map(drop));
    drop(conn);
    let mut tx = db.begin().await?;
    is_foreign(db.store().save_saga_snapshot(&mut tx, &fixture.good, 2).await);
    is_foreign(db.store().delete_saga_snapshots(&mut tx, "counter", &id).await.map(drop));
    tx.commit().await?;
    assert_eq!(db.snapshots().await?, [2]);
    // Who uses no snapshots is not concerned.
    let unit = db.load_by(&db.persister().without_snapshots(), &Counter, "1").await?;
    assert_eq!(unit.instance().data, fixture.sum);
    Ok(())
}

async fn a_database_that_cannot_tell_is_an_error_and_not_no_snapshot<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_damage();
    let fixture = Fixture::new(db).await?;
    let (db, id) = (&fixture.db, instance("1"));
    db.sql("ALTER TABLE saga_snapshot RENAME TO put_away").await?;
    let mut conn = db.conn().await?;
    let loaded = db.persister().load_instance(&Counter, &mut conn, &id).await;
    assert_error!(loaded.map(drop), Error::SchemaMissing { .. });
    let loaded = db.store().load_saga_snapshot(&mut conn, "counter", &id).await;
    assert_error!(loaded, Error::SchemaMissing { .. });
    drop(conn);
    let mut tx = db.begin().await?;
    assert_error!(db.store().save_saga_snapshot(&mut tx, &fixture.good, 2).await, Error::SchemaMissing { .. });
    tx.rollback().await?;
    let mut tx = db.begin().await?;
    let deleted = db.store().delete_saga_snapshots(&mut tx, "counter", &id).await;
    assert_error!(deleted, Error::SchemaMissing { .. });
    tx.rollback().await?;
    db.sql("ALTER TABLE put_away RENAME TO saga_snapshot").await?;
    let unit = db.load_by(&db.persister(), &Counter, "1").await?;
    assert_eq!(unit.load_report().snapshot, Some(Revision::of(2)));
    db.sql("ALTER TABLE saga_snapshot RENAME COLUMN checksum TO put_away").await?;
    assert!(db.load_by(&db.persister(), &Counter, "1").await.is_err());
    Ok(())
}
