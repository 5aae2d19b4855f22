//! What locks guard: rows that only the holder of the lock writes.

use sagastore::{Error, MessageStore};
use sqlx::{Pool, Transaction};

use crate::site::Site;

/// Resources of leases that all clients want, and such as are free for long at times.
pub(crate) const BUSY: [&str; 2] = ["busy-0", "busy-1"];
pub(crate) const RARE: [&str; 4] = ["rare-0", "rare-1", "rare-2", "rare-3"];
/// Keys of session locks.
pub(crate) const SESSIONS: [&str; 2] = ["session-0", "session-1"];

pub(crate) fn resources() -> impl Iterator<Item = &'static str> {
    BUSY.into_iter().chain(RARE).chain(SESSIONS)
}

/// What a write found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing of a later holder. The write has this number.
    Fine(i64),
    /// A later holder's token: it should have been refused.
    Later(i64),
}

/// The token that wrote last, and how many writes there were; the row is locked where that is needed.
pub(crate) async fn last<DB: Site>(tx: &mut Transaction<'_, DB>, resource: &str) -> Result<(i64, i64), Error> {
    let sql = format!(
        "SELECT CAST(token AS CHAR(40)), CAST(writes AS CHAR(40)) FROM guarded WHERE resource = '{resource}' {}",
        DB::FOR_UPDATE
    );
    let rows = DB::texts(tx, sql).await.map_err(classify::<DB>)?;
    Ok((rows[0][0].parse().unwrap(), rows[0][1].parse().unwrap()))
}

/// Writes as the holder with this token, and commits.
pub(crate) async fn write<DB: Site>(mut tx: Transaction<'_, DB>, resource: &str, token: i64) -> Result<Found, Error> {
    let (last, writes) = last::<DB>(&mut tx, resource).await?;
    if last > token {
        return Ok(Found::Later(last));
    }
    let number = writes + 1;
    let sql = format!(
        "UPDATE guarded SET token = {token}, writes = {number} WHERE resource = '{resource}';
        INSERT INTO fenced_write VALUES ('{resource}', {number}, {token})"
    );
    DB::execute(&mut tx, sql).await.map_err(classify::<DB>)?;
    tx.commit().await.map_err(classify::<DB>)?;
    Ok(Found::Fine(number))
}

pub(crate) async fn begin<DB: Site>(pool: &Pool<DB>) -> Result<Transaction<'static, DB>, Error> {
    sagastore::Persister::<DB>::new().begin(pool).await
}

fn classify<DB: Site>(error: sqlx::Error) -> Error {
    DB::Store::default().classify("writing under a lock", error)
}
