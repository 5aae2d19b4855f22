//! Replaying an instance from its first event, past its snapshot.

use serde_json::Value;
use sqlx::Database;

use super::load::Replay;
use super::{Persister, Snapshots, stream_of};
use crate::error::Result;
use crate::ids::{CommitNumber, InstanceId, Revision};
use crate::message_store::{LoadFrom, LoadRequest};
use crate::saga::Saga;
use crate::snapshot::Snapshot;
use crate::verify_replay::as_json;

/// What an instance was replayed to.
pub(crate) struct Replayed {
    pub(crate) state: Value,
    pub(crate) revision: Revision,
    pub(crate) commits: CommitNumber,
    pub(crate) events: u64,
    /// The newest snapshot, and the state that replay came to there.
    pub(crate) snapshot: Checkpoint,
    /// The state after the commit that was asked for, if it is there.
    pub(crate) at_asked: Option<Value>,
}

/// A snapshot beside what replay made of the same events.
pub(crate) enum Checkpoint {
    /// There is none that loading would use.
    None,
    /// It is one that loading would use, if it could be decoded.
    Unreadable(Revision),
    Found {
        revision: Revision,
        stored: Value,
        replayed: Value,
    },
}

impl<DB: Database> Persister<DB> {
    /// Replays without a snapshot. Damage, unknown types and the like are errors, as for loading.
    pub(crate) async fn replay_from_start<S: Saga>(
        &self,
        saga: &S,
        conn: &mut DB::Connection,
        id: &InstanceId,
        asked: Option<CommitNumber>,
    ) -> Result<Replayed> {
        let stream = stream_of(saga, id)?;
        let usable = self.newest_snapshot(saga, conn, id).await?;
        let request = LoadRequest { stream: &stream, from: LoadFrom::Start, handled: None };
        let mut found = self.store.load(conn, &request).await?;
        if let Some(row) = &found.stream {
            stream.check_owner(row.persistence_key.as_deref())?;
        }
        let mut replay = Replay::new(saga, self.codecs.clone(), &stream, &found);
        let (mut snapshot, mut at_asked) = (Checkpoint::None, None);
        loop {
            for commit in &found.page.commits {
                replay.apply_commit(commit)?;
                if asked == Some(commit.commit_number) {
                    at_asked = Some(as_json(&replay.instance.data)?);
                }
                let is_here = |usable: &&Snapshot| {
                    usable.commit_number == commit.commit_number && usable.revision == replay.instance.revision
                };
                if let Some(usable) = usable.as_ref().filter(is_here) {
                    snapshot = self.beside::<S>(usable, &replay.instance.data)?;
                }
            }
            if !found.page.more {
                break;
            }
            found.page = self.store.read_commits(conn, &stream.name, replay.head.commit_number).await?;
        }
        Ok(Replayed {
            state: as_json(&replay.instance.data)?,
            revision: replay.instance.revision,
            commits: replay.head.commit_number,
            events: replay.report.replayed_events,
            snapshot,
            at_asked,
        })
    }

    /// The newest snapshot, if loading would try it.
    async fn newest_snapshot<S: Saga>(
        &self,
        saga: &S,
        conn: &mut DB::Connection,
        id: &InstanceId,
    ) -> Result<Option<Snapshot>> {
        let stream = stream_of(saga, id)?;
        let newest = match &self.snapshots {
            Snapshots::Off => None,
            Snapshots::Separate(repository) => repository.load_saga_snapshot(conn, &stream.persistence_key, id).await?,
            Snapshots::InStore => {
                let request = LoadRequest { stream: &stream, from: LoadFrom::Snapshot, handled: None };
                self.store.load(conn, &request).await?.snapshot
            }
        };
        let is_usable = |snapshot: &Snapshot| snapshot.is_intact() && snapshot.data_version == saga.data_version();
        Ok(newest.filter(is_usable))
    }

    fn beside<S: Saga>(&self, snapshot: &Snapshot, replayed: &S::Data) -> Result<Checkpoint> {
        let revision = snapshot.revision;
        let Ok(stored) = self.codecs.decode::<S::Data>(&snapshot.content_type, &snapshot.body) else {
            return Ok(Checkpoint::Unreadable(revision));
        };
        Ok(Checkpoint::Found { revision, stored: as_json(&stored)?, replayed: as_json(replayed)? })
    }
}
