//! Rows of the outbox's slow lane on their way to records, the same for every database.

use std::borrow::Cow;
use std::fmt::Display;

use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;

use crate::contents::{self, CommonCause, Texts};
use crate::envelope::Envelope;
use crate::error::{Error, Result};
use crate::ids::Offset;
use crate::message_store::PAGE_BYTES;
use crate::outbox::{
    Damage, DamagedDeadLetter, DeadLetter, DeadLetters, DeadPage, OrderKey, OutboxId, OutboxRecord, WaitingPage,
};
use crate::stream_name::StreamName;
use crate::timestamp::Timestamp;

/// A row as its columns say. Its texts may still be bytes: a driver's error about one would hide all rows after it.
pub struct SlowRow<T = String> {
    pub(crate) recorded_at: i64,
    pub(crate) stream: i64,
    pub(crate) commit_number: i64,
    pub(crate) index: i64,
    pub(crate) row: i64,
    pub(crate) aggregate_type: T,
    pub(crate) aggregate_id: T,
    pub(crate) contents: T,
    pub(crate) body: Vec<u8>,
    pub(crate) attempts: i64,
}

/// A message's index, as a row of the slow lane holds it.
pub(crate) fn contents(message: &Envelope) -> Result<String> {
    let encoded = contents::encode(std::slice::from_ref(message), CommonCause::default());
    encoded.map_err(|fault| Error::Unencodable { what: "index of the message".to_owned(), source: fault.into() })
}

impl<T: AsRef<[u8]> + TryInto<String>> SlowRow<T> {
    /// A message of a commit keeps the id it had in the fast lane; so its row number is no part of it.
    fn id(&self) -> OutboxId {
        OutboxId {
            recorded_at: self.recorded_at,
            stream: self.stream,
            commit_number: self.commit_number,
            index: self.index,
            row: if self.stream == 0 { self.row } else { 0 },
        }
    }

    fn attempts(&self) -> u32 {
        u32::try_from(self.attempts).unwrap_or(u32::MAX)
    }

    /// Bytes that the row holds in memory, about.
    fn size(&self) -> usize {
        self.contents.as_ref().len() + self.body.len()
    }

    /// Who waits behind it.
    fn key(&self) -> OrderKey {
        OrderKey::new(self.id(), readable(&self.aggregate_type), readable(&self.aggregate_id))
    }

    fn with_texts(self) -> Result<SlowRow> {
        let Self { recorded_at, stream, commit_number, index, row, body, attempts, .. } = self;
        let texts = [self.aggregate_type, self.aggregate_id, self.contents].map(TryInto::try_into);
        let [Ok(aggregate_type), Ok(aggregate_id), Ok(contents)] = texts else {
            return Err(corrupt(row, "one of its texts is none"));
        };
        Ok(SlowRow {
            recorded_at,
            stream,
            commit_number,
            index,
            row,
            aggregate_type,
            aggregate_id,
            contents,
            body,
            attempts,
        })
    }
}

/// What can be read of what may be no text.
fn readable(text: &impl AsRef<[u8]>) -> Cow<'_, str> {
    String::from_utf8_lossy(text.as_ref())
}

fn corrupt(row: i64, detail: &str) -> Error {
    match StreamName::new(format!("outbox message {row}")) {
        Ok(place) => Error::corrupt(&place, Offset::ZERO, detail),
        Err(error) => error,
    }
}

/// An error as it is kept beside a message. No database keeps all texts with a NUL.
pub(crate) fn error_text(error: &impl Display, max_bytes: usize) -> String {
    let mut text = error.to_string().replace('\0', "\u{FFFD}");
    text.truncate(text.floor_char_boundary(max_bytes));
    text
}

/// Rows in delivery order, as they come, up to a limit on their bytes; one at least.
pub(crate) async fn page<T: AsRef<[u8]> + TryInto<String>>(
    mut rows: BoxStream<'_, sqlx::Result<SlowRow<T>>>,
) -> sqlx::Result<WaitingPage> {
    let (mut page, mut bytes) = (WaitingPage::default(), 0);
    while let Some(row) = rows.try_next().await? {
        let (id, key) = (row.id(), row.key());
        bytes += row.size();
        page.end = Some(id);
        match row.with_texts().and_then(record) {
            Ok(record) => page.records.push(record),
            Err(error) => page.damaged.push(Damage { id, key, error }),
        }
        if bytes >= PAGE_BYTES {
            page.cut = true;
            break;
        }
    }
    Ok(page)
}

