//! A saga under somebody else's message loop: orders come in from NATS JetStream, a saga bills them, and its commands go
//! out to NATS again. The loop is the program's own; this crate is called once for each message.
//!
//! The loop acknowledges what was dealt with and gives back what failed. Here it also "forgets" every third
//! acknowledgement, so that the broker delivers again: nothing is billed twice.
//!
//! Needs a server with JetStream: `nats-server -js`, then
//! `cargo run --features nats --example nats_consumer -- nats://127.0.0.1:4222`.
use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::ConnectOptions;
use async_nats::jetstream::{self, AckKind, consumer, stream};
use futures_util::StreamExt;
use sagastore::dispatcher::Dispatcher;
use sagastore::emitter::nats::{NatsEmitter, read_headers};
use sagastore::{
    Cause, Envelope, HandleMessage, InstanceId, MessageHandler, MessageKind, NewOutboxRecord, OutboxRepository,
    Persister, Saga, UnitOfWork, message_types, migrate, sqlite, sqlite::SqliteStore,
};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Sqlite, SqlitePool};

const ORDERS: u32 = 20;
const LINES: u32 = 3;

#[derive(Debug, Serialize, Deserialize)]
enum Shop {
    LineOrdered { order: String, cents: i64 },
}
message_types!(Shop { LineOrdered: "LineOrdered" 1 });

#[derive(Debug, Serialize, Deserialize)]
enum Billed {
    Line { cents: i64 },
}
message_types!(Billed { Line: "LineBilled" 1 });

#[derive(Debug, Serialize, Deserialize)]
enum Bill {
    Send { order: String, cents: i64 },
}
message_types!(Bill { Send: "SendBill" 1 });

struct Billing;

impl Saga for Billing {
    type Data = (u32, i64); // lines, cents
    type Event = Billed;
    fn persistence_key(&self) -> &str {
        "billing"
    }
    fn new_data(&self) -> (u32, i64) {
        (0, 0)
    }
    fn apply_event(&self, (lines, sum): &mut (u32, i64), Billed::Line { cents }: &Billed, _: &Envelope) {
        *lines += 1;
        *sum += cents;
    }
}

impl HandleMessage for Billing {
    type Message = Shop;

    fn is_trigger(&self, _: &Shop) -> bool {
        true
    }

    fn handle(&self, unit: &mut UnitOfWork<'_, Self>, Shop::LineOrdered { order, cents }: &Shop) -> Result<(), Cause> {
        unit.publish(Billed::Line { cents: *cents })?;
        let (lines, cents) = unit.instance().data;
        if lines == LINES {
            unit.execute_to(&Bill::Send { order: order.clone(), cents }, "post")?;
        }
        Ok(())
    }
}

/// A database of its own for each of the two programs.
async fn database(folder: &tempfile::TempDir, name: &str) -> Result<SqlitePool> {
    let file = SqliteConnectOptions::new().filename(folder.path().join(name)).create_if_missing(true);
    let pool = sqlite::pool_options().connect_with(sqlite::connect_options(file)).await?;
    let _ = migrate(&pool).await?;
    Ok(pool)
}

/// The shop, which has no saga: it puts what was ordered into its outbox.
async fn order(shop: &SqlitePool) -> Result<()> {
    let mut tx = shop.begin_with("BEGIN IMMEDIATE").await?;
    for line in 0..LINES {
        for order in 0..ORDERS {
            let order = format!("order-{order}");
            let line = Shop::LineOrdered { order: order.clone(), cents: i64::from(line + 1) * 100 };
            let payload = serde_json::to_vec(&line)?;
            let message = Envelope::new(MessageKind::Event, "LineOrdered", 1, "application/json", payload)?;
            SqliteStore::default().save(&mut tx, &[NewOutboxRecord::new("order", order, message)]).await?;
        }
    }
    tx.commit().await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "nats://127.0.0.1:4222".to_owned());
    let address: async_nats::ServerAddr = url.parse()?;
    let options = match (address.username(), address.password()) {
        (Some(user), Some(password)) => ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned()),
        _ => ConnectOptions::new(),
    };
    let client = options.connect(address).await.context("no NATS server there; start one by: nats-server -js")?;
    let context = jetstream::new(client);
    let name = format!("shop-{}", uuid::Uuid::now_v7().simple());
    let subjects =
        vec!["outbox-line-ordered".to_owned(), "outbox-line-billed".to_owned(), "outbox-send-bill".to_owned()];
    // Longer than any wait between two tries of a dispatcher.
    let duplicate_window = Duration::from_secs(600);
    let config = stream::Config { name: name.clone(), subjects, duplicate_window, ..stream::Config::default() };
    let stream = context.create_stream(config).await?;

    let folder = tempfile::tempdir()?;
    let (shop, billing) = (database(&folder, "shop.db").await?, database(&folder, "billing.db").await?);
    order(&shop).await?;
    let relayed = Dispatcher::new(shop, NatsEmitter::new(context.clone())).dispatch_once().await?;
    println!("the shop sent {} messages", relayed.delivered);

    let handler =
        MessageHandler::direct(Billing, Persister::<Sqlite>::new(), |Shop::LineOrdered { order, .. }| {
            InstanceId::new(order).map(Some)
        })?;
    let config = consumer::pull::Config {
        durable_name: Some("billing".to_owned()),
        filter_subject: "outbox-line-ordered".to_owned(),
        ack_wait: Duration::from_secs(1),
        ..consumer::pull::Config::default()
    };
    let consumer = stream.create_consumer(config).await?;
    let mut messages = consumer.messages().await?;
    let (mut handled, mut repeated, mut came) = (0, 0, 0);
    while handled < ORDERS * LINES || repeated < ORDERS {
        let message = tokio::time::timeout(Duration::from_secs(20), messages.next()).await?.context("no message")??;
        let headers = read_headers(message.headers.as_ref().context("no headers")?)?;
        let envelope = Envelope::from_headers(MessageKind::Event, &headers, message.payload.clone())?;
        let handling = handler.handle(&billing, &envelope).await;
        came += 1;
        match handling {
            Ok(_) if came % 3 == 0 => {} // as if this program had died here: the message comes again
            Ok(_) => message.ack().await.map_err(anyhow::Error::from_boxed)?,
            Err(_) => message.ack_with(AckKind::Nak(None)).await.map_err(anyhow::Error::from_boxed)?,
        }
        match handling? {
            done if done.is_handled() => handled += 1,
            done => {
                ensure!(done.is_already_handled(), "{done:?}");
                repeated += 1;
            }
        }
    }
    let relayed = Dispatcher::new(billing, NatsEmitter::new(context.clone())).dispatch_once().await?;
    println!("{handled} messages were billed, {repeated} came again; {} messages went out", relayed.delivered);
    ensure!(relayed.delivered == u64::from(ORDERS * LINES + ORDERS), "an event for each line, a bill for each order");

    let config = consumer::pull::Config { filter_subject: "outbox-send-bill".to_owned(), ..Default::default() };
    let mut bills = stream.create_consumer(config).await?.messages().await?;
    let mut sums = HashMap::new();
    while sums.len() < ORDERS as usize {
        let bill = tokio::time::timeout(Duration::from_secs(20), bills.next()).await?.context("no bill")??;
        let Bill::Send { order, cents } = serde_json::from_slice(&bill.payload)?;
        ensure!(sums.insert(order, cents).is_none(), "an order was billed twice");
    }
    ensure!(sums.values().all(|cents| *cents == 600), "{sums:?}");
    context.delete_stream(&name).await?;
    Ok(())
}
