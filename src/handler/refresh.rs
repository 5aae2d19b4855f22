//! Bringing the mapping of all instances up to date.

use sqlx::Pool;

use super::park_after::is_parkable;
use super::{HandleMessage, Mapping, MessageHandler};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::guarded_connection::GuardedConnection;
use crate::ids::{InstanceId, MessageId};
use crate::mapper::{Mapper, MapperTables};
use crate::persister::Begun;
use crate::recorder::Outbox;
use crate::unit_of_work::Saved;

/// How many instances are listed at a time.
pub const REFRESH_PAGE: u32 = 100;
/// Most instances that could not be updated of which the errors are kept.
pub const MAX_REFRESH_FAILURES: usize = 1_000;

/// What became of the mappings of all instances.
#[derive(Debug, Default)]
#[must_use]
pub struct Refreshed {
    /// How many instances were updated.
    pub updated: u64,
    /// How many were not, because of what they are: their state cannot be loaded, or another has one of their keys.
    pub failed: u64,
    /// The first of those, at most [`MAX_REFRESH_FAILURES`].
    pub failures: Vec<(InstanceId, Error)>,
}

impl<S: HandleMessage, DB: Backend> MessageHandler<S, DB> {
    /// Updates the mapping of every instance that is not completed, as handling a message does; for use after the
    /// mapping's code has changed.
    ///
    /// Each instance is updated in a transaction of its own, with a unit of work that records nothing: so it cannot
    /// overtake, or be overtaken by, a message that is being handled. May be dropped half-way and called again, and runs
    /// beside everything else. Without a mapper there is nothing to do.
    ///
    /// # Errors
    /// The database's, and lost races after the last try. An instance that cannot be updated is no error, see
    /// [`Refreshed::failures`].
    pub async fn refresh_mapping(&self, pool: &Pool<DB>) -> Result<Refreshed> {
        let (mut refreshed, mut after) = (Refreshed::default(), i64::MIN);
        let Mapping::Mapper(mapper) = &self.mapping else { return Ok(refreshed) };
        loop {
            let page = self.live_instances(pool, after).await?;
            let Some((last, _)) = page.last() else { return Ok(refreshed) };
            after = *last;
            for (_, id) in page {
                let mut lost = 0;
                loop {
                    match self.refresh_one(pool, &**mapper, &id).await {
                        Ok(changed) => refreshed.updated += u64::from(changed),
                        Err(error @ (Error::Conflict { .. } | Error::Contention { .. })) => {
                            self.persister.wait_to_retry(&mut lost, error).await?;
                            continue;
                        }
                        Err(error) if is_parkable(&error) => {
                            refreshed.failed += 1;
                            if refreshed.failures.len() < MAX_REFRESH_FAILURES {
                                refreshed.failures.push((id.clone(), error));
                            }
                        }
                        Err(error) => return Err(error),
                    }
                    break;
                }
            }
        }
    }

    async fn live_instances(&self, pool: &Pool<DB>, after: i64) -> Result<Vec<(i64, InstanceId)>> {
        let store = DB::Store::default();
        let mut conn = GuardedConnection::take(pool, &store, "taking a connection for a mapping").await?;
        let page = store.live_instances(&mut conn, self.saga.persistence_key(), after, REFRESH_PAGE).await;
        conn.release();
        page
    }

    async fn refresh_one(&self, pool: &Pool<DB>, mapper: &dyn Mapper<S, DB>, id: &InstanceId) -> Result<bool> {
        let mut conn = self.take(pool).await?;
        let refreshed = self.refresh_on(&mut conn, mapper, id).await;
        conn.release();
        refreshed
    }

    async fn refresh_on(&self, conn: &mut DB::Connection, mapper: &dyn Mapper<S, DB>, id: &InstanceId) -> Result<bool> {
        let mut tx = self.persister.store().begin(conn).await?;
        let begun = self.persister.begin_handling(&*self.saga, &mut tx, Outbox, id, MessageId::new()).await?;
        let Begun::Unit(unit) = begun else { panic!("BUG: a message that was just made was handled before") };
        if unit.is_completed() || unit.head.is_at_start() {
            return Ok(false);
        }
        let instance = unit.instance.clone();
        let saved = self.persister.save(&mut tx, unit).await?;
        assert!(!matches!(saved, Saved::AlreadyHandled(_)), "BUG: a message that was just made was handled before");
        mapper.update(&mut tx, &self.saga, &instance, false).await?;
        let committed = tx.commit().await;
        committed.map_err(|error| self.persister.store().classify("updating the mapping of an instance", error))?;
        Ok(true)
    }
}
