//! Connections of which a dropped call must not spoil the next one.

use std::ops::{Deref, DerefMut};

use sqlx::pool::PoolConnection;
use sqlx::{Database, Pool};

use crate::error::Result;
use crate::message_store::MessageStore;
use crate::pool;

/// A connection that is closed, where the database needs it, unless it is [released](Self::release):
/// whoever is dropped while using it does not give it back.
pub(crate) struct GuardedConnection<DB: Database> {
    conn: PoolConnection<DB>,
    close: bool,
}

impl<DB: Database> GuardedConnection<DB> {
    /// One of the pool's, for `doing`.
    pub(crate) async fn take(pool: &Pool<DB>, store: &dyn MessageStore<DB>, doing: &'static str) -> Result<Self> {
        let conn = pool::take(pool).await.map_err(|error| store.classify(doing, error))?;
        Ok(Self { conn, close: !store.survives_dropped_calls() })
    }

    /// Gives it back to its pool.
    pub(crate) fn release(mut self) {
        self.close = false;
    }
}

impl<DB: Database> Drop for GuardedConnection<DB> {
    fn drop(&mut self) {
        if self.close {
            self.conn.close_on_drop();
        }
    }
}

impl<DB: Database> Deref for GuardedConnection<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &Self::Target {
        &self.conn
    }
}

impl<DB: Database> DerefMut for GuardedConnection<DB> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.conn
    }
}
