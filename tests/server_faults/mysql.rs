//! MySQL and MariaDB.

use sagastore::{Persister, mysql};
use sqlx::error::DatabaseError;
use sqlx::mysql::{MySqlConnectOptions, MySqlDatabaseError};
use sqlx::{MySql, Pool};
use tokio::task::JoinSet;

use super::load::Load;
use super::place::Place;
use super::server::Server;
use super::site::{Patience, Site, raw_sql_verbs};

impl Site for MySql {
    const KIND: &'static str = "mysql";
    const FOR_UPDATE: &'static str = "FOR UPDATE";
    const FULL: &'static [&'static str] = &["1114", "1021", "1026", "3", "20"];
    const DUPLICATE: &'static str = "1062";
    const PROVOKED: &'static [(&'static str, &'static str)] =
        &[("Timeout(1205)", "lock timeouts"), ("Timeout(1969)", "statement timeouts")];
    const PADDING: usize = 200;

    async fn connect(place: &Place, port: Option<u16>, patience: Patience) -> anyhow::Result<Pool<Self>> {
        let mut options = mysql::connect_options(place.database.parse::<MySqlConnectOptions>()?);
        if let Some(port) = port {
            options = options.host("127.0.0.1").port(port);
        }
        // In place of what the library's own options set when they connect.
        let limits = match patience {
            Patience::ForLocks => "innodb_lock_wait_timeout = 1",
            Patience::ForStatements => "innodb_lock_wait_timeout = 10, max_statement_time = 2.5",
            Patience::Advised => "innodb_lock_wait_timeout = 10",
        };
        let pool = mysql::pool_options().after_connect(move |conn, _| {
            let sql = format!(
                "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED;
                SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES'), {limits}"
            );
            Box::pin(async move { Self::execute(conn, sql).await })
        });
        Ok(pool.connect_with(options).await?)
    }

    fn code(error: &dyn DatabaseError) -> String {
        error.try_downcast_ref::<MySqlDatabaseError>().map_or_else(String::new, |error| error.number().to_string())
    }

    raw_sql_verbs!();

    fn grouped(persister: Persister<Self>, _: &Pool<Self>) -> Persister<Self> {
        persister
    }

    fn own_clients(_: &Load<Self>, _: &mut JoinSet<anyhow::Result<()>>) {}
}

impl Server for MySql {
    const VARIABLES: &'static str = "SAGASTORE_TEST_MYSQL_FAULTS";
    const STOPPED: &'static str = "orderly stops";
    /// With all gaps, so that nothing can be inserted.
    const HOLD: &'static str = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ;
        START TRANSACTION;
        SELECT COUNT(*) FROM (SELECT stream_id FROM saga_stream FOR UPDATE) AS streams;
        SELECT COUNT(*) FROM (SELECT commit_no FROM saga_commit FOR UPDATE) AS commits;
        SELECT COUNT(*) FROM (SELECT token FROM saga_lease FOR UPDATE) AS leases";
    const OTHERS: &'static str = "SELECT CAST(id AS CHAR(40))
        FROM information_schema.processlist
        WHERE db = DATABASE()
            AND id <> CONNECTION_ID()
        ORDER BY RAND()";

    fn end(session: &str) -> String {
        format!("KILL {session}")
    }
}
