//! A saga in 40 lines: a counter that pays out at three, kept in an SQLite file.
use sagastore::{Envelope, Inbound, InstanceId, MessageId, Persister, Saga, message_types, migrate};
use serde::{Deserialize, Serialize};
use sqlx::{Sqlite, SqlitePool, sqlite::SqliteConnectOptions};

#[derive(Serialize, Deserialize)]
enum Event {
    Stamped,
}
message_types!(Event { Stamped: "Stamped" 1 });

#[derive(Serialize)]
enum Command {
    PayOut { stamps: u32 },
}
message_types!(Command { PayOut: "PayOut" 1 });

struct LoyaltyCard;
impl Saga for LoyaltyCard {
    type Data = u32;
    type Event = Event;
    fn persistence_key(&self) -> &str {
        "loyalty-card"
    }
    fn new_data(&self) -> u32 {
        0
    }
    fn apply_event(&self, stamps: &mut u32, _: &Event, _: &Envelope) {
        *stamps += 1;
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let file = SqliteConnectOptions::new().filename(folder.path().join("cards.db")).create_if_missing(true);
    let pool = SqlitePool::connect_with(file).await?;
    println!("{:?}", migrate(&pool).await?);
    let (persister, card) = (Persister::<Sqlite>::new(), InstanceId::new("card-7")?);
    let purchases: Vec<MessageId> = (0..3).map(|_| MessageId::new()).collect();
    for purchase in purchases.iter().chain(&purchases) {
        let stamp = persister.execute(&pool, &LoyaltyCard, &card, Some(Inbound::from(*purchase)), |unit| {
            unit.publish(Event::Stamped)?;
            if unit.instance().data == 3 {
                unit.execute_to(&Command::PayOut { stamps: 3 }, "till")?;
            }
            Ok::<_, sagastore::Error>(unit.instance().data)
        });
        println!("{purchase}: {:?}", stamp.await?);
    }
    let mut conn = pool.acquire().await?;
    let loaded = persister.load_instance(&LoyaltyCard, &mut conn, &card).await?.ok_or("the card is there")?;
    assert_eq!((loaded.instance().data, loaded.instance().revision.get()), (3, 3));
    Ok(())
}
