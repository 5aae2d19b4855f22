//! What every clause is run by.

mod arguments;
pub(crate) mod booking;
mod cut;
mod databases;
mod invariants;
mod lease_client;
mod leases;
mod log;
mod mode;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
mod processes;
mod proxy;
mod relay;
pub(crate) mod sample;
mod shuffle;
mod sqlite;
mod subject;
mod suite;
mod test_db;
mod timeouts;
mod units;
mod until;
mod work;

pub(crate) use arguments::CommandLine;
pub(crate) use cut::cut_after;
pub(crate) use invariants::without_time;
pub(crate) use lease_client::{CLIENT_LEASE, LeaseClient, LeaseHistory};
pub(crate) use leases::*;
pub(crate) use log::Log;
pub(crate) use mode::*;
pub(crate) use processes::{Part, Process, play_lease_client};
pub(crate) use proxy::Proxy;
pub(crate) use relay::{Relay, Sent, amount, attempts, quick};
pub(crate) use shuffle::shuffled;
#[allow(unused_imports, reason = "a tool for clauses with more than one database")]
pub(crate) use subject::{Subject, unique_name};
pub(crate) use suite::{Suite, each_database};
pub(crate) use test_db::TestDb;
pub(crate) use timeouts::HOUR;
pub(crate) use units::{Footprint, stream_of, wait_for};
pub(crate) use until::until;

/// What a clause returns; an error fails it, as a panic does.
pub(crate) type Clause = anyhow::Result<()>;

/// Lists the clauses of a file, with the modes that each is for.
macro_rules! clauses {
    ($($name:ident $(: $modes:ident)?),+ $(,)?) => {
        pub(crate) fn clauses(suite: &mut $crate::harness::Suite) {
            $($crate::harness::each_database!(suite, $name, $crate::harness::clauses!(@modes $($modes)?));)+
        }
    };
    (@modes) => { $crate::harness::EVERYWHERE };
    (@modes $modes:ident) => { $crate::harness::$modes };
}
pub(crate) use clauses;

/// Lists the clauses of a file that is about SQLite alone; they take a `TestDb<Sqlite>`.
macro_rules! sqlite_clauses {
    ($($name:ident : $modes:ident),+ $(,)?) => {
        pub(crate) fn clauses(suite: &mut $crate::harness::Suite) {
            $(suite.add::<sqlx::Sqlite, _>(module_path!(), stringify!($name), $crate::harness::$modes, $name);)+
        }
    };
}
pub(crate) use sqlite_clauses;

/// Lists the clauses of a file that is about PostgreSQL alone; they take a `TestDb<Postgres>`.
#[cfg(feature = "postgres")]
macro_rules! postgres_clauses {
    ($($name:ident),+ $(,)?) => {
        pub(crate) fn clauses(suite: &mut $crate::harness::Suite) {
            $(suite.add::<sqlx::Postgres, _>(module_path!(), stringify!($name), $crate::harness::POSTGRES, $name);)+
        }
    };
}
#[cfg(feature = "postgres")]
pub(crate) use postgres_clauses;

/// Lists the clauses of a file that is about MySQL and MariaDB alone; they take a `TestDb<MySql>`.
#[cfg(feature = "mysql")]
macro_rules! mysql_clauses {
    ($($name:ident),+ $(,)?) => {
        pub(crate) fn clauses(suite: &mut $crate::harness::Suite) {
            $(suite.add::<sqlx::MySql, _>(module_path!(), stringify!($name), $crate::harness::MYSQL, $name);)+
        }
    };
}
#[cfg(feature = "mysql")]
pub(crate) use mysql_clauses;

/// Asserts that a result is an error of this form, and gives what the pattern takes from it.
macro_rules! assert_error {
    ($result:expr, $pattern:pat $(if $guard:expr)? $(=> $value:expr)? $(,)?) => {
        match $result {
            Err($pattern) $(if $guard)? => { $($value)? }
            other => panic!("expected {}, found {other:?}", stringify!($pattern)),
        }
    };
}
pub(crate) use assert_error;

/// `short`, or `long` in the long runs (SAGASTORE_LONG=1).
pub(crate) fn scaled<N>(short: N, long: N) -> N {
    if std::env::var_os("SAGASTORE_LONG").is_some() { long } else { short }
}
