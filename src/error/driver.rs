//! What drivers report, as errors of this crate.

use sqlx::error::DatabaseError;

use super::{Cause, Error};

/// The kinds that a database tells apart by its codes; each backend maps its codes to these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    SchemaMissing,
    Contention,
    Timeout,
    PoolTimeout,
    Closed,
    Disconnected,
    Denied,
    Other,
}

/// Kept from the public: judges what the server itself answered.
pub trait Judge {
    fn judge(answer: &(dyn DatabaseError + 'static)) -> Fault;
}

impl Fault {
    pub(crate) fn of<DB: Judge>(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::PoolTimedOut => Self::PoolTimeout,
            sqlx::Error::PoolClosed => Self::Closed,
            sqlx::Error::Database(answer) => DB::judge(answer.as_ref()),
            // A server that dies while it is asked for TLS is a violation of the protocol to sqlx, not an end of the
            // connection. The statements of this crate being what they are, all others are a connection that is of no use, too.
            sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => Self::Disconnected,
            sqlx::Error::Tls(_) => Self::Denied,
            _ => Self::Other,
        }
    }

    /// As an error that happened while `doing`.
    pub(crate) fn error(self, doing: &'static str, source: Cause) -> Error {
        match self {
            Self::SchemaMissing => Error::SchemaMissing { doing },
            Self::Contention => Error::Contention { doing, source },
            Self::Timeout => Error::Timeout { doing, source },
            Self::PoolTimeout => Error::PoolTimeout { doing },
            Self::Closed => Error::Closed { doing },
            Self::Disconnected => Error::Disconnected { doing, source },
            Self::Denied => Error::Denied { doing, source },
            Self::Other => Error::Storage { doing, source },
        }
    }
}

/// Turns a driver's error into ours.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) fn from_driver<DB: Judge>(doing: &'static str, error: sqlx::Error) -> Error {
    Fault::of::<DB>(&error).error(doing, error.into())
}

#[cfg(all(test, feature = "postgres", feature = "json"))]
mod tests {
    use sqlx::PgPool;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::{Persister, migrate};

    /// Bytes of the request for TLS, with which a client begins.
    const REQUEST_BYTES: usize = 8;

    /// Answers each request for TLS with this, and then dies.
    async fn dies_after(answer: &'static [u8]) -> PgPool {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.expect("a client");
                let mut request = [0; REQUEST_BYTES];
                client.read_exact(&mut request).await.expect("a request");
                client.write_all(answer).await.expect("it reads");
            }
        });
        PgPool::connect_lazy(&format!("postgres://saga@127.0.0.1:{port}/saga?sslmode=prefer")).expect("an address")
    }

    /// Was `Storage`, which is not transient: messages that came meanwhile were not tried again.
    #[tokio::test]
    async fn a_server_that_dies_while_it_is_asked_for_tls_is_disconnected() {
        for answer in ["", "S", "N"] {
            let pool = dies_after(answer.as_bytes()).await;
            let begun = Persister::new().begin(&pool).await;
            for fault in [begun.map(drop), migrate(&pool).await.map(drop)] {
                let fault = fault.expect_err("there is no server");
                assert!(matches!(fault, Error::Disconnected { .. }) && fault.is_transient(), "{answer:?}: {fault:?}");
            }
        }
    }
}
