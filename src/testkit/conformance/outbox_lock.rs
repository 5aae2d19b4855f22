//! The lock of the outbox.

use sqlx::Database;

use super::bench::{Finding, same};
use super::outbox_find::OutboxBench;
use crate::error::Cause;
use crate::lock::ClientId;
use crate::outbox::LockRelease;

impl<DB: Database> OutboxBench<DB> {
    pub(super) fn dispatcher(&self, name: &str) -> Result<ClientId, Cause> {
        Ok(ClientId::new(self.name(name))?)
    }

    async fn acquire(&self, dispatcher: &ClientId) -> Result<bool, Cause> {
        Ok(self.subject.acquire_lock(&mut *self.conn().await?, dispatcher).await?)
    }

    async fn release(&self, dispatcher: &ClientId) -> Result<LockRelease, Cause> {
        Ok(self.subject.release_lock(&mut *self.conn().await?, dispatcher).await?)
    }
}

pub(super) async fn one_dispatcher_at_a_time_holds_the_lock<DB: Database>(bench: &OutboxBench<DB>) -> Finding {
    let (one, two) = (bench.dispatcher("one")?, bench.dispatcher("two")?);
    same("the first gets it", bench.acquire(&one).await?, true)?;
    let second = bench.acquire(&two).await?;
    let again = bench.acquire(&one).await?;
    let _ = bench.release(&one).await?;
    let freed = bench.acquire(&two).await?;
    let _ = bench.release(&two).await?;
    same("another gets it too", second, false)?;
    same("the holder gets it again", again, true)?;
    same("another gets it once it is free", freed, true)
}

pub(super) async fn the_lock_is_released_by_its_holder_only<DB: Database>(bench: &OutboxBench<DB>) -> Finding {
    let (one, two) = (bench.dispatcher("one")?, bench.dispatcher("two")?);
    same("release of what nobody holds", bench.release(&one).await?, LockRelease::NotHeld)?;
    same("the first gets it", bench.acquire(&one).await?, true)?;
    let foreign = bench.release(&two).await?;
    let stolen = bench.acquire(&two).await?;
    let own = bench.release(&one).await?;
    let _ = bench.release(&two).await?;
    same("release by another", foreign, LockRelease::HeldByAnother)?;
    same("another gets it after that", stolen, false)?;
    same("release by the holder", own, LockRelease::Released)?;
    same("release a second time", bench.release(&one).await?, LockRelease::NotHeld)
}
