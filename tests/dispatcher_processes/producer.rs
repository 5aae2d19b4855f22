//! Commits messages.

use std::collections::HashMap;
use std::time::Instant;

use sagastore::{Envelope, InstanceId, Outbox, Persister, Saga, message_types};
use serde::{Deserialize, Serialize};
use sqlx::Pool;

use super::site::Site;

/// Most messages in a unit of work.
const UNIT: i64 = 3;

/// Numbers its messages.
struct Tally;

#[derive(Clone, Debug, Serialize, Deserialize)]
enum TallyEvent {
    Added { number: i64 },
}
message_types!(TallyEvent { Added: "TallyAdded" 1 });

impl Saga for Tally {
    type Data = i64;
    type Event = TallyEvent;

    fn persistence_key(&self) -> &str {
        "tally"
    }

    fn new_data(&self) -> i64 {
        0
    }

    fn apply_event(&self, data: &mut i64, event: &TallyEvent, _: &Envelope) {
        let TallyEvent::Added { number } = event;
        *data = number + 1;
    }
}

/// Commits to these streams in turn until the time has come; gives the number of messages of each.
pub(crate) async fn produce<DB: Site>(
    pool: Pool<DB>,
    streams: u32,
    until: Instant,
) -> anyhow::Result<HashMap<String, i64>> {
    let (persister, mut committed) = (Persister::<DB>::new(), HashMap::new());
    while Instant::now() < until {
        let stream = fastrand::u32(..streams).to_string();
        let id = InstanceId::new(&stream)?;
        let mut tx = persister.begin(&pool).await?;
        let mut unit = persister.begin_unit_of_work(&Tally, &mut tx, Outbox, &id).await?;
        let (first, count) = (unit.instance().data, fastrand::i64(1..=UNIT));
        for number in first..first + count {
            unit.publish(TallyEvent::Added { number })?;
        }
        anyhow::ensure!(persister.save(&mut tx, unit).await?.is_changed(), "nothing was saved");
        tx.commit().await?;
        committed.insert(stream, first + count);
    }
    Ok(committed)
}
