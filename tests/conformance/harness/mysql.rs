//! MySQL and MariaDB: a database of the clause's own.

use std::time::Duration;

use sagastore::mysql::MySqlStore;
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions, MySqlRow};
use sqlx::{ConnectOptions, Connection, MySql, MySqlConnection, Pool};

use super::mode::{Kind, Mode};
use super::subject::{Home, Subject, TextRow, as_text, raw_sql_verbs, server_url};

/// How long an operation waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

async fn administrator() -> anyhow::Result<MySqlConnection> {
    Ok(server_url(Kind::Mysql)?.parse::<MySqlConnectOptions>()?.connect().await?)
}

pub(super) async fn ping(url: &str) -> anyhow::Result<()> {
    Ok(url.parse::<MySqlConnectOptions>()?.connect().await?.close().await?)
}

async fn connect_with(options: MySqlConnectOptions, connections: u32) -> anyhow::Result<Pool<MySql>> {
    let pool = MySqlPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_release(sagastore::mysql::after_release);
    Ok(pool.connect_with(options).await?)
}

fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

fn restricted_user(database: &str) -> String {
    database.chars().filter(char::is_ascii_alphanumeric).collect()
}

fn options(database: &str) -> anyhow::Result<MySqlConnectOptions> {
    Ok(server_url(Kind::Mysql)?.parse::<MySqlConnectOptions>()?.database(database))
}

impl Subject for MySql {
    const KIND: Kind = Kind::Mysql;

    const COUNT_FAST_LANE: &'static str =
        "SELECT CAST(COALESCE(SUM(message_count), 0) AS SIGNED) FROM saga_commit WHERE undelivered IS NOT NULL";

    async fn create(mode: Mode, name: String) -> anyhow::Result<Home<Self>> {
        let mut conn = administrator().await?;
        Self::execute(&mut conn, format!("CREATE DATABASE {}", quoted(&name))).await?;
        conn.close().await?;
        let options = options(&name)?;
        Ok(Home { mode, options, name, folder: None })
    }

    async fn set_up(pool: &Pool<Self>, mode: Mode) -> anyhow::Result<()> {
        if mode == Mode::MysqlOrdered {
            MySqlStore::enable_global_order(pool).await?;
        }
        Ok(())
    }

    fn store(mode: Mode) -> MySqlStore {
        let store = MySqlStore::default();
        if mode == Mode::MysqlOrdered { store.with_global_order() } else { store }
    }

    async fn connect(home: &Home<Self>, connections: u32) -> anyhow::Result<Pool<Self>> {
        connect_with(home.options.clone(), connections).await
    }

    async fn connect_by(home: &Home<Self>, port: u16, connections: u32) -> anyhow::Result<Pool<Self>> {
        connect_with(home.options.clone().host("127.0.0.1").port(port), connections).await
    }

    fn advised(options: MySqlConnectOptions) -> (MySqlConnectOptions, MySqlPoolOptions) {
        (sagastore::mysql::connect_options(options), sagastore::mysql::pool_options())
    }

    fn port(home: &Home<Self>) -> u16 {
        home.options.get_port()
    }

    fn address(home: &Home<Self>) -> String {
        home.name.clone()
    }

    fn at_address(address: &str) -> anyhow::Result<Home<Self>> {
        let name = address.to_owned();
        Ok(Home { mode: Mode::Mysql, options: options(&name)?, name, folder: None })
    }

    async fn connect_restricted(home: &Home<Self>) -> anyhow::Result<Pool<Self>> {
        let (database, user, mut conn) = (quoted(&home.name), restricted_user(&home.name), administrator().await?);
        Self::execute(
            &mut conn,
            format!(
                "CREATE USER '{user}'@'%' IDENTIFIED BY 'restricted';
                GRANT SELECT, INSERT, UPDATE, DELETE ON {database}.* TO '{user}'@'%'"
            ),
        )
        .await?;
        conn.close().await?;
        connect_with(home.options.clone().username(&user).password("restricted"), 4).await
    }

    async fn cut_connections(home: &Home<Self>) -> anyhow::Result<()> {
        let mut conn = administrator().await?;
        let there = format!(
            "SELECT CAST(id AS CHAR)
            FROM information_schema.processlist
            WHERE db = {}",
            Self::text(&home.name)
        );
        for id in Self::rows(&mut conn, there).await?.into_iter().flatten().flatten() {
            // It may have gone by itself.
            let _ = Self::execute(&mut conn, format!("KILL {id}")).await;
        }
        Ok(conn.close().await?)
    }

    async fn remove(home: &Home<Self>) -> anyhow::Result<()> {
        // A clause that failed may have left transactions open.
        Self::cut_connections(home).await?;
        let mut conn = administrator().await?;
        let (database, user) = (quoted(&home.name), restricted_user(&home.name));
        Self::execute(&mut conn, format!("DROP DATABASE {database}; DROP USER IF EXISTS '{user}'@'%'")).await?;
        Ok(conn.close().await?)
    }

    async fn leftovers(_: &Home<Self>, pool: &Pool<Self>) -> anyhow::Result<Vec<String>> {
        // The server's list of transactions is seconds old under load; MariaDB's sessions know of theirs.
        let (mut idle, mut faults) = (Vec::new(), Vec::new());
        while let Some(mut conn) = pool.try_acquire() {
            let open = "SELECT CONCAT(CONNECTION_ID(), ': a transaction is open') FROM DUAL WHERE @@in_transaction = 1";
            // A session that is gone has no transaction.
            let found = Self::rows(&mut conn, open.to_owned()).await.unwrap_or_default();
            faults.extend(found.into_iter().flatten().flatten());
            idle.push(conn);
        }
        Ok(faults)
    }

    raw_sql_verbs!();

    fn bytes(bytes: &[u8]) -> String {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("x'{digits}'")
    }

    fn text(text: &str) -> String {
        format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
    }
}

as_text!(MySqlRow);
