//! A message store of another make, which keeps no timeouts.

use std::sync::Arc;

use sagastore::sqlite::SqliteStore;
use sagastore::{
    CommitNumber, CommitPage, Envelope, Error, Head, LoadRequest, Loaded, MessageStore, Offset, Persister,
    RecordedEvent, Result, StreamName, UnitCommit,
};
use sqlx::{Sqlite, SqliteConnection, Transaction};

use crate::harness::sample::{Counter, added, instance};
use crate::harness::{Clause, HOUR, TestDb, assert_error, sqlite_clauses, stream_of};

sqlite_clauses! {
    a_unit_of_work_with_timeouts_is_refused_whole: SQLITE_FILE,
}

/// Keeps streams and nothing else, as a framework's own store may.
struct OnlyStreams(SqliteStore);

#[async_trait::async_trait]
impl MessageStore<Sqlite> for OnlyStreams {
    async fn append_messages(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        stream: &StreamName,
        offset: Offset,
        messages: &[Envelope],
    ) -> Result<Offset> {
        self.0.append_messages(tx, stream, offset, messages).await
    }

    async fn read_page(
        &self,
        conn: &mut SqliteConnection,
        stream: &StreamName,
        from: Offset,
        limit: u32,
    ) -> Result<Option<Vec<RecordedEvent>>> {
        self.0.read_page(conn, stream, from, limit).await
    }

    async fn next_offset(&self, conn: &mut SqliteConnection, stream: &StreamName) -> Result<Option<Offset>> {
        self.0.next_offset(conn, stream).await
    }

    async fn load(&self, conn: &mut SqliteConnection, request: &LoadRequest<'_>) -> Result<Loaded> {
        self.0.load(conn, request).await
    }

    async fn read_commits(
        &self,
        conn: &mut SqliteConnection,
        stream: &StreamName,
        after: CommitNumber,
    ) -> Result<CommitPage> {
        self.0.read_commits(conn, stream, after).await
    }

    async fn commit(&self, tx: &mut Transaction<'_, Sqlite>, unit: &UnitCommit<'_>) -> Result<Option<Head>> {
        self.0.commit(tx, unit).await
    }
}

async fn a_unit_of_work_with_timeouts_is_refused_whole(db: TestDb<Sqlite>) -> Clause {
    let (store, name) = (OnlyStreams(db.store()), stream_of(&Counter, "a"));
    let persister = Persister::with_store(Arc::new(OnlyStreams(db.store())));
    let mut tx = db.begin().await?;
    let mut unit = persister.begin_unit_of_work(&Counter, &mut tx, sagastore::Outbox, &instance("a")).await?;
    unit.publish(added(1))?;
    unit.schedule("t", &added(1), HOUR)?;
    assert_error!(persister.save(&mut tx, unit).await, Error::Unsupported { .. });
    assert_error!(store.pending_timeouts(&mut tx, &name, None, 1).await, Error::Unsupported { .. });
    assert_error!(store.timeout_stats(&mut tx).await, Error::Unsupported { .. });
    assert_error!(store.release_due_timeouts(&mut tx, 1).await, Error::Unsupported { .. });
    db.commit(tx).await?;
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_commit").await?, 0, "half a unit of work was committed");
    let id = instance("a");
    let _ = persister.execute(db.pool(), &Counter, &id, None, |unit| unit.publish(added(1))).await?;
    Ok(())
}
