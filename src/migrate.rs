//! Installing and upgrading the tables.

use std::path::Path;

use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::{Connection, Pool};

use crate::backend::Backend;
use crate::error::{Error, Fault, Result};
use crate::guarded_connection::GuardedConnection;

/// The table that remembers which migrations of this crate were applied. It is the crate's own, so
/// the application's migrations, also by sqlx, keep theirs.
pub const MIGRATIONS_TABLE: &str = "saga_migrations";

/// How often a migration that lost a race against another process is looked at again. SQLite has no
/// lock that spans several transactions; there the loser finds the winner's work done.
const MAX_RACE_RETRIES: u32 = 10;

/// What migrating did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub enum Migrated {
    /// The schema was at this version already; nothing was done.
    NothingToDo {
        /// The schema's version.
        version: i64,
    },
    /// The schema was brought from one version to another.
    Applied {
        /// The version before; zero if the tables were not there.
        from: i64,
        /// The version now.
        to: i64,
    },
}

/// Brings the tables to the version of this release. Needs a role that may create tables, unless they are of
/// this version already; all else in this crate needs to read and write rows only. Safe to run from several
/// processes at once. On PostgreSQL all that is missing is applied in one transaction, so it works through a pooler of transactions,
/// too, if that keeps prepared statements apart, as `postgres::connect_options` says.
///
/// Migrations only add, so processes of an older release that run keep working on the new schema while they are
/// replaced one by one. One that starts meanwhile is told [`Error::SchemaNewer`], here and by [`check_schema`]: if old ones may
/// start again, let the deployment alone migrate, and let programs begin with [`check_schema`] and go on after that error.
///
/// # Errors
/// [`Error::SchemaNewer`] if a newer release was here before; [`Error::Denied`] if the role lacks a right; a lost connection and
/// the like, as everywhere; [`Error::Migration`] with its cause for all else.
pub async fn migrate<DB: Backend>(pool: &Pool<DB>) -> Result<Migrated> {
    run(pool, DB::embedded()).await
}

/// As [`migrate`], with the migrations of this folder (the crate's `migrations/<database>`, as an
/// operator may have reviewed and copied it) instead of those built in.
///
/// # Errors
/// As [`migrate`]; [`Error::Migration`] also if the folder cannot be read.
pub async fn migrate_from<DB: Backend>(pool: &Pool<DB>, folder: &Path) -> Result<Migrated> {
    let migrator = Migrator::new(folder).await.map_err(|source| Error::Migration { source: source.into() })?;
    run(pool, migrator).await
}

/// Says whether the tables are there and of the version of this release. Reads only.
///
/// # Errors
/// [`Error::SchemaMissing`] if migrations are to be run; [`Error::SchemaNewer`].
pub async fn check_schema<DB: Backend>(pool: &Pool<DB>) -> Result<()> {
    let known = newest(&DB::embedded());
    match applied_version(pool).await? {
        Some(found) if found > known => Err(Error::SchemaNewer { found, known }),
        Some(found) if found == known => Ok(()),
        _ => Err(Error::SchemaMissing { doing: "checking the schema" }),
    }
}

/// Removes all tables of this crate with all their data, and nothing else. Doing it twice is harmless, unless the search path
/// of PostgreSQL leads to the tables of a second installation: each call removes those that it comes to first.
///
/// # Errors
/// The database's.
pub async fn drop_schema<DB: Backend>(pool: &Pool<DB>) -> Result<()> {
    let mut conn = guarded(pool).await?;
    let dropped = DB::drop_all(&mut conn).await;
    conn.release();
    dropped
}

async fn run<DB: Backend>(pool: &Pool<DB>, mut migrator: Migrator) -> Result<Migrated> {
    migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
    // Each database keeps other processes out in its own way.
    migrator.set_locking(false);
    let to = newest(&migrator);
    let from = applied_version(pool).await?.unwrap_or(0);
    if from > to {
        return Err(Error::SchemaNewer { found: from, known: to });
    }
    let done = from == to && is_done(pool, &migrator).await?;
    let mut races = 0;
    while !done && let Err(fault) = apply(pool, &migrator).await {
        if let MigrateError::VersionMissing(found) = fault {
            return Err(Error::SchemaNewer { found, known: to });
        }
        races += 1;
        let raced = matches!(fault, MigrateError::Execute(_) | MigrateError::ExecuteMigration(..));
        if !raced || races > MAX_RACE_RETRIES || applied_version(pool).await?.unwrap_or(0) == from {
            return Err(failed::<DB>(fault));
        }
    }
    let mut conn = guarded(pool).await?;
    let mended = DB::after_migrating(&mut conn).await;
    conn.release();
    mended?;
    Ok(if from == to { Migrated::NothingToDo { version: to } } else { Migrated::Applied { from, to } })
}

/// A missing right, or a lost connection, is told as everywhere.
fn failed<DB: Backend>(fault: MigrateError) -> Error {
    let kind = match &fault {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => Fault::of::<DB>(error),
        _ => Fault::Other,
    };
    match kind {
        Fault::Other | Fault::SchemaMissing => Error::Migration { source: fault.into() },
        kind => kind.error("migrating the schema", fault.into()),
    }
}

async fn guarded<DB: Backend>(pool: &Pool<DB>) -> Result<GuardedConnection<DB>> {
    GuardedConnection::take(pool, &DB::Store::default(), "taking a connection for the schema").await
}

async fn applied_version<DB: Backend>(pool: &Pool<DB>) -> Result<Option<i64>> {
    let mut conn = guarded(pool).await?;
    let version = DB::applied_version(&mut conn).await;
    conn.release();
    version
}

/// True if just these migrations were applied, whole and as they are now. Unlike [`apply`] it needs no right to create tables.
async fn is_done<DB: Backend>(pool: &Pool<DB>, migrator: &Migrator) -> Result<bool> {
    let mut conn = guarded(pool).await?;
    let done = are_applied::<DB>(&mut conn, migrator).await;
    conn.release();
    done.map_err(failed::<DB>)
}

async fn are_applied<DB: Backend>(conn: &mut DB::Connection, migrator: &Migrator) -> Result<bool, MigrateError> {
    if conn.dirty_version(MIGRATIONS_TABLE).await?.is_some() {
        return Ok(false);
    }
    let applied = conn.list_applied_migrations(MIGRATIONS_TABLE).await?;
    let found = applied.iter().map(|migration| (migration.version, &migration.checksum));
    Ok(found.eq(migrator.iter().map(|migration| (migration.version, &migration.checksum))))
}

/// Where a lock or a transaction may be left on the session, its connection is closed afterwards. Elsewhere it must not be:
/// a database in memory would go with it.
async fn apply<DB: Backend>(pool: &Pool<DB>, migrator: &Migrator) -> Result<(), MigrateError> {
    let mut conn = pool.acquire().await?;
    if !DB::LOCKS_SESSION {
        return DB::apply(&mut conn, migrator).await;
    }
    let mut conn = conn.detach();
    let done = DB::apply(&mut conn, migrator).await;
    conn.close().await?;
    done
}

fn newest(migrator: &Migrator) -> i64 {
    migrator.iter().map(|migration| migration.version).max().unwrap_or(0)
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_database_in_memory_outlives_its_migration() {
        let one = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
        let pool = one.connect("sqlite::memory:").await.expect("opens");
        assert!(matches!(migrate(&pool).await, Ok(Migrated::Applied { from: 0, .. })));
        assert!(check_schema(&pool).await.is_ok());
        assert!(matches!(migrate(&pool).await, Ok(Migrated::NothingToDo { .. })));
    }
}
