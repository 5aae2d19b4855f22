//! Clients of session locks, who write what the lock guards.

use std::time::Duration;

use anyhow::Context;
use sagastore::Error;
use sagastore::postgres::session::{Releaser, SessionLockKey, SessionLocker, SessionLockerConfig};
use sqlx::Postgres;
use sqlx::postgres::PgConnectOptions;
use tokio::task::JoinSet;

use super::guarded::{self, Found, SESSIONS};
use super::kind::kind;
use crate::ledger::Told;
use crate::load::{CALL_WITHIN, Load};

const CLIENTS: usize = 3;
const PAUSE: Duration = Duration::from_millis(30);
/// Who waits longer is told so.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// Writes under one hold.
const WRITES: u32 = 5;

pub(crate) fn start(load: &Load<Postgres>, clients: &mut JoinSet<anyhow::Result<()>>) {
    for number in 0..CLIENTS {
        clients.spawn(run(load.clone(), number));
    }
}

async fn run(load: Load<Postgres>, number: usize) -> anyhow::Result<()> {
    let (name, mut locker) = (format!("session-{number}"), None);
    while load.goes_on() {
        let once = tokio::time::timeout(CALL_WITHIN * 2, once(&load, number, &name, &mut locker)).await;
        match once.with_context(|| format!("{name} hangs"))? {
            Ok(()) => {}
            Err(error @ Error::LockLost { .. }) => {
                load.tell(&name, Told::Refused(kind::<Postgres>(&error)));
                // It is of no use any more.
                locker = None;
            }
            Err(error) => load.tell(&name, Told::Erred(kind::<Postgres>(&error))),
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

async fn once(load: &Load<Postgres>, number: usize, name: &str, kept: &mut Option<SessionLocker>) -> Result<(), Error> {
    let locker = match kept {
        Some(locker) => locker,
        None => {
            // By the way that is cut at times.
            let options: PgConnectOptions = (*load.pool(1).connect_options()).clone();
            let config = SessionLockerConfig::new(options).with_lock_timeout(LOCK_TIMEOUT)?;
            let locker = SessionLocker::new(config);
            locker.start().await?;
            kept.insert(locker)
        }
    };
    let resource = fastrand::choice(SESSIONS).unwrap();
    let key = SessionLockKey::new([resource])?;
    let mut held = match locker.lock(&key).await {
        // Others had it, which is an answer.
        Err(Error::Timeout { .. }) => {
            load.tell(name, Told::Went);
            return Ok(());
        }
        held => held?,
    };
    let mut token = None;
    for _ in 0..fastrand::u32(1..=WRITES) {
        token = Some(write(load, number, name, &held, resource, token).await?);
        tokio::time::sleep(PAUSE).await;
    }
    held.release().await
}

/// The first write under a hold takes the next token, by which later ones see whether anybody else was there.
async fn write(
    load: &Load<Postgres>,
    number: usize,
    name: &str,
    held: &Releaser,
    resource: &str,
    token: Option<i64>,
) -> Result<i64, Error> {
    let mut tx = guarded::begin(load.pool(number)).await?;
    held.fence(&mut tx).await?;
    let token = match token {
        Some(token) => token,
        None => guarded::last::<Postgres>(&mut tx, resource).await?.0 + 1,
    };
    match guarded::write::<Postgres>(tx, resource, token).await? {
        Found::Fine(number) => load.tell(name, Told::Wrote(resource.to_owned(), number)),
        Found::Later(last) => {
            load.tell(name, Told::Overlap(format!("{resource}: hold {token} wrote after {last}")));
        }
    }
    Ok(token)
}
