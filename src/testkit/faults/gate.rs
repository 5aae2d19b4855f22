//! Holding a call until a test lets it go.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// Holds calls until it is opened. Cheap to clone; all clones are one gate.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Sides>);

#[derive(Debug)]
struct Sides {
    reached: Semaphore,
    open: Semaphore,
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// A gate that is shut.
    pub fn new() -> Self {
        Self(Arc::new(Sides { reached: Semaphore::new(0), open: Semaphore::new(0) }))
    }

    /// Waits until a call stands before it; each call is told once.
    pub async fn reached(&self) {
        if let Ok(permit) = self.0.reached.acquire().await {
            permit.forget();
        }
    }

    /// Lets all calls pass, from now on.
    pub fn open(&self) {
        self.0.open.close();
    }

    pub(super) async fn pass(&self) {
        self.0.reached.add_permits(1);
        // It is never given a permit, only closed.
        let _ = self.0.open.acquire().await;
    }
}
