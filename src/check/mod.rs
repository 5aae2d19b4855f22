//! Checking what a database holds: every stream from its first commit to its last, snapshots and outbox.
//!
//! [`check_schema`](crate::check_schema()) says whether the tables are there; [`check_data`] whether the rows in them
//! can be what was written. It reads all of them once, page by page, and writes nothing. Each page is
//! seen in one state, in a short transaction of its own, so that others can go on writing meanwhile.
//!
//! ```
//! # use sagastore::{check, migrate};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
//! # let _ = migrate(&pool).await?;
//! let checked = check::check_data(&pool, &mut |finding| println!("{finding}")).await?;
//! assert_eq!(checked.findings, 0);
//! # Ok(())
//! # }
//! ```

mod commits;
mod data;
mod finding;
mod outbox;
mod snapshots;
pub(crate) mod tables;

pub use data::{Checked, check_data};
pub use finding::{Finding, FindingKind, FindingPlace};
