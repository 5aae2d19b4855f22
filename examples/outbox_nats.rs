//! The outbox relayed to NATS JetStream: an order saga on SQLite, its events on the subjects `outbox-<type>`, and a real
//! consumer that sees each message once and every order's events in order.
//!
//! Needs a server with JetStream: `nats-server -js`, then
//! `cargo run --features nats --example outbox_nats -- nats://127.0.0.1:4222`.
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::ConnectOptions;
use async_nats::jetstream::{self, consumer, stream};
use futures_util::StreamExt;
use sagastore::dispatcher::Dispatcher;
use sagastore::emitter::nats::NatsEmitter;
use sagastore::{Envelope, Error, InstanceId, OutboxWaker, Persister, Saga, message_types, migrate, sqlite};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Sqlite, SqlitePool};

const ORDERS: usize = 25;
const STEPS: u32 = 4;

#[derive(Serialize, Deserialize)]
enum Event {
    StepDone { step: u32 },
}
message_types!(Event { StepDone: "OrderStepDone" 1 });

struct Order;
impl Saga for Order {
    type Data = u32;
    type Event = Event;
    fn persistence_key(&self) -> &str {
        "order"
    }
    fn new_data(&self) -> u32 {
        0
    }
    fn apply_event(&self, steps: &mut u32, _: &Event, _: &Envelope) {
        *steps += 1;
    }
}

/// Commits all steps of all orders; each commit wakes the dispatcher.
async fn work(pool: &SqlitePool, waker: OutboxWaker) -> Result<()> {
    let persister = Persister::<Sqlite>::new().with_waker(waker);
    for step in 0..STEPS {
        for order in 0..ORDERS {
            let order = InstanceId::new(format!("order-{order}"))?;
            let done = persister.execute(pool, &Order, &order, None, |unit| {
                unit.sender().set_metadata("order", order.as_str());
                unit.publish(Event::StepDone { step })?;
                Ok::<_, Error>(())
            });
            let _ = done.await?;
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "nats://127.0.0.1:4222".to_owned());
    let address: async_nats::ServerAddr = url.parse()?;
    // The client does not take these from the URL.
    let options = match (address.username(), address.password()) {
        (Some(user), Some(password)) => ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned()),
        _ => ConnectOptions::new(),
    };
    let client = options.connect(address).await.context("no NATS server there; start one by: nats-server -js")?;
    let context = jetstream::new(client);
    let name = format!("orders-{}", uuid::Uuid::now_v7().simple());
    let stream = stream::Config {
        name: name.clone(),
        subjects: vec!["outbox-order-step-done".to_owned()],
        duplicate_window: Duration::from_secs(600), // longer than any wait between two tries of the dispatcher
        ..stream::Config::default()
    };
    let stream = context.create_stream(stream).await?;

    let folder = tempfile::tempdir()?;
    let file = SqliteConnectOptions::new().filename(folder.path().join("orders.db")).create_if_missing(true);
    let pool = sqlite::pool_options().connect_with(sqlite::connect_options(file)).await?;
    let _ = migrate(&pool).await?;
    let waker = OutboxWaker::new();
    let dispatcher = Dispatcher::new(pool.clone(), NatsEmitter::new(context.clone())).with_waker(waker.clone());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(async move { dispatcher.run(async { drop(stopped.await) }).await });
    work(&pool, waker).await?;

    let config = consumer::pull::Config { ack_policy: consumer::AckPolicy::None, ..consumer::pull::Config::default() };
    let mut messages = stream.create_consumer(config).await?.messages().await?;
    let (mut ids, mut orders) = (HashSet::new(), HashMap::<String, Vec<u32>>::new());
    while ids.len() < ORDERS * STEPS as usize {
        let message = tokio::time::timeout(Duration::from_secs(20), messages.next()).await?.context("no message")??;
        let headers = message.headers.clone().context("no headers")?;
        let header = |name: &str| headers.get(name).map(|value| value.to_string()).context("a header is missing");
        ensure!(ids.insert(header("Nats-Msg-Id")?), "a message came twice");
        let Event::StepDone { step } = serde_json::from_slice(&message.payload)?;
        orders.entry(header("order")?).or_default().push(step);
    }
    drop(stop);
    println!("{:?}", running.await?);
    ensure!(orders.len() == ORDERS && orders.values().all(|steps| steps.is_sorted()), "{orders:?}");
    println!("{} messages of {ORDERS} orders arrived once each, in order", ids.len());
    context.delete_stream(&name).await?;
    Ok(())
}
