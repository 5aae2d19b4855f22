//! A saga and a table of the application's own, changed in one transaction: both or neither.
//!
//! The library may own the transaction (`execute_in_transaction`, which also retries lost races), or
//! the application may (`begin_unit_of_work` and `save`).
use anyhow::{Result, bail};
use sagastore::{
    Attempt, Envelope, Inbound, InstanceId, MessageId, Outbox, Persister, Saga, message_types, migrate, sqlite,
};
use serde::{Deserialize, Serialize};
use sqlx::{Sqlite, SqliteConnection, SqlitePool, sqlite::SqliteConnectOptions};

#[derive(Serialize, Deserialize)]
enum Event {
    Reserved { seats: u32 },
}
message_types!(Event { Reserved: "SeatsReserved" 1 });

/// How many seats of a flight are reserved.
struct Flight;
impl Saga for Flight {
    type Data = u32;
    type Event = Event;
    fn persistence_key(&self) -> &str {
        "flight"
    }
    fn new_data(&self) -> u32 {
        0
    }
    fn apply_event(&self, reserved: &mut u32, event: &Event, _: &Envelope) {
        let Event::Reserved { seats } = event;
        *reserved += seats;
    }
}

const CREATE_TICKET: &str = "CREATE TABLE ticket (passenger TEXT NOT NULL UNIQUE, seats INTEGER NOT NULL) STRICT";

/// The application's own write. Fails if the passenger has a ticket.
async fn write_ticket(conn: &mut SqliteConnection, passenger: &str, seats: u32) -> Result<()> {
    let insert = sqlx::query("INSERT INTO ticket (passenger, seats) VALUES (?1, ?2)");
    insert.bind(passenger).bind(seats).execute(conn).await?;
    Ok(())
}

/// Reserved seats by the saga, and by the tickets.
async fn seats(pool: &SqlitePool, persister: &Persister<Sqlite>, flight: &InstanceId) -> Result<(u32, u32)> {
    let mut conn = pool.acquire().await?;
    let loaded = persister.load_instance(&Flight, &mut conn, flight).await?;
    let sold = sqlx::query_scalar("SELECT COALESCE(SUM(seats), 0) FROM ticket").fetch_one(&mut *conn).await?;
    Ok((loaded.map_or(0, |unit| unit.instance().data), sold))
}

/// The library owns the transaction, and commits it with the unit of work.
async fn book(pool: &SqlitePool, flight: &InstanceId, message: MessageId, passenger: &str, seats: u32) -> Result<bool> {
    let persister = Persister::<Sqlite>::new();
    let work = async |Attempt { mut unit, mut transaction }: Attempt<'static, Flight, Sqlite>| {
        write_ticket(&mut transaction, passenger, seats).await?;
        unit.publish(Event::Reserved { seats })?;
        if unit.instance().data > 10 {
            bail!("the flight has 10 seats"); // the ticket goes with the rest
        }
        Ok(Attempt { unit, transaction }.finish(()))
    };
    let booked = persister.execute_in_transaction(pool, &Flight, flight, Some(Inbound::from(message)), work).await?;
    Ok(!booked.is_already_handled())
}

#[tokio::main]
async fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = SqliteConnectOptions::new().filename(folder.path().join("flights.db")).create_if_missing(true);
    let pool = sqlite::pool_options().connect_with(sqlite::connect_options(file)).await?;
    println!("{:?}", migrate(&pool).await?);
    sqlx::query(CREATE_TICKET).execute(&pool).await?;
    let (persister, flight) = (Persister::<Sqlite>::new(), InstanceId::new("LH 506")?);

    let message = MessageId::new();
    assert!(book(&pool, &flight, message, "Ada", 4).await?);
    assert_eq!(seats(&pool, &persister, &flight).await?, (4, 4), "both are written");
    assert!(!book(&pool, &flight, message, "Ada", 4).await?);
    assert_eq!(seats(&pool, &persister, &flight).await?, (4, 4), "a repeated message writes neither");
    assert!(book(&pool, &flight, MessageId::new(), "Bob", 7).await.is_err());
    assert_eq!(seats(&pool, &persister, &flight).await?, (4, 4), "a refusal takes the ticket back");
    assert!(book(&pool, &flight, MessageId::new(), "Ada", 1).await.is_err());
    assert_eq!(seats(&pool, &persister, &flight).await?, (4, 4), "a failed ticket takes the events back");

    for commits in [false, true] {
        // The application owns the transaction: nothing of it counts before its own commit.
        let mut transaction = persister.begin(&pool).await?;
        write_ticket(&mut transaction, "Cyd", 2).await?;
        let mut unit = persister.begin_unit_of_work(&Flight, &mut transaction, Outbox, &flight).await?;
        unit.publish(Event::Reserved { seats: 2 })?;
        assert!(persister.save(&mut transaction, unit).await?.is_changed());
        if commits {
            transaction.commit().await?;
        } else {
            transaction.rollback().await?;
        }
        let expected = if commits { (6, 6) } else { (4, 4) };
        assert_eq!(seats(&pool, &persister, &flight).await?, expected, "committed: {commits}");
    }
    println!("the saga and the tickets agree on {:?} seats", seats(&pool, &persister, &flight).await?);
    Ok(())
}
