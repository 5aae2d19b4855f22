//! What makes one of sqlx's databases usable here.

use sqlx::Database;
use sqlx::migrate::Migrate;

use crate::check::tables::CheckTables;
use crate::error::Judge;
use crate::global_order::GloballyOrderedStore;
use crate::handler::ParkingTables;
use crate::inbox::InboxTables;
use crate::inspect::tables::InspectTables;
use crate::mapper::MapperTables;
use crate::outbox::{OutboxRepository, OutboxTables};
use crate::snapshot::SnapshotRepository;
use crate::timeout::TimeoutTables;

/// A database with a built-in store: `sqlx::Sqlite`, `sqlx::Postgres`, `sqlx::MySql`, each behind the
/// feature of its name. The caller's pool chooses.
pub trait Backend: Database<Connection: Migrate> + schema::Schema + Judge {
    /// The built-in store: streams, snapshots, outbox, inboxes, correlation keys, parked messages, global order and leases in one.
    type Store: Default
        + GloballyOrderedStore<Self>
        + SnapshotRepository<Self>
        + OutboxRepository<Self>
        + OutboxTables<Self>
        + InboxTables<Self>
        + MapperTables<Self>
        + ParkingTables<Self>
        + InspectTables<Self>
        + CheckTables<Self>
        + TimeoutTables<Self>
        + transfer::Tables<Self>
        + Clone
        + std::fmt::Debug
        + 'static;
}

/// What a store needs for streams from elsewhere, if that is built in.
mod transfer {
    #[cfg(feature = "export")]
    pub(super) use crate::transfer::tables::ImportTables as Tables;

    /// Nothing.
    #[cfg(not(feature = "export"))]
    pub trait Tables<DB> {}

    #[cfg(not(feature = "export"))]
    impl<DB, T> Tables<DB> for T {}
}

/// Kept from the public: it may change with every release.
pub(crate) mod schema {
    use async_trait::async_trait;
    use sqlx::Database;
    use sqlx::migrate::{Migrate, MigrateError, Migrator};

    use crate::error::Result;

    /// How the tables get into a database, and out of it.
    #[async_trait]
    pub trait Schema: Database<Connection: Migrate> {
        /// A migration that fails or is dropped half-way may leave its lock, or its transaction, on the session.
        const LOCKS_SESSION: bool = true;

        /// The migrations in `migrations/`, as they were when the crate was built.
        fn embedded() -> Migrator;

        /// Applies what is missing, and keeps other processes out meanwhile; by default it does not.
        async fn apply(conn: &mut Self::Connection, migrator: &Migrator) -> Result<(), MigrateError> {
            migrator.run_direct(None, conn, false).await
        }

        /// The newest applied migration; `None` if there is no migrations table.
        async fn applied_version(conn: &mut Self::Connection) -> Result<Option<i64>>;

        /// What must be mended after a restore, run at the end of every migration.
        async fn after_migrating(conn: &mut Self::Connection) -> Result<()>;

        /// Removes all that the migrations made.
        async fn drop_all(conn: &mut Self::Connection) -> Result<()>;
    }
}
