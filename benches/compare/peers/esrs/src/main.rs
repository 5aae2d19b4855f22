//! esrs, with optimistic concurrency as in its example of locking strategies. It has no snapshots.

use std::sync::Arc;

use compare_protocol::{Arguments, CONNECTIONS, Peer, Tally, run};
use esrs::AggregateState;
use esrs::manager::AggregateManager;
use esrs::store::postgres::{PgStore, PgStoreBuilder};
use sqlx::postgres::PgPoolOptions;
use uuid::Uuid;

mod counter;

use counter::{Count, Counter};

#[derive(Clone)]
struct Manager(Arc<AggregateManager<PgStore<Counter>>>);

#[tokio::main]
async fn main() {
    let arguments = Arguments::read();
    let pool = PgPoolOptions::new().max_connections(CONNECTIONS);
    let pool = pool.connect(&arguments.database).await.expect("connects");
    let builder = PgStoreBuilder::<Counter>::new(pool);
    let builder = if arguments.is_preparing() { builder } else { builder.without_running_migrations() };
    let store = builder.try_build().await.expect("makes the table");
    run(&arguments, &Manager(Arc::new(AggregateManager::new(store)))).await;
}

fn id(instance: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, instance.as_bytes())
}

impl Peer for Manager {
    /// Events have a row each, however they came.
    async fn start(&self, instance: &str, events: u32) {
        self.unit(instance, events).await;
    }

    async fn unit(&self, instance: &str, events: u32) {
        let id = id(instance);
        let loaded = self.0.load(id).await.expect("loads");
        let state = loaded.unwrap_or_else(|| AggregateState::with_id(id));
        self.0.handle_command(state, Count(events)).await.expect("commits").expect("is allowed");
    }

    async fn load(&self, instance: &str) -> Tally {
        self.0.load(id(instance)).await.expect("loads").expect("is there").into_inner()
    }
}
