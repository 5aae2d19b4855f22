//! Which partitions a dispatcher relays: its slot, and a lease on each.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::{Pool, Transaction};
use tokio::sync::Notify;
use uuid::Uuid;

use super::settings::DispatcherSettings;
use crate::backend::Backend;
use crate::error::Result;
use crate::guarded_connection::GuardedConnection;
use crate::lock::lease::Lease;
use crate::lock::tables::{Claim, Grant, LeaseTables};
use crate::lock::{ClientId, Fence};
use crate::message_store::MessageStore;
use crate::outbox::subscription::{heartbeat, live, partition, subscribe};
use crate::outbox::{OUTBOX_PARTITIONS, OutboxRepository, Subscribed, Subscription};

/// Which block of partitions goes to one worker: dispatchers take every n-th partition, workers take blocks, so that
/// each worker gets some.
const WORKER_BLOCK: i64 = 8;
/// A lease is renewed once no more than this part of it is left.
const RENEW_WHEN_LEFT: f64 = 2.0 / 3.0;

/// A partition that is held.
#[derive(Debug)]
struct Held {
    lease: Lease,
    /// A worker has messages of it under way.
    busy: bool,
    /// To be handed over as soon as it is not busy.
    leaving: bool,
}

/// What one dispatcher holds.
#[derive(Debug)]
pub(super) struct Ownership<DB: Backend> {
    pool: Pool<DB>,
    store: DB::Store,
    id: ClientId,
    settings: DispatcherSettings,
    subscription: Mutex<Option<Subscription>>,
    /// No slot was free the last time.
    waits: AtomicBool,
    held: Mutex<BTreeMap<i64, Held>>,
    /// Some partition is not busy any more.
    idle: Notify,
}

