//! eventastic, in transactions as its documentation shows. It writes a snapshot with every commit, and no side effects here.

use std::sync::Arc;

use compare_protocol::{Arguments, CONNECTIONS, Peer, Tally, run};
use eventastic::aggregate::{Context, Root};
use eventastic::repository::{Repository, RepositoryError};
use eventastic_postgres::{NoEncryption, PostgresRepository, TableConfig};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use uuid::Uuid;

mod counter;
mod side_effect;

use counter::{Counter, Event};
use side_effect::Nowhere;

type Stored<T> = PostgresRepository<T, Nowhere, NoEncryption>;

/// As its users load counters.
const CURRENT: u64 = 1;
/// A version of which there are no snapshots: they are loaded by all events.
const WITHOUT_SNAPSHOTS: u64 = 2;

#[derive(Clone)]
struct Counters {
    current: Arc<Stored<Counter<CURRENT>>>,
    without_snapshots: Arc<Stored<Counter<WITHOUT_SNAPSHOTS>>>,
}

#[tokio::main]
async fn main() {
    let arguments = Arguments::read();
    let counters = Counters {
        current: Arc::new(connect(&arguments.database).await),
        without_snapshots: Arc::new(connect(&arguments.database).await),
    };
    if arguments.is_preparing() {
        counters.current.run_migrations().await.expect("makes the tables");
    }
    run(&arguments, &counters).await;
}

async fn connect<T>(database: &str) -> Stored<T> {
    let options: PgConnectOptions = database.parse().expect("a URL");
    let pool = PgPoolOptions::new().max_connections(CONNECTIONS);
    let tables = TableConfig::new("events", "snapshots");
    PostgresRepository::new(options, pool, tables, Nowhere, NoEncryption).await.expect("connects")
}

fn id(instance: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, instance.as_bytes())
}

impl Peer for Counters {
    /// Events have a row each, however they came.
    async fn start(&self, instance: &str, events: u32) {
        self.unit(instance, events).await;
    }

    async fn unit(&self, instance: &str, events: u32) {
        let mut transaction = self.current.begin_transaction().await.expect("begins");
        let mut left = events;
        let mut context = match Context::load(&mut transaction, &id(instance)).await {
            Ok(context) => context,
            Err(RepositoryError::AggregateNotFound) => {
                left -= 1;
                Counter::record_new(Event::new(id(instance), Tally::default().decide(0))).expect("applies")
            }
            Err(error) => panic!("{error}"),
        };
        for _ in 0..left {
            let step = context.state().tally.decide(0);
            context.record_that(Event::new(id(instance), step)).expect("applies");
        }
        context.save(&mut transaction).await.expect("saves");
        transaction.commit().await.expect("commits");
    }

    async fn load(&self, instance: &str) -> Tally {
        self.current.load(&id(instance)).await.expect("loads").state().tally.clone()
    }

    async fn replay(&self, instance: &str) -> Tally {
        self.without_snapshots.load(&id(instance)).await.expect("loads").state().tally.clone()
    }
}
