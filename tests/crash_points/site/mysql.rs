//! MySQL and MariaDB: a database, whose tables are emptied for each process.

use anyhow::Context;
use sagastore::mysql::MySqlStore;
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions, MySqlSslMode};
use sqlx::{ConnectOptions, Connection, MySql, Pool};

use super::super::wire::Protocol;
use super::{Home, Site, server, verbs};

fn options() -> anyhow::Result<MySqlConnectOptions> {
    // What goes through the proxy is to be readable.
    Ok(server::url::<MySql>()?.parse::<MySqlConnectOptions>()?.ssl_mode(MySqlSslMode::Disabled))
}

async fn administer(sql: String) -> anyhow::Result<()> {
    let mut conn = options()?.connect().await?;
    MySql::run(&mut conn, sql).await?;
    Ok(conn.close().await?)
}

impl Site for MySql {
    const KIND: &'static str = "mysql";
    const VARIABLE: Option<&'static str> = Some("SAGASTORE_TEST_MYSQL_URL");
    const SCHEMA_COMMITS: bool = true;
    const INSTANCES: &'static str = "SELECT CAST(instance_id AS CHAR) FROM saga_stream ORDER BY instance_id";
    const LEASES: &'static str = "SELECT CAST(CONCAT(namespace, '/', resource_id, ' ', token) AS CHAR) FROM saga_lease";
    const MARKED: &'static str = "saga_commit WHERE undelivered IS NOT NULL";

    fn server() -> anyhow::Result<Option<(Protocol, (String, u16))>> {
        let options = options()?;
        Ok(Some((Protocol::Mysql, (options.get_host().to_owned(), options.get_port()))))
    }

    async fn create(home: &mut Home<Self>) -> anyhow::Result<()> {
        administer(format!("CREATE DATABASE {}", home.name)).await?;
        let pool = MySqlPoolOptions::new().max_connections(1).test_before_acquire(false);
        home.pool = Some(pool.connect_with(options()?.database(&home.name)).await?);
        Ok(())
    }

    async fn start_over(home: &mut Home<Self>) -> anyhow::Result<()> {
        let clear = if home.scenario.begins_without_tables() {
            format!("DROP DATABASE {0}; CREATE DATABASE {0}; USE {0}", home.name)
        } else {
            "INSERT INTO saga_global_order VALUES (1, FALSE, 0)".to_owned()
        };
        let tables = "SELECT CAST(table_name AS CHAR)
            FROM information_schema.tables
            WHERE table_schema = DATABASE()
                AND table_type = 'BASE TABLE'
                AND table_name <> 'saga_migrations'";
        server::start_over(home, &clear, tables).await
    }

    async fn connect(name: &str, port: u16, connections: u32) -> anyhow::Result<Pool<Self>> {
        let options = options()?.database(name).host("127.0.0.1").port(port);
        let pool = MySqlPoolOptions::new().max_connections(connections).test_before_acquire(false);
        Ok(pool.connect_with(options).await?)
    }

    async fn reopen(home: &Home<Self>) -> anyhow::Result<Pool<Self>> {
        let others = "SELECT CAST(id AS CHAR)
            FROM information_schema.processlist
            WHERE db = DATABASE()
                AND id <> CONNECTION_ID()";
        server::left_alone(home, others).await
    }

    async fn remove(home: Home<Self>) -> anyhow::Result<()> {
        home.pool.context("no connection")?.close().await;
        administer(format!("DROP DATABASE {}", home.name)).await
    }

    fn ordered_store() -> MySqlStore {
        MySqlStore::default().with_global_order()
    }

    async fn enable_order(pool: &Pool<Self>) -> anyhow::Result<()> {
        Ok(MySqlStore::enable_global_order(pool).await?)
    }

    async fn schema(pool: &Pool<Self>) -> anyhow::Result<Vec<String>> {
        let all = "SELECT CAST(CONCAT_WS(' ', table_name, column_name, column_type, is_nullable, collation_name,
                    column_default, extra) AS CHAR)
            FROM information_schema.columns
            WHERE table_schema = DATABASE()
            UNION ALL
            SELECT CAST(CONCAT_WS(' ', table_name, index_name, seq_in_index, column_name, non_unique) AS CHAR)
            FROM information_schema.statistics
            WHERE table_schema = DATABASE()
            ORDER BY 1";
        Self::texts(&mut *pool.acquire().await?, all.to_owned()).await
    }

    verbs!("INSERT INTO crash_own (entry) VALUES (?)");
}
