//! RabbitMQ.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use lapin::message::BasicGetMessage;
use lapin::options::{BasicGetOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use sagastore::emitter::rabbitmq::RabbitMqEmitter;
use sagastore::emitter::{Emitter, default_topic};
use sagastore::{MessageId, OutboxRecord};

use crate::broker::{Broker, Kind};
use crate::messages::{
    Held, check_streams, deliver, deliver_in_order, emit, failure, id_of, message, records, streams,
};
use crate::proxy::Proxy;
use crate::relay;
use crate::suite::{Outcome, trials};

trials! { Kind::RabbitMq;
    a_batch_arrives_whole_with_properties_and_headers_by_its_topic,
    unroutable_messages_fail_and_no_others,
    a_message_whose_confirmation_is_lost_fails_and_comes_twice_with_one_id,
    without_the_exchange_messages_fail_until_it_is_declared,
    any_number_of_channels_that_the_broker_closed_leaves_an_emitter_in_order,
    a_full_queue_refuses_messages,
    what_cannot_be_sent_fails_alone,
    five_thousand_messages_at_once_are_all_kept,
    who_may_not_in_fails_without_showing_the_password,
    without_a_broker_messages_fail_in_time,
    a_frozen_broker_fails_messages_in_time,
    a_broker_that_is_short_of_memory_is_waited_for_on_one_connection,
    a_killed_broker_loses_and_reorders_nothing,
    dispatchers_killed_before_they_acknowledge_lose_and_reorder_nothing,
}

const LONG_TIMEOUT: Duration = Duration::from_secs(30);
const SHORT_TIMEOUT: Duration = Duration::from_secs(1);
/// How much longer than its time limits a batch may take on a busy machine.
const TOLERANCE: Duration = Duration::from_secs(8);

/// An emitter to an exchange.
pub(crate) fn emitter_to(url: &str, exchange: &str) -> RabbitMqEmitter {
    RabbitMqEmitter::from_uri(exchange, url)
        .unwrap()
        .topic(|record| format!("good.{}", default_topic(record)))
        .confirm_timeout(LONG_TIMEOUT)
}

/// A topic exchange and a durable queue of a trial's own.
struct Place {
    url: String,
    name: String,
}

impl Place {
    /// Without its exchange and queue.
    fn nowhere(broker: &Broker) -> Self {
        Self { url: broker.url.clone(), name: format!("t{}", MessageId::new()) }
    }

    async fn create(broker: &Broker) -> anyhow::Result<Self> {
        let place = Self::nowhere(broker);
        place.declare(FieldTable::default()).await?;
        Ok(place)
    }

    async fn declare(&self, arguments: FieldTable) -> Outcome {
        let (connection, channel) = connect(&self.url).await?;
        let (name, durable) = (self.name.as_str(), true);
        let exchange = ExchangeDeclareOptions { durable, ..ExchangeDeclareOptions::default() };
        channel.exchange_declare(name.into(), ExchangeKind::Topic, exchange, FieldTable::default()).await?;
        let queue = QueueDeclareOptions { durable, ..QueueDeclareOptions::default() };
        channel.queue_declare(name.into(), queue, arguments).await?;
        let bind = QueueBindOptions::default();
        channel.queue_bind(name.into(), name.into(), "good.#".into(), bind, FieldTable::default()).await?;
        Ok(connection.close(200, "done".into()).await?)
    }

    fn emitter(&self) -> RabbitMqEmitter {
        self.emitter_at(&self.url)
    }

    fn emitter_at(&self, url: &str) -> RabbitMqEmitter {
        emitter_to(url, &self.name)
    }

    /// Takes all that is in the queue, in its order.
    async fn take(&self) -> anyhow::Result<Vec<BasicGetMessage>> {
        let (connection, channel) = connect(&self.url).await?;
        let mut taken = Vec::new();
        while let Some(message) = channel.basic_get(self.name.as_str().into(), BasicGetOptions { no_ack: true }).await?
        {
            taken.push(message);
        }
        connection.close(200, "done".into()).await?;
        Ok(taken)
    }

    async fn held(&self) -> anyhow::Result<Held> {
        let held = |message: BasicGetMessage| {
            Ok((message_id(&message).context("no message id")?, message.delivery.data.clone()))
        };
        self.take().await?.into_iter().map(held).collect()
    }
}

fn message_id(message: &BasicGetMessage) -> Option<String> {
    message.delivery.properties.message_id().as_ref().map(ToString::to_string)
}

async fn connect(url: &str) -> anyhow::Result<(Connection, Channel)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

async fn all_delivered(emitter: &impl Emitter, records: &[OutboxRecord]) -> Outcome {
    let outcomes = emit(emitter, records).await?;
    ensure!(outcomes.values().all(Result::is_ok), "{outcomes:?}");
    Ok(())
}

/// Of each record one message was taken, and no other: payload, properties, headers and routing key.
fn check_whole(taken: &[BasicGetMessage], records: &[OutboxRecord]) -> Outcome {
    let mut missing: BTreeMap<String, &OutboxRecord> = records.iter().map(|record| (id_of(record), record)).collect();
    for message in taken {
        let id = message_id(message).context("no message id")?;
        let record = missing.remove(&id).with_context(|| format!("{id} was taken twice, or is of no record"))?;
        let (delivery, envelope) = (&message.delivery, &record.envelope);
        assert_eq!(delivery.data, record.payload());
        assert_eq!(delivery.routing_key.as_str(), format!("good.{}", default_topic(record)));
        let properties = &delivery.properties;
        assert_eq!(properties.delivery_mode(), &Some(2));
        assert_eq!(properties.correlation_id().as_ref().unwrap().as_str(), envelope.correlation_id.to_string());
        assert_eq!(properties.kind().as_ref().unwrap().as_str(), record.event_type());
        assert_eq!(properties.content_type().as_ref().unwrap().as_str(), &*envelope.content_type);
        assert_eq!(i64::try_from(properties.timestamp().unwrap())?, envelope.created_at.as_micros() / 1_000_000);
        let headers = properties.headers().as_ref().unwrap().inner();
        let expected: Vec<_> = record.headers().into_iter().collect();
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        assert_eq!(headers, expected);
    }
    ensure!(missing.is_empty(), "not taken: {:?}", missing.keys());
    Ok(())
}

fn text(value: &AMQPValue) -> String {
    match value {
        AMQPValue::LongString(text) => String::from_utf8(text.as_bytes().to_vec()).unwrap(),
        other => panic!("{other:?} is no text"),
    }
}

async fn a_batch_arrives_whole_with_properties_and_headers_by_its_topic(broker: Broker) -> Outcome {
    let place = Place::create(&broker).await?;
    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    let mut messages: Vec<_> = (0..20).map(|_| message("OrderShipped", every_byte.clone(), &[("a", "1")])).collect();
    messages.push(message("Empty", "", &[("", ""), ("a\r\nb", "\0 é "), ("x-match", "any"), ("x-death", "1")]));
    messages.push(message("ÜberweisungGebucht", vec![b'x'; 500_000], &[("traceparent", "00-1-2-01")]));
    let records = records(messages).await?;
    all_delivered(&place.emitter(), &records).await?;
    check_whole(&place.take().await?, &records)
}

async fn unroutable_messages_fail_and_no_others(broker: Broker) -> Outcome {
    let place = Place::create(&broker).await?;
    let messages = (0..400).map(|number| message(if number % 3 == 0 { "Nobody" } else { "Good" }, "1", &[]));
    let records = records(messages).await?;
    let is_good = |record: &OutboxRecord| record.event_type() == "Good";
    let emitter = place.emitter().topic(|record| match record.event_type() {
        "Good" => "good.outbox-good".to_owned(),
        _ => "nobody".to_owned(),
    });
    // Two batches share the emitter.
    let (one, two) = records.split_at(200);
    let (mut outcomes, others) = tokio::try_join!(emit(&emitter, one), emit(&emitter, two))?;
    outcomes.extend(others);
    for record in &records {
        match &outcomes[&id_of(record)] {
            Ok(()) => assert!(is_good(record), "an unroutable message was reported as delivered"),
            Err(error) => {
                assert!(!is_good(record), "{error}");
                assert!(error.contains("routes \"nobody\" to no queue") && error.contains("312"), "{error}");
            }
        }
    }
    let good: Vec<_> = records.into_iter().filter(is_good).collect();
    check_whole(&place.take().await?, &good)
}

async fn a_message_whose_confirmation_is_lost_fails_and_comes_twice_with_one_id(broker: Broker) -> Outcome {
    let place = Place::create(&broker).await?;
    let proxy = Proxy::to(&broker.address).await?;
    let emitter = place.emitter_at(&broker.url_by_port(proxy.port));
    let records = records([message("Before", "0", &[]), message("Lost", "1", &[])]).await?;
    all_delivered(&emitter, &records[..1]).await?;
    proxy.cut_after_next_message();
    let error = failure(&emitter, &records[1]).await?;
    ensure!(error.contains("may have arrived"), "{error}");
    ensure!(proxy.was_cut(), "nothing was cut");
    deliver(&emitter, records[1..].to_vec(), LONG_TIMEOUT).await?;
    let ids: Vec<_> = place.held().await?.into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, [id_of(&records[0]), id_of(&records[1]), id_of(&records[1])]);
    Ok(())
}

