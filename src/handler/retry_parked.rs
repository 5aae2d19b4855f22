//! Trying parked messages again.

use sqlx::Pool;

use super::incoming::{Incoming, undecodable};
use super::panicking::release;
use super::park_after::{is_parkable, kept_text};
use super::parked::{ParkedId, ParkedMessage, ParkedRow, ParkingTables, release_unstarted};
use super::try_once::Behind;
use super::{HandleMessage, MessageHandler};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::guarded_connection::GuardedConnection;
use crate::ids::InstanceId;

/// What became of the parked messages of an instance.
#[derive(Debug)]
#[must_use]
pub struct Retried {
    /// How many are dealt with, and no longer parked.
    pub released: u64,
    /// Why the next one failed again; it and those behind it are still parked. `None` if nothing is left.
    pub failed: Option<Error>,
}

impl<S: HandleMessage, DB: Backend> MessageHandler<S, DB> {
    /// Handles the parked messages of an instance again, in their order, until none is left or one fails. Once none is
    /// left, new messages of the instance are handled as they come.
    ///
    /// Each is handled and released in one transaction; several may call this at once.
    ///
    /// # Errors
    /// The database's, and lost races after the last try; a message that fails is no error, see [`Retried::failed`].
    pub async fn retry_parked(&self, pool: &Pool<DB>, instance: &InstanceId) -> Result<Retried> {
        let mut released = 0;
        while let Some(parked) = self.first_parked(pool, instance).await? {
            let mut lost = 0;
            loop {
                match self.retry_one(pool, &parked).await {
                    Ok(mine) => released += u64::from(mine),
                    Err(error @ (Error::Conflict { .. } | Error::Contention { .. })) => {
                        self.persister.wait_to_retry(&mut lost, error).await?;
                        continue;
                    }
                    Err(error) if is_parkable(&error) || is_unhandled(&error) => {
                        self.note_try(pool, parked.id, &error).await?;
                        return Ok(Retried { released, failed: Some(error) });
                    }
                    Err(error) => return Err(error),
                }
                break;
            }
        }
        Ok(Retried { released, failed: None })
    }

    async fn first_parked(&self, pool: &Pool<DB>, instance: &InstanceId) -> Result<Option<ParkedMessage>> {
        let store = DB::Store::default();
        let mut conn = GuardedConnection::take(pool, &store, "taking a connection for parked messages").await?;
        let found = store.first_parked(&mut conn, self.saga.persistence_key(), instance).await;
        conn.release();
        found?.map(ParkedRow::decode).transpose()
    }

    /// False if somebody else took it.
    async fn retry_one(&self, pool: &Pool<DB>, parked: &ParkedMessage) -> Result<bool> {
        let mut conn = self.take(pool).await?;
        let retried = self.retry_on(&mut conn, parked).await;
        release(conn, &retried);
        if retried? {
            self.persister.wake();
            return Ok(true);
        }
        Ok(false)
    }

    async fn retry_on(&self, conn: &mut DB::Connection, parked: &ParkedMessage) -> Result<bool> {
        let mut tx = self.persister.store().begin(conn).await?;
        if !DB::Store::default().unpark(&mut tx, parked.id).await? {
            return Ok(false);
        }
        let Some(incoming) = Incoming::decode(&*self.saga, self.persister.codecs(), &parked.message)? else {
            // It was the saga's when it was parked: a version or a step is missing.
            return Err(undecodable(&parked.message, "the saga has no message of this type any more".into()));
        };
        let _ = self.try_in_part(&mut tx, &incoming, Behind::Nothing).await?;
        release_unstarted(&mut tx, &parked.persistence_key, &parked.instance_id).await?;
        let committed = tx.commit().await;
        committed.map_err(|error| self.persister.store().classify("releasing a parked message", error))?;
        Ok(true)
    }

    async fn note_try(&self, pool: &Pool<DB>, id: ParkedId, error: &Error) -> Result<()> {
        let mut conn = self.take(pool).await?;
        let noted = self.note_try_on(&mut conn, id, error).await;
        conn.release();
        noted
    }

    async fn note_try_on(&self, conn: &mut DB::Connection, id: ParkedId, error: &Error) -> Result<()> {
        let mut tx = self.persister.store().begin(conn).await?;
        DB::Store::default().note_try(&mut tx, id, &kept_text(error)).await?;
        let committed = tx.commit().await;
        committed.map_err(|error| self.persister.store().classify("noting the failure of a parked message", error))
    }
}

/// What is delivered again when it comes from outside, and stays parked here.
fn is_unhandled(error: &Error) -> bool {
    matches!(error, Error::UndecodableMessage { .. } | Error::InstanceNotFound { .. })
}
