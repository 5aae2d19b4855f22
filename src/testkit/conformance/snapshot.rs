//! Snapshots.

use sqlx::Database;

use super::bench::{Bench, Finding, ensure, found, same};
use super::sample::every_byte;
use crate::error::{Cause, Error};
use crate::ids::{CommitNumber, InstanceId, Revision};
use crate::snapshot::{Snapshot, SnapshotRepository};

type SnapshotBench<DB> = Bench<DB, dyn SnapshotRepository<DB>>;

const KEY: &str = "conformance";

impl<DB: Database> SnapshotBench<DB> {
    fn id(&self, name: &str) -> Result<InstanceId, Cause> {
        Ok(InstanceId::new(self.name(name))?)
    }

    async fn save(&self, snapshot: &Snapshot, keep: u32) -> Finding {
        let mut tx = self.begin().await?;
        self.subject.save_saga_snapshot(&mut tx, snapshot, keep).await?;
        Ok(tx.commit().await?)
    }

    async fn load(&self, id: &InstanceId) -> Result<Option<Snapshot>, Cause> {
        Ok(self.subject.load_saga_snapshot(&mut *self.conn().await?, KEY, id).await?)
    }

    async fn delete(&self, id: &InstanceId) -> Result<u64, Cause> {
        let mut tx = self.begin().await?;
        let deleted = self.subject.delete_saga_snapshots(&mut tx, KEY, id).await?;
        tx.commit().await?;
        Ok(deleted)
    }
}

fn snapshot(id: &InstanceId, revision: u32, body: &'static str) -> Snapshot {
    Snapshot::new(KEY, id, Revision::of(revision), CommitNumber::of(revision), 1, "text/plain", body)
}

pub(super) async fn an_instance_without_a_snapshot_has_none<DB: Database>(bench: &SnapshotBench<DB>) -> Finding {
    let id = bench.id("none")?;
    same("its snapshot", bench.load(&id).await?, None)?;
    same("number of snapshots deleted", bench.delete(&id).await?, 0)
}

pub(super) async fn a_snapshot_comes_back_as_it_was_saved<DB: Database>(bench: &SnapshotBench<DB>) -> Finding {
    for (name, body) in [("bytes", every_byte()), ("empty", Vec::new()), ("O'Neill \\ \u{96ea}/%", vec![0; 100_000])] {
        let id = bench.id(name)?;
        let (revision, number) = (Revision::of(1000), CommitNumber::of(17));
        let saved = Snapshot::new(KEY, &id, revision, number, u32::MAX, "application/x-own+\u{fc}", body);
        bench.save(&saved, 2).await?;
        let came = found("the snapshot", bench.load(&id).await?)?;
        same("the snapshot", &came, &saved)?;
        ensure(came.body == saved.body && came.is_intact(), "the body came back changed")?;
    }
    Ok(())
}

/// Whether it can be used is judged by who loads it.
pub(super) async fn a_damaged_snapshot_comes_back_as_damaged<DB: Database>(bench: &SnapshotBench<DB>) -> Finding {
    let id = bench.id("damaged")?;
    let mut damaged = snapshot(&id, 5, "body");
    damaged.checksum ^= 1;
    bench.save(&damaged, 2).await?;
    same("the snapshot", bench.load(&id).await?, Some(damaged))
}

pub(super) async fn the_newest_snapshot_is_given<DB: Database>(bench: &SnapshotBench<DB>) -> Finding {
    let id = bench.id("newest")?;
    for revision in [1, 9, 10, 100] {
        bench.save(&snapshot(&id, revision, "x"), 10).await?;
        let came = found("the snapshot", bench.load(&id).await?)?.revision;
        same("revision of the newest snapshot", came, Revision::of(revision))?;
    }
    Ok(())
}

pub(super) async fn a_snapshot_at_the_same_revision_replaces_the_one_before<DB: Database>(
    bench: &SnapshotBench<DB>,
) -> Finding {
    let id = bench.id("replaced")?;
    bench.save(&snapshot(&id, 5, "old"), 3).await?;
    let new = Snapshot::new(KEY, &id, Revision::of(5), CommitNumber::of(3), 7, "text/plain", "new");
    bench.save(&new, 3).await?;
    same("the snapshot", bench.load(&id).await?, Some(new))?;
    same("number of snapshots", bench.delete(&id).await?, 1)
}

pub(super) async fn as_many_snapshots_as_asked_for_are_kept<DB: Database>(bench: &SnapshotBench<DB>) -> Finding {
    for keep in [1, 2, 3] {
        let id = bench.id("kept")?;
        for revision in 1..=5 {
            bench.save(&snapshot(&id, revision, "x"), keep).await?;
        }
        same("the newest", found("the snapshot", bench.load(&id).await?)?.revision, Revision::of(5))?;
        same("number of snapshots kept", bench.delete(&id).await?, u64::from(keep))?;
    }
    Ok(())
}

