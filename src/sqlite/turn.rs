//! Writers of one store wait for each other here, and not for the lock of the file: whoever waits there looks again and again, ever
//! more rarely, while the file may be free.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;

/// Who waits for longer goes on without a turn: whoever has it may be waiting for another process, or be a future that its
/// task does not poll.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// One at a time has it, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub(super) struct Turn(Arc<std::sync::Mutex<Arc<Mutex<()>>>>);

impl Turn {
    pub(super) async fn wait(&self) -> Option<OwnedMutexGuard<()>> {
        let turn = Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if let Ok(taken) = Arc::clone(&turn).try_lock_owned() {
            return Some(taken);
        }
        let taken = timeout(LONGEST_WAIT, Arc::clone(&turn).lock_owned()).await.ok();
        if taken.is_none() {
            self.give_up(&turn);
        }
        taken
    }

    /// Those who come from now on do not wait for it any more.
    fn give_up(&self, turn: &Arc<Mutex<()>>) {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&current, turn) {
            *current = Arc::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_that_is_never_over_holds_up_the_others_once() {
        let (turn, began) = (Turn::default(), Instant::now());
        let stuck = turn.wait().await;
        assert!(stuck.is_some() && turn.wait().await.is_none());
        for _ in 0..20 {
            assert!(turn.wait().await.is_some(), "the next ones wait for each other only");
        }
        assert!(began.elapsed() < LONGEST_WAIT * 2);
        drop(stuck);
        assert!(turn.wait().await.is_some());
    }
}
