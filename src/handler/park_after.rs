//! When a message is parked.

use std::time::Duration;

use crate::error::Error;
use crate::slow_lane;

/// How often a message is tried by default before it is parked.
pub const DEFAULT_TRIES_BEFORE_PARKING: u32 = 3;
/// The wait between such tries by default.
pub const DEFAULT_PARKING_DELAY: Duration = Duration::from_millis(200);
/// Longest text of an error that is kept with a parked message, in bytes.
pub const MAX_PARKED_ERROR_BYTES: usize = 2_000;

/// When a message is parked, with its instance: after so many tries in a row that failed because of the message or the
/// instance. Lost races and troubles of the database do not count.
///
/// The tries are those of one call: a caller with a time limit, such as a dispatcher, must allow for all of them and the
/// waits between, or the message is never parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParkAfter {
    /// How often it is tried, at least once.
    pub tries: u32,
    /// The wait between two tries.
    pub delay: Duration,
}

impl Default for ParkAfter {
    fn default() -> Self {
        Self { tries: DEFAULT_TRIES_BEFORE_PARKING, delay: DEFAULT_PARKING_DELAY }
    }
}

/// True if the error is the fault of the message, its instance or the saga's code: trying it elsewhere or later, with
/// the same code, would fail too.
pub(super) fn is_parkable(error: &Error) -> bool {
    matches!(
        error,
        Error::Handler { .. }
            | Error::KeyHeld { .. }
            | Error::Corrupt { .. }
            | Error::UnknownType { .. }
            | Error::Undecodable { .. }
            | Error::Unencodable { .. }
            | Error::ForeignInstance { .. }
            | Error::TooLarge { .. }
            | Error::InvalidInput { .. }
            | Error::DuplicateMessage { .. }
            | Error::Completed { .. }
            | Error::Sender { .. }
    )
}

/// The error as it is kept.
pub(super) fn kept_text(error: &Error) -> String {
    slow_lane::error_text(error, MAX_PARKED_ERROR_BYTES)
}
