use std::future::Future;

use crate::Tally;

/// A library, used as its documentation shows.
pub trait Peer: Clone + Send + Sync + 'static {
    /// Whether the library can be told to load by all events.
    const REPLAYS: bool = true;

    /// Starts an instance and gives it a history, stored as units of work with one event each would have stored it.
    fn start(&self, instance: &str, events: u32) -> impl Future<Output = ()> + Send;

    /// Loads the instance, decides by its state, and commits that many events.
    fn unit(&self, instance: &str, events: u32) -> impl Future<Output = ()> + Send;

    /// Loads the instance as the library does by itself.
    fn load(&self, instance: &str) -> impl Future<Output = Tally> + Send;

    /// Loads the instance by all its events, even if there is a snapshot.
    fn replay(&self, instance: &str) -> impl Future<Output = Tally> + Send {
        self.load(instance)
    }
}
