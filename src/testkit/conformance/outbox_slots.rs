//! The slots of dispatchers.

use sqlx::Database;

use super::bench::{Finding, ensure, found, same};
use super::outbox_find::OutboxBench;
use crate::error::{Cause, Error};
use crate::lock::ClientId;
use crate::outbox::{MAX_DISPATCHERS, Subscribed, Subscription};

impl<DB: Database> OutboxBench<DB> {
    async fn subscribe(&self, dispatcher: &ClientId, most: u32) -> Result<Option<Subscription>, Cause> {
        match self.subject.subscribe_dispatcher(&mut *self.conn().await?, dispatcher, most).await? {
            Subscribed::Slot(subscription) => Ok(Some(subscription)),
            Subscribed::Full => Ok(None),
        }
    }

    async fn unsubscribe(&self, subscriptions: impl IntoIterator<Item = &Subscription>) -> Finding {
        for subscription in subscriptions {
            let freed = self.subject.unsubscribe(&mut *self.conn().await?, subscription).await?;
            ensure(freed, format!("slot {} could not be given up", subscription.slot))?;
        }
        Ok(())
    }
}

pub(super) async fn slots_are_given_from_the_first_up_to_the_maximum<DB: Database>(bench: &OutboxBench<DB>) -> Finding {
    let mut taken = Vec::new();
    for slot in 1..=3 {
        let dispatcher = bench.dispatcher("slot")?;
        let own = found("a free slot", bench.subscribe(&dispatcher, 3).await?)?;
        same("slot and dispatcher", (own.slot, &own.dispatcher), (slot, &dispatcher))?;
        taken.push(own);
    }
    let surplus = bench.subscribe(&bench.dispatcher("surplus")?, 3).await?;
    bench.unsubscribe(&taken).await?;
    same("the slot of one too many", surplus, None)
}

pub(super) async fn a_dispatcher_gets_the_slot_that_it_has<DB: Database>(bench: &OutboxBench<DB>) -> Finding {
    let (one, two) = (bench.dispatcher("one")?, bench.dispatcher("two")?);
    let first = found("a slot", bench.subscribe(&one, 2).await?)?;
    let second = found("a slot", bench.subscribe(&two, 2).await?)?;
    let again = found("its slot", bench.subscribe(&two, 2).await?)?;
    bench.unsubscribe([&first, &again]).await?;
    same("the slot asked for again", again.slot, second.slot)
}

pub(super) async fn a_slot_that_is_given_up_is_free_and_takes_no_heartbeats<DB: Database>(
    bench: &OutboxBench<DB>,
) -> Finding {
    let (one, two) = (bench.dispatcher("one")?, bench.dispatcher("two")?);
    let first = found("a slot", bench.subscribe(&one, 1).await?)?;
    let beats = bench.subject.update_subscription(&mut *bench.conn().await?, &first).await?;
    bench.unsubscribe([&first]).await?;
    let late = bench.subject.update_subscription(&mut *bench.conn().await?, &first).await?;
    let twice = bench.subject.unsubscribe(&mut *bench.conn().await?, &first).await?;
    let second = found("the slot that was given up", bench.subscribe(&two, 1).await?)?;
    bench.unsubscribe([&second]).await?;
    same("heartbeat, heartbeat after giving up, giving up twice", (beats, late, twice), (true, false, false))
}

pub(super) async fn a_number_of_dispatchers_out_of_bounds_is_refused<DB: Database>(bench: &OutboxBench<DB>) -> Finding {
    let dispatcher = bench.dispatcher("bounds")?;
    for most in [0, MAX_DISPATCHERS + 1] {
        let refused = bench.subject.subscribe_dispatcher(&mut *bench.conn().await?, &dispatcher, most).await;
        let told = matches!(refused, Err(Error::InvalidInput { .. }));
        ensure(told, format!("{most} dispatchers gave {refused:?}"))?;
    }
    Ok(())
}
