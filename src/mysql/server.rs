//! What a store asks the server before its first write, or its first look for messages.

use std::sync::OnceLock;

use sqlx::mysql::MySqlRow;
use sqlx::{MySql, MySqlConnection, Pool, Row};

use super::{MySqlStore, classify, global_order};
use crate::codec::check_size;
use crate::error::{Error, Result};

/// Bytes that a statement needs beside the largest values that are bound to it, at most: a stream
/// name, ids, numbers and the protocol's own.
const PACKET_OVERHEAD: usize = 4 * 1024;

/// What the server said, each once.
#[derive(Debug, Default)]
pub(super) struct Server {
    /// Its `max_allowed_packet`, in bytes.
    max_packet: OnceLock<usize>,
    /// Sessions do not read what others have not committed, and commit each statement that is no transaction's.
    sessions_are_sound: OnceLock<()>,
    /// The database keeps no global order that the store does not know of.
    order_is_known: OnceLock<()>,
}

impl MySqlStore {
    /// Says whether the server takes packets as large as this store's limits allow. The server's
    /// `max_allowed_packet` as of the connection's start counts.
    ///
    /// # Errors
    /// [`Error::TooLarge`] with the size and the server's limit; the database's.
    pub async fn check_packet_limit(&self, pool: &Pool<MySql>) -> Result<()> {
        let doing = "asking for max_allowed_packet";
        let mut conn = pool.acquire().await.map_err(|error| classify(doing, error))?;
        let limit = max_packet_bytes(&mut conn).await.map_err(|error| classify(doing, error))?;
        check_packet(self.limits.unit_bytes.max(self.limits.snapshot_bytes), limit)
    }

    /// Fails if a statement that binds `bytes` cannot be written here; called before every write.
    pub(super) async fn check_write(&self, conn: &mut MySqlConnection, bytes: usize) -> Result<()> {
        if !self.globally_ordered && self.server.order_is_known.get().is_none() {
            global_order::check_none(conn).await?;
            self.server.order_is_known.get_or_init(|| ());
        }
        self.check_row(conn, bytes).await
    }

    /// As [`check_write`](Self::check_write), for a row that takes no place in a global order, whether one is kept or not.
    pub(super) async fn check_row(&self, conn: &mut MySqlConnection, bytes: usize) -> Result<()> {
        self.check_reads(conn).await?;
        self.check_size(conn, bytes).await
    }

    /// As [`check_write`](Self::check_write), for who gives commits their places by itself.
    #[cfg(feature = "export")]
    pub(super) async fn check_import(&self, conn: &mut MySqlConnection, bytes: usize) -> Result<()> {
        self.check_size(conn, bytes).await
    }

    /// Fails if the session reads what others have not committed: that may never come to be. A write would build on it, and a
    /// message be sent that nobody recorded. Fails, too, if a statement outside a transaction begins one that nobody commits:
    /// what was answered as done would be undone. Asks the first session only.
    pub(super) async fn check_reads(&self, conn: &mut MySqlConnection) -> Result<()> {
        if self.server.sessions_are_sound.get().is_some() {
            return Ok(());
        }
        let values =
            session_values(conn).await.map_err(|error| classify("asking for the session's settings", error))?;
        if values.iter().any(|value| value == READ_UNCOMMITTED) {
            return Err(Error::Unsupported {
                what: "the isolation level READ UNCOMMITTED",
                detail: "what it reads may be rolled back; let sessions have READ COMMITTED",
            });
        }
        if values.iter().any(|value| value == AUTOCOMMIT_OFF) {
            return Err(Error::Unsupported {
                what: "a session with autocommit = 0",
                detail: "what is written outside a transaction would be rolled back; let sessions have autocommit = 1",
            });
        }
        self.server.sessions_are_sound.get_or_init(|| ());
        Ok(())
    }

    async fn check_size(&self, conn: &mut MySqlConnection, bytes: usize) -> Result<()> {
        let limit = match self.server.max_packet.get() {
            Some(limit) => *limit,
            None => {
                let asked = max_packet_bytes(conn).await;
                let asked = asked.map_err(|error| classify("asking for max_allowed_packet", error))?;
                *self.server.max_packet.get_or_init(|| asked)
            }
        };
        check_packet(bytes, limit)
    }
}

const READ_UNCOMMITTED: &str = "READ-UNCOMMITTED";
const AUTOCOMMIT_OFF: &str = "OFF";

/// The session's isolation level, under each of the names that the variable has or had, and whether it commits by itself.
async fn session_values(conn: &mut MySqlConnection) -> sqlx::Result<Vec<String>> {
    sqlx::query("SHOW SESSION VARIABLES WHERE Variable_name IN ('transaction_isolation', 'tx_isolation', 'autocommit')")
        .try_map(|row: MySqlRow| row.try_get(1))
        .fetch_all(conn)
        .await
}

async fn max_packet_bytes(conn: &mut MySqlConnection) -> sqlx::Result<usize> {
    let row = sqlx::query("SELECT CAST(@@max_allowed_packet AS SIGNED)").fetch_one(conn).await?;
    Ok(usize::try_from(row.try_get::<i64, _>(0)?).unwrap_or(usize::MAX))
}

fn check_packet(bytes: usize, limit: usize) -> Result<()> {
    let size = bytes.saturating_add(PACKET_OVERHEAD);
    check_size("packet in bytes, by the server's max_allowed_packet,", size, limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MAX_UNIT_BYTES;

    #[test]
    fn the_largest_unit_of_work_fits_into_the_smallest_default_packet() {
        const MARIADB_DEFAULT: usize = 16 * 1024 * 1024;
        assert!(check_packet(MAX_UNIT_BYTES, MARIADB_DEFAULT).is_ok());
        let limit = MARIADB_DEFAULT / 2;
        assert!(matches!(check_packet(MAX_UNIT_BYTES, limit), Err(Error::TooLarge { .. })));
        assert!(check_packet(limit - PACKET_OVERHEAD, limit).is_ok());
        assert!(check_packet(limit - PACKET_OVERHEAD + 1, limit).is_err());
    }
}