async fn without_the_exchange_messages_fail_until_it_is_declared(broker: Broker) -> Outcome {
    let place = Place::nowhere(&broker);
    let emitter = place.emitter();
    let records = records((0..20).map(|_| message("Early", "1", &[]))).await?;
    for _ in 0..2 {
        let outcomes = emit(&emitter, &records).await?;
        for outcome in outcomes.into_values() {
            let error = outcome.expect_err("there is no exchange");
            ensure!(error.contains("channel ended") && error.contains("no exchange"), "{error}");
        }
    }
    place.declare(FieldTable::default()).await?;
    all_delivered(&emitter, &records).await?;
    check_whole(&place.take().await?, &records)
}

/// The client gives out about two thousand numbers of channels, and then repeats for each what the broker said when it was closed.
async fn any_number_of_channels_that_the_broker_closed_leaves_an_emitter_in_order(broker: Broker) -> Outcome {
    let place = Place::nowhere(&broker);
    let emitter = place.emitter();
    let records = records((0..100).map(|_| message("Early", "1", &[]))).await?;
    for _ in 0..25 {
        for outcome in emit(&emitter, &records).await?.into_values() {
            let error = outcome.expect_err("there is no exchange");
            ensure!(error.contains("no exchange"), "{error}");
        }
    }
    place.declare(FieldTable::default()).await?;
    all_delivered(&emitter, &records).await?;
    check_whole(&place.take().await?, &records)
}

