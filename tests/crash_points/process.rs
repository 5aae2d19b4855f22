//! One process: the work of a scenario, and the parent's hold on it.

use std::env;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use std::os::unix::process::ExitStatusExt;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::desk::Desk;
use super::journal::Journal;
use super::point::Point;
use super::progress;
use super::proxy::Proxy;
use super::scenarios::Scenario;
use super::site::{Home, Site};
use super::wire::Request;

/// Makes this program such a process: its database's kind, the scenario, the database, the port, the journal, the point.
const VARIABLE: &str = "SAGASTORE_CRASH_PROCESS";
/// How long a process may take to come to its point, or to its end.
const LIMIT: Duration = Duration::from_secs(60);
const SIGKILL: i32 = 9;

pub(crate) fn asked_for() -> Option<String> {
    env::var(VARIABLE).ok()
}

pub(crate) async fn run(part: &str) -> anyhow::Result<()> {
    match part.split('\n').next() {
        Some("sqlite") => play::<sqlx::Sqlite>(part).await,
        #[cfg(feature = "postgres")]
        Some("postgres") => play::<sqlx::Postgres>(part).await,
        #[cfg(feature = "mysql")]
        Some("mysql") => play::<sqlx::MySql>(part).await,
        other => bail!("this build lacks {other:?}"),
    }
}

async fn play<DB: Site>(part: &str) -> anyhow::Result<()> {
    let [_, scenario, name, port, journal, point] = *part.split('\n').collect::<Vec<_>>() else { bail!("no part") };
    let scenario = Scenario::by_name(scenario).context("no such scenario")?;
    progress::stop_at(if point.is_empty() { None } else { Some(point.parse()?) });
    let pool = DB::connect(name, port.parse()?, scenario.connections()).await?;
    scenario.work(&Desk::new(pool.clone(), Journal::open(&PathBuf::from(journal))?)).await?;
    // What a connection does when it comes back to the pool is done, too.
    pool.close().await;
    progress::say("done");
    Ok(())
}

/// How far a process came.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// It was killed at its point; otherwise it ended by itself.
    pub(crate) killed: bool,
    /// What it asked for. On SQLite, nothing if it was killed.
    pub(crate) requests: Vec<Request>,
    /// As it told. On a server, that it was killed at a statement only the proxy knows.
    pub(crate) publishes: u32,
    pub(crate) commits: u32,
    pub(crate) steps: u32,
}

/// Lets a process do the work, and kills it at the point.
pub(crate) async fn crash<DB: Site>(home: &Home<DB>, point: Option<Point>) -> anyhow::Result<Ended> {
    let proxy = match DB::server()? {
        Some((protocol, server)) => Some(Proxy::start(protocol, server, point).await?),
        None => None,
    };
    let port = proxy.as_ref().map_or(0, Proxy::port).to_string();
    let (journal, point) = (home.journal(), point.map(|point| point.to_string()).unwrap_or_default());
    let journal = journal.to_str().context("the folder's name is no text")?;
    let part = [DB::KIND, home.scenario.name(), &home.name, &port, journal, &point].join("\n");
    let child = Command::new(env::current_exe()?)
        .env(VARIABLE, part)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("starting a process")?;
    let ended = tokio::time::timeout(LIMIT, until_killed(child, proxy.as_ref())).await;
    let mut ended = ended.context("the process came neither to its point nor to its end")??;
    if let Some(proxy) = proxy {
        ended.requests = proxy.requests();
    }
    Ok(ended)
}

async fn until_killed(mut child: Child, proxy: Option<&Proxy>) -> anyhow::Result<Ended> {
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let reached = async {
        match proxy {
            Some(proxy) => proxy.reached().await,
            None => std::future::pending().await,
        }
    };
    let mut requests = Vec::new();
    tokio::pin!(reached);
    let said = loop {
        tokio::select! {
            line = lines.next_line() => {
                let line = line?.context("the process ended without a word")?;
                let Some(text) = line.strip_prefix("asked ") else { break line };
                requests.push(Request { text: text.to_owned(), inside: false });
            }
            () = &mut reached => break "here".to_owned(),
        }
    };
    let mut words = said.split(' ');
    let killed = words.next() == Some("here");
    let mut number = || words.next().map_or(Ok(0), str::parse);
    let (publishes, commits, steps) = (number()?, number()?, number()?);
    if killed {
        child.start_kill()?;
    }
    let status = child.wait().await?;
    ensure!(if killed { status.signal() == Some(SIGKILL) } else { status.success() }, "the process: {status}");
    Ok(Ended { killed, requests, publishes, commits, steps })
}
