//! sagastore, with its outbox: each event is published, and waits to be sent.
//!
//! Variants: `cold` loads each instance from the database, `groups` commits units of work of many callers together
//! (SQLite only).

use std::time::Duration;

use compare_protocol::{Arguments, CONNECTIONS, Server, run};
use sagastore::{Backend, Persister};
use sqlx::Pool;
use sqlx::mysql::MySqlPoolOptions;
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

mod counter;
mod whole;

use whole::Whole;

/// So long that all who want to write get their turn.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() {
    let arguments = Arguments::read();
    match arguments.server() {
        Server::Sqlite => sqlite(&arguments).await,
        Server::Postgres => postgres(&arguments).await,
        Server::MySql => mysql(&arguments).await,
    }
}

async fn sqlite(arguments: &Arguments) {
    let options: SqliteConnectOptions = arguments.database.parse().expect("a file");
    let options = options
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT);
    let pool = SqlitePoolOptions::new().max_connections(CONNECTIONS).connect_with(options).await.expect("opens");
    let persister = match arguments.variant.as_str() {
        "groups" => Persister::new().with_group_commit(&pool),
        variant => with_variant(variant),
    };
    measure(arguments, pool, persister).await;
}

async fn postgres(arguments: &Arguments) {
    let pool = PgPoolOptions::new().max_connections(CONNECTIONS);
    let pool = pool.connect(&arguments.database).await.expect("connects");
    measure(arguments, pool, with_variant(&arguments.variant)).await;
}

async fn mysql(arguments: &Arguments) {
    let pool = MySqlPoolOptions::new().max_connections(CONNECTIONS);
    let pool = pool.connect(&arguments.database).await.expect("connects");
    measure(arguments, pool, with_variant(&arguments.variant)).await;
}

async fn measure<DB: Backend>(arguments: &Arguments, pool: Pool<DB>, persister: Persister<DB>) {
    if arguments.is_preparing() {
        let _ = sagastore::migrate(&pool).await.expect("migrates");
    }
    run(arguments, &Whole::new(pool, persister)).await;
}

fn with_variant<DB: Backend>(variant: &str) -> Persister<DB> {
    match variant {
        "cold" => Persister::new(),
        other => panic!("no such variant: {other}"),
    }
}
