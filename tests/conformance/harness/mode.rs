//! The ways in which a clause is run.

use std::fmt;

/// A database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
    Mysql,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Sqlite, Self::Postgres, Self::Mysql];

    /// As in SAGASTORE_TEST_ONLY.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::Mysql => "mysql",
        }
    }

    /// As people write it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
            Self::Mysql => "MySQL/MariaDB",
        }
    }

    /// The environment variable with the URL of a superuser.
    pub(crate) fn url_variable(self) -> Option<&'static str> {
        match self {
            Self::Sqlite => None,
            Self::Postgres => Some("SAGASTORE_TEST_POSTGRES_URL"),
            Self::Mysql => Some("SAGASTORE_TEST_MYSQL_URL"),
        }
    }
}

/// A database as it is set up for a clause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A file in WAL mode, several connections.
    SqliteFile,
    /// `:memory:`, one connection.
    SqliteMemory,
    /// A file, with a persister whose store, snapshots and outbox are separate parts.
    SqliteParts,
    Postgres,
    /// Each statement is prepared anew, so that none is run by a plan made for other arguments.
    PostgresUnprepared,
    Mysql,
    /// With a global order, which is an option there.
    MysqlOrdered,
}

impl Mode {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::SqliteFile | Self::SqliteMemory | Self::SqliteParts => Kind::Sqlite,
            Self::Postgres | Self::PostgresUnprepared => Kind::Postgres,
            Self::Mysql | Self::MysqlOrdered => Kind::Mysql,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SqliteFile => "sqlite_file",
            Self::SqliteMemory => "sqlite_memory",
            Self::SqliteParts => "sqlite_parts",
            Self::Postgres => "postgres",
            Self::PostgresUnprepared => "postgres_unprepared",
            Self::Mysql => "mysql",
            Self::MysqlOrdered => "mysql_ordered",
        })
    }
}

/// In every mode; the default.
pub(crate) const EVERYWHERE: &[Mode] =
    &[Mode::SqliteFile, Mode::SqliteMemory, Mode::SqliteParts, Mode::Postgres, Mode::Mysql];
/// In every mode, also without prepared statements.
pub(crate) const BASIC: &[Mode] =
    &[Mode::SqliteFile, Mode::SqliteMemory, Mode::SqliteParts, Mode::Postgres, Mode::PostgresUnprepared, Mode::Mysql];
/// As the one before, and with a global order where that is an option.
pub(crate) const BASIC_AND_ORDERED: &[Mode] = &[
    Mode::SqliteFile,
    Mode::SqliteMemory,
    Mode::SqliteParts,
    Mode::Postgres,
    Mode::PostgresUnprepared,
    Mode::Mysql,
    Mode::MysqlOrdered,
];
/// Not in memory, where there is one connection only.
pub(crate) const SEVERAL_CONNECTIONS: &[Mode] = &[Mode::SqliteFile, Mode::SqliteParts, Mode::Postgres, Mode::Mysql];
/// On servers.
pub(crate) const SERVERS: &[Mode] = &[Mode::Postgres, Mode::Mysql];
/// With the built-in store doing all in one.
pub(crate) const FUSED: &[Mode] = &[Mode::SqliteFile, Mode::SqliteMemory, Mode::Postgres, Mode::Mysql];
/// Where all events have one order.
pub(crate) const GLOBAL_ORDER: &[Mode] =
    &[Mode::SqliteFile, Mode::SqliteMemory, Mode::SqliteParts, Mode::Postgres, Mode::MysqlOrdered];
/// As the one before, with several connections.
pub(crate) const GLOBAL_ORDER_SEVERAL_CONNECTIONS: &[Mode] = &[Mode::SqliteFile, Mode::Postgres, Mode::MysqlOrdered];
pub(crate) const SQLITE: &[Mode] = &[Mode::SqliteFile, Mode::SqliteMemory, Mode::SqliteParts];
pub(crate) const SQLITE_MEMORY: &[Mode] = &[Mode::SqliteMemory];
pub(crate) const SQLITE_FILE: &[Mode] = &[Mode::SqliteFile];
pub(crate) const POSTGRES: &[Mode] = &[Mode::Postgres];
pub(crate) const MYSQL: &[Mode] = &[Mode::Mysql];
/// Where a constraint may be checked as late as at commit.
pub(crate) const DEFERRED_CONSTRAINTS: &[Mode] =
    &[Mode::SqliteFile, Mode::SqliteMemory, Mode::SqliteParts, Mode::Postgres];
/// SQLite with several connections.
pub(crate) const SQLITE_FILES: &[Mode] = &[Mode::SqliteFile, Mode::SqliteParts];