async fn a_full_queue_refuses_messages(broker: Broker) -> Outcome {
    let place = Place::nowhere(&broker);
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
    arguments.insert("x-overflow".into(), AMQPValue::LongString(LongString::from("reject-publish")));
    place.declare(arguments).await?;
    let (emitter, records) = (place.emitter(), records((0..5).map(|_| message("Full", "1", &[]))).await?);
    all_delivered(&emitter, &records[..1]).await?;
    let mut refused = 0;
    for record in &records[1..] {
        let outcome = emit(&emitter, std::slice::from_ref(record)).await?.into_values().next().unwrap();
        refused += usize::from(outcome.is_err_and(|error| error.contains("refused")));
    }
    ensure!(refused >= 3, "{refused} of 4 were refused");
    assert_eq!(place.take().await?.len(), 5 - refused);
    Ok(())
}

async fn what_cannot_be_sent_fails_alone(broker: Broker) -> Outcome {
    let place = Place::create(&broker).await?;
    let records = records([
        message("Good", "1", &[]),
        message("Good", "2", &[("CC", "elsewhere")]),
        message("Good", "3", &[(&"n".repeat(256), "1")]),
        message("Good", "4", &[("big", &"v".repeat(200_000))]),
        message("Long", "5", &[]),
        message("Panic", "6", &[]),
        message("Good", "7", &[("big", &"v".repeat(120_000))]),
    ])
    .await?;
    let emitter = place.emitter().topic(|record| match record.event_type() {
        "Panic" => std::panic::resume_unwind(Box::new("a topic function may panic")),
        "Long" => "x".repeat(256),
        _ => "good".to_owned(),
    });
    let outcomes = emit(&emitter, &records).await?;
    let words = ["", "copies", "name of a header", "frame", "routing key", "without a report", ""];
    for (record, words) in records.iter().zip(words) {
        match &outcomes[&id_of(record)] {
            Ok(()) => assert_eq!(words, "", "{record:?}"),
            Err(error) => assert!(!words.is_empty() && error.contains(words), "{error}"),
        }
    }
    assert_eq!(place.take().await?.len(), 2);
    Ok(())
}

async fn five_thousand_messages_at_once_are_all_kept(broker: Broker) -> Outcome {
    let place = Place::create(&broker).await?;
    let records = records((0..5_000).map(|number| message("Many", format!("{number}"), &[]))).await?;
    let began = Instant::now();
    all_delivered(&place.emitter(), &records).await?;
    println!("rabbitmq: 5,000 messages in {:?}", began.elapsed());
    check_whole(&place.take().await?, &records)
}

async fn who_may_not_in_fails_without_showing_the_password(broker: Broker) -> Outcome {
    let place = Place::nowhere(&broker);
    let url = format!("amqp://saga:not-the-password@{}", broker.address);
    let error = failure(&place.emitter_at(&url), &records([message("Secret", "1", &[])]).await?[0]).await?;
    ensure!(error.contains("there is no connection"), "{error}");
    ensure!(!error.contains("not-the-password"), "{error}");
    Ok(())
}

