//! Messages find their instance by keys, with writes of the program's own; one fails and is parked, the next waits behind
//! it; once the saga is mended both are handled. A new key replaces the old one, and completion gives it up.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::ensure;
use async_trait::async_trait;
use sagastore::{
    Cause, CorrelationKey, Envelope, InTransaction, KeySet, MessageHandler, ParkAfter, ParkedFilter, UnitOfWork,
    parked_messages,
};
use sqlx::Transaction;

use super::Moment;
use crate::audit::{commits_of, instances};
use crate::desk::Desk;
use crate::saga::{KEY, Order, OrderMessage, instance, keys};
use crate::site::Site;

const OLD: &str = "old";
const NEW: &str = "new";
/// Seven messages are handled, two of them parked first.
pub(super) const CHANGES: usize = 9;

/// Writes a row of the program's own for each message.
struct Projection;

#[async_trait]
impl<DB: Site> InTransaction<Order, DB> for Projection {
    async fn run(
        &self,
        tx: &mut Transaction<'_, DB>,
        _: &mut UnitOfWork<'_, Order>,
        message: &Envelope,
    ) -> Result<(), Cause> {
        Ok(DB::write_own(tx, &message.message_id.to_string()).await?)
    }
}

fn messages() -> [OrderMessage; 7] {
    let (old, new) = (|| OLD.to_owned(), || NEW.to_owned());
    [
        OrderMessage::Open { name: old() },
        OrderMessage::Step { name: old(), number: 1 },
        OrderMessage::Fragile { name: old(), number: 2 },
        OrderMessage::Step { name: old(), number: 3 },
        OrderMessage::Rename { name: old(), to: new() },
        OrderMessage::Step { name: new(), number: 4 },
        OrderMessage::Close { name: new() },
    ]
}

pub(super) async fn work<DB: Site>(desk: &Desk<DB>) -> anyhow::Result<()> {
    let parking = ParkAfter { tries: 1, delay: Duration::ZERO };
    let handler = MessageHandler::<Order, DB>::mapped(desk.saga.clone(), desk.persister(), keys())?
        .in_transaction(Projection)
        .park_after(parking);
    desk.saga.broken.store(true, Ordering::Relaxed);
    for message in messages() {
        if matches!(message, OrderMessage::Rename { .. }) {
            desk.saga.broken.store(false, Ordering::Relaxed);
            for id in instances(desk).await? {
                let _ = handler.retry_parked(&desk.pool, &instance(&id)).await?;
            }
        }
        let _ = handler.handle(&desk.pool, &message.envelope()?).await?;
    }
    Ok(())
}

pub(super) async fn check<DB: Site>(desk: &Desk<DB>, moment: Moment) -> anyhow::Result<()> {
    let found = instances(desk).await?;
    ensure!(found.len() <= 1, "several instances were started: {found:?}");
    let mut handled = 0;
    let mut key = None;
    if let Some(id) = found.first() {
        handled = commits_of(desk, id).await?.len();
        let loaded =
            desk.persister().load_instance(&desk.saga, &mut *desk.pool.acquire().await?, &instance(id)).await?;
        let data = loaded.map(|unit| unit.instance().data.clone()).unwrap_or_default();
        let steps: Vec<_> = (1..).take(data.steps.len()).collect();
        ensure!(data.steps == steps, "the messages were not handled in order: {:?}", data.steps);
        key = (!data.closed).then_some(data.name);
    }
    let expected = messages();
    ensure!(moment == Moment::Killed || handled == expected.len(), "{handled} messages were handled");
    check_keys(desk, key.as_deref()).await?;
    let mut entries = Vec::new();
    for message in &expected[..handled] {
        entries.push(message.envelope()?.message_id.to_string());
    }
    entries.sort();
    let own = desk.own().await?;
    ensure!(own == entries, "{handled} messages were handled, and the program's own rows are {own:?}");
    let received = desk.count("saga_inbox").await?;
    ensure!(received == u64::try_from(handled)?, "{handled} messages were handled, the inbox has {received}");
    let parked = parked_messages::<DB>(&mut *desk.pool.acquire().await?, ParkedFilter::default(), 10).await?;
    let both = parked.iter().find(|parked| own.contains(&parked.message.message_id.to_string()));
    ensure!(both.is_none(), "handled and parked: {both:?}");
    ensure!(moment == Moment::Killed || parked.is_empty(), "still parked: {parked:?}");
    Ok(())
}

/// The live instance has the key that its state says, and no other.
async fn check_keys<DB: Site>(desk: &Desk<DB>, key: Option<&str>) -> anyhow::Result<()> {
    for name in [OLD, NEW] {
        let mut conn = desk.pool.acquire().await?;
        let holder = KeySet::<Order>::find::<DB>(&mut conn, KEY, &CorrelationKey::of([name])?).await?;
        ensure!(holder.is_some() == (key == Some(name)), "the key {name:?} is held by {holder:?}, not as in {key:?}");
    }
    Ok(())
}