/// The message of a row; why not, if it cannot be read.
pub(crate) fn message(index: &str, body: Vec<u8>, recorded_at: i64) -> Result<Envelope, String> {
    let (mut texts, recorded) = (Texts::default(), Timestamp::from_micros(recorded_at));
    let mut found = contents::decode(index, body.into(), CommonCause::default(), recorded, &mut texts)?;
    found.pop().ok_or_else(|| "it holds no message".to_owned())
}

pub(crate) fn record(mut row: SlowRow) -> Result<OutboxRecord> {
    let (id, attempts) = (row.id(), row.attempts());
    let envelope = message(&row.contents, std::mem::take(&mut row.body), row.recorded_at);
    let envelope = envelope.map_err(|detail| corrupt(row.row, &detail))?;
    let SlowRow { aggregate_type, aggregate_id, .. } = row;
    Ok(OutboxRecord { id, aggregate_type, aggregate_id, envelope, attempts })
}

/// A dead letter as its columns say.
pub(crate) struct DeadRow<T = String> {
    pub(crate) message: SlowRow<T>,
    pub(crate) last_error: Option<T>,
    pub(crate) dead_at: i64,
}

/// Dead letters in delivery order, as they come, up to a limit on their bytes; one at least.
pub(crate) async fn dead_page<T: AsRef<[u8]> + TryInto<String>>(
    mut rows: BoxStream<'_, sqlx::Result<DeadRow<T>>>,
) -> sqlx::Result<DeadPage> {
    let (mut page, mut bytes) = (DeadPage::default(), 0);
    while let Some(row) = rows.try_next().await? {
        bytes += row.message.size();
        page.end = Some(row.message.id());
        add(row, &mut page);
        if bytes >= PAGE_BYTES {
            break;
        }
    }
    Ok(page)
}

fn add<T: AsRef<[u8]> + TryInto<String>>(row: DeadRow<T>, page: &mut DeadPage) {
    let DeadRow { message, last_error, dead_at } = row;
    let dead_at = Timestamp::from_micros(dead_at);
    let last_error = last_error.as_ref().map(|error| readable(error).into_owned()).unwrap_or_default();
    let (id, attempts) = (message.id(), message.attempts());
    let [aggregate_type, aggregate_id] =
        [&message.aggregate_type, &message.aggregate_id].map(|name| readable(name).into_owned());
    match message.with_texts().and_then(record) {
        Ok(record) => page.letters.push(DeadLetter { record, last_error, dead_at }),
        Err(error) => page.damaged.push(DamagedDeadLetter {
            id,
            aggregate_type,
            aggregate_id,
            attempts,
            last_error,
            dead_at,
            error,
        }),
    }
}

/// A choice of dead letters as parameters of a statement; what was not chosen matches nothing.
pub(crate) struct Chosen<'a> {
    pub(crate) all: bool,
    pub(crate) id: OutboxId,
    pub(crate) aggregate_type: Option<&'a str>,
    pub(crate) aggregate_id: Option<&'a str>,
}

pub(crate) fn chosen(which: DeadLetters<'_>) -> Chosen<'_> {
    let nothing = Chosen { all: false, id: OutboxId::START, aggregate_type: None, aggregate_id: None };
    match which {
        DeadLetters::All => Chosen { all: true, ..nothing },
        DeadLetters::One(id) => Chosen { id, ..nothing },
        DeadLetters::Of { aggregate_type, aggregate_id } => {
            Chosen { aggregate_type: Some(aggregate_type), aggregate_id: Some(aggregate_id), ..nothing }
        }
    }
}

/// The row number after which rows with otherwise the same place come later. A message of a commit
/// is alone at its place, so any row there is that message.
pub(crate) fn row_after(id: OutboxId) -> i64 {
    if id.stream > 0 { i64::MAX } else { id.row }
}
