//! Who may relay: one at a time under a lock, or a bounded number of dispatchers, each in a slot.

use sqlx::Database;
use std::time::{Duration, Instant};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::lock::lease::LeaseState;
use crate::lock::tables::{Claim, LeaseTables};
use crate::lock::{ClientId, FencingToken, Namespace, Resource, ResourceId};

use super::{OUTBOX_PARTITIONS, partition_of};

/// For how long the lock of the outbox is held, unless it is acquired again.
pub const LOCK_MAX_DURATION: Duration = Duration::from_secs(15);
/// How long after its last heartbeat a subscription ends.
pub const SUBS_EXPIRATION_AFTER: Duration = Duration::from_secs(30);
/// Most dispatchers that can share an outbox: one for each partition.
pub const MAX_DISPATCHERS: u32 = 64;
const _: () = assert!(OUTBOX_PARTITIONS == 64, "as many as partitions");

const LOCK_NAMESPACE: &str = "outbox";
const LOCK_RESOURCE: &str = "lock";
const SLOT_NAMESPACE: &str = "outbox/slot";
const PARTITION_NAMESPACE: &str = "outbox/partition";
const NAME_NAMESPACE: &str = "outbox/name";
/// How long one call may keep others for the same name waiting, and so how long they wait.
const TURN: Duration = Duration::from_secs(5);
const TURN_PAUSE: Duration = Duration::from_millis(10);
/// Makes the ids of requests from those of dispatchers.
const REQUESTS: Uuid = Uuid::from_u128(0x5d0f_8e0a_3f5b_4b57_9a3c_6a1f_90c2_7e11);

/// What releasing the outbox's lock came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum LockRelease {
    /// It was held by who asked, and is free.
    Released,
    /// Another dispatcher holds it; nothing was changed.
    HeldByAnother,
    /// Nobody holds it.
    NotHeld,
}

/// What subscribing came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Subscribed {
    /// The dispatcher has a slot.
    Slot(Subscription),
    /// All slots are taken.
    Full,
}

/// A dispatcher's slot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Subscription {
    /// Which dispatcher.
    pub dispatcher: ClientId,
    /// Its slot, from 1 on.
    pub slot: u32,
    pub(crate) token: FencingToken,
}

impl Subscription {
    /// For outboxes of one's own, which tell later owners of a slot from earlier ones by the token.
    pub fn new(dispatcher: ClientId, slot: u32, token: FencingToken) -> Self {
        Self { dispatcher, slot, token }
    }

    /// The token of the slot's lease.
    pub fn token(&self) -> FencingToken {
        self.token
    }
}

fn resource(namespace: &str, id: &str) -> Result<Resource> {
    Ok(Resource { namespace: Namespace::new(namespace)?, id: ResourceId::new(id)? })
}

fn slot(number: u32) -> Result<Resource> {
    resource(SLOT_NAMESPACE, &format!("{number:04}"))
}

/// The lease on a partition.
pub(crate) fn partition(number: i64) -> Result<Resource> {
    resource(PARTITION_NAMESPACE, &format!("{number:04}"))
}

/// The same for every call of one dispatcher: asked again, it gets what it holds.
fn claim<'a>(resource: &'a Resource, dispatcher: &'a ClientId, length: Duration) -> Claim<'a> {
    let request = Uuid::new_v5(&REQUESTS, dispatcher.as_str().as_bytes());
    Claim { resource, client: dispatcher, request, length, lock_delay: Duration::ZERO }
}

pub(super) async fn acquire_lock<DB: Database, T: LeaseTables<DB> + ?Sized>(
    tables: &T,
    conn: &mut DB::Connection,
    dispatcher: &ClientId,
) -> Result<bool> {
    let lock = resource(LOCK_NAMESPACE, LOCK_RESOURCE)?;
    Ok(tables.claim(conn, &claim(&lock, dispatcher, LOCK_MAX_DURATION)).await?.is_some())
}

