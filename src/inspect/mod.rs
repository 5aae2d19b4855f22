//! Looking into a database: which instances there are, what happened to one, who holds leases.
//!
//! All of it reads only, page by page, each call by itself: what is written between two calls shows in the second.
//! The outbox is looked at by [`OutboxRepository`](crate::OutboxRepository).
//!
//! ```
//! # use sagastore::{Persister, migrate, inspect::{InstanceFilter, Inspector}};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
//! # let _ = migrate(&pool).await?;
//! let inspector = Inspector::new(&pool);
//! let waiting = InstanceFilter { completed: Some(false), ..InstanceFilter::default() };
//! let mut after = None;
//! loop {
//!     let page = inspector.instances(&waiting, after, 100).await?;
//!     let Some(last) = page.last() else { break };
//!     after = Some(last.key);
//!     for instance in &page {
//!         println!("{} is at revision {}", instance.instance_id, instance.revision);
//!     }
//! }
//! # Ok(())
//! # }
//! ```

pub(crate) mod inspector;
mod instance;
mod leases;
mod life;
pub(crate) mod snapshots;
pub(crate) mod tables;

pub use inspector::Inspector;
pub use instance::{InstanceFilter, InstanceSummary, StreamKey};
pub use leases::LeaseSummary;
pub use life::{LifeCommit, LifeMessage};
pub use snapshots::SnapshotSummary;
