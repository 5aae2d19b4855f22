//! Messages that cannot be handled now.

use std::time::Duration;

use anyhow::bail;
use sagastore::{
    Cause, Envelope, HandleMessage, InstanceId, MessageHandler, MessageKind, ParkAfter, Persister, UnitOfWork,
};
use sqlx::Pool;

use crate::fill::{Diary, Noted};
use crate::site::Site;

impl HandleMessage for Diary {
    type Message = Noted;

    fn is_trigger(&self, _: &Noted) -> bool {
        true
    }

    /// Notes it if it is the first, and else fails with what stands before the bar in it.
    fn handle(&self, unit: &mut UnitOfWork<'_, Self>, message: &Noted) -> Result<(), Cause> {
        let Noted::Noted { note } = message;
        if !unit.instance().data.is_empty() {
            return Err(note.split('|').next().unwrap_or_default().into());
        }
        unit.publish(message.clone())?;
        Ok(())
    }
}

/// Parks a message for the instance of this id.
pub(crate) async fn park<DB: Site>(pool: &Pool<DB>, id: &'static str, note: &str) -> anyhow::Result<()> {
    let persister = Persister::<DB>::new();
    let handler = MessageHandler::direct(Diary, persister, move |_: &Noted| InstanceId::new(id).map(Some))?;
    let handler = handler.park_after(ParkAfter { tries: 1, delay: Duration::ZERO });
    for _ in 0..2 {
        let payload = serde_json::to_vec(&Noted::Noted { note: note.to_owned() })?;
        let mut message = Envelope::new(MessageKind::Command, "Noted", 1, "application/json", payload)?;
        message.metadata.insert("note".to_owned(), note.to_owned());
        if handler.handle(pool, &message).await?.is_parked() {
            return Ok(());
        }
    }
    bail!("nothing was parked")
}
