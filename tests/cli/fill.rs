//! What the databases of the trials hold.

use std::time::Duration;

use sagastore::{
    Cause, Envelope, HandleMessage, InstanceId, MessageHandler, MessageKind, NewOutboxRecord, OutboxRepository,
    ParkAfter, Persister, Saga, UnitOfWork, message_types,
};
use serde::{Deserialize, Serialize};
use sqlx::Pool;

use crate::secrets::SECRET;
use crate::site::Site;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Noted {
    Noted { note: String },
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

    fn apply_event(&self, notes: &mut Vec<String>, Noted::Noted { note }: &Noted, _: &Envelope) {
        notes.push(note.clone());
    }

    fn is_complete(&self, notes: &Vec<String>) -> bool {
        notes.iter().any(|note| note == "the end")
    }
}

impl HandleMessage for Diary {
    type Message = Noted;

    fn is_trigger(&self, _: &Noted) -> bool {
        true
    }

    /// Notes the first one, and schedules a reminder; fails with what stands before the bar in any other.
    fn handle(&self, unit: &mut UnitOfWork<'_, Self>, message: &Noted) -> Result<(), Cause> {
        let Noted::Noted { note } = message;
        if !unit.instance().data.is_empty() {
            return Err(note.split('|').next().unwrap_or_default().into());
        }
        unit.publish(message.clone())?;
        unit.schedule("reminder", message, Duration::from_secs(3600))?;
        Ok(())
    }
}

/// Handles messages for the diary of this id, and parks them when they fail.
pub(crate) fn handler<DB: Site>(id: &'static str) -> anyhow::Result<MessageHandler<Diary, DB>> {
    let handler =
        MessageHandler::direct(Diary, Persister::<DB>::new(), move |_: &Noted| InstanceId::new(id).map(Some))?;
    Ok(handler.park_after(ParkAfter { tries: 1, delay: Duration::ZERO }))
}

/// A message for it.
pub(crate) fn to_note(note: &str) -> anyhow::Result<Envelope> {
    let payload = serde_json::to_vec(&Noted::Noted { note: note.to_owned() })?;
    Ok(Envelope::new(MessageKind::Command, "Noted", 1, "application/json", payload)?)
}

/// One unit of work with an event, a command and a message that was handled.
pub(crate) async fn note<DB: Site>(pool: &Pool<DB>, id: &str, note: &str) -> anyhow::Result<()> {
    let handled = sagastore::MessageId::new();
    let executed = Persister::<DB>::new()
        .execute(pool, &Diary, &InstanceId::new(id)?, Some(handled.into()), |unit| {
            unit.publish(Noted::Noted { note: note.to_owned() })?;
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
    unit.publish(Noted::Noted { note: "the end".to_owned() })?;
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
