//! How a locker is set up.

use std::fmt;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

use crate::error::{Error, Result};

/// How many connections a locker opens at most for locks that it had to wait for.
pub const DEFAULT_MAX_WAITERS: u32 = 16;
/// How often an idle connection of a locker is asked whether it lives.
pub const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(5);
/// Shortest heartbeat: more often it is only a burden to the server.
pub const MIN_HEARTBEAT: Duration = Duration::from_millis(100);
/// Longest heartbeat: a loss is to be noticed within minutes.
pub const MAX_HEARTBEAT: Duration = Duration::from_secs(60);
/// What the server shows as the application of a locker's connections, unless they have a name.
pub const DEFAULT_APPLICATION_NAME: &str = "sagastore session locker";
/// Longest application name, in bytes: the server cuts what is longer.
pub const MAX_APPLICATION_NAME_BYTES: usize = 63;

/// How a [`SessionLocker`](super::SessionLocker) is set up.
#[derive(Clone)]
pub struct SessionLockerConfig {
    pub(super) options: PgConnectOptions,
    pub(super) lock_timeout: Option<Duration>,
    pub(super) max_waiters: u32,
    pub(super) heartbeat: Duration,
}

impl fmt::Debug for SessionLockerConfig {
    /// Without the way to connect, which knows a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionLockerConfig")
            .field("lock_timeout", &self.lock_timeout)
            .field("max_waiters", &self.max_waiters)
            .field("heartbeat", &self.heartbeat)
            .finish_non_exhaustive()
    }
}

impl SessionLockerConfig {
    /// Connects with these options, waits for locks without end, and has the defaults above.
    pub fn new(options: PgConnectOptions) -> Self {
        // A wait for a lock is no slow statement to be logged.
        let options = options.disable_statement_logging();
        let options = match options.get_application_name() {
            Some(_) => options,
            None => options.application_name(DEFAULT_APPLICATION_NAME),
        };
        Self { options, lock_timeout: None, max_waiters: DEFAULT_MAX_WAITERS, heartbeat: DEFAULT_HEARTBEAT }
    }

    /// A blocking `lock` gives up after this long, with [`Error::Timeout`].
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if it is zero.
    pub fn with_lock_timeout(self, timeout: Duration) -> Result<Self> {
        if timeout.is_zero() {
            return Err(Error::invalid("lock timeout", "it is zero; to not wait at all, use try_lock"));
        }
        Ok(Self { lock_timeout: Some(timeout), ..self })
    }

    /// So many connections at most for locks that had to be waited for, beside the one that every
    /// locker has. A wait beyond them is refused with [`Error::LockerBusy`]; for a few milliseconds
    /// the connection of a wait that was just given up still counts.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if it is zero.
    pub fn with_max_waiters(self, max_waiters: u32) -> Result<Self> {
        if max_waiters == 0 {
            return Err(Error::invalid("maximum of waiters", "it is zero; to not wait at all, use try_lock"));
        }
        Ok(Self { max_waiters, ..self })
    }

    /// Asks an idle connection this often whether it lives.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] unless it is within [`MIN_HEARTBEAT`] and [`MAX_HEARTBEAT`].
    pub fn with_heartbeat(self, heartbeat: Duration) -> Result<Self> {
        if !(MIN_HEARTBEAT..=MAX_HEARTBEAT).contains(&heartbeat) {
            let detail = format!("it is {heartbeat:?}; give {MIN_HEARTBEAT:?} to {MAX_HEARTBEAT:?}");
            return Err(Error::invalid("heartbeat", detail));
        }
        Ok(Self { heartbeat, ..self })
    }

    /// The server shows the locker's connections under this name.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if it is empty, longer than [`MAX_APPLICATION_NAME_BYTES`], or holds NUL.
    pub fn with_application_name(self, name: &str) -> Result<Self> {
        let name = crate::ids::check_name("application name", name, MAX_APPLICATION_NAME_BYTES)?;
        Ok(Self { options: self.options.application_name(name), ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_when_it_is_built() {
        let config = SessionLockerConfig::new(PgConnectOptions::new_without_pgpass());
        let refused = [
            config.clone().with_lock_timeout(Duration::ZERO),
            config.clone().with_max_waiters(0),
            config.clone().with_heartbeat(Duration::ZERO),
            config.clone().with_heartbeat(Duration::MAX),
            config.clone().with_application_name(""),
            config.clone().with_application_name("a\0b"),
            config.clone().with_application_name(&"x".repeat(64)),
        ];
        for built in refused {
            assert!(matches!(built, Err(Error::InvalidInput { .. })), "{built:?}");
        }
        assert!(config.with_lock_timeout(Duration::MAX).is_ok());
    }
}