/// Those are newer than the stream.
pub(super) async fn snapshots_beyond_the_one_that_is_saved_are_deleted<DB: Database>(
    bench: &SnapshotBench<DB>,
) -> Finding {
    let id = bench.id("beyond")?;
    for revision in [3, 6, 9] {
        bench.save(&snapshot(&id, revision, "x"), 10).await?;
    }
    bench.save(&snapshot(&id, 5, "x"), 10).await?;
    same("the newest", found("the snapshot", bench.load(&id).await?)?.revision, Revision::of(5))?;
    same("number of snapshots kept", bench.delete(&id).await?, 2)
}

pub(super) async fn deleting_leaves_none_and_says_how_many_there_were<DB: Database>(
    bench: &SnapshotBench<DB>,
) -> Finding {
    let id = bench.id("deleted")?;
    for revision in 1..=3 {
        bench.save(&snapshot(&id, revision, "x"), 3).await?;
    }
    same("number of snapshots deleted", bench.delete(&id).await?, 3)?;
    same("the snapshot after that", bench.load(&id).await?, None)?;
    same("number of snapshots deleted again", bench.delete(&id).await?, 0)
}

pub(super) async fn instances_have_snapshots_of_their_own<DB: Database>(bench: &SnapshotBench<DB>) -> Finding {
    let base = bench.name("own");
    let ids = [InstanceId::new(&base)?, InstanceId::new(format!("{base} "))?, InstanceId::new(base.to_uppercase())?];
    for (revision, id) in (1..).zip(&ids) {
        bench.save(&snapshot(id, revision, "x"), 2).await?;
    }
    for (revision, id) in (1..).zip(&ids) {
        let came = found("the snapshot", bench.load(id).await?)?;
        same("instance and revision", (came.instance_id, came.revision), (id.clone(), Revision::of(revision)))?;
    }
    let [first, second, third] = &ids;
    same("number of snapshots deleted", bench.delete(second).await?, 1)?;
    let others = bench.load(first).await?.is_some() && bench.load(third).await?.is_some();
    ensure(others, "deleting one instance's snapshots deleted another's")
}

pub(super) async fn another_sagas_snapshot_is_neither_given_nor_deleted<DB: Database>(
    bench: &SnapshotBench<DB>,
) -> Finding {
    let id = bench.id("foreign")?;
    bench.save(&snapshot(&id, 1, "x"), 2).await?;
    match bench.subject.load_saga_snapshot(&mut *bench.conn().await?, "another", &id).await {
        Ok(None) | Err(Error::ForeignInstance { .. }) => {}
        Ok(Some(_)) => return Err("another saga was given the snapshot".into()),
        Err(error) => return Err(error.into()),
    }
    let mut tx = bench.begin().await?;
    match bench.subject.delete_saga_snapshots(&mut tx, "another", &id).await {
        Ok(0) | Err(Error::ForeignInstance { .. }) => tx.rollback().await?,
        Ok(deleted) => return Err(format!("another saga deleted {deleted} snapshots").into()),
        Err(error) => return Err(error.into()),
    }
    ensure(bench.load(&id).await?.is_some(), "the snapshot is gone")
}

pub(super) async fn a_snapshot_that_is_rolled_back_is_not_there<DB: Database>(bench: &SnapshotBench<DB>) -> Finding {
    let id = bench.id("back")?;
    bench.save(&snapshot(&id, 1, "x"), 2).await?;
    let mut tx = bench.begin().await?;
    bench.subject.save_saga_snapshot(&mut tx, &snapshot(&id, 2, "x"), 1).await?;
    tx.rollback().await?;
    let mut tx = bench.begin().await?;
    bench.subject.delete_saga_snapshots(&mut tx, KEY, &id).await?;
    tx.rollback().await?;
    same("the newest", found("the snapshot", bench.load(&id).await?)?.revision, Revision::of(1))?;
    same("number of snapshots", bench.delete(&id).await?, 1)
}

pub(super) async fn a_transaction_sees_its_own_snapshot<DB: Database>(bench: &SnapshotBench<DB>) -> Finding {
    let (id, mut tx) = (bench.id("seen")?, bench.begin().await?);
    bench.subject.save_saga_snapshot(&mut tx, &snapshot(&id, 1, "x"), 2).await?;
    let came = bench.subject.load_saga_snapshot(&mut tx, KEY, &id).await?;
    ensure(came.is_some(), "the snapshot is not seen by the transaction that saved it")?;
    Ok(tx.rollback().await?)
}
