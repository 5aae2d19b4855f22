//! What a program sees of the library: errors in each form, `Debug` of what holds a pool or an address, and the whole log. Run
//! as a process of its own, which prints the first two and logs to standard error.

use std::error::Error;
use std::fmt::Debug;
use std::time::Duration;

use sagastore::dispatcher::{Dispatcher, DispatcherSettings};
use sagastore::emitter::emitter_fn;
#[cfg(all(feature = "nats", feature = "rabbitmq"))]
use sagastore::emitter::{Emitter, deliveries};
use sagastore::inspect::Inspector;
use sagastore::lock::DatabaseLock;
use sagastore::transfer::{Exporter, Importer};
use sagastore::{
    CommitNumber, Envelope, InstanceId, LoadFrom, LoadRequest, MessageKind, MessageStore, NewOutboxRecord, Offset,
    OutboxRecord, OutboxRepository, ParkedFilter, Persister, Saga, SagaStream, StreamName, check_schema, migrate,
    parked_messages,
};
use sqlx::Pool;
use sqlx::pool::PoolOptions;

use crate::fill::{Diary, Mail, Noted, note, record};
use crate::parking::park;
use crate::secrets::SECRET;
use crate::site::Site;

/// Names the job of the process.
pub(crate) const ASKED: &str = "SAGASTORE_SECURITY_JOB";
/// A password that is not that of anything.
pub(crate) const PASSWORD: &str = "pa55w0rd.of.nobody";
/// The last line.
pub(crate) const SHOWN: &str = "that was all";
/// The job about emitters.
#[cfg(all(feature = "nats", feature = "rabbitmq"))]
pub(crate) const EMITTERS: &str = "emitters";
/// The job of connecting to NATS with a password in the address.
#[cfg(all(feature = "nats", feature = "rabbitmq"))]
pub(crate) const NATS_ADDRESS: &str = "nats-address";

pub(crate) fn asked_for() -> Option<String> {
    std::env::var(ASKED).ok()
}

pub(crate) fn run(job: &str) {
    let log = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
    log.with_writer(std::io::stderr).init();
    let url = std::env::var("DATABASE_URL").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        match job.split_once(' ') {
            Some((what, "sqlite")) => on::<sqlx::Sqlite>(what, &url).await,
            #[cfg(feature = "postgres")]
            Some((what, "postgres")) => {
                on::<sqlx::Postgres>(what, &url).await;
                session_locker(&url).await;
            }
            #[cfg(feature = "mysql")]
            Some((what, "mysql")) => on::<sqlx::MySql>(what, &url).await,
            #[cfg(all(feature = "nats", feature = "rabbitmq"))]
            None if job == NATS_ADDRESS => nats_address(&url).await,
            #[cfg(all(feature = "nats", feature = "rabbitmq"))]
            None => emitters(&url).await,
            _ => unreachable!("this build has no {job:?}"),
        }
    });
    println!("{SHOWN}");
}

async fn on<DB: Site>(what: &str, url: &str) {
    if what == "use" { used::<DB>(url).await } else { refused::<DB>(url).await }
}

