//! A server that a test stops, kills and starts.

use std::env;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sqlx::Connection;

use super::site::Site;

/// How long it may take until it answers again: it may have much to recover.
const READY_WITHIN: Duration = Duration::from_secs(120);
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A database with a server.
pub(crate) trait Server: Site {
    /// How the environment variables begin that name it.
    const VARIABLES: &'static str;
    /// What `stop` does, in words.
    const STOPPED: &'static str;
    /// Locks what the load needs until the connection ends.
    const HOLD: &'static str;
    /// The other sessions of the database, in random order.
    const OTHERS: &'static str;

    /// Ends one of them.
    fn end(session: &str) -> String;
}

/// The server of a trial; killed when this is dropped.
pub(crate) struct Control {
    program: String,
    /// Of the server, with a database that is always there.
    url: String,
}

impl Control {
    pub(crate) fn of<DB: Server>() -> anyhow::Result<Self> {
        let variable = |what| {
            let name = format!("{}_{what}", DB::VARIABLES);
            env::var(&name).context(name)
        };
        Ok(Self { program: variable("CONTROL")?, url: variable("URL")? })
    }

    /// `stop` or `kill`.
    pub(crate) fn run(&self, verb: &str) -> anyhow::Result<()> {
        ensure!(Command::new(&self.program).arg(verb).status()?.success(), "the server failed to {verb}");
        Ok(())
    }

    /// Starts it, if it is not running, and waits until it answers.
    pub(crate) async fn start<DB: Server>(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            self.run("start")?;
            match self.connect::<DB>(&self.url).await {
                Ok(conn) => return Ok(conn.close().await?),
                Err(fault) => ensure!(began.elapsed() < READY_WITHIN, "the server does not answer: {fault:?}"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// A connection of the test's own.
    pub(crate) async fn connect<DB: Server>(&self, url: &str) -> anyhow::Result<DB::Connection> {
        let connecting = tokio::time::timeout(ANSWERS_WITHIN, DB::Connection::connect(url));
        Ok(connecting.await.context("connecting takes too long")??)
    }

    /// Where another database of it is.
    pub(crate) fn url_of(&self, database: &str) -> anyhow::Result<String> {
        let (server, rest) = self.url.rsplit_once('/').context("the URL names no database")?;
        let options = rest.split_once('?').map_or("", |(_, options)| options);
        Ok(format!("{server}/{database}?{options}"))
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn port(&self) -> anyhow::Result<u16> {
        let (_, port) = self.url.rsplit_once(':').context("the URL has no port")?;
        Ok(port.split('/').next().unwrap_or_default().parse()?)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Its data is thrown away.
        let _ = self.run("kill");
    }
}
