//! Reading a stream event by event, in pages underneath.

use std::collections::VecDeque;
use std::time::Duration;

use sqlx::{Database, Pool};

use crate::envelope::RecordedEvent;
use crate::error::Result;
use crate::guarded_connection::GuardedConnection;
use crate::ids::Offset;
use crate::message_store::MessageStore;
use crate::stream_name::StreamName;

/// How often [`EventStream::next`] looks for new events by default.
pub const STREAM_POLL_INTERVAL: Duration = Duration::from_millis(250);
/// How many events an [`EventStream`] reads at once by default.
pub const DEFAULT_FETCH_SIZE: u32 = 500;

/// A place in a stream, moving forward. Holds no connection, transaction or cursor between calls, and the events of a page,
/// which ends at about [`PAGE_BYTES`](crate::PAGE_BYTES).
#[derive(Clone, Debug)]
pub struct EventStream {
    stream: StreamName,
    next: Offset,
    buffer: VecDeque<RecordedEvent>,
    fetch_size: u32,
    poll_interval: Duration,
}

impl EventStream {
    pub(crate) fn new(stream: StreamName, from: Offset) -> Self {
        let (fetch_size, poll_interval) = (DEFAULT_FETCH_SIZE, STREAM_POLL_INTERVAL);
        Self { stream, next: from, buffer: VecDeque::new(), fetch_size, poll_interval }
    }

    /// Reads so many events at once; at least one.
    #[must_use]
    pub fn with_fetch_size(mut self, events: u32) -> Self {
        self.fetch_size = events.max(1);
        self
    }

    /// Looks for new events so often while waiting.
    #[must_use]
    pub fn with_poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = interval;
        self
    }

    /// The offset of the event that comes next.
    pub fn offset(&self) -> Offset {
        self.next
    }

    /// The next event, or `None` at the end of the stream as it is now; a later call may find more.
    ///
    /// # Errors
    /// As [`MessageStore::read_page`]; the place is kept, so the call can be repeated.
    pub async fn try_next<DB: Database>(
        &mut self,
        store: &dyn MessageStore<DB>,
        conn: &mut DB::Connection,
    ) -> Result<Option<RecordedEvent>> {
        if self.buffer.is_empty() {
            let page = store.read_bounded_page(conn, &self.stream, self.next, self.fetch_size).await?;
            self.buffer = page.unwrap_or_default().into();
        }
        let Some(event) = self.buffer.pop_front() else { return Ok(None) };
        self.next = event.offset.checked_add(1)?;
        Ok(Some(event))
    }

    /// The next event; waits until there is one, looking every [`STREAM_POLL_INTERVAL`] (settable). Takes
    /// a connection of the pool only while it looks. Dropping the future ends the wait at once and
    /// loses no event.
    ///
    /// # Errors
    /// As [`try_next`](Self::try_next).
    pub async fn next<DB: Database>(&mut self, store: &dyn MessageStore<DB>, pool: &Pool<DB>) -> Result<RecordedEvent> {
        loop {
            let mut conn = GuardedConnection::take(pool, store, "waiting for an event").await?;
            let found = self.try_next(store, &mut conn).await;
            conn.release();
            match found? {
                Some(event) => return Ok(event),
                None => tokio::time::sleep(self.poll_interval).await,
            }
        }
    }
}
