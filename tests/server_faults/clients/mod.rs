//! The clients of the load.

pub(crate) mod guarded;
pub(crate) mod kind;
pub(crate) mod leases;
mod manner;
pub(crate) mod operator;
pub(crate) mod purger;
#[cfg(feature = "postgres")]
pub(crate) mod session;
pub(crate) mod work;
pub(crate) mod writer;

pub(crate) use manner::Manner;

/// The tables of the load's own: rows that are written with units of work, and what locks guard.
pub(crate) fn tables() -> String {
    let mut sql = "CREATE TABLE own_row (message_id VARCHAR(64) PRIMARY KEY);
        CREATE TABLE guarded (resource VARCHAR(64) PRIMARY KEY, token BIGINT NOT NULL, writes BIGINT NOT NULL);
        CREATE TABLE fenced_write (
            resource VARCHAR(64) NOT NULL,
            number BIGINT NOT NULL,
            token BIGINT NOT NULL,
            PRIMARY KEY (resource, number)
        );"
    .to_owned();
    for resource in guarded::resources() {
        sql.push_str(&format!("INSERT INTO guarded VALUES ('{resource}', 0, 0);"));
    }
    sql
}
