//! Units of work in transactions with writes of the program's own: by the library's transaction, and by the program's,
//! with an inbox, a record in the outbox and a fence.

use anyhow::{Context, ensure};
use sagastore::lock::{ClientId, DatabaseLock, Lock, ResourceId};
use sagastore::{Attempt, Begun, Envelope, Finished, Inbox, MessageKind, NewOutboxRecord, Outbox, OutboxRepository};

use super::Moment;
use crate::audit::commits_of;
use crate::desk::{Desk, message_id};
use crate::saga::{Order, OrderCommand, OrderEvent, instance};
use crate::site::Site;

const ID: &str = "own";
const CONSUMER: &str = "crash-consumer";
const IN_CLOSURE: u32 = 3;
const BY_HAND: u32 = 3;
/// One for each unit of work; for those by hand also one that obtains the lease, and one that releases it.
pub(super) const CHANGES: usize = 12;

pub(super) async fn work<DB: Site>(desk: &Desk<DB>) -> anyhow::Result<()> {
    for number in 1..=IN_CLOSURE {
        in_closure(desk, number).await?;
    }
    for number in IN_CLOSURE + 1..=IN_CLOSURE + BY_HAND {
        by_hand(desk, number).await?;
    }
    Ok(())
}

async fn in_closure<DB: Site>(desk: &Desk<DB>, number: u32) -> anyhow::Result<()> {
    let (persister, message, id) = (desk.persister(), message_id(&format!("{ID} {number}")), instance(ID));
    let done = persister.execute_in_transaction(&desk.pool, &desk.saga, &id, Some(message.into()), |attempt| {
        attempt_to(attempt, number)
    });
    let _ = done.await?;
    Ok(())
}

async fn attempt_to<'s, DB: Site>(
    mut attempt: Attempt<'s, Order, DB>,
    number: u32,
) -> anyhow::Result<Finished<'s, Order, DB, ()>> {
    DB::write_own(&mut attempt.transaction, &number.to_string()).await?;
    attempt.unit.publish(OrderEvent::Stepped { number })?;
    attempt.unit.execute(&OrderCommand::Ship { number })?;
    Ok(attempt.finish(()))
}

async fn by_hand<DB: Site>(desk: &Desk<DB>, number: u32) -> anyhow::Result<()> {
    let lock = DatabaseLock::new(desk.pool.clone());
    let (resource, client) = (ResourceId::new("writer")?, ClientId::new("by-hand")?);
    let lease = lock.obtain_no_wait(&resource, &client).await?.lease().context("it is held")?;
    let (persister, message) = (desk.persister(), message_id(&format!("{ID} {number}")));
    let mut tx = persister.begin(&desk.pool).await?;
    if Inbox::new(CONSUMER)?.receive(&mut tx, message).await?.is_repeated() {
        tx.rollback().await?;
    } else {
        DB::write_own(&mut tx, &number.to_string()).await?;
        let id = instance(ID);
        let begun = persister.begin_handling(&desk.saga, &mut tx, Outbox, &id, message).await?;
        let Begun::Unit(mut unit) = begun else { anyhow::bail!("the inbox and the instance do not agree") };
        unit.publish(OrderEvent::Stepped { number })?;
        unit.execute(&OrderCommand::Ship { number })?;
        unit.fence(lease.as_fence());
        ensure!(persister.save(&mut tx, unit).await?.is_changed(), "nothing was saved");
        DB::Store::default().save(&mut tx, &[record(number)?]).await?;
        tx.commit().await?;
    }
    ensure!(lock.release(&lease).await?, "the lease was lost");
    Ok(())
}

/// A message apart from those of the instance.
fn record(number: u32) -> anyhow::Result<NewOutboxRecord> {
    let mut message = Envelope::new(MessageKind::Event, "Told", 1, "text/plain", number.to_string())?;
    message.message_id = message_id(&format!("{ID} record {number}"));
    Ok(NewOutboxRecord::new("teller", "1", message))
}

pub(super) async fn check<DB: Site>(desk: &Desk<DB>, moment: Moment) -> anyhow::Result<()> {
    let count = u32::try_from(commits_of(desk, ID).await?.len())?;
    let all = IN_CLOSURE + BY_HAND;
    ensure!(moment == Moment::Killed || count == all, "{count} of {all} units of work are there");
    let expected: Vec<_> = (1..=count).map(|number| number.to_string()).collect();
    let own = desk.own().await?;
    ensure!(own == expected, "with {count} units of work the program's own rows are {own:?}");
    let by_hand = u64::from(count.saturating_sub(IN_CLOSURE));
    let (received, told) = (desk.count("saga_inbox").await?, desk.count("saga_outbox_message").await?);
    ensure!(received == by_hand, "with {count} units of work {received} messages were received");
    ensure!(told == by_hand, "with {count} units of work {told} records were saved");
    let mut conn = desk.pool.acquire().await?;
    for number in 1..=all {
        let message = message_id(&format!("{ID} {number}"));
        let there = Inbox::new(CONSUMER)?.has_received::<DB>(&mut conn, message).await?;
        ensure!(there == (IN_CLOSURE < number && number <= count), "message {number} in the inbox: {there}");
    }
    Ok(())
}
