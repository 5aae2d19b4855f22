//! Marks of the outbox's fast lane on their way to commits, the same for every database.

use super::{Marked, MarkedPage, OutboxId};
use crate::error::{Error, Result};
use crate::ids::Offset;
use crate::row::{self, CommitColumns};
use crate::stream_name::StreamName;

/// A mark with its commit and stream, as their columns say. Texts are bytes: any can stand there.
pub(crate) struct MarkedColumns {
    /// The mark's.
    pub(crate) id: OutboxId,
    /// `None` if the stream has no row.
    pub(crate) stream_name: Option<Vec<u8>>,
    pub(crate) persistence_key: Option<Vec<u8>>,
    pub(crate) instance_id: Option<Vec<u8>>,
    /// `None` if there is no such commit.
    pub(crate) commit: Option<CommitColumns>,
}

impl MarkedColumns {
    /// Bytes that it holds in memory, about.
    pub(crate) fn size(&self) -> usize {
        self.commit.as_ref().map_or(0, CommitColumns::size)
    }

    /// Puts the commit on the page, or what is wrong with it.
    pub(crate) fn judge(self, page: &mut MarkedPage) {
        let id = self.id;
        match self.marked() {
            Ok(marked) => page.commits.push(marked),
            Err(error) => page.damaged.push((id, error)),
        }
    }

    fn marked(self) -> Result<Marked> {
        let Self { id, stream_name, persistence_key, instance_id, commit } = self;
        let damaged = |detail| match StreamName::new(format!("outbox mark of stream {}", id.stream)) {
            Ok(place) => Error::corrupt(&place, Offset::ZERO, detail),
            Err(error) => error,
        };
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| damaged("a name of its stream is no text"));
        let name = stream_name.ok_or_else(|| damaged("its stream is missing"))?;
        let stream = StreamName::new(text(name)?)?;
        let commit = commit.ok_or_else(|| damaged("its commit is missing"))?;
        if commit.recorded_at != id.recorded_at {
            return Err(damaged("its commit has another time"));
        }
        Ok(Marked {
            stream_key: id.stream,
            aggregate_type: persistence_key.map(text).transpose()?.unwrap_or_default(),
            aggregate_id: instance_id.map(text).transpose()?.unwrap_or_else(|| stream.as_str().to_owned()),
            commit: row::commit(&stream, commit)?,
            stream,
        })
    }
}