pub(super) async fn release_lock<DB: Database, T: LeaseTables<DB> + ?Sized>(
    tables: &T,
    conn: &mut DB::Connection,
    dispatcher: &ClientId,
) -> Result<LockRelease> {
    let lock = resource(LOCK_NAMESPACE, LOCK_RESOURCE)?;
    let held = tables.status(conn, &lock).await?.filter(|status| status.state == LeaseState::Held);
    let Some(held) = held else { return Ok(LockRelease::NotHeld) };
    if held.client_id.as_ref() != Some(dispatcher) {
        return Ok(LockRelease::HeldByAnother);
    }
    let released = tables.free(conn, &lock, held.sequence).await?;
    Ok(if released { LockRelease::Released } else { LockRelease::NotHeld })
}

/// The lowest free slot; its own if it has one.
pub(crate) async fn subscribe<DB: Database, T: LeaseTables<DB> + ?Sized>(
    tables: &T,
    conn: &mut DB::Connection,
    dispatcher: &ClientId,
    max_dispatchers: u32,
    length: Duration,
) -> Result<Subscribed> {
    if !(1..=MAX_DISPATCHERS).contains(&max_dispatchers) {
        let detail = format!("it is {max_dispatchers}; use one between 1 and {MAX_DISPATCHERS}");
        return Err(Error::invalid("maximum of dispatchers", detail));
    }
    // One call for a name at a time: of two, the later one finds the slot of the other.
    let name = resource(NAME_NAMESPACE, &format!("{:04}", partition_of(NAME_NAMESPACE, dispatcher.as_str())))?;
    let request = Uuid::now_v7();
    let turn = Claim { resource: &name, client: dispatcher, request, length: TURN, lock_delay: Duration::ZERO };
    let began = Instant::now();
    let turn = loop {
        let granted = tables.claim(conn, &turn).await?;
        if granted.is_some() || began.elapsed() > TURN {
            break granted;
        }
        tokio::time::sleep(TURN_PAUSE).await;
    };
    let subscribed = subscribe_alone(tables, conn, dispatcher, max_dispatchers, length).await;
    if let Some(turn) = turn {
        tables.free(conn, &name, turn.token).await?;
    }
    subscribed
}

async fn subscribe_alone<DB: Database, T: LeaseTables<DB> + ?Sized>(
    tables: &T,
    conn: &mut DB::Connection,
    dispatcher: &ClientId,
    max_dispatchers: u32,
    length: Duration,
) -> Result<Subscribed> {
    let own = live(tables, conn).await?.into_iter().find(|found| found.dispatcher == *dispatcher);
    if let Some(own) = own.filter(|own| own.slot <= max_dispatchers)
        && heartbeat(tables, conn, &own, length).await?
    {
        return Ok(Subscribed::Slot(own));
    }
    for number in 1..=max_dispatchers {
        let resource = slot(number)?;
        if let Some(grant) = tables.claim(conn, &claim(&resource, dispatcher, length)).await? {
            let dispatcher = dispatcher.clone();
            return Ok(Subscribed::Slot(Subscription { dispatcher, slot: number, token: grant.token }));
        }
    }
    Ok(Subscribed::Full)
}

pub(crate) async fn heartbeat<DB: Database, T: LeaseTables<DB> + ?Sized>(
    tables: &T,
    conn: &mut DB::Connection,
    own: &Subscription,
    length: Duration,
) -> Result<bool> {
    Ok(tables.extend(conn, &slot(own.slot)?, own.token, length).await?.is_some())
}

pub(super) async fn unsubscribe<DB: Database, T: LeaseTables<DB> + ?Sized>(
    tables: &T,
    conn: &mut DB::Connection,
    own: &Subscription,
) -> Result<bool> {
    tables.free(conn, &slot(own.slot)?, own.token).await
}

/// The subscriptions that have not expired, by slot.
pub(crate) async fn live<DB: Database, T: LeaseTables<DB> + ?Sized>(
    tables: &T,
    conn: &mut DB::Connection,
) -> Result<Vec<Subscription>> {
    let slots = tables.statuses(conn, &Namespace::new(SLOT_NAMESPACE)?, None, MAX_DISPATCHERS).await?;
    let subscription = |status: crate::lock::lease::LeaseStatus| {
        let held = status.state == LeaseState::Held;
        let slot = status.resource.id.as_str().parse().ok()?;
        let dispatcher = status.client_id.filter(|_| held)?;
        Some(Subscription { dispatcher, slot, token: status.sequence })
    };
    Ok(slots.into_iter().filter_map(subscription).collect())
}
