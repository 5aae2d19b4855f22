//! Streams as JSON Lines: [exported](Exporter) from one database, [read and verified](ExportReader), and
//! [imported](Importer) into any other. [How the lines look](crate::docs::export).
//!
//! ```
//! # use sagastore::{migrate, transfer::{Exporter, ExportReader, Importer}};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
//! # let _ = migrate(&pool).await?;
//! # let other = pool.clone();
//! let (mut export, mut text) = (Exporter::new(&pool), String::new());
//! while let Some(lines) = export.next_lines().await? {
//!     text.push_str(&lines);
//! }
//! let (mut reader, mut import) = (ExportReader::new(text.as_bytes()), Importer::new(&other));
//! while import.next_page(&mut reader).await? {}
//! # Ok(())
//! # }
//! ```

mod error;
mod exporter;
mod importer;
mod lines;
mod payload;
mod reader;
pub(crate) mod tables;
mod tally;

pub use error::TransferError;
pub use exporter::Exporter;
pub use importer::{Imported, Importer};
pub use lines::{ExportedCommit, ExportedStream};
pub use reader::{Entry, ExportReader, MAX_LINE_BYTES};
pub use tally::Tally;

/// The version of the format that is written. Files of a larger one are refused.
pub const EXPORT_VERSION: u32 = 1;
