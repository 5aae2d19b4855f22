//! Units of work on instances that are still in memory.

use sqlx::{Database, Pool};

use super::execute::{Call, TAKING, Tried, lost_or};
use super::save::Ended;
use super::{Persister, stream_of, telemetry};
use crate::error::{Error, Result};
use crate::guarded_connection::GuardedConnection;
use crate::instance_cache::Kept;
use crate::recorder::Outbox;
use crate::saga::Saga;
use crate::unit_of_work::{LoadReport, UnitOfWork};

impl<DB: Database> Persister<DB> {
    /// A try without a load. Others may have written since: it counts only if it was saved, for then the stream
    /// ended where it was thought to. `None` if it does not count.
    pub(super) async fn try_cached<S, R, E, F>(
        &self,
        call: &Call<'_, DB>,
        saga: &S,
        decide: &mut F,
    ) -> Result<Option<Tried<R>>, E>
    where
        S: Saga,
        E: From<Error>,
        F: FnMut(&mut UnitOfWork<'_, S>) -> Result<R, E>,
    {
        let Some(cache) = self.cache.as_ref().filter(|cache| cache.serves(call.pool)) else { return Ok(None) };
        let stream = stream_of(saga, call.id)?;
        let Some(Kept { instance, head, snapshot }) = cache.take(&stream.name) else {
            telemetry::cached(&stream, "miss");
            return Ok(None);
        };
        let mut recorder = self.recorder(Outbox);
        if let Some(message) = call.message {
            recorder.set_inbound(message)?;
        }
        let report = LoadReport { cached: true, snapshot, ..LoadReport::default() };
        let mut unit = UnitOfWork::new(saga, stream, instance, head, recorder, report);
        let ended = match decide(&mut unit) {
            Ok(value) => {
                let save = self.save_cached(call, &unit);
                let ended = telemetry::saving(&unit.stream, unit.recorded().len(), save).await;
                ended.map(|ended| ended.map(|ended| (value, ended)))
            }
            Err(_) => Ok(None),
        };
        match ended {
            Ok(Some((value, ended))) => {
                telemetry::cached(&unit.stream, "hit");
                self.tried(call, unit, value, Ok(ended)).map(Some)
            }
            Ok(None) => {
                telemetry::cached(&unit.stream, "stale");
                Ok(None)
            }
            Err(error) => lost_or(error).map(Some),
        }
    }

    /// `None` if nothing was written, also because of a fence: an older state may have chosen it.
    async fn save_cached<S: Saga>(&self, call: &Call<'_, DB>, unit: &UnitOfWork<'_, S>) -> Result<Option<Ended>> {
        match self.write_cached(call, unit).await {
            Err(Error::Fenced { .. }) => Ok(None),
            ended => ended,
        }
    }

    async fn write_cached<S: Saga>(&self, call: &Call<'_, DB>, unit: &UnitOfWork<'_, S>) -> Result<Option<Ended>> {
        let Some(prepared) = self.prepare(unit).ok().filter(|prepared| !prepared.unchanged) else { return Ok(None) };
        let taken = prepared.taken();
        let written = match &self.queue {
            Some(queue) if !self.needs_transaction(unit, &prepared) => {
                let place = queue.place(call.pool).await?;
                queue.commit(place, None, self.owned_commit(unit, prepared)).await?
            }
            _ => {
                let mut conn = GuardedConnection::take(call.pool, self.store(), TAKING).await?;
                let written = self.write_alone(&mut conn, unit, &prepared).await;
                conn.release();
                written?
            }
        };
        Ok(written.map(|head| Ended::changed(unit, head, taken)))
    }

    /// Keeps an instance for its next unit of work.
    pub(super) fn keep<S: Saga>(&self, pool: &Pool<DB>, unit: UnitOfWork<'_, S>, ended: &Ended) {
        let (Some(cache), Some(head)) = (&self.cache, ended.head) else { return };
        if cache.serves(pool) && !head.completed && !head.is_at_start() {
            let UnitOfWork { stream, instance, .. } = unit;
            cache.put(stream.name, Kept { instance, head, snapshot: ended.snapshot });
        }
    }
}
