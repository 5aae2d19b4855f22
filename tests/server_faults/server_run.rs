//! A run on a server: a load in this process, and faults of the server and of the network.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sqlx::Connection;
use tokio::sync::oneshot;

use super::deck::Deck;
use super::disk::Disk;
use super::place::Place;
use super::proxy::Proxy;
use super::report::{self, Report};
use super::server::{Control, Server};
use super::{ledger, length, load, scaled, seed};

/// How often locks are tried to be held, where the database takes the one who holds them for the victim of a deadlock.
const HOLD_TRIES: u32 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Stop,
    Kill,
    End,
    Cut,
    Hold,
    Fill,
}

/// Injects faults, and counts them.
struct Injector {
    control: Control,
    database: String,
    proxy: Arc<Proxy>,
    disk: Option<Disk>,
    deck: Deck<Fault>,
    stopped: u32,
    killed: u32,
    ended: u32,
    held: u32,
    filled: u32,
}

pub(crate) async fn run<DB: Server>() -> anyhow::Result<()> {
    let (seed, length, folder) = (seed()?, length()?, tempfile::tempdir()?);
    println!("server faults: {}: {} s, seed {seed}", DB::KIND, length.as_secs());
    let control = Control::of::<DB>()?;
    control.start::<DB>().await?;
    let database = format!("saga_faults_{}", &uuid::Uuid::now_v7().simple().to_string()[..20]);
    let mut conn = control.connect::<DB>(control.url()).await?;
    DB::execute(&mut conn, format!("CREATE DATABASE {database}")).await?;
    conn.close().await?;
    let place = Place { database: control.url_of(&database)?, folder: folder.path().to_owned() };
    load::prepare::<DB>(&place).await?;

    let proxy = Arc::new(Proxy::start(control.port()?).await?);
    let (finish, finished) = oneshot::channel::<()>();
    let mut load = tokio::spawn(load::run::<DB>(place.clone(), Some(proxy.port()), finished));
    let disk = Disk::of_this_run();
    let mut kinds = vec![Fault::Stop, Fault::Kill, Fault::End, Fault::End, Fault::Cut, Fault::Cut, Fault::Hold];
    kinds.extend(disk.as_ref().map(|_| Fault::Fill));
    let (deck, url) = (Deck::new(kinds, seed), place.database.clone());
    let counts = (0, 0, 0, 0, 0);
    let (stopped, killed, ended, held, filled) = counts;
    let mut injector = Injector { control, database: url, proxy, disk, deck, stopped, killed, ended, held, filled };
    tokio::select! {
        ended = &mut load => {
            ended.context("the load panicked")??;
            anyhow::bail!("the load ended by itself");
        }
        injected = injector.inject::<DB>(length) => injected?,
    }
    let quiet_since = ledger::now();
    report::until_all_went(&place, quiet_since).await?;
    finish.send(()).ok().context("the load is gone")?;
    load.await.context("the load panicked")??;
    injector.report::<DB>(seed, length, &place, quiet_since).await?;

    let mut conn = injector.control.connect::<DB>(injector.control.url()).await?;
    DB::execute(&mut conn, format!("DROP DATABASE {database}")).await?;
    Ok(conn.close().await?)
}

impl Injector {
    async fn inject<DB: Server>(&mut self, length: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        while began.elapsed() < length || !self.deck.has_shown_all() {
            let pause = self.deck.millis(scaled(500, 2_000), scaled(2_500, 12_000));
            tokio::time::sleep(pause).await;
            let fault = self.deck.draw();
            self.one::<DB>(fault).await.with_context(|| format!("injecting {fault:?}"))?;
        }
        Ok(())
    }

    async fn one<DB: Server>(&mut self, fault: Fault) -> anyhow::Result<()> {
        let down = self.deck.millis(0, scaled(1_500, 5_000));
        match fault {
            Fault::Stop | Fault::Kill => {
                let (verb, count) = match fault {
                    Fault::Stop => ("stop", &mut self.stopped),
                    _ => ("kill", &mut self.killed),
                };
                tokio::task::block_in_place(|| self.control.run(verb))?;
                *count += 1;
                tokio::time::sleep(down).await;
                self.control.start::<DB>().await
            }
            Fault::End => self.end_sessions::<DB>().await,
            Fault::Cut => {
                self.proxy.cut(self.deck.rng.u32(1..=6));
                Ok(())
            }
            Fault::Hold => self.hold_locks::<DB>().await,
            Fault::Fill => {
                let disk = self.disk.clone().context("there is no small disk")?;
                let full = tokio::task::block_in_place(|| disk.fill())?;
                self.filled += 1;
                tokio::time::sleep(self.deck.millis(1_000, 2_500)).await;
                drop(full);
                // It may have given up.
                self.control.start::<DB>().await
            }
        }
    }

    async fn end_sessions<DB: Server>(&mut self) -> anyhow::Result<()> {
        let mut conn = self.control.connect::<DB>(&self.database).await?;
        let sessions = DB::texts(&mut conn, DB::OTHERS.to_owned()).await?;
        for session in sessions.iter().take(self.deck.rng.usize(1..=5)) {
            // It may be gone by now.
            if DB::execute(&mut conn, DB::end(&session[0])).await.is_ok() {
                self.ended += 1;
            }
        }
        Ok(conn.close().await?)
    }

    async fn hold_locks<DB: Server>(&mut self) -> anyhow::Result<()> {
        for _ in 0..HOLD_TRIES {
            let mut conn = self.control.connect::<DB>(&self.database).await?;
            if DB::execute(&mut conn, DB::HOLD.to_owned()).await.is_ok() {
                self.held += 1;
                tokio::time::sleep(self.deck.millis(1_500, 4_000)).await;
                return Ok(conn.close().await?);
            }
        }
        anyhow::bail!("the locks could not be had")
    }

    async fn report<DB: Server>(
        &self,
        seed: u64,
        length: Duration,
        place: &Place,
        quiet_since: u64,
    ) -> anyhow::Result<()> {
        let cut = self.proxy.count();
        let mut faults = vec![
            (DB::STOPPED, self.stopped),
            ("kills", self.killed),
            ("sessions ended", self.ended),
            ("connections cut", cut),
            ("times locks held", self.held),
        ];
        let mut not_run = vec![report::NO_CLOCK];
        match self.disk {
            Some(_) => faults.push(("times the disk full", self.filled)),
            None => not_run.push("a full disk (there is no small disk: see tests/servers/faults.sh)"),
        }
        ensure!(self.proxy.count() > 0, "no connection was cut");
        report::conclude::<DB>(Report { seed, length, faults, not_run, notes: Vec::new() }, place, quiet_since).await
    }
}
