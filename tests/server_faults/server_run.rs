//! A run on a server: a load in this process, and faults of the server and of the network.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sagastore::check::check_data;
use sqlx::Connection;
use tokio::sync::oneshot;

use super::deck::Deck;
use super::disk::Disk;
use super::done::Done;
use super::place::Place;
use super::proxy::Proxy;
use super::report::{self, FILLED, Report};
use super::server::{Control, Server};
use super::site::Patience;
use super::{ledger, length, load, scaled, seed};

/// How often locks are tried to be held, where the database takes the one who holds them for the victim of a deadlock.
const HOLD_TRIES: u32 = 10;

/// From one start of the server to its next end, and then until the fault before it is over.
const LEAST_UPTIME_MS: u64 = 5_000;
const MOST_UPTIME_MS: u64 = 40_000;

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
    place: Place,
    proxy: Arc<Proxy>,
    disk: Option<Disk>,
    deck: Deck<Fault>,
    /// Faults upon which the server starts again, and when the next one comes.
    restarts: Deck<Fault>,
    restart_at: Instant,
    /// How often all that is there was checked meanwhile.
    checks: u32,
    done: Done,
}

const KILLS: &str = "kills";
const ENDED: &str = "sessions ended";
const CUT: &str = "connections cut";
const HELD: &str = "times locks held";

pub(crate) async fn run<DB: Server>(folder: PathBuf) -> anyhow::Result<()> {
    let (seed, length) = (seed()?, length()?);
    println!("server faults: {}: {} s, seed {seed}", DB::KIND, length.as_secs());
    let control = Control::of::<DB>()?;
    control.start::<DB>().await?;
    let database = format!("saga_faults_{}", &uuid::Uuid::now_v7().simple().to_string()[..20]);
    let mut conn = control.connect::<DB>(control.url()).await?;
    DB::execute(&mut conn, format!("CREATE DATABASE {database}")).await?;
    conn.close().await?;
    let place = Place { database: control.url_of(&database)?, folder };
    load::prepare::<DB>(&place).await?;

    let proxy = Arc::new(Proxy::start(control.port()?).await?);
    let (finish, finished) = oneshot::channel::<()>();
    let mut load = tokio::spawn(load::run::<DB>(place.clone(), Some(proxy.port()), finished));
    let disk = Disk::of_this_run();
    let mut kinds = vec![Fault::End, Fault::End, Fault::Cut, Fault::Cut, Fault::Hold];
    kinds.extend(disk.as_ref().map(|_| Fault::Fill));
    let filled = disk.as_ref().map(|_| FILLED);
    let done = Done::of([DB::STOPPED, KILLS, ENDED, CUT, HELD].into_iter().chain(filled));
    let (deck, restarts) = (Deck::new(kinds, seed), Deck::new(vec![Fault::Stop, Fault::Kill], seed));
    let (restart_at, checks) = (Instant::now(), 0);
    let mut injector = Injector { control, place, proxy, disk, deck, restarts, restart_at, checks, done };
    tokio::select! {
        ended = &mut load => {
            ended.context("the load panicked")??;
            anyhow::bail!("the load ended by itself");
        }
        injected = injector.inject::<DB>(length) => injected?,
    }
    report::until_all_went(&injector.place).await?;
    finish.send(()).ok().context("the load is gone")?;
    load.await.context("the load panicked")??;
    let control = injector.report::<DB>(seed, length).await?;
    let mut conn = control.connect::<DB>(control.url()).await?;
    DB::execute(&mut conn, format!("DROP DATABASE {database}")).await?;
    Ok(conn.close().await?)
}

