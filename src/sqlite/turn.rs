//! Writers of one store wait for each other here, and not for the lock of the file: whoever waits there looks again and again, ever
//! more rarely, while the file may be free.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;

/// Who waits for longer goes on without a turn: whoever has it may be waiting for another process, or be a future that its
/// task does not poll.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// One at a time has it, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub(super) struct Turn(Arc<Mutex<()>>);

impl Turn {
    pub(super) async fn wait(&self) -> Option<OwnedMutexGuard<()>> {
        match Arc::clone(&self.0).try_lock_owned() {
            Ok(turn) => Some(turn),
            Err(_) => timeout(LONGEST_WAIT, Arc::clone(&self.0).lock_owned()).await.ok(),
        }
    }
}
