//! A message store that answers from memory: what is left is what the library does itself.

use async_trait::async_trait;
use sagastore::{CommitNumber, CommitPage, Envelope, Head, LoadRequest, Loaded, MessageStore, Offset, RecordedEvent};
use sagastore::{Result, SagaStream, StreamName, UnitCommit};
use sqlx::{Sqlite, SqliteConnection, Transaction};

/// The pages of one stream, as they were read once.
pub(crate) struct CachedPages {
    loaded: Loaded,
    further: Vec<(CommitNumber, CommitPage)>,
}

impl CachedPages {
    /// Reads a stream from its beginning.
    pub(crate) async fn read(
        store: &dyn MessageStore<Sqlite>,
        conn: &mut SqliteConnection,
        stream: &SagaStream,
    ) -> Self {
        let request = LoadRequest { stream, from: sagastore::LoadFrom::Start, handled: None };
        let loaded = store.load(conn, &request).await.expect("loads");
        let mut cached = Self { further: Vec::new(), loaded };
        let mut last = cached.loaded.page.clone();
        while let (true, Some(commit)) = (last.more, last.commits.last()) {
            let after = commit.commit_number;
            last = store.read_commits(conn, &stream.name, after).await.expect("reads");
            cached.further.push((after, last.clone()));
        }
        cached
    }
}

#[async_trait]
impl MessageStore<Sqlite> for CachedPages {
    async fn load(&self, _: &mut SqliteConnection, _: &LoadRequest<'_>) -> Result<Loaded> {
        Ok(self.loaded.clone())
    }

    async fn read_commits(&self, _: &mut SqliteConnection, _: &StreamName, after: CommitNumber) -> Result<CommitPage> {
        let found = self.further.iter().find(|(number, _)| *number == after);
        Ok(found.map(|(_, page)| page.clone()).expect("the page was read before"))
    }

    async fn append_messages(
        &self,
        _: &mut Transaction<'_, Sqlite>,
        _: &StreamName,
        _: Offset,
        _: &[Envelope],
    ) -> Result<Offset> {
        unreachable!("only loads are measured")
    }

    async fn read_page(
        &self,
        _: &mut SqliteConnection,
        _: &StreamName,
        _: Offset,
        _: u32,
    ) -> Result<Option<Vec<RecordedEvent>>> {
        unreachable!("only loads are measured")
    }

    async fn next_offset(&self, _: &mut SqliteConnection, _: &StreamName) -> Result<Option<Offset>> {
        unreachable!("only loads are measured")
    }

    async fn commit(&self, _: &mut Transaction<'_, Sqlite>, _: &UnitCommit<'_>) -> Result<Option<Head>> {
        unreachable!("only loads are measured")
    }
}