impl Injector {
    async fn inject<DB: Server>(&mut self, length: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        self.restart_at += self.restarts.millis(LEAST_UPTIME_MS, MOST_UPTIME_MS);
        while began.elapsed() < length || !self.deck.has_shown_all() || !self.restarts.has_shown_all() {
            let pause = self.deck.millis(scaled(500, 2_000), scaled(2_500, 8_000));
            tokio::time::sleep(pause).await;
            let (fault, began) = (self.next(), ledger::now());
            self.one::<DB>(fault).await.with_context(|| format!("injecting {fault:?}"))?;
            if matches!(fault, Fault::Stop | Fault::Kill) {
                self.restart_at = Instant::now() + self.restarts.millis(LEAST_UPTIME_MS, MOST_UPTIME_MS);
            }
            self.done.end(&self.place, &format!("{fault:?}"), began)?;
            if fault != Fault::Cut && self.deck.rng.bool() {
                self.check::<DB>().await?;
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Fault {
        if Instant::now() < self.restart_at {
            return self.deck.draw();
        }
        self.restarts.draw()
    }

    async fn one<DB: Server>(&mut self, fault: Fault) -> anyhow::Result<()> {
        let down = self.deck.millis(0, scaled(1_500, 5_000));
        match fault {
            Fault::Stop | Fault::Kill => {
                let (verb, kind) = if fault == Fault::Stop { ("stop", DB::STOPPED) } else { ("kill", KILLS) };
                tokio::task::block_in_place(|| self.control.run(verb))?;
                self.done.add(kind, 1);
                tokio::time::sleep(down).await;
                self.control.start::<DB>().await
            }
            Fault::End => self.end_sessions::<DB>().await,
            Fault::Cut => {
                self.proxy.cut(self.deck.rng.u32(5..=15));
                Ok(())
            }
            Fault::Hold => self.hold_locks::<DB>().await,
            Fault::Fill => {
                let disk = self.disk.clone().context("there is no small disk")?;
                let full = tokio::task::block_in_place(|| disk.fill())?;
                self.done.add(FILLED, 1);
                tokio::time::sleep(self.deck.millis(1_000, 2_500)).await;
                drop(full);
                // It may have given up.
                self.control.start::<DB>().await
            }
        }
    }

    /// What is there must be in order at any time.
    async fn check<DB: Server>(&mut self) -> anyhow::Result<()> {
        let (pool, mut first) = (DB::connect(&self.place, None, Patience::Advised).await?, None);
        let checked = check_data(&pool, &mut |finding| _ = first.get_or_insert(finding)).await?;
        ensure!(checked.findings == 0, "the check found {} faults meanwhile: {first:?}", checked.findings);
        pool.close().await;
        self.checks += 1;
        Ok(())
    }

    async fn end_sessions<DB: Server>(&mut self) -> anyhow::Result<()> {
        let mut conn = self.control.connect::<DB>(&self.place.database).await?;
        let sessions = DB::texts(&mut conn, DB::OTHERS.to_owned()).await?;
        for session in sessions.iter().take(self.deck.rng.usize(1..=5)) {
            // It may be gone by now.
            if DB::execute(&mut conn, DB::end(&session[0])).await.is_ok() {
                self.done.add(ENDED, 1);
            }
        }
        Ok(conn.close().await?)
    }

    async fn hold_locks<DB: Server>(&mut self) -> anyhow::Result<()> {
        for _ in 0..HOLD_TRIES {
            let mut conn = self.control.connect::<DB>(&self.place.database).await?;
            if DB::execute(&mut conn, DB::HOLD.to_owned()).await.is_ok() {
                self.done.add(HELD, 1);
                tokio::time::sleep(self.deck.millis(3_000, 4_500)).await;
                return Ok(conn.close().await?);
            }
        }
        anyhow::bail!("the locks could not be had")
    }

    async fn report<DB: Server>(mut self, seed: u64, length: Duration) -> anyhow::Result<Control> {
        self.done.add(CUT, self.proxy.count());
        let not_run = self.disk.is_none().then_some(report::NO_DISK);
        let notes = vec![format!("{} checks meanwhile", self.checks)];
        report::conclude::<DB>(Report { seed, length, done: self.done, not_run, notes }, &self.place).await?;
        Ok(self.control)
    }
}
