use std::sync::Arc;

use compare_protocol::{Peer, Tally};
use cqrs_es::persist::{PersistedEventRepository, PersistedEventStore};
use cqrs_es::{AggregateContext, CqrsFramework, EventStore};

use crate::counter::{Count, Counter};

type Store<R> = PersistedEventStore<R, Counter>;

pub(crate) struct Framework<R: PersistedEventRepository> {
    cqrs: Arc<CqrsFramework<Counter, Store<R>>>,
    store: Arc<Store<R>>,
}

impl<R: PersistedEventRepository> Clone for Framework<R> {
    fn clone(&self) -> Self {
        Self { cqrs: Arc::clone(&self.cqrs), store: Arc::clone(&self.store) }
    }
}

impl<R: PersistedEventRepository> Framework<R> {
    /// The framework has a repository; another is for loading, which the framework does not offer.
    pub(crate) fn new(repository: impl Fn() -> R) -> Self {
        let cqrs = CqrsFramework::new(Store::new_event_store(repository()), Vec::new(), ());
        Self { cqrs: Arc::new(cqrs), store: Arc::new(Store::new_event_store(repository())) }
    }
}

impl<R: PersistedEventRepository + 'static> Peer for Framework<R> {
    /// Events have a row each, however they came.
    async fn start(&self, instance: &str, events: u32) {
        self.unit(instance, events).await;
    }

    async fn unit(&self, instance: &str, events: u32) {
        self.cqrs.execute(instance, Count(events)).await.expect("executes");
    }

    async fn load(&self, instance: &str) -> Tally {
        let mut context = self.store.load_aggregate(instance).await.expect("loads");
        context.aggregate().tally.clone()
    }
}
