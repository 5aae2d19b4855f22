//! Parked messages and timeouts, as the command shows them.

use std::time::Duration;

use anyhow::ensure;
use sagastore::{
    Cause, Envelope, HandleMessage, InstanceId, MessageHandler, MessageKind, ParkAfter, Persister, UnitOfWork,
};

use crate::command::{fine, run, run_showing};
use crate::fill::{Diary, Noted};
use crate::secrets::SECRET;
use crate::site::Site;

impl HandleMessage for Diary {
    type Message = Noted;

    fn is_trigger(&self, _: &Noted) -> bool {
        true
    }

    /// Fails once a page is written, and schedules a reminder with the first.
    fn handle(&self, unit: &mut UnitOfWork<'_, Self>, message: &Noted) -> Result<(), Cause> {
        if !unit.instance().data.is_empty() {
            return Err("the pen is dry".into());
        }
        unit.publish(message.clone())?;
        unit.schedule("reminder", message, Duration::from_secs(3600))?;
        Ok(())
    }
}

pub(crate) async fn parked<DB: Site>() -> anyhow::Result<()> {
    let place = DB::create().await?;
    let url = &place.url;
    fine(url, &["migrate"])?;
    let pool = DB::connect(&place).await?;
    let handler = MessageHandler::direct(Diary, Persister::<DB>::new(), |_: &Noted| InstanceId::new("1").map(Some))?;
    let handler = handler.park_after(ParkAfter { tries: 1, delay: Duration::ZERO });
    let message = || {
        let payload = serde_json::to_vec(&Noted::Noted { note: SECRET.to_owned() })?;
        anyhow::Ok(Envelope::new(MessageKind::Command, "Noted", 1, "application/json", payload)?)
    };
    for is_parked in [false, true, true] {
        ensure!(handler.handle(&pool, &message()?).await?.is_parked() == is_parked);
    }

    let listed = fine(url, &["parked"])?;
    ensure!(listed.out.contains("the pen is dry") && listed.out.contains("waits behind another"), "{listed:?}");
    let objects = fine(url, &["parked", "--json"])?.objects();
    ensure!(objects.len() == 2 && objects[0]["tries"] == 1 && objects[1]["tries"] == 0, "{objects:?}");
    ensure!(fine(url, &["instances", "--parked"])?.out.contains("diary/1"));
    ensure!(fine(url, &["instances", "--parked", "--saga", "other"])?.out.lines().count() <= 1);
    let shown = fine(url, &["show", "1"])?;
    for part in ["parked ", "the pen is dry", "timeout reminder  due 2"] {
        ensure!(shown.out.contains(part), "{part:?} is not in {shown:?}");
    }
    let objects = run_showing(url, &["show", "1", "--json", "--payloads"])?.objects();
    let timeout = objects.iter().find_map(|object| object.get("timeout"));
    ensure!(timeout.is_some_and(|timeout| timeout["payload"]["Noted"]["note"] == SECRET), "{objects:?}");
    let outbox = fine(url, &["outbox"])?;
    ensure!(outbox.out.contains("timeouts that wait:  1, 0 of them overdue"), "{outbox:?}");

    let asked = run(url, &["parked", "discard", "--id", "1"])?;
    ensure!(asked.status == 2 && asked.err.contains("--yes"), "{asked:?}");
    for id in fine(url, &["parked", "--json"])?.objects() {
        let id = id["id"].to_string();
        ensure!(fine(url, &["parked", "discard", "--id", &id, "--yes"])?.out.contains("was discarded"));
        let gone = run(url, &["parked", "discard", "--id", &id, "--yes"])?;
        ensure!(gone.status == 1 && gone.err.contains("there is no parked message"), "{gone:?}");
    }
    ensure!(fine(url, &["instances", "--parked", "--json"])?.objects().is_empty());
    pool.close().await;
    DB::remove(place).await
}
