//! One connection of a locker, and the statements that are run on it.

use std::future::Future;
use std::time::Duration;

use sqlx::postgres::PgArguments;
use sqlx::query::QueryAs;
use sqlx::{ConnectOptions, Connection, PgConnection, Postgres};

use super::config::SessionLockerConfig;
use super::key::SessionLockKey;
use crate::error::{Error, Result};
use crate::postgres::classify;

/// How long connecting may take.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a statement may take that never waits for a lock; after that the connection counts as lost.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a session that was ended may take to be gone, and how often that is looked at.
const GONE_WITHIN: Duration = Duration::from_secs(2);
const GONE_POLL: Duration = Duration::from_millis(5);

/// A session of the server, told from all others by the advisory lock on `identity` that it holds.
pub(super) struct ServerSession {
    conn: PgConnection,
    pid: i32,
}

/// The session that answered, and its answer.
type Answer = QueryAs<'static, Postgres, (i32, bool), PgArguments>;

/// A statement's error, also if it takes too long.
pub(super) async fn in_time<T>(
    doing: &'static str,
    limit: Duration,
    statement: impl Future<Output = sqlx::Result<T>>,
) -> Result<T> {
    match tokio::time::timeout(limit, statement).await {
        Ok(done) => done.map_err(|error| classify(doing, error)),
        Err(_) => Err(Error::Disconnected { doing, source: format!("no answer within {limit:?}").into() }),
    }
}

pub(super) async fn connect(config: &SessionLockerConfig) -> Result<PgConnection> {
    in_time("connecting a session locker", CONNECT_TIMEOUT, config.options.connect()).await
}

impl ServerSession {
    /// Readies a connection, and takes the lock on its identity.
    pub(super) async fn open(mut conn: PgConnection, identity: i64) -> Result<Self> {
        let doing = "readying a connection of a session locker";
        // Nothing may end a session that is idle, or waits; that is up to the locker.
        let never_ended = sqlx::query(
            "SELECT set_config(name, '0', false)
            FROM pg_settings
            WHERE name IN (
                'statement_timeout',
                'lock_timeout',
                'transaction_timeout',
                'idle_session_timeout'
            )",
        );
        in_time(doing, ANSWER_TIMEOUT, never_ended.execute(&mut conn)).await?;
        // The server is to notice within half a minute that the client's machine is gone. Not every
        // platform can do that.
        let noticed = sqlx::query(
            "SELECT set_config(s.name, v.setting, false)
            FROM pg_settings AS s
            JOIN (VALUES
                ('tcp_keepalives_idle', '10'),
                ('tcp_keepalives_interval', '5'),
                ('tcp_keepalives_count', '4'),
                ('client_connection_check_interval', '10s')
            ) AS v (name, setting) ON v.name = s.name",
        );
        match in_time(doing, ANSWER_TIMEOUT, noticed.execute(&mut conn)).await {
            Err(lost @ Error::Disconnected { .. }) => return Err(lost),
            Err(fault) => tracing::debug!(target: "sagastore", %fault, "the server cannot look after its clients"),
            Ok(_) => {}
        }
        let pid = sqlx::query_scalar("SELECT pg_backend_pid()");
        let pid = in_time(doing, ANSWER_TIMEOUT, pid.fetch_one(&mut conn)).await?;
        let mut session = Self { conn, pid };
        if session.lock_again(identity).await? {
            return Ok(session);
        }
        Err(Error::Storage { doing, source: "its random number is in use; try again".into() })
    }

    /// Takes a key that this session does not hold, if it is free and no fenced transaction is left of
    /// an earlier holder. After an error it is not held.
    pub(super) async fn try_lock(&mut self, key: &SessionLockKey) -> Result<bool> {
        let statement = sqlx::query_as(
            "SELECT
                pg_backend_pid(),
                CASE
                    WHEN NOT pg_try_advisory_lock($1) THEN false
                    WHEN pg_try_advisory_lock($2) THEN pg_advisory_unlock($2)
                    ELSE NOT pg_advisory_unlock($1)
                END",
        )
        .bind(key.advisory_key())
        .bind(key.fence_key());
        let fault = match self.ask("trying a session lock", statement).await {
            Err(fault) if !is_fatal(&fault) => fault,
            other => return other,
        };
        // It may have failed half-way, and an error gives back no session lock.
        let undo = sqlx::query_as(
            "SELECT
                pg_backend_pid(),
                pg_advisory_unlock($1) OR pg_advisory_unlock($2)",
        )
        .bind(key.advisory_key())
        .bind(key.fence_key());
        self.ask("taking back a session lock", undo).await.map_err(fatal)?;
        Err(fault)
    }

