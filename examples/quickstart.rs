//! A loyalty card that pays out at three stamps, kept in an SQLite file. Each purchase is delivered
//! twice and stamps the card once.
use sagastore::{Envelope, Executed, Inbound, InstanceId, MessageId, Persister, Saga, message_types, migrate, sqlite};
use serde::{Deserialize, Serialize};
use sqlx::{Sqlite, sqlite::SqliteConnectOptions};

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
    type Data = u32; // stamps
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
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = SqliteConnectOptions::new().filename(folder.path().join("cards.db")).create_if_missing(true);
    let pool = sqlite::pool_options().connect_with(sqlite::connect_options(file)).await?;
    println!("{:?}", migrate(&pool).await?);

    let (persister, card) = (Persister::<Sqlite>::new(), InstanceId::new("card-7")?);
    let purchases = [(); 3].map(|()| MessageId::new());
    for purchase in purchases.iter().chain(&purchases) {
        let stamped = persister.execute(&pool, &LoyaltyCard, &card, Some(Inbound::from(*purchase)), |unit| {
            unit.publish(Event::Stamped)?;
            let stamps = unit.instance().data;
            if stamps == 3 {
                unit.execute_to(&Command::PayOut { stamps }, "till")?;
            }
            Ok::<_, sagastore::Error>(stamps)
        });
        match stamped.await? {
            Executed::Done { value: stamps, .. } => println!("{purchase}: {stamps} stamps"),
            Executed::AlreadyHandled(first) => println!("{purchase}: made revision {} before", first.revision),
        }
    }

    let loaded = persister.load_instance(&LoyaltyCard, &mut *pool.acquire().await?, &card).await?;
    assert_eq!(loaded.map(|unit| (unit.instance().data, unit.instance().revision.get())), Some((3, 3)));
    Ok(())
}
