//! Faults that come when they are asked for: around a store, a snapshot repository or an outbox.

mod gate;
mod outbox;
mod plan;
mod snapshots;
mod store;

pub(crate) use outbox::faulty_outbox;
pub(crate) use snapshots::faulty_snapshots;
pub(crate) use store::faulty_store;

pub use gate::Gate;
pub use outbox::FaultyOutbox;
pub use plan::{Fault, Faults, Moment, Verb};
pub use snapshots::FaultySnapshots;
pub use store::FaultyStore;

/// Lets stores, snapshot repositories and outboxes of a database have faults.
macro_rules! faulty {
    ($db:ty) => {
        $crate::testkit::faults::faulty_store!($db);
        $crate::testkit::faults::faulty_snapshots!($db);
        $crate::testkit::faults::faulty_outbox!($db);
    };
}
pub(crate) use faulty;