/// A partition that a worker has taken for a batch, with its fence.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub(super) partition: i64,
    pub(super) fence: Fence,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<DB: Backend> Ownership<DB> {
    pub(super) fn new(pool: Pool<DB>, id: ClientId, settings: DispatcherSettings) -> Self {
        Self {
            pool,
            store: DB::Store::default(),
            id,
            settings,
            subscription: Mutex::new(None),
            waits: AtomicBool::new(false),
            held: Mutex::new(BTreeMap::new()),
            idle: Notify::new(),
        }
    }

    /// The partitions that are held.
    pub(super) fn partitions(&self) -> Vec<i64> {
        lock(&self.held).keys().copied().collect()
    }

    /// Some partition was given back.
    pub(super) async fn given_back(&self) {
        self.idle.notified().await;
    }

    /// Keeps, or gets, a slot; takes the share of the partitions that goes with it, as far as it is free, and
    /// hands over what others are to have. True if something was taken.
    pub(super) async fn refresh(&self, mut conn: GuardedConnection<DB>) -> Result<bool> {
        let refreshed = self.refresh_on(&mut conn).await;
        conn.release();
        refreshed
    }

    /// Keeps what is held, and takes nothing.
    pub(super) async fn keep(&self) -> Result<()> {
        let mut conn = self.connect().await?;
        let kept = self.renew(&mut conn).await;
        conn.release();
        kept
    }

    async fn refresh_on(&self, conn: &mut DB::Connection) -> Result<bool> {
        let share = self.share(conn).await?;
        for (number, held) in lock(&self.held).iter_mut() {
            held.leaving = !share.contains(number);
        }
        self.hand_over(conn).await?;
        self.renew(conn).await?;
        let wanted: Vec<_> = {
            let held = lock(&self.held);
            share.into_iter().filter(|number| !held.contains_key(number)).collect()
        };
        self.claim(conn, &wanted).await
    }

    /// The partitions of this dispatcher's slot: every n-th, n being the number of subscribed dispatchers.
    async fn share(&self, conn: &mut DB::Connection) -> Result<Vec<i64>> {
        let known = lock(&self.subscription).clone();
        let (length, dispatchers) = (self.settings.slot_lease(), self.settings.dispatchers);
        let kept = match known {
            Some(known) if heartbeat(&self.store, conn, &known, length).await? => Some(known),
            _ => match subscribe(&self.store, conn, &self.id, dispatchers, length).await? {
                Subscribed::Slot(subscription) => Some(subscription),
                Subscribed::Full => None,
            },
        };
        if !self.waits.swap(kept.is_none(), Ordering::Relaxed) && kept.is_none() {
            super::telemetry::no_slot(&self.id, dispatchers);
        }
        lock(&self.subscription).clone_from(&kept);
        let Some(own) = kept else { return Ok(Vec::new()) };
        let slots: Vec<u32> = live(&self.store, conn).await?.into_iter().map(|live| live.slot).collect();
        let place = slots.iter().position(|slot| *slot == own.slot).unwrap_or_default();
        let (place, others) =
            (i64::try_from(place).unwrap_or_default(), i64::try_from(slots.len().max(1)).unwrap_or(1));
        Ok((0..OUTBOX_PARTITIONS).filter(|number| number % others == place).collect())
    }

    /// Takes what is free of these, in one transaction: a commit for each would take longer than all the rest.
    async fn claim(&self, conn: &mut DB::Connection, wanted: &[i64]) -> Result<bool> {
        if wanted.is_empty() {
            return Ok(false);
        }
        let (length, lock_delay) = (self.settings.lease, Duration::ZERO);
        let (asked, mut taken) = (Instant::now(), Vec::new());
        let mut tx = self.store.begin(conn).await?;
        for number in wanted {
            let resource = partition(*number)?;
            let claim = Claim { resource: &resource, client: &self.id, request: Uuid::now_v7(), length, lock_delay };
            if let Some(Grant { token, expiry }) = self.store.claim(&mut tx, &claim).await? {
                taken.push((*number, Lease::granted(&resource, &self.id, token, expiry, asked, length)));
            }
        }
        self.commit(tx).await?;
        let any = !taken.is_empty();
        let held = |(number, lease)| (number, Held { lease, busy: false, leaving: false });
        lock(&self.held).extend(taken.into_iter().map(held));
        Ok(any)
    }

    /// Renews what is kept, in one transaction. A lease that is lost is forgotten: its messages are another's.
    async fn renew(&self, conn: &mut DB::Connection) -> Result<()> {
        let due = |held: &Held| held.lease.remaining() <= held.lease.length().mul_f64(RENEW_WHEN_LEFT);
        let due: Vec<_> = {
            let held = lock(&self.held);
            held.iter().filter(|(_, held)| due(held)).map(|(number, held)| (*number, held.lease.clone())).collect()
        };
        if due.is_empty() {
            return Ok(());
        }
        let (asked, mut renewed) = (Instant::now(), Vec::new());
        let mut tx = self.store.begin(conn).await?;
        for (number, lease) in due {
            let expiry = self.store.extend(&mut tx, &lease.resource(), lease.sequence, lease.length()).await?;
            renewed.push((number, lease, expiry));
        }
        self.commit(tx).await?;
        for (number, lease, expiry) in renewed {
            match expiry {
                Some(expiry) => {
                    if let Some(held) = lock(&self.held).get_mut(&number) {
                        held.lease = lease.renewed(expiry, asked);
                    }
                }
                None => self.lose(number, &lease.as_fence()),
            }
        }
        Ok(())
    }

    /// Frees what is leaving and not busy, in one transaction. What cannot be freed expires.
    async fn hand_over(&self, conn: &mut DB::Connection) -> Result<()> {
        let leaving: Vec<_> = {
            let mut held = lock(&self.held);
            let numbers: Vec<_> =
                held.iter().filter(|(_, held)| held.leaving && !held.busy).map(|(number, _)| *number).collect();
            numbers.into_iter().filter_map(|number| held.remove(&number)).collect()
        };
        if leaving.is_empty() {
            return Ok(());
        }
        let mut tx = self.store.begin(conn).await?;
        for Held { lease, .. } in leaving {
            self.store.free(&mut tx, &lease.resource(), lease.sequence).await?;
        }
        self.commit(tx).await
    }

    async fn commit(&self, tx: Transaction<'_, DB>) -> Result<()> {
        let committed = tx.commit().await;
        committed.map_err(|error| self.store.classify("looking after the partitions of the outbox", error))
    }

    /// Gives everything back.
    pub(super) async fn leave(&self) -> Result<()> {
        for held in lock(&self.held).values_mut() {
            (held.leaving, held.busy) = (true, false);
        }
        let subscription = lock(&self.subscription).take();
        if subscription.is_none() && lock(&self.held).is_empty() {
            return Ok(());
        }
        let mut conn = self.connect().await?;
        let left = async {
            self.hand_over(&mut conn).await?;
            match &subscription {
                Some(subscription) => self.store.unsubscribe(&mut conn, subscription).await.map(drop),
                None => Ok(()),
            }
        };
        let left = left.await;
        conn.release();
        left
    }

    /// Takes the idle partitions of one of `workers` workers.
    pub(super) fn take(&self, worker: u32, workers: u32) -> Vec<Taken> {
        let mine = |number: i64| number / WORKER_BLOCK % i64::from(workers) == i64::from(worker);
        let mut taken = Vec::new();
        for (number, held) in lock(&self.held).iter_mut() {
            if mine(*number) && !held.busy && !held.leaving && !held.lease.remaining().is_zero() {
                held.busy = true;
                taken.push(Taken { partition: *number, fence: held.lease.as_fence() });
            }
        }
        taken
    }

    /// Gives taken partitions back, and says so if some are to be handed over.
    pub(super) fn give_back(&self, taken: &[Taken]) {
        let mut held = lock(&self.held);
        let mut leaving = false;
        for Taken { partition, fence } in taken {
            if let Some(held) = held.get_mut(partition)
                && held.lease.sequence == fence.token
            {
                held.busy = false;
                leaving |= held.leaving;
            }
        }
        if leaving {
            self.idle.notify_one();
        }
    }

    /// Forgets a partition that was found to be another's.
    pub(super) fn lose(&self, number: i64, fence: &Fence) {
        let mut held = lock(&self.held);
        if held.get(&number).is_some_and(|held| held.lease.sequence == fence.token) {
            held.remove(&number);
            super::telemetry::lease_lost(&self.id, number);
        }
    }

    pub(super) async fn connect(&self) -> Result<GuardedConnection<DB>> {
        GuardedConnection::take(&self.pool, &self.store, "taking a connection for the outbox").await
    }
}
