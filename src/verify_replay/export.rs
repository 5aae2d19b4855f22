//! Replaying an export, without the database that it came from.

use std::io::BufRead;

use sqlx::Sqlite;
use sqlx::sqlite::SqlitePoolOptions;

use super::{ReplayVerifier, SavedState, VerifiedReplay};
use crate::error::{Error, Result};
use crate::migrate::migrate;
use crate::saga::Saga;
use crate::transfer::{ExportReader, Importer, TransferError};

impl<S: Saga> ReplayVerifier<'_, S, Sqlite> {
    /// As [`run`](Self::run), on an [export](crate::transfer) of any database. It is read into SQLite in memory, which
    /// must have room for it; import a larger one into a file and run there.
    ///
    /// # Errors
    /// The export's, and as [`run`](Self::run).
    pub async fn run_on_export(
        &self,
        export: impl BufRead,
        each: impl FnMut(&SavedState) -> Result<()>,
    ) -> Result<VerifiedReplay, TransferError> {
        let pool = SqlitePoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
        let pool = pool.connect("sqlite::memory:").await;
        let pool = pool.map_err(|error| -> Error {
            self.persister.store().classify("making a database in memory for an export", error)
        })?;
        let _ = migrate(&pool).await?;
        let (mut reader, mut import) = (ExportReader::new(export), Importer::new(&pool));
        while import.next_page(&mut reader).await? {}
        let verified = self.run(&pool, each).await?;
        pool.close().await;
        Ok(verified)
    }
}
