//! NATS JetStream.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use async_nats::ConnectOptions;
use async_nats::jetstream::stream::{Config, Stream};
use async_nats::jetstream::{self, Context, message::StreamMessage};
use sagastore::emitter::nats::{MAX_SUBJECT_BYTES, NatsEmitter, read_headers};
use sagastore::emitter::{Emitter, default_topic};
use sagastore::{MessageId, OutboxRecord};

use crate::broker::{Broker, Kind};
use crate::messages::{
    Held, check_streams, deliver, deliver_in_order, emit, failure, id_of, message, records, streams,
};
use crate::proxy::Proxy;
use crate::relay;
use crate::suite::{Outcome, trials};

trials! { Kind::Nats;
    a_batch_arrives_whole_with_its_headers_below_its_topic,
    headers_that_nats_cannot_carry_arrive_as_they_were,
    a_message_that_comes_again_is_kept_once,
    a_message_whose_acknowledgement_is_lost_fails_and_is_kept_once,
    without_a_stream_a_message_fails_at_once,
    what_cannot_be_sent_fails_alone,
    a_full_stream_refuses_messages,
    five_thousand_messages_at_once_are_all_kept,
    a_frozen_server_fails_messages_in_time,
    a_killed_server_loses_doubles_and_reorders_nothing,
    dispatchers_killed_before_they_acknowledge_lose_double_and_reorder_nothing,
    the_example_finds_each_message_once_and_in_order,
    a_saga_under_another_message_loop_handles_each_message_once,
}

const LONG_TIMEOUT: Duration = Duration::from_secs(20);
const SHORT_TIMEOUT: Duration = Duration::from_secs(1);
/// How much longer than its time limits a batch may take on a busy machine.
const TOLERANCE: Duration = Duration::from_secs(8);
/// How long a broker stays away.
const OUTAGE: Duration = Duration::from_millis(500);

/// A stream of a trial's own, and a connection.
struct Subject {
    context: Context,
    stream: Stream,
    prefix: String,
}

impl Subject {
    async fn create(broker: &Broker, change: impl FnOnce(&mut Config)) -> anyhow::Result<Self> {
        let context = connect(&broker.url).await?;
        let prefix = format!("t{}", MessageId::new());
        let mut config = Config {
            name: prefix.clone(),
            subjects: vec![format!("{prefix}.>")],
            allow_direct: true,
            duplicate_window: Duration::from_secs(120),
            ..Config::default()
        };
        change(&mut config);
        let stream = context.create_stream(config).await?;
        Ok(Self { context, stream, prefix })
    }

    fn emitter(&self) -> NatsEmitter {
        self.emitter_by(self.context.clone())
    }

    fn emitter_by(&self, context: Context) -> NatsEmitter {
        emitter_below(context, &self.prefix)
    }

    /// All that the stream keeps, in its order.
    async fn kept(&mut self) -> anyhow::Result<Vec<StreamMessage>> {
        let (first, count) = {
            let state = &self.stream.info().await?.state;
            (state.first_sequence, state.messages)
        };
        let mut kept = Vec::new();
        for sequence in first..first + count {
            kept.push(self.stream.direct_get(sequence).await?);
        }
        Ok(kept)
    }

    async fn held(&mut self) -> anyhow::Result<Held> {
        let id = |message: &StreamMessage| message.headers.get("Nats-Msg-Id").map(ToString::to_string);
        let held = |message: StreamMessage| Some((id(&message)?, message.payload.to_vec()));
        self.kept().await?.into_iter().map(|message| held(message).context("no message id")).collect()
    }
}

fn emitter_below(context: Context, prefix: &str) -> NatsEmitter {
    let prefix = prefix.to_owned();
    NatsEmitter::new(context)
        .topic(move |record| format!("{prefix}.{}", default_topic(record)))
        .ack_timeout(LONG_TIMEOUT)
}

/// An emitter for another process.
pub(crate) async fn emitter_to(url: &str, prefix: &str) -> anyhow::Result<NatsEmitter> {
    Ok(emitter_below(connect(url).await?, prefix))
}

async fn dispatchers_killed_before_they_acknowledge_lose_double_and_reorder_nothing(broker: Broker) -> Outcome {
    let mut subject = Subject::create(&broker, |_| {}).await?;
    let streams = relay::through_killed_processes(Kind::Nats, &broker.url, &subject.prefix).await?;
    assert_eq!(check_streams(&subject.held().await?, &streams)?, 0, "a message is kept twice");
    Ok(())
}

async fn the_example_finds_each_message_once_and_in_order(broker: Broker) -> Outcome {
    run_example("outbox_nats", broker).await
}

async fn a_saga_under_another_message_loop_handles_each_message_once(broker: Broker) -> Outcome {
    run_example("nats_consumer", broker).await
}

