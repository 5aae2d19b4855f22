//! PostgreSQL.

use sagastore::{Persister, postgres};
use sqlx::error::DatabaseError;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Pool, Postgres};
use tokio::task::JoinSet;

use super::clients::session;
use super::load::Load;
use super::place::Place;
use super::server::Server;
use super::site::{Patience, Site, raw_sql_verbs};

impl Site for Postgres {
    const KIND: &'static str = "postgres";
    const FOR_UPDATE: &'static str = "FOR UPDATE";
    const FULL: &'static [&'static str] = &["53100"];
    const DUPLICATE: &'static str = "23505";
    const PROVOKED: &'static [(&'static str, &'static str)] =
        &[("Timeout(55P03)", "lock timeouts"), ("Timeout(57014)", "statement timeouts")];
    const PADDING: usize = 200;

    async fn connect(place: &Place, port: Option<u16>, patience: Patience) -> anyhow::Result<Pool<Self>> {
        let mut options = postgres::connect_options(place.database.parse::<PgConnectOptions>()?);
        if let Some(port) = port {
            options = options.host("127.0.0.1").port(port);
        }
        let options = match patience {
            Patience::ForLocks => options.options([("lock_timeout", "1s")]),
            Patience::ForStatements => options.options([("statement_timeout", "2500ms")]),
            Patience::Advised => options,
        };
        Ok(postgres::pool_options().connect_with(options).await?)
    }

    fn code(error: &dyn DatabaseError) -> String {
        error.code().unwrap_or_default().into_owned()
    }

    raw_sql_verbs!();

    fn grouped(persister: Persister<Self>, _: &Pool<Self>) -> Persister<Self> {
        persister
    }

    fn own_clients(load: &Load<Self>, clients: &mut JoinSet<anyhow::Result<()>>) {
        session::start(load, clients);
    }
}

impl Server for Postgres {
    const VARIABLES: &'static str = "SAGASTORE_TEST_POSTGRES_FAULTS";
    const STOPPED: &'static str = "immediate stops";
    const HOLD: &'static str = "BEGIN; LOCK TABLE saga_stream, saga_commit, saga_lease, guarded IN EXCLUSIVE MODE";
    const OTHERS: &'static str = "SELECT CAST(pid AS CHAR(40))
        FROM pg_stat_activity
        WHERE datname = current_database()
            AND pid <> pg_backend_pid()
        ORDER BY random()";

    fn end(session: &str) -> String {
        format!("SELECT pg_terminate_backend({session})")
    }
}
