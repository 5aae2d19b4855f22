//! Clients of leases, who write what the lease guards, also when they are too late.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use sagastore::Error;
use sagastore::lock::lease::{Lease, Obtained};
use sagastore::lock::{ClientId, DatabaseLock, Fence, LeaseGuard, Lock, ResourceId};
use tokio::task::JoinSet;

use super::guarded::{self, BUSY, Found, RARE};
use super::kind::kind;
use crate::ledger::{Entry, Told};
use crate::load::{CALL_WITHIN, Load};
use crate::site::Site;

const CLIENTS: usize = 4;
pub(crate) const LEASE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(30);
/// Writes under one lease.
const WRITES: u32 = 10;
/// One of so many leases is of a resource that is free for long at times.
const RARELY: u32 = 5;
/// One of so many leases is not renewed, and written under after it has expired.
const ZOMBIES: u32 = 4;

pub(crate) fn start<DB: Site>(load: &Load<DB>, clients: &mut JoinSet<anyhow::Result<()>>) {
    for number in 0..CLIENTS {
        clients.spawn(run(load.clone(), number));
    }
}

/// The highest token of each resource that was granted.
pub(crate) fn granted(entries: &[Entry]) -> HashMap<String, i64> {
    let mut highest = HashMap::new();
    for entry in entries {
        if let Told::Granted(resource, token) = &entry.told {
            let known = highest.entry(resource.clone()).or_insert(*token);
            *known = (*known).max(*token);
        }
    }
    highest
}

async fn run<DB: Site>(load: Load<DB>, number: usize) -> anyhow::Result<()> {
    let client = Client { name: format!("lease-{number}"), lock: lock(&load, number)?, load, number };
    while client.load.goes_on() {
        let resource = if fastrand::u32(..RARELY) == 0 { fastrand::choice(RARE) } else { fastrand::choice(BUSY) };
        match client.in_time("obtaining", client.once(resource.unwrap())).await? {
            Ok(()) => {}
            Err(error @ (Error::Fenced { .. } | Error::LockLost { .. })) => {
                client.load.tell(&client.name, Told::Refused(kind::<DB>(&error)));
            }
            Err(error) => client.load.tell(&client.name, Told::Erred(kind::<DB>(&error))),
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

pub(crate) fn lock<DB: Site>(load: &Load<DB>, number: usize) -> sagastore::Result<DatabaseLock<DB>> {
    DatabaseLock::new(load.pool(number).clone()).with_length(LEASE)
}

struct Client<DB: Site> {
    name: String,
    lock: DatabaseLock<DB>,
    load: Load<DB>,
    number: usize,
}

impl<DB: Site> Client<DB> {
    async fn in_time<T>(&self, what: &str, call: impl Future<Output = T>) -> anyhow::Result<T> {
        // Several calls at most, one after another.
        let done = tokio::time::timeout(CALL_WITHIN * 2, call).await;
        done.with_context(|| format!("{} hangs while {what} a lease", self.name))
    }

    /// Obtains a lease, writes under it, and gives it back.
    async fn once(&self, resource: &str) -> Result<(), Error> {
        let id = ResourceId::new(resource)?;
        // Whatever is granted from here on must be higher.
        let floor = self.load.tokens.lock().unwrap().get(resource).copied().unwrap_or_default();
        let lease = match self.lock.obtain_no_wait(&id, &ClientId::new(self.name.clone())?).await? {
            Obtained::Held => {
                self.load.tell(&self.name, Told::Went);
                return Ok(());
            }
            Obtained::Lease(lease) => lease,
        };
        self.note(resource, floor, &lease);
        if fastrand::u32(..ZOMBIES) == 0 {
            tokio::time::sleep(LEASE.mul_f64(1.5 + fastrand::f64())).await;
            return self.write(resource, &lease.as_fence()).await;
        }
        let guard = LeaseGuard::new(Arc::new(self.lock.clone()), lease);
        for _ in 0..fastrand::u32(1..=WRITES) {
            self.write(resource, &guard.as_fence()).await?;
            tokio::time::sleep(PAUSE).await;
        }
        if fastrand::bool() {
            guard.release().await?;
        }
        Ok(())
    }

    fn note(&self, resource: &str, floor: i64, lease: &Lease) {
        let token = lease.sequence.get();
        self.load.tell(&self.name, Told::Granted(resource.to_owned(), token));
        if token <= floor {
            let overlap = format!("{resource}: token {token} was granted after {floor}");
            self.load.tell(&self.name, Told::Overlap(overlap));
        }
        let mut tokens = self.load.tokens.lock().unwrap();
        let highest = tokens.entry(resource.to_owned()).or_default();
        *highest = (*highest).max(token);
    }

    async fn write(&self, resource: &str, fence: &Fence) -> Result<(), Error> {
        let mut tx = guarded::begin(self.load.pool(self.number)).await?;
        fence.hold(&mut tx).await?;
        match guarded::write::<DB>(tx, resource, fence.token.get()).await? {
            Found::Fine(number) => self.load.tell(&self.name, Told::Wrote(resource.to_owned(), number)),
            Found::Later(last) => {
                let overlap = format!("{resource}: token {} wrote after {last}", fence.token);
                self.load.tell(&self.name, Told::Overlap(overlap));
            }
        }
        Ok(())
    }
}

/// Of all that was granted no token twice, and nobody wrote after a later holder.
pub(crate) fn check(entries: &[Entry]) -> anyhow::Result<usize> {
    let mut tokens = std::collections::HashSet::new();
    for entry in entries {
        match &entry.told {
            Told::Granted(resource, token) => {
                ensure!(tokens.insert((resource, token)), "token {token} of {resource} was granted twice");
            }
            Told::Overlap(what) => anyhow::bail!("{}: {what}", entry.client),
            _ => {}
        }
    }
    Ok(tokens.len())
}
