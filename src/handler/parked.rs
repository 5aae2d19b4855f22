//! Messages that an instance failed to handle, and those that came after them.

use async_trait::async_trait;
use sqlx::{Database, Transaction};

use crate::backend::Backend;
use crate::envelope::Envelope;
use crate::error::{Error, Result};
use crate::ids::{InstanceId, Offset};
use crate::mapper::MapperTables;
use crate::message_store::MessageStore;
use crate::slow_lane;
use crate::stream_name::StreamName;
use crate::timestamp::Timestamp;

/// Most parked messages that one call lists.
pub const MAX_PARKED_PAGE: u32 = 1_000;

/// Identity and place of a parked message: those of one instance are handled in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParkedId(pub(crate) i64);

impl ParkedId {
    /// The id as a number, as it is stored.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The id with this number.
    pub const fn from_i64(number: i64) -> Self {
        Self(number)
    }
}

/// A message that waits for somebody to look at it, or behind one that does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParkedMessage {
    /// Its identity and place.
    pub id: ParkedId,
    /// The saga.
    pub persistence_key: String,
    /// The instance that the message was for when it was parked.
    pub instance_id: InstanceId,
    /// The message.
    pub message: Envelope,
    /// How often handling it failed; zero for one that only waits behind another.
    pub tries: u32,
    /// The last failure; empty without one.
    pub last_error: String,
    /// When it was parked, by the database's clock.
    pub parked_at: Timestamp,
}

/// Which parked messages to list.
#[derive(Clone, Copy, Debug, Default)]
pub struct ParkedFilter<'a> {
    /// Those of this saga; of all if `None`.
    pub persistence_key: Option<&'a str>,
    /// Those of this instance; of all if `None`.
    pub instance_id: Option<&'a InstanceId>,
    /// Those after this one; from the first if `None`.
    pub after: Option<ParkedId>,
}

/// Lists parked messages, in the order in which they were parked; at most `limit`, and [`MAX_PARKED_PAGE`].
///
/// # Errors
/// [`Error::Corrupt`] for a damaged row; the database's.
pub async fn parked_messages<DB: Backend>(
    conn: &mut DB::Connection,
    filter: ParkedFilter<'_>,
    limit: u32,
) -> Result<Vec<ParkedMessage>> {
    let rows = DB::Store::default().parked(conn, filter, limit.min(MAX_PARKED_PAGE)).await?;
    rows.into_iter().map(ParkedRow::decode).collect()
}

/// Discards a parked message: it is never handled, unless it is delivered once more. Those behind it move up. False if
/// there is none.
///
/// # Errors
/// The database's.
pub async fn discard_parked<DB: Backend>(tx: &mut Transaction<'_, DB>, id: ParkedId) -> Result<bool> {
    let store = DB::Store::default();
    let before = ParkedFilter { after: Some(ParkedId(id.0.saturating_sub(1))), ..ParkedFilter::default() };
    let found = store.parked(tx, before, 1).await?.pop().filter(|row| row.id == id.0);
    if !store.unpark(tx, id).await? {
        return Ok(false);
    }
    if let Some(row) = found {
        release_unstarted(tx, &row.persistence_key, &InstanceId::new(row.instance_id)?).await?;
    }
    Ok(true)
}

/// Gives up the keys of an instance that never came to be, because the message that was to start it was parked.
pub(super) async fn release_unstarted<DB: Backend>(
    tx: &mut Transaction<'_, DB>,
    saga: &str,
    instance: &InstanceId,
) -> Result<()> {
    let store = DB::Store::default();
    if store.is_parked(tx, saga, instance).await? {
        return Ok(());
    }
    let stream = StreamName::of_saga(saga, instance)?;
    if store.next_offset(tx, &stream).await?.is_some() {
        return Ok(());
    }
    for key in store.keys(tx, saga, instance).await? {
        store.release(tx, saga, &key, instance).await?;
    }
    Ok(())
}

/// A row as its columns say.
pub struct ParkedRow {
    pub(crate) id: i64,
    pub(crate) persistence_key: String,
    pub(crate) instance_id: String,
    pub(crate) parked_at: i64,
    pub(crate) tries: i64,
    pub(crate) last_error: Option<String>,
    pub(crate) contents: String,
    pub(crate) body: Vec<u8>,
}

impl ParkedRow {
    pub(super) fn decode(self) -> Result<ParkedMessage> {
        let Self { id, persistence_key, contents, body, .. } = self;
        let place = || StreamName::new(format!("parked message {id}"));
        let mut message = match slow_lane::message(&contents, body, self.parked_at) {
            Ok(message) => message,
            Err(fault) => return Err(Error::corrupt(&place()?, Offset::ZERO, fault)),
        };
        message.recorded_at = None;
        Ok(ParkedMessage {
            id: ParkedId(id),
            persistence_key,
            instance_id: InstanceId::new(self.instance_id)?,
            message,
            tries: u32::try_from(self.tries).unwrap_or(u32::MAX),
            last_error: self.last_error.unwrap_or_default(),
            parked_at: Timestamp::from_micros(self.parked_at),
        })
    }
}

/// A message that is to be parked.
#[derive(Clone, Copy, Debug)]
pub struct NewParked<'a> {
    pub(crate) saga: &'a str,
    pub(crate) instance: &'a InstanceId,
    pub(crate) message: &'a Envelope,
    pub(crate) tries: u32,
    pub(crate) error: Option<&'a str>,
}

/// The statements of a database.
#[async_trait]
pub trait ParkingTables<DB: Database>: Send + Sync {
    /// True if the instance has parked messages.
    async fn is_parked(&self, conn: &mut DB::Connection, saga: &str, instance: &InstanceId) -> Result<bool>;

    /// As [`is_parked`](Self::is_parked), and keeps it so to the end of the transaction. False may also mean that the
    /// first one was taken away just now, and that there are others.
    async fn hold_parked(&self, tx: &mut Transaction<'_, DB>, saga: &str, instance: &InstanceId) -> Result<bool>;

    /// Parks a message behind those of its instance; nothing is done if it is parked already.
    async fn park(&self, tx: &mut Transaction<'_, DB>, parked: NewParked<'_>) -> Result<()>;

    /// The first one of an instance.
    async fn first_parked(
        &self,
        conn: &mut DB::Connection,
        saga: &str,
        instance: &InstanceId,
    ) -> Result<Option<ParkedRow>>;

    /// Lists.
    async fn parked(&self, conn: &mut DB::Connection, filter: ParkedFilter<'_>, limit: u32) -> Result<Vec<ParkedRow>>;

    /// Notes that handling one failed once more.
    async fn note_try(&self, tx: &mut Transaction<'_, DB>, id: ParkedId, error: &str) -> Result<()>;

    /// Deletes one; false if it is not there.
    async fn unpark(&self, tx: &mut Transaction<'_, DB>, id: ParkedId) -> Result<bool>;
}
