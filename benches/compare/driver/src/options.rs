use std::env;
use std::path::{Path, PathBuf};

use crate::database::Host;
use crate::subject::Server;

const USAGE: &str = "usage: [--rounds N] [--only sqlite|postgres|mysql]... [--out FOLDER]";
/// Medians of fewer say little.
const ROUNDS: u32 = 5;
const POSTGRES: &str = "SAGASTORE_TEST_POSTGRES_URL";
const MYSQL: &str = "SAGASTORE_TEST_MYSQL_URL";

pub(crate) struct Options {
    pub(crate) rounds: u32,
    /// All when there are none.
    only: Vec<Server>,
    /// Where the results are written.
    pub(crate) folder: PathBuf,
}

impl Options {
    pub(crate) fn read() -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("is in a folder");
        let mut options = Self { rounds: ROUNDS, only: Vec::new(), folder: here.join("results") };
        let mut given = env::args().skip(1);
        while let Some(name) = given.next() {
            let value = given.next().expect(USAGE);
            match name.as_str() {
                "--rounds" => options.rounds = value.parse().expect(USAGE),
                "--only" => options.only.push(Server::named(&value).expect(USAGE)),
                "--out" => options.folder = value.into(),
                _ => panic!("{USAGE}"),
            }
        }
        assert!(options.rounds > 0, "{USAGE}");
        options
    }

    /// The databases to measure on, and why others are left out.
    pub(crate) async fn hosts(&self) -> (Vec<Host>, Vec<String>) {
        let (mut hosts, mut left_out) = (Vec::new(), Vec::new());
        for server in Server::ALL {
            match (server, url(server)) {
                _ if !self.chooses(server) => left_out.push(format!("{server}: it was not chosen")),
                (Server::Sqlite, _) => hosts.push(Host::sqlite()),
                (Server::Postgres, Some(url)) => hosts.push(Host::postgres(url).await),
                (Server::MySql, Some(url)) => hosts.push(Host::mysql(url).await),
                (Server::Postgres, None) => left_out.push(format!("{server}: {POSTGRES} is not set")),
                (Server::MySql, None) => left_out.push(format!("{server}: {MYSQL} is not set")),
            }
        }
        (hosts, left_out)
    }

    fn chooses(&self, server: Server) -> bool {
        self.only.is_empty() || self.only.contains(&server)
    }
}

fn url(server: Server) -> Option<String> {
    let variable = match server {
        Server::Sqlite => return None,
        Server::Postgres => POSTGRES,
        Server::MySql => MYSQL,
    };
    env::var(variable).ok().filter(|url| !url.is_empty())
}
