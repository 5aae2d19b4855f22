//! All events of a store in one order.

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use sqlx::{Database, Transaction};

use crate::commit::StoredCommit;
use crate::envelope::RecordedEvent;
use crate::error::{Error, Result};
use crate::ids::check_name;
use crate::message_store::MessageStore;
use crate::stream_name::StreamName;

/// Longest name of a consumer of the global order, in bytes of UTF-8.
pub const MAX_CONSUMER_NAME_BYTES: usize = 255;

/// A place in the global order: after one event, before the next.
///
/// Its parts mean something to the database only; compare, print and parse it as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GlobalPosition {
    /// Which rebase of the order the place belongs to.
    pub(crate) epoch: i64,
    /// The transaction, where commit order is not position order.
    pub(crate) transaction: i64,
    /// The commit's position.
    pub(crate) position: i64,
    /// Index of the event in its commit.
    pub(crate) index: i64,
}

impl GlobalPosition {
    /// Before the first event.
    pub const START: Self = Self { epoch: 0, transaction: i64::MIN, position: i64::MIN, index: -1 };
}

impl fmt::Display for GlobalPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:{}", self.epoch, self.transaction, self.position, self.index)
    }
}

impl FromStr for GlobalPosition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = || Error::invalid("global position", format!("{text:?} is not one"));
        let parts: Result<Vec<i64>, _> = text.split(':').map(str::parse).collect();
        match parts.map_err(|_| invalid())?.as_slice() {
            &[epoch, transaction, position, index] => Ok(Self { epoch, transaction, position, index }),
            _ => Err(invalid()),
        }
    }
}

/// An event with its place in the global order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GlobalEvent {
    /// The place after this event: resume from it.
    pub position: GlobalPosition,
    /// The event.
    pub event: RecordedEvent,
}

impl GlobalEvent {
    /// For stores of one's own.
    pub fn new(position: GlobalPosition, event: RecordedEvent) -> Self {
        Self { position, event }
    }
}

/// How far the global order can be read, and what holds it back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GlobalTail {
    /// Commits that are stored but not yet readable in order, because an older write transaction of
    /// the database cluster is still open. Always zero where commit order is position order.
    pub held_back_commits: u64,
    /// The oldest such transaction, as the server shows it: process id, age, state. `None` if
    /// nothing is held back, or if the role may not see it.
    pub held_back_by: Option<String>,
}

/// Reads all events in one order: that in which their transactions became visible. A reader that
/// resumes from its last position misses nothing. Within a stream it is the order of the offsets.
///
/// A transaction that reads the order after it has written finds what it wrote itself on SQLite, MySQL and MariaDB, though that
/// may yet be rolled back; on PostgreSQL it does not, and [`global_tail`](Self::global_tail) counts it among what is held back.
#[async_trait]
pub trait GloballyOrderedStore<DB: Database>: MessageStore<DB> {
    /// The next events after `after`, at most about `limit`: the last commit is never cut. An empty
    /// answer means that there are none yet, unless none were asked for.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the store keeps no global order; [`Error::GlobalOrderRestored`];
    /// [`Error::Corrupt`]; the database's.
    async fn read_global(
        &self,
        conn: &mut DB::Connection,
        after: GlobalPosition,
        limit: u32,
    ) -> Result<Vec<GlobalEvent>>;

    /// How far the order can be read now.
    ///
    /// # Errors
    /// As [`read_global`](Self::read_global).
    async fn global_tail(&self, conn: &mut DB::Connection) -> Result<GlobalTail>;

    /// Where a named consumer stands; [`GlobalPosition::START`] if it never moved.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a name over [`MAX_CONSUMER_NAME_BYTES`]; the database's.
    async fn consumer_position(&self, conn: &mut DB::Connection, consumer: &str) -> Result<GlobalPosition> {
        check_name("consumer name", consumer, MAX_CONSUMER_NAME_BYTES)?;
        let stored = self.stored_consumer_position(conn, consumer).await?;
        stored.map_or(Ok(GlobalPosition::START), |text| text.parse())
    }

    /// Moves a named consumer in the transaction of what it did, if it still stands at `from`. False
    /// means that another process moved it: roll back, or what was done is done twice. Moved back to
    /// [`GlobalPosition::START`], it begins anew.
    ///
    /// # Errors
    /// As [`consumer_position`](Self::consumer_position).
    async fn move_consumer(
        &self,
        tx: &mut Transaction<'_, DB>,
        consumer: &str,
        from: GlobalPosition,
        to: GlobalPosition,
    ) -> Result<bool> {
        check_name("consumer name", consumer, MAX_CONSUMER_NAME_BYTES)?;
        let (start, to) = (from.to_string(), to.to_string());
        // At the start there is a row only if it was moved back there. One statement that writes: two could deadlock with others'.
        let stored = match from {
            GlobalPosition::START => self.stored_consumer_position(tx, consumer).await?,
            _ => Some(start.clone()),
        };
        match stored {
            Some(stored) if stored != start => Ok(false),
            stored => self.swap_consumer_position(tx, consumer, stored.as_deref(), &to).await,
        }
    }

    /// The stored text of a consumer's position.
    ///
    /// # Errors
    /// The database's.
    async fn stored_consumer_position(&self, conn: &mut DB::Connection, consumer: &str) -> Result<Option<String>>;

    /// Replaces the stored text if it is `from` (`None`: if there is none); says whether it was.
    ///
    /// # Errors
    /// The database's.
    async fn swap_consumer_position(
        &self,
        tx: &mut Transaction<'_, DB>,
        consumer: &str,
        from: Option<&str>,
        to: &str,
    ) -> Result<bool>;
}

/// Adds the events of a commit that come after `after`. `place` is that of the commit.
pub(crate) fn events_after(
    after: GlobalPosition,
    place: GlobalPosition,
    stream: &StreamName,
    commit: &StoredCommit,
    events: &mut Vec<GlobalEvent>,
) -> Result<()> {
    for (index, event) in (0_i64..).zip(commit.events(stream)?) {
        let position = GlobalPosition { index, ..place };
        if position > after {
            events.push(GlobalEvent { position, event });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_survive_their_text_and_keep_their_order() {
        let positions = [
            GlobalPosition::START,
            GlobalPosition { epoch: 0, transaction: -3, position: 9, index: 0 },
            GlobalPosition { epoch: 0, transaction: 4, position: 2, index: 1 },
            GlobalPosition { epoch: 0, transaction: 4, position: i64::MAX, index: 0 },
        ];
        assert!(positions.is_sorted());
        for position in positions {
            assert_eq!(position.to_string().parse::<GlobalPosition>().expect("parses"), position);
        }
        for bad in ["", "1", "1:2:3", "1:2:3:4:5", "a:b:c:d"] {
            assert!(bad.parse::<GlobalPosition>().is_err(), "{bad}");
        }
    }
}
