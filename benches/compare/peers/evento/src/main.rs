//! evento on the three databases. It writes a snapshot after every commit, in a transaction of its own, and events as
//! bincode.

use std::time::Duration;

use compare_protocol::{Arguments, CONNECTIONS, Server, run};
use evento::migrator::{Migrate, Plan};
use sqlx::mysql::MySqlPoolOptions;
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

mod counter;
mod store;

use store::Store;

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
    if arguments.is_preparing() {
        let migrator = evento::sql_migrator::new::<sqlx::Sqlite>().expect("a migrator");
        let mut conn = pool.acquire().await.expect("connects");
        migrator.run(&mut *conn, &Plan::apply_all()).await.expect("makes the tables");
    }
    run(arguments, &Store(evento::Sqlite::from(pool))).await;
}

async fn postgres(arguments: &Arguments) {
    let pool = PgPoolOptions::new().max_connections(CONNECTIONS);
    let pool = pool.connect(&arguments.database).await.expect("connects");
    if arguments.is_preparing() {
        let migrator = evento::sql_migrator::new::<sqlx::Postgres>().expect("a migrator");
        let mut conn = pool.acquire().await.expect("connects");
        migrator.run(&mut *conn, &Plan::apply_all()).await.expect("makes the tables");
    }
    run(arguments, &Store(evento::Postgres::from(pool))).await;
}

async fn mysql(arguments: &Arguments) {
    let pool = MySqlPoolOptions::new().max_connections(CONNECTIONS);
    let pool = pool.connect(&arguments.database).await.expect("connects");
    if arguments.is_preparing() {
        let migrator = evento::sql_migrator::new::<sqlx::MySql>().expect("a migrator");
        let mut conn = pool.acquire().await.expect("connects");
        migrator.run(&mut *conn, &Plan::apply_all()).await.expect("makes the tables");
    }
    run(arguments, &Store(evento::MySql::from(pool))).await;
}