/// As `cargo test` built it.
async fn run_example(name: &str, broker: Broker) -> Outcome {
    let folder = std::env::current_exe()?.parent().and_then(std::path::Path::parent).context("no folder")?.to_owned();
    let example = folder.join("examples").join(name);
    let run = move || std::process::Command::new(&example).arg(&broker.url).output();
    let run = tokio::task::spawn_blocking(run).await?.context("build it with `cargo test` as a whole")?;
    ensure!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    Ok(())
}

async fn connect(url: &str) -> anyhow::Result<Context> {
    // The client does not take these from the URL.
    let url: async_nats::ServerAddr = url.parse()?;
    let (user, password) = (url.username().unwrap_or_default(), url.password().unwrap_or_default());
    let options = ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned());
    Ok(jetstream::new(options.connect(url.clone()).await?))
}

async fn all_delivered(emitter: &impl Emitter, records: &[OutboxRecord]) -> Outcome {
    let outcomes = emit(emitter, records).await?;
    ensure!(outcomes.values().all(Result::is_ok), "{outcomes:?}");
    Ok(())
}

/// Of each record one message is kept, and no other: id, payload, headers and subject.
fn check_whole(kept: &[StreamMessage], records: &[OutboxRecord], prefix: &str) -> Outcome {
    let mut missing: BTreeMap<String, &OutboxRecord> = records.iter().map(|record| (id_of(record), record)).collect();
    for message in kept {
        let id = message.headers.get("Nats-Msg-Id").context("no message id")?.as_str();
        let record = missing.remove(id).with_context(|| format!("{id} is kept twice, or of no record"))?;
        assert_eq!(message.payload, record.payload());
        assert_eq!(read_headers(&message.headers)?, record.headers());
        assert_eq!(message.subject.as_str(), format!("{prefix}.{}", default_topic(record)));
    }
    ensure!(missing.is_empty(), "not kept: {:?}", missing.keys());
    Ok(())
}

async fn a_batch_arrives_whole_with_its_headers_below_its_topic(broker: Broker) -> Outcome {
    let mut subject = Subject::create(&broker, |_| ()).await?;
    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    let large = vec![b'x'; 500_000];
    let mut messages: Vec<_> = (0..20).map(|_| message("OrderShipped", every_byte.clone(), &[("a", "1")])).collect();
    messages.extend([message("Empty", "", &[]), message("ÜberweisungGebucht", large, &[("traceparent", "00-1-2-01")])]);
    let records = records(messages).await?;
    all_delivered(&subject.emitter(), &records).await?;
    let kept = subject.kept().await?;
    assert!(kept.iter().any(|message| message.headers.get("traceparent").is_some()), "plain headers are plain");
    check_whole(&kept, &records, &subject.prefix)
}

async fn headers_that_nats_cannot_carry_arrive_as_they_were(broker: Broker) -> Outcome {
    let mut subject = Subject::create(&broker, |_| ()).await?;
    let any =
        ["", " ", "a b", "a:b", "é", "a\r\nb: c\r\n\r\nd", "*", "Nats-Rollup", "Nats-Msg-Id: 1", "nats-ttl", "\0"];
    let mut messages: Vec<_> =
        any.iter().flat_map(|name| any.map(|value| message("Odd", value, &[(name, value)]))).collect();
    messages.extend([message("Rollup", "", &[("Nats-Rollup", "all")]), message("two\nlines", "", &[])]);
    let records = records(messages).await?;
    all_delivered(&subject.emitter(), &records).await?;
    all_delivered(&subject.emitter(), &records).await?;
    check_whole(&subject.kept().await?, &records, &subject.prefix)
}

async fn a_message_that_comes_again_is_kept_once(broker: Broker) -> Outcome {
    let mut subject = Subject::create(&broker, |_| ()).await?;
    let records = records((0..10).map(|_| message("Again", "1", &[]))).await?;
    all_delivered(&subject.emitter(), &records).await?;
    let other = subject.emitter_by(connect(&broker.url).await?);
    for _ in 0..3 {
        all_delivered(&other, &records).await?;
    }
    check_whole(&subject.kept().await?, &records, &subject.prefix)
}

async fn a_message_whose_acknowledgement_is_lost_fails_and_is_kept_once(broker: Broker) -> Outcome {
    let mut subject = Subject::create(&broker, |_| ()).await?;
    let proxy = Proxy::to(&broker.address).await?;
    let emitter = subject.emitter_by(connect(&broker.url_by_port(proxy.port)).await?).ack_timeout(SHORT_TIMEOUT);
    let records = records([message("Before", "0", &[]), message("Lost", "1", &[])]).await?;
    all_delivered(&emitter, &records[..1]).await?;
    proxy.cut_after_next_message();
    let error = failure(&emitter, &records[1]).await?;
    ensure!(error.contains("may have arrived"), "{error}");
    ensure!(proxy.was_cut(), "nothing was cut");
    assert_eq!(subject.kept().await?.len(), 2, "the message has arrived");
    deliver(&emitter, records.clone(), LONG_TIMEOUT).await?;
    check_whole(&subject.kept().await?, &records, &subject.prefix)
}

