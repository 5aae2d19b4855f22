//! What the databases of the trials hold.

use sagastore::{Envelope, InstanceId, MessageKind, NewOutboxRecord, OutboxRepository, Persister, Saga, message_types};
use serde::{Deserialize, Serialize};
use sqlx::Pool;

use crate::secrets::SECRET;
use crate::site::Site;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Noted {
    Noted(String),
}
message_types!(Noted { Noted: "Noted" 1 });

#[derive(Debug, Serialize)]
pub(crate) enum Mail {
    Send { text: String },
}
message_types!(Mail { Send: "SendMail" 1 });

/// Keeps notes.
pub(crate) struct Diary;

impl Saga for Diary {
    type Data = Vec<String>;
    type Event = Noted;

    fn persistence_key(&self) -> &str {
        "diary"
    }

    fn new_data(&self) -> Vec<String> {
        Vec::new()
    }

    fn apply_event(&self, notes: &mut Vec<String>, Noted::Noted(note): &Noted, _: &Envelope) {
        notes.push(note.clone());
    }

    fn is_complete(&self, notes: &Vec<String>) -> bool {
        notes.iter().any(|note| note == "the end")
    }
}

/// One unit of work with an event, a command and a message that was handled.
pub(crate) async fn note<DB: Site>(pool: &Pool<DB>, id: &str, note: &str) -> anyhow::Result<()> {
    let handled = sagastore::MessageId::new();
    let executed = Persister::<DB>::new()
        .execute(pool, &Diary, &InstanceId::new(id)?, Some(handled.into()), |unit| {
            unit.publish(Noted::Noted(note.to_owned()))?;
            unit.execute_to(&Mail::Send { text: SECRET.to_owned() }, "post")?;
            Ok::<_, sagastore::Error>(())
        })
        .await?;
    anyhow::ensure!(!executed.is_already_handled());
    Ok(())
}

/// Completes an instance.
pub(crate) async fn complete<DB: Site>(pool: &Pool<DB>, id: &str) -> anyhow::Result<()> {
    let persister = Persister::<DB>::new();
    let mut tx = persister.begin(pool).await?;
    let mut unit = persister.begin_unit_of_work(&Diary, &mut tx, sagastore::Outbox, &InstanceId::new(id)?).await?;
    unit.publish(Noted::Noted("the end".to_owned()))?;
    anyhow::ensure!(persister.save_and_complete(&mut tx, unit).await?.is_changed());
    tx.commit().await?;
    Ok(())
}

/// A record that no saga saved, with secrets wherever they can be.
pub(crate) async fn record<DB: Site>(pool: &Pool<DB>) -> anyhow::Result<()> {
    let mut message = Envelope::new(MessageKind::Event, "Opened", 1, "text/plain", SECRET)?;
    message.metadata.insert("token".to_owned(), SECRET.to_owned());
    let persister = Persister::<DB>::new();
    let mut tx = persister.begin(pool).await?;
    DB::Store::default().save(&mut tx, &[NewOutboxRecord::new("account", "7", message)]).await?;
    tx.commit().await?;
    Ok(())
}
