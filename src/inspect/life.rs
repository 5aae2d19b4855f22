//! What happened to an instance, commit by commit.

use super::tables::CommitRow;
use crate::commit::StoredCommit;
use crate::envelope::Envelope;
use crate::error::Result;
use crate::ids::{CommitNumber, MessageId, Offset};
use crate::row;
use crate::stream_name::StreamName;
use crate::timestamp::Timestamp;

/// One unit of work: what was handled, and what came of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct LifeCommit {
    /// Its number in the stream.
    pub number: CommitNumber,
    /// The offset of its first event, or of the next one if it has none.
    pub first_offset: Offset,
    /// When it was stored, by the database's clock.
    pub recorded_at: Timestamp,
    /// The message that was handled.
    pub handled: Option<MessageId>,
    /// The cause that all its messages share.
    pub causation_id: Option<MessageId>,
    /// The root that all its messages share.
    pub correlation_id: Option<MessageId>,
    /// The instance is completed as of this commit.
    pub completed: bool,
    /// Its events and commands in order, or why they cannot be read.
    pub messages: Result<Vec<LifeMessage>>,
}

/// An event or a command of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LifeMessage {
    /// The place of an event in its stream; a command has none.
    pub offset: Option<Offset>,
    /// The message.
    pub envelope: Envelope,
}

impl LifeCommit {
    pub(super) fn new(stream: &StreamName, row: CommitRow) -> Result<Self> {
        let handled = row.handled.map(MessageId::from);
        let commit = row::commit(stream, row.columns)?;
        Ok(Self {
            number: commit.commit_number,
            first_offset: commit.first_offset,
            recorded_at: commit.recorded_at,
            handled,
            causation_id: commit.causation_id,
            correlation_id: commit.correlation_id,
            completed: commit.completed,
            messages: messages(stream, &commit),
        })
    }
}

fn messages(stream: &StreamName, commit: &StoredCommit) -> Result<Vec<LifeMessage>> {
    let mut messages = Vec::new();
    commit.decode_each(stream, |offset, envelope| {
        messages.push(LifeMessage { offset, envelope });
        Ok(())
    })?;
    Ok(messages)
}
