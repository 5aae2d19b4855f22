use std::fmt::{Display, Formatter, Result};

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Server {
    Sqlite,
    Postgres,
    MySql,
}

impl Server {
    pub(crate) const ALL: [Self; 3] = [Self::Sqlite, Self::Postgres, Self::MySql];

    /// As `--only` names it.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "sqlite" => Some(Self::Sqlite),
            "postgres" => Some(Self::Postgres),
            "mysql" => Some(Self::MySql),
            _ => None,
        }
    }
}

impl Display for Server {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
            Self::MySql => "MySQL/MariaDB",
        })
    }
}

/// A library, used in one way on one database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) server: Server,
    #[serde(skip)]
    pub(crate) program: &'static str,
    #[serde(skip)]
    pub(crate) variant: &'static str,
}

impl Display for Subject {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{} on {}", self.name, self.server)
    }
}

/// Name, program, variant and databases.
type Way = (&'static str, &'static str, &'static str, &'static [Server]);

pub(crate) const COLD: &str = "sagastore, cold";
pub(crate) const CACHED: &str = "sagastore, cached";
pub(crate) const GROUPS: &str = "sagastore, groups";

const WAYS: &[Way] = &[
    (COLD, "compare-sagastore", "cold", &Server::ALL),
    (CACHED, "compare-sagastore", "cached", &Server::ALL),
    (GROUPS, "compare-sagastore", "groups", &[Server::Sqlite]),
    ("cqrs-es", "compare-cqrs-es", "default", &Server::ALL),
    ("esrs", "compare-esrs", "default", &[Server::Postgres]),
    ("disintegrate", "compare-disintegrate", "default", &[Server::Postgres]),
    ("evento", "compare-evento", "default", &Server::ALL),
    ("eventastic", "compare-eventastic", "default", &[Server::Postgres]),
];

impl Subject {
    /// Those on the given databases.
    pub(crate) fn on(servers: &[Server]) -> Vec<Self> {
        let mut subjects = Vec::new();
        for server in servers {
            let ways = WAYS.iter().filter(|(_, _, _, on)| on.contains(server));
            subjects.extend(ways.map(|&(name, program, variant, _)| Self { name, server: *server, program, variant }));
        }
        subjects
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.program == "compare-sagastore"
    }

    /// The name of its database.
    pub(crate) fn database(&self) -> String {
        format!("{}_{}", self.program, self.variant).replace('-', "_")
    }
}