async fn without_a_stream_a_message_fails_at_once(broker: Broker) -> Outcome {
    let subject = Subject::create(&broker, |_| ()).await?;
    let emitter = subject.emitter().topic(|_| format!("nobody.{}", MessageId::new()));
    let (began, records) = (Instant::now(), records([message("Lost", "1", &[])]).await?);
    let error = failure(&emitter, &records[0]).await?;
    ensure!(error.contains("no stream takes messages for \"nobody."), "{error}");
    ensure!(began.elapsed() < TOLERANCE, "it took {:?}", began.elapsed());
    Ok(())
}

async fn what_cannot_be_sent_fails_alone(broker: Broker) -> Outcome {
    let mut subject = Subject::create(&broker, |_| ()).await?;
    let too_large = vec![0; subject.context.client().max_payload()];
    let records = records([
        message("Good", "1", &[]),
        message("white space", "2", &[]),
        message("Wild*", "3", &[]),
        message("Good", too_large, &[]),
        message("Panic", "5", &[]),
        message("Long", "6", &[]),
        message("Good", "7", &[("big", &"v".repeat(100_000))]),
    ])
    .await?;
    let prefix = subject.prefix.clone();
    let emitter = subject.emitter().topic(move |record| match record.event_type() {
        "Panic" => std::panic::resume_unwind(Box::new("a topic function may panic")),
        "Long" => format!("{prefix}.{}", "x".repeat(MAX_SUBJECT_BYTES)),
        name => format!("{prefix}.{name}"),
    });
    let outcomes = emit(&emitter, &records).await?;
    let words = ["", "white space", "wildcard", "too large", "without a report", "too long", "header size"];
    for (record, words) in records.iter().zip(words) {
        match &outcomes[&id_of(record)] {
            Ok(()) => assert_eq!(words, "", "{record:?}"),
            Err(error) => assert!(!words.is_empty() && error.contains(words), "{error}"),
        }
    }
    assert_eq!(subject.kept().await?.len(), 1);
    Ok(())
}

async fn a_full_stream_refuses_messages(broker: Broker) -> Outcome {
    let full = |config: &mut Config| {
        config.max_messages = 1;
        config.discard = jetstream::stream::DiscardPolicy::New;
    };
    let mut subject = Subject::create(&broker, full).await?;
    let records = records([message("First", "1", &[]), message("Second", "2", &[])]).await?;
    all_delivered(&subject.emitter(), &records[..1]).await?;
    let error = failure(&subject.emitter(), &records[1]).await?;
    ensure!(error.contains("was refused") && error.contains("maximum messages"), "{error}");
    assert_eq!(subject.kept().await?.len(), 1);
    Ok(())
}

async fn five_thousand_messages_at_once_are_all_kept(broker: Broker) -> Outcome {
    let mut subject = Subject::create(&broker, |_| ()).await?;
    let records = records((0..5_000).map(|number| message("Many", format!("{number}"), &[]))).await?;
    let began = Instant::now();
    all_delivered(&subject.emitter(), &records).await?;
    println!("nats: 5,000 messages in {:?}", began.elapsed());
    check_whole(&subject.kept().await?, &records, &subject.prefix)
}

async fn a_frozen_server_fails_messages_in_time(broker: Broker) -> Outcome {
    let mut subject = Subject::create(&broker, |_| ()).await?;
    let records = records((0..50).map(|_| message("Frozen", "1", &[]))).await?;
    let emitter = subject.emitter().ack_timeout(SHORT_TIMEOUT);
    all_delivered(&emitter, &records[..1]).await?;
    let frozen = broker.freeze()?;
    let began = Instant::now();
    let outcomes = emit(&emitter, &records).await?;
    ensure!(began.elapsed() < SHORT_TIMEOUT + TOLERANCE, "it took {:?}", began.elapsed());
    ensure!(outcomes.values().all(Result::is_err), "{outcomes:?}");
    drop(frozen);
    deliver(&emitter, records.clone(), LONG_TIMEOUT).await?;
    check_whole(&subject.kept().await?, &records, &subject.prefix)
}

async fn a_killed_server_loses_doubles_and_reorders_nothing(broker: Broker) -> Outcome {
    let mut subject = Subject::create(&broker, |_| ()).await?;
    let streams = streams(20, 150).await?;
    let emitter = subject.emitter().ack_timeout(SHORT_TIMEOUT);
    let failures = deliver_in_order(&emitter, &streams, Duration::from_secs(60), async || {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            broker.kill()?;
            tokio::time::sleep(OUTAGE).await;
            broker.restart()?;
        }
        Ok(())
    })
    .await?;
    ensure!(failures > 0, "the server was killed and nobody noticed");
    let duplicates = check_streams(&subject.held().await?, &streams)?;
    println!("nats: killed 3 times, {failures} deliveries failed, {duplicates} duplicates");
    assert_eq!(duplicates, 0);
    Ok(())
}
