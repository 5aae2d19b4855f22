use compare_protocol::{Peer, Tally};
use evento::{Executor, LoadResult, ReadError, SaveBuilder};

use crate::counter::{Counted, Counter};

/// Events of one statement that starts an instance: more are too many for it.
const AT_ONCE: u32 = 1_000;

#[derive(Clone)]
pub(crate) struct Store<E>(pub(crate) E);

impl<E: Executor + Clone> Store<E> {
    async fn commit(&self, events: SaveBuilder<Counter>, tally: &Tally, count: u32) {
        let mut events = events;
        for step in tally.decide_all(count) {
            events = events.data(&Counted::from(step)).expect("encodes");
        }
        events.commit(&self.0).await.expect("commits");
    }

    async fn loaded(&self, instance: &str) -> Result<LoadResult<Counter>, ReadError> {
        evento::load::<Counter, _>(&self.0, instance).await
    }
}

impl<E: Executor + Clone> Peer for Store<E> {
    /// There always is a snapshot; without it, each further page of 1,000 events comes a second later.
    const REPLAYS: bool = false;

    async fn start(&self, instance: &str, events: u32) {
        let first = events.min(AT_ONCE);
        self.commit(evento::create_with(instance), &Tally::default(), first).await;
        let mut left = events - first;
        while left > 0 {
            let now = left.min(AT_ONCE);
            self.unit(instance, now).await;
            left -= now;
        }
    }

    async fn unit(&self, instance: &str, events: u32) {
        let loaded = self.loaded(instance).await.expect("loads");
        let tally = loaded.item.tally();
        self.commit(evento::save_with(loaded), &tally, events).await;
    }

    async fn load(&self, instance: &str) -> Tally {
        self.loaded(instance).await.expect("loads").item.tally()
    }
}
