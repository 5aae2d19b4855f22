//! What clauses work with.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use sqlx::pool::PoolConnection;
use sqlx::{Database, Pool, Transaction};

use super::report::{ClauseVerdict, Report};
use crate::error::Cause;

/// How long a clause may take.
const CLAUSE_LIMIT: Duration = Duration::from_secs(60);

/// What a clause found: nothing, or what is wrong.
pub(super) type Finding = Result<(), Cause>;

/// What is tested, and where.
pub(super) struct Bench<DB: Database, T: ?Sized> {
    pub(super) pool: Pool<DB>,
    pub(super) subject: Arc<T>,
    begin: Option<&'static str>,
    /// Names that were made, so that no two clauses meet.
    names: AtomicU32,
}

impl<DB: Database, T: ?Sized> Bench<DB, T> {
    pub(super) fn new(pool: &Pool<DB>, subject: Arc<T>, begin: Option<&'static str>) -> Self {
        Self { pool: pool.clone(), subject, begin, names: AtomicU32::new(0) }
    }

    pub(super) async fn conn(&self) -> Result<PoolConnection<DB>, Cause> {
        Ok(self.pool.acquire().await?)
    }

    pub(super) async fn begin(&self) -> Result<Transaction<'static, DB>, Cause> {
        Ok(match self.begin {
            Some(statement) => self.pool.begin_with(statement).await?,
            None => self.pool.begin().await?,
        })
    }

    /// A name that was never used in this database.
    pub(super) fn name(&self, text: &str) -> String {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        format!("{text}-{number}-{}", crate::MessageId::new())
    }

    /// Fails unless a second connection can be had while one is held.
    pub(super) fn need_two_connections(&self) -> Finding {
        if self.pool.options().get_max_connections() > 1 {
            return Ok(());
        }
        Err(NotHere("the pool has one connection only").into())
    }
}

impl Report {
    /// Runs a clause; a panic or a hanging call is a failure.
    pub(super) async fn run(&mut self, name: &'static str, clause: impl Future<Output = Finding>) {
        let verdict = match tokio::time::timeout(CLAUSE_LIMIT, AssertUnwindSafe(clause).catch_unwind()).await {
            Ok(Ok(Ok(()))) => ClauseVerdict::Passed,
            Ok(Ok(Err(fault))) => match fault.downcast::<NotHere>() {
                Ok(reason) => ClauseVerdict::NotRun(reason.0.to_owned()),
                Err(fault) => ClauseVerdict::Failed(fault.to_string()),
            },
            Ok(Err(_)) => ClauseVerdict::Failed("it panicked".to_owned()),
            Err(_) => ClauseVerdict::Failed(format!("it did not end within {CLAUSE_LIMIT:?}")),
        };
        self.add(name, verdict);
    }
}

/// Why a clause cannot be tried.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NotHere(&'static str);

/// Fails with a sentence unless it holds.
pub(super) fn ensure(holds: bool, sentence: impl Into<String>) -> Finding {
    if holds { Ok(()) } else { Err(sentence.into().into()) }
}

/// Fails unless both are the same.
pub(super) fn same<T: PartialEq + std::fmt::Debug>(what: &str, came: T, expected: T) -> Finding {
    if came == expected { Ok(()) } else { Err(format!("{what}: expected {expected:?}, came {came:?}").into()) }
}

/// The value, or a sentence saying that it is missing.
pub(super) fn found<T>(what: &str, value: Option<T>) -> Result<T, Cause> {
    value.ok_or_else(|| format!("{what} is missing").into())
}

/// Runs the clauses named, in order.
macro_rules! run_clauses {
    ($report:ident, $bench:ident: $($module:ident { $($clause:ident),* $(,)? })*) => {
        $($( $report.run(stringify!($clause), $module::$clause(&$bench)).await; )*)*
    };
}
pub(super) use run_clauses;
