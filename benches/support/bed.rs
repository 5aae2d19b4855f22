//! A database to measure on, and the plain driver as the yardstick beside it.

use sagastore::StreamName;
use sqlx::Pool;
use tokio::runtime::{Builder, Runtime};

use super::plain::Plain;
use super::sqlite::SqliteBed;

/// The databases' names in every table.
pub(crate) const SQLITE: &str = "SQLite";
pub(crate) const POSTGRES: &str = "PostgreSQL";
pub(crate) const MARIADB: &str = "MariaDB";

/// In microseconds.
pub(crate) const HOUR: i64 = 3_600_000_000;

/// A database with the library's tables, and tables as a program without the library has them:
/// `bench_event` with one row per event and only its payload, `bench_log` with one row per event and all that is known of
/// it, under a number of its own as most programs have it, `bench_state` with one row per instance, and `bench_outbox`
/// with one row per message.
///
/// The plain driver uses a connection of its own, prepared statements, and the numbers of the
/// streams; it neither checks nor decodes what it reads.
pub(crate) trait Bed: Sized {
    type Driver: Plain;

    const NAME: &'static str;

    /// Whether a transaction that has written something keeps all others from writing.
    const ONE_WRITER: bool = false;

    fn pool(&self) -> &Pool<Self::Driver>;

    /// What the database itself would do some time after many writes.
    async fn settle(&self);

    async fn stream_id(&self, stream: &StreamName) -> i64;

    async fn insert_events(&self, stream: i64, payloads: &[Vec<u8>]);

    /// Reads the rows of events from an offset on.
    async fn read_events(&self, stream: i64, from: i64, take: impl FnMut(&[u8]));

    /// Copies the events of a stream to the log, with ids, types and times, in place of those that are there.
    async fn log_events(&self, stream: i64);

    /// Reads all columns of a stream's events in the log; gives how many bytes they are.
    async fn read_log(&self, stream: i64) -> usize;

    /// Reads contents and body of the library's own rows after a commit.
    async fn read_commits(&self, stream: i64, after: i64, take: impl FnMut(&[u8]));

    /// Reads the body of the library's newest snapshot.
    async fn read_snapshot(&self, stream: i64, take: impl FnMut(&[u8]));

    /// Writes one event, and the state if there is one, in the transaction that is open.
    async fn write(&self, stream: i64, offset: i64, event: &[u8], state: Option<&[u8]>);

    async fn read_state(&self, stream: i64, take: impl FnMut(&[u8]));

    /// Inserts or updates one state, in a transaction of its own.
    async fn upsert_state(&self, key: i64, state: &[u8]);

    /// Puts all messages of the library back into its outbox, as if none had been relayed.
    async fn refill_outbox(&self);

    /// Fills the plain driver's outbox, which is empty, with so many messages.
    async fn refill_raw_outbox(&self, messages: u32, payload: &[u8]);

    /// Reads the first messages of the plain driver's outbox with their payloads; gives their keys.
    async fn read_raw_outbox(&self, limit: u32) -> Vec<i64>;

    async fn delete_raw_outbox(&self, keys: &[i64]);

    /// Adds the first commits of a stream, and its first events in the plain driver's table, once more behind it: for the
    /// `time`-th time.
    async fn repeat(&self, stream: i64, commits: i64, events: i64, time: i64);

    /// Deletes the library's commits after so many of each stream, the plain driver's events from an offset on, and both
    /// outboxes.
    async fn cut(&self, commits: i64, events: i64);

    async fn begin(&self);

    async fn commit(&self);

    /// Removes what was made on a server.
    async fn close(self);
}

/// How a database is set up.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    /// Of the pool on a server.
    pub(crate) connections: u32,
    /// Of the pool on a file.
    pub(crate) sqlite_connections: u32,
    /// Whether SQLite flushes its log at every commit, for the library and for the plain driver. The servers
    /// are as they are.
    pub(crate) durable: bool,
    /// Whether the pool hands out its connections untested: a test would be one more round trip on either side.
    pub(crate) untested: bool,
    /// Whether clients run on several threads.
    pub(crate) parallel: bool,
}

impl Setup {
    /// The disk's mood is not measured.
    pub(crate) const ONE_CLIENT: Self =
        Self { connections: 2, sqlite_connections: 2, durable: false, untested: false, parallel: false };

    /// As many connections as clients; where there is one writer, more than a few only stand in each other's way.
    pub(crate) const MANY_CLIENTS: Self =
        Self { connections: 32, sqlite_connections: 8, durable: true, untested: true, parallel: true };
}

/// A measurement that can be done on any database.
pub(crate) trait Bench {
    const SETUP: Setup = Setup::ONE_CLIENT;

    fn run(&mut self, runtime: &Runtime, bed: &impl Bed);
}

/// Runs on SQLite, and on every server whose address the environment gives. Says which are left out.
pub(crate) fn on_every_database<T: Bench>(bench: &mut T) {
    on_sqlite(T::SETUP, |runtime, bed| bench.run(runtime, bed));
    #[cfg(feature = "postgres")]
    if let Some(url) = given(POSTGRES, "SAGASTORE_TEST_POSTGRES_URL") {
        run_on(T::SETUP, super::postgres::PostgresBed::open(&url, T::SETUP), |runtime, bed| bench.run(runtime, bed));
    }
    #[cfg(not(feature = "postgres"))]
    println!("PostgreSQL is not measured: the feature `postgres` is off");
    #[cfg(feature = "mysql")]
    if let Some(url) = given(MARIADB, "SAGASTORE_TEST_MYSQL_URL") {
        run_on(T::SETUP, super::mysql::MySqlBed::open(&url, T::SETUP), |runtime, bed| bench.run(runtime, bed));
    }
    #[cfg(not(feature = "mysql"))]
    println!("MariaDB is not measured: the feature `mysql` is off");
}

/// Runs on SQLite only.
pub(crate) fn on_sqlite(setup: Setup, run: impl FnOnce(&Runtime, &SqliteBed)) {
    let folder = tempfile::tempdir().expect("a folder");
    run_on(setup, SqliteBed::open(folder.path(), setup), run);
}

/// Runs on PostgreSQL only, if there is one.
#[cfg(feature = "postgres")]
pub(crate) fn on_postgres(setup: Setup, run: impl FnOnce(&Runtime, &super::postgres::PostgresBed)) {
    if let Some(url) = given(POSTGRES, "SAGASTORE_TEST_POSTGRES_URL") {
        run_on(setup, super::postgres::PostgresBed::open(&url, setup), run);
    }
}

fn run_on<B: Bed>(setup: Setup, open: impl Future<Output = B>, run: impl FnOnce(&Runtime, &B)) {
    let mut runtime = if setup.parallel { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    let runtime = runtime.enable_all().build().expect("a runtime");
    // A connection that is dropped between two runs goes back to its pool by a task.
    let _context = runtime.enter();
    let bed = runtime.block_on(open);
    run(&runtime, &bed);
    runtime.block_on(bed.close());
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
fn given(database: &str, variable: &str) -> Option<String> {
    let url = std::env::var(variable).ok().filter(|url| !url.is_empty());
    if url.is_none() {
        println!("{database} is not measured: {variable} is not set");
    }
    url
}
