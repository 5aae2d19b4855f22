//! Whether a pooler of transactions is in between.

use sqlx::{Connection, PgConnection};

use super::config::SessionLockerConfig;
use super::server_session::{ANSWER_TIMEOUT, connect, in_time};
use crate::error::{Error, Result};

const DOING: &str = "looking for a pooler in front of the database";

/// Refuses a pooler that gives each transaction another session of the server: locks would be left
/// on sessions of strangers.
///
/// While another connection holds a transaction open, such a pooler has to give `conn` another
/// session than before, or has given the very same one to both. No statement is prepared, which
/// some of these poolers cannot do.
pub(super) async fn refuse(config: &SessionLockerConfig, conn: &mut PgConnection) -> Result<()> {
    let before = session_id(conn).await?;
    let mut probe = connect(config).await?;
    run(&mut probe, "BEGIN").await?;
    let other = session_id(&mut probe).await?;
    let moved = other == before || session_id(conn).await? != before;
    run(&mut probe, "ROLLBACK").await?;
    in_time(DOING, ANSWER_TIMEOUT, probe.close()).await?;
    if !moved {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: "a session lock through a pooler of transactions",
        detail: "each statement may reach another session of the server; connect directly, or through a pooler of \
                 sessions, or use a lease",
    })
}

async fn run(conn: &mut PgConnection, statement: &'static str) -> Result<()> {
    in_time(DOING, ANSWER_TIMEOUT, sqlx::raw_sql(statement).execute(conn)).await.map(drop)
}

async fn session_id(conn: &mut PgConnection) -> Result<i32> {
    let row = in_time(DOING, ANSWER_TIMEOUT, sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(conn)).await?;
    sqlx::Row::try_get(&row, 0).map_err(|error| crate::postgres::classify(DOING, error))
}