/// An error in all its forms.
fn show(error: &(dyn Error + 'static)) {
    println!("{error}\n{error:?}\n{error:#?}");
    let mut cause = error.source();
    while let Some(error) = cause {
        println!("because {error}\n{error:?}");
        cause = error.source();
    }
}

fn show_value(value: &dyn Debug) {
    println!("{value:?}\n{value:#?}");
}

async fn refused<DB: Site>(url: &str) {
    let options = PoolOptions::<DB>::new().acquire_timeout(Duration::from_secs(10));
    let pool = match options.connect_lazy(url) {
        Ok(pool) => pool,
        Err(error) => return show(&error),
    };
    holders(&pool);
    show(&migrate(&pool).await.unwrap_err());
    show(&check_schema(&pool).await.unwrap_err());
    let persister = Persister::<DB>::new();
    show(&persister.begin(&pool).await.unwrap_err());
    let id = InstanceId::new("1").unwrap();
    let done = persister.execute(&pool, &Diary, &id, None, |_| Ok::<_, sagastore::Error>(()));
    show(&done.await.unwrap_err());
    let emitter = emitter_fn(|_: OutboxRecord| async { Ok::<_, std::io::Error>(()) });
    show(&Dispatcher::new(pool.clone(), emitter).dispatch_once().await.unwrap_err());
    show(&Inspector::new(&pool).instances(&sagastore::inspect::InstanceFilter::default(), None, 1).await.unwrap_err());
}

/// All that holds a pool.
fn holders<DB: Site>(pool: &Pool<DB>) {
    show_value(pool);
    show_value(&DB::Store::default());
    show_value(&Inspector::new(pool));
    show_value(&DatabaseLock::new(pool.clone()));
    show_value(&Exporter::new(pool));
    show_value(&Importer::new(pool));
    let emitter = emitter_fn(|_: OutboxRecord| async { Ok::<_, std::io::Error>(()) });
    show_value(&Dispatcher::new(pool.clone(), emitter));
    show_value(&DispatcherSettings::default());
}

async fn used<DB: Site>(url: &str) {
    let options = PoolOptions::<DB>::new();
    let url = if DB::KIND == "sqlite" { format!("{url}?mode=rwc") } else { url.to_owned() };
    let pool = options.connect(&url).await.unwrap();
    holders(&pool);
    let _ = migrate(&pool).await.unwrap();
    for _ in 0..3 {
        note(&pool, "1", SECRET).await.unwrap();
    }
    record(&pool).await.unwrap();
    handled::<DB>(&pool).await;
    let name = StreamName::of_saga("diary", &InstanceId::new("1").unwrap()).unwrap();
    let (store, mut conn) = (DB::Store::default(), pool.acquire().await.unwrap());
    stored::<DB>(&store, &mut conn, &name).await;
    let persister = Persister::<DB>::new();
    // What fails with a secret in hand.
    let message = Envelope::new(MessageKind::Event, "Noted", 1, "text/plain", SECRET).unwrap();
    let mut tx = persister.begin(&pool).await.unwrap();
    show(&store.append_messages(&mut tx, &name, Offset::ZERO, std::slice::from_ref(&message)).await.unwrap_err());
    let mut long = message.clone();
    long.destination = Some("x".repeat(10_000).into());
    show(&store.save(&mut tx, &[NewOutboxRecord::new("diary", "1", long)]).await.unwrap_err());
    show_value(&message);
    drop(tx);
    let emitter = emitter_fn(|_: OutboxRecord| async { Err::<(), _>(std::io::Error::other("the broker is away")) });
    let dispatched = Dispatcher::new(pool.clone(), emitter).dispatch_once().await.unwrap();
    assert!(dispatched.failed > 0);
    drop(conn);
    DB::execute(&pool, "UPDATE saga_commit SET checksum = 0 WHERE commit_no = 2").await.unwrap();
    let mut conn = pool.acquire().await.unwrap();
    show(&persister.load_instance(&Diary, &mut conn, &InstanceId::new("1").unwrap()).await.unwrap_err());
    let finding = sagastore::check::check_data(&pool, &mut |finding| show_value(&finding)).await.unwrap();
    assert!(finding.findings > 0);
}

/// A message that cannot be handled, and one that is to come later.
async fn handled<DB: Site>(pool: &Pool<DB>) {
    park(pool, "2", &format!("the pen is dry|{SECRET}")).await.unwrap();
    let mut conn = pool.acquire().await.unwrap();
    let parked = parked_messages::<DB>(&mut conn, ParkedFilter::default(), 10).await.unwrap();
    drop(conn);
    assert_eq!(parked.len(), 1);
    show_value(&parked);
    let (id, persister) = (InstanceId::new("3").unwrap(), Persister::<DB>::new());
    let scheduled = persister.execute(pool, &Diary, &id, None, |unit| {
        let mail = Mail::Send { text: SECRET.to_owned() };
        unit.schedule("later", &mail, Duration::from_secs(3600))?;
        unit.schedule("now", &mail, Duration::ZERO)?;
        unit.publish(Noted::Noted { note: SECRET.to_owned() })?;
        show_value(unit);
        Ok::<_, sagastore::Error>(())
    });
    show_value(&scheduled.await.unwrap());
}

/// What is read from the tables, in the forms in which it can be had.
async fn stored<DB: Site>(store: &DB::Store, conn: &mut DB::Connection, name: &StreamName) {
    show_value(&store.read_page(conn, name, Offset::ZERO, 10).await.unwrap().unwrap());
    show_value(&store.find_batch(conn, None, 10).await.unwrap());
    let stream = SagaStream::new(Diary.persistence_key(), &InstanceId::new("1").unwrap()).unwrap();
    let request = LoadRequest { stream: &stream, from: LoadFrom::Start, handled: None };
    let loaded = store.load(conn, &request).await.unwrap();
    assert!(!loaded.page.commits.is_empty());
    show_value(&loaded);
    show_value(&CommitNumber::ZERO);
}

#[cfg(feature = "postgres")]
async fn session_locker(url: &str) {
    use sagastore::postgres::session::{SessionLocker, SessionLockerConfig};
    use sqlx::postgres::PgConnectOptions;

    let config = SessionLockerConfig::new(url.parse::<PgConnectOptions>().unwrap());
    show_value(&config);
    let locker = SessionLocker::new(config);
    show_value(&locker);
    if let Err(error) = locker.start().await {
        show(&error);
    }
}

/// Emitters for brokers that do not let them in.
#[cfg(all(feature = "nats", feature = "rabbitmq"))]
async fn emitters(urls: &str) {
    use sagastore::emitter::nats::NatsEmitter;
    use sagastore::emitter::rabbitmq::RabbitMqEmitter;

    const WITHIN: Duration = Duration::from_secs(2);

    let (nats, rabbitmq) = urls.split_once(' ').unwrap();
    let (user, place) = nats.split_once("://").unwrap().1.split_once('@').unwrap();
    let (name, password) = user.split_once(':').unwrap();
    let options = async_nats::ConnectOptions::with_user_and_password(name.to_owned(), password.to_owned());
    let client = options.retry_on_initial_connect().connect(place).await.unwrap();
    let nats = NatsEmitter::new(async_nats::jetstream::new(client)).ack_timeout(WITHIN);
    let rabbitmq = RabbitMqEmitter::from_uri("outbox", rabbitmq).unwrap().connect_timeout(WITHIN);
    show_value(&nats);
    show_value(&rabbitmq);
    show(&RabbitMqEmitter::from_uri("outbox", &format!("amqps://saga:{PASSWORD}@127.0.0.1")).unwrap_err());
    show(&RabbitMqEmitter::from_uri("outbox", &format!("http://saga:{PASSWORD}@127.0.0.1")).unwrap_err());
    for emitter in [&nats as &dyn Emitter, &rabbitmq] {
        let message = Envelope::new(MessageKind::Event, "Noted", 1, "text/plain", SECRET).unwrap();
        emit(emitter, message).await;
    }
}

#[cfg(all(feature = "nats", feature = "rabbitmq"))]
async fn nats_address(url: &str) {
    let client = async_nats::ConnectOptions::new().retry_on_initial_connect().connect(url).await.unwrap();
    // It connects in the background.
    tokio::time::sleep(Duration::from_secs(5)).await;
    drop(client);
}

#[cfg(all(feature = "nats", feature = "rabbitmq"))]
async fn emit(emitter: &dyn Emitter, message: Envelope) {
    let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await.unwrap();
    let _ = migrate(&pool).await.unwrap();
    let (store, mut conn) = (sagastore::sqlite::SqliteStore::default(), pool.acquire().await.unwrap());
    let mut tx = store.begin(&mut conn).await.unwrap();
    store.save(&mut tx, &[NewOutboxRecord::new("diary", "1", message)]).await.unwrap();
    tx.commit().await.unwrap();
    let records = store.find_batch(&mut conn, None, 10).await.unwrap();
    let (batch, mut reports) = deliveries(records);
    show_value(&batch);
    emitter.emit(batch).await;
    while let Some(report) = reports.next().await {
        show_value(&report);
    }
}
