//! cqrs-es with its stores for the three databases, without snapshots, as `postgres_cqrs` and the like make it.

use std::time::Duration;

use compare_protocol::{Arguments, CONNECTIONS, Server, run};
use mysql_es::MysqlEventRepository;
use postgres_es::PostgresEventRepository;
use sqlite_es::SqliteEventRepository;
use sqlx::mysql::MySqlPoolOptions;
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

mod counter;
mod framework;

use framework::Framework;

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

/// With the pool of `default_sqlite_pool`, but flushed at every commit.
async fn sqlite(arguments: &Arguments) {
    let options: SqliteConnectOptions = arguments.database.parse().expect("a file");
    let options = options
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true);
    let pool = SqlitePoolOptions::new().max_connections(CONNECTIONS).connect_with(options).await.expect("opens");
    if arguments.is_preparing() {
        sqlx::raw_sql(include_str!("tables/sqlite.sql")).execute(&pool).await.expect("makes the table");
    }
    run(arguments, &Framework::new(|| SqliteEventRepository::new(pool.clone()))).await;
}

async fn postgres(arguments: &Arguments) {
    let pool = PgPoolOptions::new().max_connections(CONNECTIONS);
    let pool = pool.connect(&arguments.database).await.expect("connects");
    if arguments.is_preparing() {
        sqlx::raw_sql(include_str!("tables/postgres.sql")).execute(&pool).await.expect("makes the table");
    }
    run(arguments, &Framework::new(|| PostgresEventRepository::new(pool.clone()))).await;
}

async fn mysql(arguments: &Arguments) {
    let pool = MySqlPoolOptions::new().max_connections(CONNECTIONS);
    let pool = pool.connect(&arguments.database).await.expect("connects");
    if arguments.is_preparing() {
        sqlx::raw_sql(include_str!("tables/mysql.sql")).execute(&pool).await.expect("makes the table");
    }
    run(arguments, &Framework::new(|| MysqlEventRepository::new(pool.clone()))).await;
}
