//! Accounts, transfers between them, orders, and everything that happens to them in one run.
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sagastore::dispatcher::Dispatcher;
use sagastore::emitter::{Emitter, emitter_fn};
use sagastore::{
    Backend, Envelope, InstanceId, KeySet, MessageId, MessageKind, MessageType, OutboxRecord, OutboxRepository,
    Persister, Saga,
};
use serde::Serialize;
use sqlx::Pool;

pub(crate) mod account;
mod by_hand;
pub(crate) mod order;
pub(crate) mod transfer;
mod with_handler;

use account::{Account, AccountMessage};
use by_hand::ByHand;
use order::{Order, OrderMessage, WarehouseCommand};
use transfer::{Step, Transfer, TransferMessage};

const ACCOUNTS: usize = 5;
const CENTS: i64 = 1_000;
const TRANSFERS: usize = 40;
const ORDERS: usize = 20;
const ORDER: Order = Order { payment_within: Duration::from_millis(1_500) };
const PATIENCE: Duration = Duration::from_secs(120);

/// What the warehouse was asked for, each command once.
#[derive(Clone, Default)]
struct Warehouse(Arc<Mutex<(HashSet<MessageId>, Vec<WarehouseCommand>)>>);

impl Warehouse {
    fn emitter(&self) -> impl Emitter + 'static {
        let warehouse = self.clone();
        emitter_fn(move |record: OutboxRecord| {
            let mut seen = warehouse.0.lock().expect("no holder panics");
            let new = seen.0.insert(record.envelope.message_id);
            let command = serde_json::from_slice(record.payload());
            seen.1.extend(command.ok().filter(|_| new)); // what is no command is an event, which nobody wants here
            async { Ok::<_, std::io::Error>(()) }
        })
    }

    fn asked(&self) -> Vec<WarehouseCommand> {
        self.0.lock().expect("no holder panics").1.clone()
    }
}

/// Runs all sagas in both ways, and checks what came of them.
pub(crate) async fn run<DB: Backend>(pool: &Pool<DB>) -> Result<()> {
    ensure!(!waits(pool).await?, "others' messages wait in the outbox of this database, and would be sent nowhere");
    // The instances of each run are new.
    let run = MessageId::new();
    let warehouse = Warehouse::default();
    let by_hand = Arc::new(ByHand::new(pool, ORDER, warehouse.emitter())?);
    let way = format!("by hand {run}");
    for message in messages(&way)? {
        for _ in 0..2 {
            ensure!(by_hand.deliver(&message).await?, "nobody handles {message:?}");
        }
    }
    finish(pool, by_hand, &way, &warehouse).await?;

    let warehouse = Warehouse::default();
    let sagas = Arc::new(with_handler::sagas(pool, ORDER.payment_within, warehouse.emitter())?);
    let way = format!("with a handler {run}");
    for message in messages(&way)? {
        for _ in 0..2 {
            sagas.deliver(&message).await?;
        }
    }
    finish(pool, sagas, &way, &warehouse).await
}

fn envelope<M: MessageType + Serialize>(message: &M) -> Result<Envelope> {
    let (tag, payload) = (message.message_type(), serde_json::to_vec(message)?);
    Ok(Envelope::new(MessageKind::Command, tag.name, tag.version, "application/json", payload)?)
}

/// What comes from outside: accounts, transfers between them and to one that was never opened, orders, and payments for
/// every other order.
fn messages(way: &str) -> Result<Vec<Envelope>> {
    let account = |n: usize| format!("{way}/account {n}");
    let mut messages = Vec::new();
    for n in 0..ACCOUNTS {
        messages.push(envelope(&AccountMessage::Open { account: account(n), cents: CENTS })?);
    }
    for n in 0..TRANSFERS {
        let (transfer, from, to) = (format!("{way}/transfer {n}"), account(n % ACCOUNTS), account(n % (ACCOUNTS + 1)));
        let cents = i64::try_from(n)? * 20;
        messages.push(envelope(&TransferMessage::Start { transfer, from, to, cents })?);
    }
    for n in 0..ORDERS {
        let (order, invoice) = (format!("{way}/order {n}"), format!("{way}/invoice {n}"));
        messages.push(envelope(&OrderMessage::Place { order, invoice: invoice.clone(), item: format!("item {n}") })?);
        if n % 2 == 0 {
            messages.push(envelope(&OrderMessage::Paid { invoice })?);
        }
    }
    Ok(messages)
}

/// Relays messages until every saga has come to its end, and checks that it is the right one.
async fn finish<DB: Backend>(
    pool: &Pool<DB>,
    sagas: Arc<impl Emitter + 'static>,
    way: &str,
    warehouse: &Warehouse,
) -> Result<()> {
    let (begun, dispatcher) = (Instant::now(), Dispatcher::new(pool.clone(), sagas));
    // Each order asks for two things: to reserve, and to ship or to release.
    while dispatcher.dispatch_once().await?.delivered > 0 || warehouse.asked().len() < 2 * ORDERS || waits(pool).await?
    {
        ensure!(begun.elapsed() < PATIENCE, "the sagas do not come to their ends");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut conn = pool.acquire().await?;
    let mut money = 0;
    for n in 0..ACCOUNTS {
        money += state::<DB, _>(&mut conn, &Account, &format!("{way}/account {n}")).await?;
    }
    ensure!(money == CENTS * i64::try_from(ACCOUNTS)?, "money was made or lost: {money}");
    let mut ends = [0; 3];
    for n in 0..TRANSFERS {
        let transfer = state::<DB, _>(&mut conn, &Transfer, &format!("{way}/transfer {n}")).await?;
        let place = [Step::Completed, Step::Refused, Step::GivenBack].iter().position(|step| *step == transfer.step);
        ends[place.ok_or_else(|| anyhow::anyhow!("transfer {n} did not end: {transfer:?}"))?] += 1;
    }
    ensure!(ends.iter().all(|count| *count > 0), "each kind of end was to be seen: {ends:?}");
    let asked = warehouse.asked();
    for n in 0..ORDERS {
        let item = format!("item {n}");
        let end = if n % 2 == 0 {
            WarehouseCommand::Ship { item: item.clone() }
        } else {
            WarehouseCommand::Release { item: item.clone() }
        };
        let of_order: Vec<_> = asked.iter().filter(|command| command.item() == item).collect();
        ensure!(of_order == [&WarehouseCommand::Reserve { item }, &end], "order {n}: {of_order:?}");
        let keys = ["order", "invoice"].map(|kind| sagastore::CorrelationKey::of([kind, &format!("{way}/{kind} {n}")]));
        for key in keys {
            ensure!(KeySet::<Order>::find::<DB>(&mut conn, "order", &key?).await?.is_none(), "its keys are free again");
        }
    }
    let [completed, refused, given_back] = ends;
    println!(
        "{way}: {completed} transfers completed, {refused} refused, {given_back} given back; {ORDERS} orders ended"
    );
    Ok(())
}

/// Is there still a message in the outbox? One whose delivery failed is tried again later.
async fn waits<DB: Backend>(pool: &Pool<DB>) -> Result<bool> {
    let mut conn = pool.acquire().await?;
    Ok(OutboxRepository::<DB>::stats(&DB::Store::default(), &mut conn).await?.pending > 0)
}

async fn state<DB: Backend, S: Saga>(conn: &mut DB::Connection, saga: &S, id: &str) -> Result<S::Data> {
    let found = Persister::<DB>::new().load_instance(saga, conn, &InstanceId::new(id)?).await?;
    let unit = found.ok_or_else(|| anyhow::anyhow!("{id:?} is not there"))?;
    Ok(unit.instance().data.clone())
}
