//! Points in time with microseconds.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::error::{Error, Result};

const NANOS_PER_MICRO: i128 = 1_000;

/// A point in time: whole microseconds since 1970-01-01T00:00:00Z.
///
/// Stored as a 64-bit integer on every database, so no session or host time zone can move it.
/// Printed and parsed as RFC 3339.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The clock of this process, cut to microseconds.
    pub fn now() -> Self {
        Self::from(SystemTime::now())
    }

    /// From microseconds since the Unix epoch; negative before it.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }
}

impl From<SystemTime> for Timestamp {
    /// Cuts off what is finer than a microsecond; saturates at the ends of the range.
    fn from(at: SystemTime) -> Self {
        let micros = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        match at.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => Self(micros(after)),
            Err(before) => Self(-micros(before.duration())),
        }
    }
}

impl FromStr for Timestamp {
    type Err = Error;

    /// Reads RFC 3339. Text finer than a microsecond is refused rather than rounded.
    fn from_str(text: &str) -> Result<Self> {
        let at = OffsetDateTime::parse(text, &Rfc3339).map_err(|fault| Error::invalid("timestamp", fault))?;
        let nanos = at.unix_timestamp_nanos();
        if nanos % NANOS_PER_MICRO != 0 {
            return Err(Error::invalid("timestamp", "it is finer than a microsecond"));
        }
        let micros = i64::try_from(nanos / NANOS_PER_MICRO);
        micros.map(Self).map_err(|fault| Error::invalid("timestamp", fault))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = i128::from(self.0) * NANOS_PER_MICRO;
        let text = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok().and_then(|at| at.format(&Rfc3339).ok());
        match text {
            Some(text) => f.write_str(&text),
            None => write!(f, "{} µs after 1970", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_exact_both_ways() {
        for text in ["1948-02-29T23:59:59.000001Z", "2020-01-01T00:00:00Z", "1970-01-01T00:00:00.123456Z"] {
            let at: Timestamp = text.parse().expect("valid");
            assert_eq!(at.to_string(), text);
        }
        let zoned: Timestamp = "2011-10-01T00:38:44.546+02:00".parse().expect("valid");
        assert_eq!(zoned.to_string(), "2011-09-30T22:38:44.546Z");
    }

    #[test]
    fn text_that_cannot_be_kept_exactly_is_refused() {
        for bad in ["", "yesterday", "2020-13-01T00:00:00Z", "2020-01-01T00:00:00.000000001Z"] {
            assert!(matches!(bad.parse::<Timestamp>(), Err(Error::InvalidInput { .. })), "{bad}");
        }
    }

    #[test]
    fn the_whole_range_prints() {
        assert!(Timestamp::from_micros(i64::MAX).to_string().contains("1970"));
        assert_eq!(Timestamp::from_micros(-1).to_string(), "1969-12-31T23:59:59.999999Z");
    }
}
