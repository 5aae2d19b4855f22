//! disintegrate with its decision maker and without snapshots, as its documentation begins.

use std::sync::Arc;

use compare_protocol::{Arguments, CONNECTIONS, Peer, Tally, run};
use disintegrate::serde::json::Json;
use disintegrate::{DecisionError, EventSourcedStateStore, LoadState, NoSnapshot};
use disintegrate_postgres::{Error, PgDecisionMaker, PgEventId, PgEventStore, decision_maker};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

mod counter;

use counter::{Count, Counter, Event};

type Events = PgEventStore<Event, Json<Event>>;

#[derive(Clone)]
struct Decisions {
    maker: Arc<PgDecisionMaker<Event, Json<Event>, NoSnapshot>>,
    states: Arc<EventSourcedStateStore<PgEventId, Event, Events, NoSnapshot>>,
}

#[tokio::main]
async fn main() {
    let arguments = Arguments::read();
    if arguments.is_preparing() {
        migrate(&arguments.database).await;
    }
    let pool = PgPoolOptions::new().max_connections(CONNECTIONS);
    let pool = pool.connect(&arguments.database).await.expect("connects");
    let store = PgEventStore::new_uninitialized(pool, Json::default());
    let states = Arc::new(EventSourcedStateStore::new(store.clone(), NoSnapshot));
    run(&arguments, &Decisions { maker: Arc::new(decision_maker(store, NoSnapshot)), states }).await;
}

/// Makes the tables, also before PostgreSQL 16, which was the first to know the hexadecimal number in a function of disintegrate's:
/// the function is not checked when it is made, and is then replaced by itself with the number in decimal.
async fn migrate(database: &str) {
    let options: PgConnectOptions = database.parse().expect("a URL");
    let pool = PgPool::connect_with(options.options([("check_function_bodies", "off")])).await.expect("connects");
    Events::try_new(pool.clone(), Json::default()).await.expect("makes the tables");
    sqlx::raw_sql(include_str!("begin_epoch.sql")).execute(&pool).await.expect("replaces the function");
}

/// Whether the decision may be made again. Events that others wrote at the same time hide newer ones from a reader for a while,
/// and PostgreSQL gives up serializable transactions that need not conflict.
fn is_lost_race(error: &DecisionError<std::convert::Infallible>) -> bool {
    let DecisionError::StateStore(error) = error else { return false };
    match error.downcast_ref::<Error>() {
        Some(Error::Concurrency) => true,
        Some(Error::Database(sqlx::Error::Database(error))) => error.code().as_deref() == Some("40001"),
        _ => false,
    }
}

impl Peer for Decisions {
    /// Events have a row each, however they came; more at a time than this are too many for a statement.
    async fn start(&self, instance: &str, events: u32) {
        const AT_ONCE: u32 = 1_000;
        let mut left = events;
        while left > 0 {
            let now = left.min(AT_ONCE);
            self.unit(instance, now).await;
            left -= now;
        }
    }

    async fn unit(&self, instance: &str, events: u32) {
        while let Err(error) = self.maker.make(Count::new(instance, events)).await {
            assert!(is_lost_race(&error), "{error}");
        }
    }

    async fn load(&self, instance: &str) -> Tally {
        self.states.load(Counter::new(instance)).await.expect("loads").state().tally.clone()
    }
}
