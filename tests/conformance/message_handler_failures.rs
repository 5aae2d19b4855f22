//! Whose fault a failure is, however the program has wrapped it.

use std::error::Error as StdError;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{fmt, io};

use anyhow::ensure;
use async_trait::async_trait;
use sagastore::{
    Cause, Envelope, Error, Handling, InTransaction, MessageHandler, Offset, ParkAfter, ParkedFilter, UnitOfWork,
    parked_messages,
};
use sqlx::Transaction;

use crate::harness::booking::{Booking, book, remark};
use crate::harness::{Clause, Kind, Subject, TestDb, assert_error, clauses, stream_of};

clauses! {
    a_trouble_of_the_database_parks_nothing_however_it_is_wrapped: BASIC,
    a_lost_race_is_tried_again_however_it_is_wrapped: BASIC,
    what_the_server_has_answered_is_known_however_it_is_wrapped: SERVERS,
    what_the_database_refuses_is_the_fault_of_the_program: BASIC,
}

/// A program's own errors, as `thiserror` makes them with `#[from]`.
#[derive(Debug)]
enum Own {
    Database(sqlx::Error),
    Boxed(Box<sqlx::Error>),
    Store(Error),
}

impl fmt::Display for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the shop is closed")
    }
}

impl StdError for Own {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(match self {
            Self::Database(error) => error,
            Self::Boxed(error) => error,
            Self::Store(error) => error,
        })
    }
}

/// Fails so many times.
struct Failing {
    times: AtomicU32,
    cause: fn() -> Cause,
}

impl Failing {
    fn takes_one(&self) -> bool {
        self.times.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |times| times.checked_sub(1)).is_ok()
    }
}

#[async_trait]
impl<DB: Subject> InTransaction<Booking, DB> for Failing {
    async fn run(
        &self,
        _: &mut Transaction<'_, DB>,
        _: &mut UnitOfWork<'_, Booking>,
        _: &Envelope,
    ) -> Result<(), Cause> {
        if self.takes_one() { Err((self.cause)()) } else { Ok(()) }
    }
}

/// A handler of each kind, with a booking of this number, that parks at once.
async fn handlers<DB: Subject>(db: &TestDb<DB>, number: &str) -> anyhow::Result<Vec<MessageHandler<Booking, DB>>> {
    let mut handlers = Vec::new();
    for handler in [db.direct(&Booking::default()), db.keyed(&Booking::default())] {
        let _ = handler.handle(db.pool(), &book(number, number)).await?;
        handlers.push(handler.park_after(ParkAfter { tries: 1, delay: Duration::ZERO }));
    }
    Ok(handlers)
}

async fn parked<DB: Subject>(db: &TestDb<DB>) -> anyhow::Result<usize> {
    Ok(parked_messages::<DB>(&mut *db.conn().await?, ParkedFilter::default(), 100).await?.len())
}

fn source() -> Cause {
    "a cause".into()
}

/// They were the saga's fault, and the message was parked.
async fn a_trouble_of_the_database_parks_nothing_however_it_is_wrapped<DB: Subject>(db: TestDb<DB>) -> Clause {
    type Case = (fn() -> Cause, fn(&Error) -> bool);
    let cases: [Case; 8] = [
        (|| sqlx::Error::PoolTimedOut.into(), |error| matches!(error, Error::PoolTimeout { .. })),
        (|| Own::Database(sqlx::Error::PoolTimedOut).into(), |error| matches!(error, Error::PoolTimeout { .. })),
        (
            || Own::Boxed(Box::new(sqlx::Error::Io(io::ErrorKind::BrokenPipe.into()))).into(),
            |error| matches!(error, Error::Disconnected { .. }),
        ),
        (
            || Own::Store(Error::Timeout { doing: "reading", source: source() }).into(),
            |error| matches!(error, Error::Timeout { doing: "reading", source } if source.is::<Own>()),
        ),
        (
            || anyhow::Error::new(Own::Database(sqlx::Error::PoolClosed)).context("at the till").into(),
            |error| matches!(error, Error::Closed { .. }),
        ),
        (
            || anyhow::Error::new(sqlx::Error::WorkerCrashed).context("at the till").into(),
            |error| matches!(error, Error::Disconnected { .. }),
        ),
        (
            || {
                let source = Box::new(Error::PoolTimeout { doing: "releasing" });
                Own::Store(Error::UnlockFailed { resource: "till".to_owned(), tries: 1, source }).into()
            },
            |error| matches!(error, Error::PoolTimeout { doing: "releasing" }),
        ),
        (
            || Own::Store(Error::NeverStarted { doing: "locking" }).into(),
            |error| matches!(error, Error::NeverStarted { doing: "locking" }),
        ),
    ];
    for handler in handlers(&db, "1").await? {
        for (cause, expected) in cases {
            let failing = handler.clone().in_transaction(Failing { times: 1.into(), cause });
            let message = remark("1", "a");
            let failed = failing.handle(db.pool(), &message).await;
            ensure!(failed.as_ref().is_err_and(expected), "{failed:?} of {:?}", cause());
            ensure!(failing.handle(db.pool(), &message).await?.is_handled(), "it can come again");
        }
    }
    assert_eq!(parked(&db).await?, 0);
    Ok(())
}

