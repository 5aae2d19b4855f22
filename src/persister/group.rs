//! Units of work that are committed together with those of other callers.

use sqlx::{Database, Pool};

use super::execute::{Call, TAKING, Tried, lost_or};
use super::save::{Ended, Prepared};
use super::{Begun, Executed, Persister, telemetry};
use crate::commit_queue::CommitQueue;
use crate::error::{Error, Result};
use crate::message_store::SnapshotChange;
use crate::owned_commit::{OwnedChange, OwnedCommit};
use crate::pool;
use crate::recorder::Outbox;
use crate::saga::Saga;
use crate::unit_of_work::{Saved, UnitOfWork};

impl<DB: Database> Persister<DB> {
    /// As without a queue, but the last step waits for others who come meanwhile.
    pub(super) async fn try_in_group<S, R, E, F>(
        &self,
        queue: &CommitQueue<DB>,
        call: &Call<'_, DB>,
        saga: &S,
        decide: &mut F,
    ) -> Result<Tried<R>, E>
    where
        S: Saga,
        E: From<Error>,
        F: FnMut(&mut UnitOfWork<'_, S>) -> Result<R, E>,
    {
        let place = queue.place(call.pool).await?;
        let conn = pool::take(call.pool).await;
        let mut conn = conn.map_err(self.classify(TAKING))?;
        let mut unit = match self.load(saga, &mut conn, Outbox, call.id, call.message).await {
            Ok(Begun::Unit(unit)) => unit,
            Ok(Begun::AlreadyHandled(handled)) => return Ok(Tried::Ended(Executed::AlreadyHandled(handled))),
            Err(error) => return lost_or(error),
        };
        let value = decide(&mut unit)?;
        let save = async {
            let prepared = self.prepare(&unit)?;
            if prepared.unchanged || self.needs_transaction(&unit, &prepared) {
                return self.save_prepared(&mut conn, &unit, &prepared).await;
            }
            let taken = prepared.taken();
            match queue.commit(place, Some(conn), self.owned_commit(&unit, prepared)).await? {
                Some(head) => Ok(Ended::changed(&unit, head, taken)),
                None => self.lost_in_group(call.pool, &unit).await.map(Ended::without_head),
            }
        };
        let ended = telemetry::saving(&unit.stream, unit.recorded().len(), save).await;
        self.tried(call, unit, value, ended)
    }

    pub(super) fn owned_commit<S: Saga>(&self, unit: &UnitOfWork<'_, S>, prepared: Prepared) -> OwnedCommit {
        let commit = self.as_commit(unit, &prepared);
        let (handled, completed, deliver) = (commit.handled, commit.completed, commit.deliver);
        let kept = match commit.snapshots {
            SnapshotChange::Save(_, keep) => Some(keep),
            SnapshotChange::None | SnapshotChange::Delete => None,
        };
        let deletes = matches!(commit.snapshots, SnapshotChange::Delete);
        let snapshots = match (prepared.snapshot, kept) {
            (Some(snapshot), Some(keep)) => OwnedChange::Save(Box::new(snapshot), keep),
            _ if deletes => OwnedChange::Delete,
            _ => OwnedChange::None,
        };
        let (stream, head, encoded) = (unit.stream.clone(), unit.head, prepared.encoded);
        OwnedCommit { stream, head, encoded, handled, completed, deliver, snapshots }
    }

    /// Only who lost needs a connection again, to find out to whom.
    async fn lost_in_group<S: Saga>(&self, pool: &Pool<DB>, unit: &UnitOfWork<'_, S>) -> Result<Saved> {
        let conn = pool.acquire().await;
        let mut conn = conn.map_err(self.classify("taking a connection to see who was faster"))?;
        self.lost(&mut conn, unit).await
    }
}
