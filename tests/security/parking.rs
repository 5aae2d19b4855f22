//! Messages that cannot be handled now.

use anyhow::bail;
use sqlx::Pool;

use crate::fill::{handler, to_note};
use crate::site::Site;

/// Parks a message for the diary of this id.
pub(crate) async fn park<DB: Site>(pool: &Pool<DB>, id: &'static str, note: &str) -> anyhow::Result<()> {
    let handler = handler::<DB>(id)?;
    for _ in 0..2 {
        let mut message = to_note(note)?;
        message.metadata.insert("note".to_owned(), note.to_owned());
        if handler.handle(pool, &message).await?.is_parked() {
            return Ok(());
        }
    }
    bail!("nothing was parked")
}