    /// Waits for a key, and then for the end of the fenced transactions of an earlier holder. After an
    /// error it may be held.
    pub(super) async fn lock(&mut self, key: &SessionLockKey) -> Result<()> {
        let doing = "waiting for a session lock";
        for number in [key.advisory_key(), key.fence_key()] {
            let wait = sqlx::query("SELECT pg_advisory_lock($1)").bind(number);
            wait.execute(&mut self.conn).await.map_err(|error| classify(doing, error))?;
        }
        if self.unlock(key.fence_key()).await? { Ok(()) } else { Err(not_there(doing)) }
    }

    /// Takes a key once more that this session holds.
    pub(super) async fn lock_again(&mut self, number: i64) -> Result<bool> {
        let statement = sqlx::query_as(
            "SELECT
                pg_backend_pid(),
                pg_try_advisory_lock($1)",
        )
        .bind(number);
        self.ask("taking a session lock", statement).await
    }

    /// Gives a key back that was taken once; `false` if this session does not hold it.
    pub(super) async fn unlock(&mut self, number: i64) -> Result<bool> {
        let statement = sqlx::query_as(
            "SELECT
                pg_backend_pid(),
                pg_advisory_unlock($1)",
        )
        .bind(number);
        self.ask("releasing a session lock", statement).await
    }

    /// Fails if the connection is lost.
    pub(super) async fn check_alive(&mut self) -> Result<()> {
        let statement = sqlx::query_as(
            "SELECT
                pg_backend_pid(),
                true",
        );
        self.ask("looking after a session lock", statement).await.map(drop)
    }

    /// Ends sessions by their identities, and waits a while until they are gone.
    pub(super) async fn terminate(&mut self, identities: &[i64], wait: bool) -> Result<()> {
        let begun = tokio::time::Instant::now();
        loop {
            let statement = sqlx::query_as(
                "SELECT
                    pg_backend_pid(),
                    COALESCE(bool_or(pg_terminate_backend(pid)), false)
                FROM pg_locks
                WHERE locktype = 'advisory'
                    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                    AND objsubid = 1
                    AND granted
                    AND (classid::bigint << 32) | objid::bigint = ANY($1)",
            )
            .bind(identities.to_vec());
            let found = self.ask("ending sessions that wait for a lock", statement).await?;
            if !found || !wait || begun.elapsed() > GONE_WITHIN {
                return Ok(());
            }
            tokio::time::sleep(GONE_POLL).await;
        }
    }

    /// Frees all that it holds, and closes the connection. Whatever fails here, the server frees all of
    /// a session whose connection is gone.
    pub(super) async fn close(mut self) {
        let doing = "closing a connection of a session locker";
        let free = sqlx::query("SELECT pg_advisory_unlock_all()").execute(&mut self.conn);
        let freed = in_time(doing, ANSWER_TIMEOUT, free).await;
        let closed = in_time(doing, ANSWER_TIMEOUT, self.conn.close()).await;
        if let Err(fault) = freed.and(closed) {
            tracing::debug!(target: "sagastore", %fault, "a connection of a session locker was closed by force");
        }
    }

    async fn ask(&mut self, doing: &'static str, statement: Answer) -> Result<bool> {
        let (pid, answer) = in_time(doing, ANSWER_TIMEOUT, statement.fetch_one(&mut self.conn)).await?;
        if pid == self.pid { Ok(answer) } else { Err(not_there(doing)) }
    }
}

/// Whether a session cannot be gone on with.
pub(super) fn is_fatal(fault: &Error) -> bool {
    matches!(fault, Error::Disconnected { .. })
}

fn fatal(fault: Error) -> Error {
    let doing = "taking back a session lock";
    if is_fatal(&fault) { fault } else { Error::Disconnected { doing, source: fault.into() } }
}

fn not_there(doing: &'static str) -> Error {
    let source = "its statements reach different sessions of the server; is there a pooler of transactions?".into();
    Error::Disconnected { doing, source }
}
