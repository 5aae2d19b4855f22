//! Flaws of snapshot repositories.

use async_trait::async_trait;
use sagastore::{InstanceId, Result, Snapshot, SnapshotRepository};
use sqlx::{Row, Sqlite, SqliteConnection, Transaction};

use super::{Broken, Flaw, Part, finds};

#[async_trait]
impl SnapshotRepository<Sqlite> for Broken {
    async fn load_saga_snapshot(
        &self,
        conn: &mut SqliteConnection,
        persistence_key: &str,
        instance_id: &InstanceId,
    ) -> Result<Option<Snapshot>> {
        let mut found = self.inner.load_saga_snapshot(conn, persistence_key, instance_id).await?;
        if self.has(Flaw::SharesSnapshots) && found.is_none() {
            found = self.inner.load_saga_snapshot(conn, "conformance", instance_id).await?;
        }
        let Some(mut snapshot) = found else { return Ok(None) };
        if self.has(Flaw::GivesTheOldestSnapshot) {
            let oldest = "SELECT MIN(revision) FROM saga_snapshot WHERE persistence_key = ?1 AND stream_id IN
                (SELECT stream_id FROM saga_stream WHERE instance_id = ?2)";
            let row = sqlx::query(oldest).bind(persistence_key).bind(instance_id.as_str()).fetch_one(conn).await;
            let revision: i64 = row.unwrap().get(0);
            snapshot.revision = sagastore::Revision::from_i64(revision).unwrap();
        }
        if self.has(Flaw::MendsDamagedSnapshots) && !snapshot.is_intact() {
            let Snapshot { revision, commit_number, data_version, content_type, body, .. } = snapshot;
            snapshot =
                Snapshot::new(persistence_key, instance_id, revision, commit_number, data_version, &content_type, body);
        }
        if self.has(Flaw::CutsSnapshots) {
            snapshot.body.truncate(65_535);
        }
        Ok(Some(snapshot))
    }

    async fn save_saga_snapshot(&self, tx: &mut Transaction<'_, Sqlite>, snapshot: &Snapshot, keep: u32) -> Result<()> {
        let keep = if self.has(Flaw::KeepsAllSnapshots) { 1000 } else { keep };
        if self.has(Flaw::KeepsSnapshotsBeyond)
            && let newest = self.inner.load_saga_snapshot(tx, &snapshot.persistence_key, &snapshot.instance_id).await?
            && newest.is_some_and(|newest| newest.revision > snapshot.revision)
        {
            return Ok(());
        }
        if self.has(Flaw::KeepsOneSnapshotForAll) {
            let delete = "DELETE FROM saga_snapshot";
            sqlx::query(delete).execute(&mut **tx).await.unwrap();
        }
        self.inner.save_saga_snapshot(tx, snapshot, keep).await
    }

    async fn delete_saga_snapshots(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        persistence_key: &str,
        instance_id: &InstanceId,
    ) -> Result<u64> {
        if self.has(Flaw::KeepsDeletedSnapshots) {
            return Ok(0);
        }
        self.inner.delete_saga_snapshots(tx, persistence_key, instance_id).await
    }
}

#[tokio::test]
async fn a_repository_that_keeps_deleted_snapshots_is_found() {
    let clauses = [
        "a_snapshot_at_the_same_revision_replaces_the_one_before",
        "as_many_snapshots_as_asked_for_are_kept",
        "snapshots_beyond_the_one_that_is_saved_are_deleted",
        "deleting_leaves_none_and_says_how_many_there_were",
        "instances_have_snapshots_of_their_own",
        "a_snapshot_that_is_rolled_back_is_not_there",
    ];
    finds(Flaw::KeepsDeletedSnapshots, Part::Snapshots, &clauses).await;
}

#[tokio::test]
async fn a_repository_that_gives_the_oldest_snapshot_is_found() {
    let clauses = [
        "the_newest_snapshot_is_given",
        "as_many_snapshots_as_asked_for_are_kept",
        "snapshots_beyond_the_one_that_is_saved_are_deleted",
    ];
    finds(Flaw::GivesTheOldestSnapshot, Part::Snapshots, &clauses).await;
}

#[tokio::test]
async fn a_repository_that_keeps_all_snapshots_is_found() {
    finds(Flaw::KeepsAllSnapshots, Part::Snapshots, &["as_many_snapshots_as_asked_for_are_kept"]).await;
}

#[tokio::test]
async fn a_repository_that_mends_damaged_snapshots_is_found() {
    finds(Flaw::MendsDamagedSnapshots, Part::Snapshots, &["a_damaged_snapshot_comes_back_as_damaged"]).await;
}

/// Flaws that one or few clauses find.
#[tokio::test]
async fn what_else_a_repository_can_do_wrong_is_found() {
    for (flaw, clauses) in [
        (Flaw::KeepsSnapshotsBeyond, &["snapshots_beyond_the_one_that_is_saved_are_deleted"][..]),
        (Flaw::CutsSnapshots, &["a_snapshot_comes_back_as_it_was_saved"]),
        (Flaw::SharesSnapshots, &["another_sagas_snapshot_is_neither_given_nor_deleted"]),
        (
            Flaw::KeepsOneSnapshotForAll,
            &[
                "as_many_snapshots_as_asked_for_are_kept",
                "snapshots_beyond_the_one_that_is_saved_are_deleted",
                "deleting_leaves_none_and_says_how_many_there_were",
                "instances_have_snapshots_of_their_own",
            ],
        ),
    ] {
        finds(flaw, Part::Snapshots, clauses).await;
    }
}
