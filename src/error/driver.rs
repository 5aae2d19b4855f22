//! What drivers report, as errors of this crate.

use super::{Cause, Error};

/// The kinds that a database tells apart by its codes; each backend maps its codes to these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(any(feature = "postgres", feature = "mysql")),
    expect(dead_code, reason = "SQLite has no codes for some of them")
)]
pub(crate) enum Fault {
    SchemaMissing,
    Contention,
    Timeout,
    Disconnected,
    Denied,
    Other,
}

/// Turns a driver's error into ours. `by_code` judges what the server itself answered.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) fn from_driver(
    doing: &'static str,
    error: sqlx::Error,
    by_code: impl FnOnce(&(dyn sqlx::error::DatabaseError + 'static)) -> Fault,
) -> Error {
    let fault = match &error {
        sqlx::Error::PoolTimedOut => return Error::PoolTimeout { doing },
        sqlx::Error::PoolClosed => return Error::Closed { doing },
        sqlx::Error::Database(answer) => by_code(answer.as_ref()),
        // A server that dies while it is asked for TLS is a violation of the protocol to sqlx, not an end of the
        // connection. The statements of this crate being what they are, all others are a connection that is of no use, too.
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => Fault::Disconnected,
        sqlx::Error::Tls(_) => Fault::Denied,
        _ => Fault::Other,
    };
    let source = Cause::from(error);
    match fault {
        Fault::SchemaMissing => Error::SchemaMissing { doing },
        Fault::Contention => Error::Contention { doing, source },
        Fault::Timeout => Error::Timeout { doing, source },
        Fault::Disconnected => Error::Disconnected { doing, source },
        Fault::Denied => Error::Denied { doing, source },
        Fault::Other => Error::Storage { doing, source },
    }
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
