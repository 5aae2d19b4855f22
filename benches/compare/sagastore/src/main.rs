//! sagastore, with its outbox: each event is published, and waits to be sent.
//!
//! Variants: `cold` loads each instance from the database, `cached` keeps instances in memory, `groups` commits units of
//! work of many callers together (SQLite only).

use std::time::Duration;

use compare_protocol::{Arguments, CONNECTIONS, Server, run};
use sagastore::{Backend, Persister, mysql, postgres, sqlite};
use sqlx::Pool;
use sqlx::mysql::MySqlConnectOptions;
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

mod counter;
mod whole;

use whole::Whole;

/// More instances than there are.
const KEPT: usize = 100_000;
/// So long that all who want to write get their turn.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() {
    let arguments = Arguments::read();
    match arguments.server() {
        Server::Sqlite => on_sqlite(&arguments).await,
        Server::Postgres => on_postgres(&arguments).await,
        Server::MySql => on_mysql(&arguments).await,
    }
}

async fn on_sqlite(arguments: &Arguments) {
    let options: SqliteConnectOptions = arguments.database.parse().expect("a file");
    let options = sqlite::connect_options(options.create_if_missing(true)).busy_timeout(BUSY_TIMEOUT);
    let pool = sqlite::pool_options().max_connections(CONNECTIONS).connect_with(options).await.expect("opens");
    let persister = match arguments.variant.as_str() {
        "groups" => Persister::new().with_group_commit(&pool),
        variant => with_variant(variant, &pool),
    };
    measure(arguments, pool, persister).await;
}

async fn on_postgres(arguments: &Arguments) {
    let options: PgConnectOptions = arguments.database.parse().expect("an address");
    let pool = postgres::pool_options().max_connections(CONNECTIONS);
    let pool = pool.connect_with(postgres::connect_options(options)).await.expect("connects");
    let persister = with_variant(&arguments.variant, &pool);
    measure(arguments, pool, persister).await;
}

async fn on_mysql(arguments: &Arguments) {
    let options: MySqlConnectOptions = arguments.database.parse().expect("an address");
    // Nothing here holds a transaction of its own, so that no connection needs a look when it is given back.
    let pool = mysql::pool_options().max_connections(CONNECTIONS).after_release(|_, _| Box::pin(async { Ok(true) }));
    let pool = pool.connect_with(mysql::connect_options(options)).await.expect("connects");
    let persister = with_variant(&arguments.variant, &pool);
    measure(arguments, pool, persister).await;
}

async fn measure<DB: Backend>(arguments: &Arguments, pool: Pool<DB>, persister: Persister<DB>) {
    if arguments.is_preparing() {
        let _ = sagastore::migrate(&pool).await.expect("migrates");
    }
    run(arguments, &Whole::new(pool, persister)).await;
}

fn with_variant<DB: Backend>(variant: &str, pool: &Pool<DB>) -> Persister<DB> {
    match variant {
        "cold" => Persister::new(),
        "cached" => Persister::new().with_instance_cache(pool, KEPT),
        other => panic!("no such variant: {other}"),
    }
}
