//! PostgreSQL: a schema of the clause's own.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgRow};
use sqlx::{ConnectOptions, Connection, PgConnection, Pool, Postgres, Row, ValueRef};

use super::mode::{Kind, Mode};
use super::subject::{Home, Subject, TextRow, raw_sql_verbs, server_url};

/// How long an operation waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection lives that leaves each of its statements behind at the server.
const UNPREPARED_LIFETIME: Duration = Duration::from_secs(10);

async fn administrator() -> anyhow::Result<PgConnection> {
    Ok(server_url(Kind::Postgres)?.parse::<PgConnectOptions>()?.connect().await?)
}

pub(super) async fn ping(url: &str) -> anyhow::Result<()> {
    Ok(url.parse::<PgConnectOptions>()?.connect().await?.close().await?)
}

async fn connect_with(options: PgConnectOptions, connections: u32) -> anyhow::Result<Pool<Postgres>> {
    Ok(pool_options(connections).connect_with(options).await?)
}

fn pool_options(connections: u32) -> PgPoolOptions {
    PgPoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE_TIMEOUT)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What the server shows for connections to this schema.
fn application_name(schema: &str) -> String {
    schema.chars().filter(char::is_ascii_alphanumeric).collect()
}

fn restricted_role(schema: &str) -> String {
    format!("role_{}", application_name(schema))
}

fn options(schema: &str) -> anyhow::Result<PgConnectOptions> {
    let options = server_url(Kind::Postgres)?.parse::<PgConnectOptions>()?;
    Ok(options.application_name(&application_name(schema)).options([("search_path", quoted(schema))]))
}

impl Subject for Postgres {
    const KIND: Kind = Kind::Postgres;

    const COUNT_FAST_LANE: &'static str = "SELECT COALESCE(SUM(c.message_count), 0)::bigint
        FROM saga_outbox AS o
        JOIN saga_commit AS c ON c.stream_id = o.stream_id AND c.commit_no = o.commit_no";

    async fn create(mode: Mode, name: String) -> anyhow::Result<Home<Self>> {
        let mut conn = administrator().await?;
        Self::execute(&mut conn, format!("CREATE SCHEMA {}", quoted(&name))).await?;
        conn.close().await?;
        let options = options(&name)?;
        let options = if mode == Mode::PostgresUnprepared { options.statement_cache_capacity(0) } else { options };
        Ok(Home { mode, options, name, folder: None })
    }

    async fn connect(home: &Home<Self>, connections: u32) -> anyhow::Result<Pool<Self>> {
        if home.mode == Mode::PostgresUnprepared {
            let pool = pool_options(connections).max_lifetime(UNPREPARED_LIFETIME);
            return Ok(pool.connect_with(home.options.clone()).await?);
        }
        connect_with(home.options.clone(), connections).await
    }

    async fn connect_by(home: &Home<Self>, port: u16, connections: u32) -> anyhow::Result<Pool<Self>> {
        connect_with(home.options.clone().host("127.0.0.1").port(port), connections).await
    }

    fn advised(options: PgConnectOptions) -> (PgConnectOptions, PgPoolOptions) {
        (sagastore::postgres::connect_options(options), sagastore::postgres::pool_options())
    }

    fn port(home: &Home<Self>) -> u16 {
        home.options.get_port()
    }

    fn address(home: &Home<Self>) -> String {
        home.name.clone()
    }

    fn at_address(address: &str) -> anyhow::Result<Home<Self>> {
        let name = address.to_owned();
        Ok(Home { mode: Mode::Postgres, options: options(&name)?, name, folder: None })
    }

    async fn connect_restricted(home: &Home<Self>) -> anyhow::Result<Pool<Self>> {
        let (schema, role, mut conn) = (quoted(&home.name), restricted_role(&home.name), administrator().await?);
        Self::execute(
            &mut conn,
            format!(
                "CREATE ROLE {role} LOGIN PASSWORD 'restricted';
                GRANT USAGE ON SCHEMA {schema} TO {role};
                GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}"
            ),
        )
        .await?;
        conn.close().await?;
        connect_with(home.options.clone().username(&role).password("restricted"), 4).await
    }

    async fn cut_connections(home: &Home<Self>) -> anyhow::Result<()> {
        let mut conn = administrator().await?;
        Self::rows(
            &mut conn,
            format!(
                "SELECT pg_terminate_backend(pid)
                FROM pg_stat_activity
                WHERE application_name = '{}'",
                application_name(&home.name)
            ),
        )
        .await?;
        Ok(conn.close().await?)
    }

    async fn remove(home: &Home<Self>) -> anyhow::Result<()> {
        // A clause that failed may have left transactions open.
        Self::cut_connections(home).await?;
        let mut conn = administrator().await?;
        let (schema, role) = (quoted(&home.name), restricted_role(&home.name));
        Self::execute(&mut conn, format!("DROP SCHEMA {schema} CASCADE; DROP ROLE IF EXISTS {role}")).await?;
        Ok(conn.close().await?)
    }

    async fn leftovers(home: &Home<Self>, _: &Pool<Self>) -> anyhow::Result<Vec<String>> {
        let (name, mut conn) = (application_name(&home.name), administrator().await?);
        let rows = Self::rows(
            &mut conn,
            format!(
                "SELECT format('%s: %s, %s', a.pid, a.state, a.query)
                FROM pg_stat_activity AS a
                WHERE a.application_name = '{name}'
                    AND a.state <> 'idle'
                UNION ALL
                SELECT format('%s: advisory lock', a.pid)
                FROM pg_stat_activity AS a
                JOIN pg_locks AS l ON l.pid = a.pid AND l.locktype = 'advisory'
                WHERE a.application_name = '{name}'"
            ),
        )
        .await?;
        conn.close().await?;
        Ok(rows.into_iter().flatten().flatten().collect())
    }

    raw_sql_verbs!();

    fn bytes(bytes: &[u8]) -> String {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("'\\x{digits}'::bytea")
    }
}

/// Raw SQL is answered in text.
fn as_text(row: &PgRow, at: usize) -> anyhow::Result<Option<String>> {
    let value = row.try_get_raw(at)?;
    if value.is_null() {
        return Ok(None);
    }
    Ok(Some(value.as_str().map_err(|fault| anyhow::anyhow!(fault))?.to_owned()))
}
