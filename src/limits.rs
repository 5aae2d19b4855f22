//! Limits on what one call may write. Each has a name, a unit and a reason.

/// Largest payload of one event or command, and largest snapshot body: 4 MiB.
///
/// A message is held whole in memory several times on its way; larger things belong beside the
/// database, with a reference to them in the message.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// Most bytes of payload in one unit of work: 15 MiB, so that with its index the commit stays
/// below MariaDB's default packet limit of 16 MiB.
pub const MAX_UNIT_BYTES: usize = 15 * 1024 * 1024;

/// Most messages in one unit of work.
pub const MAX_UNIT_MESSAGES: usize = 10_000;

/// The limits in force; the constants of this module by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest payload of one message, in bytes.
    pub message_bytes: usize,
    /// Largest snapshot body, in bytes. A larger state is not snapshotted; its events still commit.
    pub snapshot_bytes: usize,
    /// Most bytes in one unit of work: all payloads and their index together.
    pub unit_bytes: usize,
    /// Most messages in one unit of work.
    pub unit_messages: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: MAX_MESSAGE_BYTES,
            snapshot_bytes: MAX_MESSAGE_BYTES,
            unit_bytes: MAX_UNIT_BYTES,
            unit_messages: MAX_UNIT_MESSAGES,
        }
    }
}