async fn without_a_broker_messages_fail_in_time(broker: Broker) -> Outcome {
    let place = Place::nowhere(&broker);
    // A port that was free a moment ago, and one that takes connections and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let records = records((0..10).map(|_| message("Lost", "1", &[]))).await?;
    for (address, words) in [(free, "no connection"), (silent.local_addr()?, "no connection to RabbitMQ was made")] {
        let emitter = place.emitter_at(&format!("amqp://saga:secret@{address}")).connect_timeout(SHORT_TIMEOUT);
        for _ in 0..2 {
            let began = Instant::now();
            let outcomes = emit(&emitter, &records).await?;
            ensure!(began.elapsed() < SHORT_TIMEOUT + TOLERANCE, "it took {:?}", began.elapsed());
            let told = |outcome: &Result<(), String>| outcome.as_ref().is_err_and(|error| error.contains(words));
            ensure!(outcomes.values().all(told), "{outcomes:?}");
        }
    }
    let mut attempts = 0;
    while tokio::time::timeout(Duration::from_millis(100), silent.accept()).await.is_ok() {
        attempts += 1;
    }
    assert_eq!(attempts, 1, "batches wait for the same attempt");
    Ok(())
}

async fn a_frozen_broker_fails_messages_in_time(broker: Broker) -> Outcome {
    let place = Place::create(&broker).await?;
    let records = records((0..300).map(|_| message("Frozen", "1", &[]))).await?;
    let emitter = place.emitter().confirm_timeout(SHORT_TIMEOUT).connect_timeout(SHORT_TIMEOUT);
    all_delivered(&emitter, &records[..1]).await?;
    let frozen = broker.freeze()?;
    for _ in 0..3 {
        let began = Instant::now();
        let outcomes = emit(&emitter, &records[1..]).await?;
        ensure!(began.elapsed() < SHORT_TIMEOUT + TOLERANCE, "it took {:?}", began.elapsed());
        ensure!(outcomes.values().all(Result::is_err), "{outcomes:?}");
    }
    drop(frozen);
    deliver(&emitter, records[1..].to_vec(), LONG_TIMEOUT).await?;
    let held: std::collections::BTreeSet<_> = place.held().await?.into_iter().map(|(id, _)| id).collect();
    assert_eq!(held, records.iter().map(id_of).collect());
    Ok(())
}

async fn dispatchers_killed_before_they_acknowledge_lose_and_reorder_nothing(broker: Broker) -> Outcome {
    let place = Place::create(&broker).await?;
    let streams = relay::through_killed_processes(Kind::RabbitMq, &broker.url, &place.name).await?;
    let duplicates = check_streams(&place.held().await?, &streams)?;
    ensure!(duplicates > 0, "no process was killed between publishing and acknowledging");
    Ok(())
}

/// Connections to a broker that takes nothing cannot be closed; each message that timed out led to another one, with a thread of its own.
async fn a_broker_that_is_short_of_memory_is_waited_for_on_one_connection(broker: Broker) -> Outcome {
    const ROUNDS: u32 = 5;
    let place = Place::create(&broker).await?;
    let emitter = place.emitter().confirm_timeout(SHORT_TIMEOUT);
    let records = records((0..10).map(|_| message("Short", "1", &[]))).await?;
    all_delivered(&emitter, &records[..1]).await?;
    let (threads, starved, began) = (threads_of_connections()?, broker.starve()?, Instant::now());
    let mut blocked = 0;
    while blocked < ROUNDS {
        ensure!(began.elapsed() < LONG_TIMEOUT, "it takes messages all the same");
        let outcomes = emit(&emitter, &records[1..]).await?;
        let is_blocked = |outcome: &Result<(), String>| outcome.as_ref().is_err_and(|error| error.contains("blocked"));
        blocked += u32::from(outcomes.values().all(is_blocked));
    }
    let now = threads_of_connections()?;
    ensure!(now <= threads, "{now} connections instead of {threads}");
    drop(starved);
    deliver(&emitter, records[1..].to_vec(), LONG_TIMEOUT).await?;
    let kept: BTreeSet<_> = place.take().await?.iter().filter_map(message_id).collect();
    assert_eq!(kept, records.iter().map(id_of).collect());
    Ok(())
}

fn threads_of_connections() -> anyhow::Result<usize> {
    let names =
        std::fs::read_dir("/proc/self/task")?.map(|thread| std::fs::read_to_string(thread?.path().join("comm")));
    Ok(names.filter(|name| name.as_ref().is_ok_and(|name| name.starts_with("lapin"))).count())
}

async fn a_killed_broker_loses_and_reorders_nothing(broker: Broker) -> Outcome {
    let place = Place::create(&broker).await?;
    let streams = streams(20, 100).await?;
    let emitter = place.emitter().confirm_timeout(SHORT_TIMEOUT).connect_timeout(SHORT_TIMEOUT);
    let failures = deliver_in_order(&emitter, &streams, Duration::from_secs(90), async || {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            broker.kill()?;
            broker.restart()?;
        }
        Ok(())
    })
    .await?;
    ensure!(failures > 0, "the broker was killed and nobody noticed");
    let duplicates = check_streams(&place.held().await?, &streams)?;
    println!("rabbitmq: killed twice, {failures} deliveries failed, {duplicates} duplicates");
    Ok(())
}
