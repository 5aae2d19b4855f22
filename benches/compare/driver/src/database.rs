use std::fs;
use std::path::{Path, PathBuf};

use sqlx::{Connection, MySqlConnection, PgConnection, Row, SqliteConnection, query_scalar, raw_sql};

use crate::subject::{Server, Subject};

/// Where the databases of the subjects are made, each with a database of its own.
pub(crate) enum Host {
    Sqlite(PathBuf),
    Postgres(String, PgConnection),
    MySql(String, MySqlConnection),
}

impl Host {
    pub(crate) fn sqlite() -> Self {
        let program = std::env::current_exe().expect("has a path");
        Self::Sqlite(program.with_file_name("compare-databases"))
    }

    pub(crate) async fn postgres(url: String) -> Self {
        let conn = PgConnection::connect(&url).await.expect("PostgreSQL can be reached");
        Self::Postgres(url, conn)
    }

    pub(crate) async fn mysql(url: String) -> Self {
        let conn = MySqlConnection::connect(&url).await.expect("MySQL or MariaDB can be reached");
        Self::MySql(url, conn)
    }

    pub(crate) fn server(&self) -> Server {
        match self {
            Self::Sqlite(_) => Server::Sqlite,
            Self::Postgres(..) => Server::Postgres,
            Self::MySql(..) => Server::MySql,
        }
    }

    /// Those that are measured here.
    pub(crate) fn those_of(&self, subjects: &[Subject]) -> Vec<Subject> {
        subjects.iter().filter(|subject| subject.server == self.server()).copied().collect()
    }

    pub(crate) fn url(&self, subject: &Subject) -> String {
        match self {
            Self::Sqlite(folder) => format!("sqlite://{}", file(folder, subject).display()),
            Self::Postgres(url, _) | Self::MySql(url, _) => with_database(url, &subject.database()),
        }
    }

    /// Makes an empty database in place of what an earlier run may have left.
    pub(crate) async fn create(&mut self, subject: &Subject) {
        self.drop(subject).await;
        match self {
            Self::Sqlite(folder) => fs::create_dir_all(folder).expect("makes a folder"),
            Self::Postgres(_, conn) => {
                let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {}", subject.database()));
                raw_sql(create).execute(conn).await.expect("creates a database");
            }
            Self::MySql(_, conn) => {
                let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {}", subject.database()));
                raw_sql(create).execute(conn).await.expect("creates a database");
            }
        }
    }

    pub(crate) async fn drop(&mut self, subject: &Subject) {
        let drop = sqlx::AssertSqlSafe(format!("DROP DATABASE IF EXISTS {}", subject.database()));
        match self {
            Self::Sqlite(folder) => {
                for end in ["", "-wal", "-shm"] {
                    let name = format!("{}{end}", file(folder, subject).display());
                    let _ = fs::remove_file(name);
                }
            }
            Self::Postgres(_, conn) => _ = raw_sql(drop).execute(conn).await.expect("drops a database"),
            Self::MySql(_, conn) => _ = raw_sql(drop).execute(conn).await.expect("drops a database"),
        }
    }

    /// The version, and how durable a commit is.
    pub(crate) async fn describe(&mut self) -> String {
        match self {
            Self::Sqlite(_) => {
                let mut conn = SqliteConnection::connect("sqlite::memory:").await.expect("opens");
                let version: String =
                    query_scalar("SELECT sqlite_version()").fetch_one(&mut conn).await.expect("answers");
                format!("{version} (sagastore's), journal_mode=WAL, synchronous=FULL")
            }
            Self::Postgres(_, conn) => {
                let show = "SELECT name, setting FROM pg_settings
                            WHERE name IN ('server_version', 'fsync', 'synchronous_commit') ORDER BY name DESC";
                let rows = sqlx::query(show).fetch_all(conn).await.expect("answers");
                settings(rows.iter().map(|row| (row.get(0), row.get(1))))
            }
            Self::MySql(_, conn) => {
                let show = "SHOW VARIABLES WHERE Variable_name IN
                            ('version', 'innodb_flush_log_at_trx_commit', 'sync_binlog', 'log_bin')";
                let rows = sqlx::query(show).fetch_all(conn).await.expect("answers");
                settings(rows.iter().map(|row| (row.get(0), row.get(1))))
            }
        }
    }
}

fn settings(settings: impl Iterator<Item = (String, String)>) -> String {
    settings.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(", ")
}

fn file(folder: &Path, subject: &Subject) -> PathBuf {
    folder.join(subject.database()).with_extension("db")
}

/// The URL of another database of the same server.
fn with_database(url: &str, database: &str) -> String {
    let (address, options) = url.split_once('?').map_or((url, String::new()), |(url, more)| (url, format!("?{more}")));
    let host = address.find("://").map_or(0, |at| at + 3);
    let end = address[host..].find('/').map_or(address.len(), |at| host + at);
    format!("{}/{database}{options}", &address[..end])
}

#[cfg(test)]
mod tests {
    use super::with_database;

    #[test]
    fn only_the_database_changes() {
        assert_eq!(with_database("mysql://u:p@h:1/a", "b"), "mysql://u:p@h:1/b");
        assert_eq!(with_database("postgres://h", "b"), "postgres://h/b");
        assert_eq!(with_database("postgres://h/a?sslmode=disable", "b"), "postgres://h/b?sslmode=disable");
    }
}
