//! The mixed load.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use sagastore::migrate;
use sqlx::Pool;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::clients::{self, Manner, leases, operator, purger, writer};
use super::journal;
use super::ledger::{self, Ledger, Told};
use super::place::Place;
use super::site::{Patience, Site};

/// A call that takes longer hangs: that is an outage of some seconds, the wait for a connection and that for a lock, with
/// room for a busy machine.
pub(crate) const CALL_WITHIN: Duration = Duration::from_secs(60);

/// With these, eight write to the instances that are named by who sends.
const FURTHER_WRITERS: [Manner; 2] = [Manner::Plain, Manner::OwnTransaction];

/// What all clients share.
pub(crate) struct Load<DB: Site> {
    pub(crate) place: Place,
    /// One that waits little for locks, and one by way of the port that is cut at times, with little time for statements.
    pub(crate) pools: [Pool<DB>; 2],
    pub(crate) ledger: Arc<Ledger>,
    /// The highest token of each resource that was granted so far.
    pub(crate) tokens: Arc<Mutex<HashMap<String, i64>>>,
    stop: watch::Receiver<bool>,
}

impl<DB: Site> Clone for Load<DB> {
    fn clone(&self) -> Self {
        Self {
            place: self.place.clone(),
            pools: self.pools.clone(),
            ledger: Arc::clone(&self.ledger),
            tokens: Arc::clone(&self.tokens),
            stop: self.stop.clone(),
        }
    }
}

impl<DB: Site> Load<DB> {
    pub(crate) fn goes_on(&self) -> bool {
        !*self.stop.borrow()
    }

    pub(crate) fn pool(&self, number: usize) -> &Pool<DB> {
        &self.pools[number % self.pools.len()]
    }

    pub(crate) fn tell(&self, client: &str, told: Told) {
        self.ledger.tell(client, told);
    }
}

/// Makes the tables of the library and those of the load.
pub(crate) async fn prepare<DB: Site>(place: &Place) -> anyhow::Result<()> {
    let pool = DB::connect(place, None, Patience::Advised).await?;
    let _ = migrate(&pool).await?;
    DB::execute(&mut *pool.acquire().await?, clients::tables()).await?;
    pool.close().await;
    // Both are there even if nothing happens.
    Ledger::open(&place.ledger())?;
    journal::dispatcher(place, pool, 0)?;
    Ok(())
}

/// How many tasks panicked, of the load and of the library.
static PANICS: AtomicU32 = AtomicU32::new(0);

fn count_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        before(panic);
    }));
}

/// Runs the load until `finish`, then lets the dispatchers deliver the rest.
pub(crate) async fn run<DB: Site>(place: Place, proxy: Option<u16>, finish: impl Future) -> anyhow::Result<()> {
    count_panics();
    let pools = [
        DB::connect(&place, None, Patience::ForLocks).await?,
        DB::connect(&place, proxy, Patience::ForStatements).await?,
    ];
    let (stopping, stop) = watch::channel(false);
    let ledger = Arc::new(Ledger::open(&place.ledger())?);
    let tokens = Arc::new(Mutex::new(leases::granted(&ledger::read(&place.ledger(), 0)?)));
    let load = Load { place, pools, ledger, tokens, stop };
    let (mut clients, mut relays) = (JoinSet::new(), JoinSet::new());
    for (number, manner) in Manner::ALL.into_iter().chain(FURTHER_WRITERS).enumerate() {
        clients.spawn(writer::run(load.clone(), number, manner));
    }
    leases::start(&load, &mut clients);
    purger::start(&load, &mut clients);
    operator::start(&load, &mut clients);
    DB::own_clients(&load, &mut clients);
    let (relayed, end) = watch::channel(false);
    for number in 0..journal::DISPATCHERS {
        let dispatcher = journal::dispatcher(&load.place, load.pool(number as usize).clone(), number)?;
        let mut end = end.clone();
        relays.spawn(async move { dispatcher.run(async move { drop(end.wait_for(|end| *end).await) }).await });
    }
    tokio::select! {
        ended = clients.join_next() => {
            ended.context("there are no clients")?.context("a client panicked")??;
            bail!("a client ended by itself");
        }
        ended = relays.join_next() => bail!("a dispatcher ended by itself: {ended:?}"),
        _ = finish => {}
    }
    stopping.send_replace(true);
    while let Some(ended) = clients.join_next().await {
        ended.context("a client panicked")??;
    }
    journal::until_drained(load.pool(0)).await?;
    relayed.send_replace(true);
    while let Some(ended) = relays.join_next().await {
        ended.context("a dispatcher panicked")?;
    }
    for pool in load.pools {
        pool.close().await;
    }
    let panics = PANICS.load(Ordering::SeqCst);
    ensure!(panics == 0, "{panics} tasks panicked");
    Ok(())
}
