//! Many units of work in one transaction.

use std::collections::HashSet;

use sqlx::{Connection, Sqlite, SqliteConnection, SqlitePool};

use super::{classify, commit, commit_rows};
use crate::error::{Error, Result};
use crate::message_store::{Head, UnitCommit};
use crate::persister::Persister;

impl Persister<Sqlite> {
    /// Commits units of work of concurrent callers of [`execute`](Self::execute) together, with one flush of the
    /// disk for all. This persister and its clones then serve this pool and its clones only.
    ///
    /// Each unit of work is still judged alone: a conflict, a message that was handled before, a failing
    /// statement is its caller's only. A caller is answered after the commit, so a crash loses nothing that was
    /// answered. If the commit itself fails, nothing of the group is stored, and each of its callers is told. A
    /// call that is dropped has happened, or has not.
    ///
    /// There is no timer: a caller who finds nobody writing writes at once, as without this, and whoever
    /// comes meanwhile is written next, at most [`MAX_GROUP_UNITS`](super::MAX_GROUP_UNITS) and
    /// [`MAX_GROUP_BYTES`](super::MAX_GROUP_BYTES) at a time, by a task that ends as soon as nobody waits.
    /// At most [`MAX_GROUP_CALLERS`](super::MAX_GROUP_CALLERS) calls are in progress; further ones wait. Who waits
    /// holds no connection.
    ///
    /// Units of work with a [fence](crate::UnitOfWork::fence), with changes to timeouts, or with something to write in an
    /// outbox or a snapshot repository of their own, are committed by themselves, as is all that is saved in a transaction of the
    /// caller's.
    ///
    /// [`execute`](Self::execute) then gives [`Error::InvalidInput`] for another pool, and
    /// [`Error::Disconnected`] if the runtime on which the group is written, that of one of its callers, is shut down
    /// meanwhile: as with any lost connection, the commit may have happened.
    #[must_use]
    pub fn with_group_commit(self, pool: &SqlitePool) -> Self {
        self.with_commit_queue(pool)
    }
}

const DOING: &str = "committing a group of units of work";

/// Why nothing of a group was written.
enum Failure {
    /// A statement failed. Alone, the others may succeed.
    OfOne,
    /// The transaction failed, and with it all.
    OfAll(Error),
}

/// `None` if each is to be tried alone.
pub(super) async fn commit_together(
    conn: &mut SqliteConnection,
    units: &[UnitCommit<'_>],
) -> Option<Vec<Result<Option<Head>>>> {
    if units.len() < 2 {
        return None;
    }
    match commit_all(conn, units).await {
        Ok(written) => Some(written.into_iter().map(Ok).collect()),
        Err(Failure::OfAll(error)) => Some(error.for_each_of(units.len()).map(Err).collect()),
        Err(Failure::OfOne) => None,
    }
}

async fn commit_all(conn: &mut SqliteConnection, units: &[UnitCommit<'_>]) -> Result<Vec<Option<Head>>, Failure> {
    let mut streams = HashSet::with_capacity(units.len());
    let (rows, others): (Vec<_>, Vec<_>) = units.iter().enumerate().partition(|(_, unit)| {
        // What the statement answers names streams, so that each can stand in it once.
        commit::is_one_statement(unit) && unit.head.key.is_some_and(|key| streams.insert(key))
    });
    let mut written = vec![None; units.len()];
    if others.is_empty() && rows.len() <= commit_rows::MOST_ROWS {
        // A statement is a transaction by itself.
        let inserted = commit_rows::insert(conn, &rows, &mut written).await;
        return inserted.map(|()| written).map_err(|error| match classify(DOING, error) {
            // Each alone would only wait for the same lock, one after another.
            error @ (Error::Contention { .. } | Error::Disconnected { .. }) => Failure::OfAll(error),
            _ => Failure::OfOne,
        });
    }
    let of_all = |error| Failure::OfAll(classify(DOING, error));
    let mut tx = conn.begin_with("BEGIN IMMEDIATE").await.map_err(of_all)?;
    match write(&mut tx, &rows, &others, &mut written).await {
        Ok(()) => tx.commit().await.map(|()| written).map_err(of_all),
        Err(error) => match tx.rollback().await {
            Ok(()) => Err(Failure::OfOne),
            // It was rolled back already: the file is full or cannot be written.
            Err(_) => Err(Failure::OfAll(error)),
        },
    }
}

async fn write(
    tx: &mut SqliteConnection,
    rows: &[(usize, &UnitCommit<'_>)],
    others: &[(usize, &UnitCommit<'_>)],
    written: &mut [Option<Head>],
) -> Result<()> {
    commit_rows::insert(tx, rows, written).await.map_err(|error| classify(DOING, error))?;
    for (at, unit) in others {
        let one = commit::commit(tx, unit).await?;
        if let Some(written) = written.get_mut(*at) {
            *written = one;
        }
    }
    Ok(())
}