async fn a_lost_race_is_tried_again_however_it_is_wrapped<DB: Subject>(db: TestDb<DB>) -> Clause {
    let conflict = || {
        let stream = stream_of(&Booking::default(), "1");
        Own::Store(Error::Conflict { stream, expected: Offset::ZERO, actual: Offset::ZERO }).into()
    };
    let contention = || Own::Store(Error::Contention { doing: "writing", source: source() }).into();
    for handler in handlers(&db, "1").await? {
        for cause in [conflict as fn() -> Cause, contention] {
            let failing = handler.clone().in_transaction(Failing { times: 1.into(), cause });
            let handling = failing.handle(db.pool(), &remark("1", "a")).await?;
            ensure!(matches!(handling, Handling::Handled { conflicts: 1, .. }), "{handling:?}");
        }
    }
    Ok(())
}

/// Runs a statement that fails so many times, and wraps what the database says, or leaves that to `anyhow`.
struct Refused {
    sql: &'static str,
    failing: Failing,
    wraps: bool,
}

impl Refused {
    fn new(sql: &'static str, times: u32, wraps: bool) -> Self {
        Self { sql, failing: Failing { times: times.into(), cause: source }, wraps }
    }
}

#[async_trait]
impl<DB: Subject> InTransaction<Booking, DB> for Refused {
    async fn run(
        &self,
        tx: &mut Transaction<'_, DB>,
        _: &mut UnitOfWork<'_, Booking>,
        _: &Envelope,
    ) -> Result<(), Cause> {
        if self.failing.takes_one() {
            let refused = DB::execute(tx, self.sql.to_owned()).await;
            let error = refused.err().ok_or("it went through")?;
            return Err(if self.wraps { Own::Database(error.downcast()?).into() } else { error.into() });
        }
        Ok(())
    }
}

async fn what_the_server_has_answered_is_known_however_it_is_wrapped<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (timeout, deadlock) = match DB::KIND {
        Kind::Postgres => (
            "DO $$BEGIN RAISE EXCEPTION 'locked' USING ERRCODE = '55P03'; END$$",
            "DO $$BEGIN RAISE EXCEPTION 'deadlock' USING ERRCODE = '40P01'; END$$",
        ),
        _ => (
            "SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1205, MESSAGE_TEXT = 'locked'",
            "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'deadlock'",
        ),
    };
    for handler in handlers(&db, "1").await? {
        for wraps in [false, true] {
            let locked = handler.clone().in_transaction(Refused::new(timeout, 1, wraps));
            assert_error!(locked.handle(db.pool(), &remark("1", "a")).await, Error::Timeout { .. });
            let deadlocked = handler.clone().in_transaction(Refused::new(deadlock, 1, wraps));
            let handling = deadlocked.handle(db.pool(), &remark("1", "b")).await?;
            ensure!(matches!(handling, Handling::Handled { conflicts: 1, .. }), "{handling:?}");
        }
    }
    assert_eq!(parked(&db).await?, 0);
    Ok(())
}

async fn what_the_database_refuses_is_the_fault_of_the_program<DB: Subject>(db: TestDb<DB>) -> Clause {
    for (number, wraps) in [("1", false), ("2", true)] {
        for handler in handlers(&db, number).await? {
            let refused = Refused::new("INSERT INTO no_such_table (n) VALUES (1)", 1, wraps);
            let handling = handler.in_transaction(refused).handle(db.pool(), &remark(number, "a")).await?;
            let Handling::Parked { error: Some(Error::Handler { source, .. }), .. } = handling else {
                panic!("it is refused: {handling:?}");
            };
            assert_eq!(source.is::<Own>(), wraps, "{source:?}");
        }
    }
    Ok(())
}
