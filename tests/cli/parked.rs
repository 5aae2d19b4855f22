//! Parked messages and timeouts, as the command shows them.

use anyhow::ensure;

use crate::command::{fine, run, run_showing};
use crate::fill::{handler, to_note};
use crate::secrets::SECRET;
use crate::site::Site;

pub(crate) async fn parked<DB: Site>() -> anyhow::Result<()> {
    let place = DB::create().await?;
    let url = &place.url;
    fine(url, &["migrate"])?;
    let pool = DB::connect(&place).await?;
    let (handler, note) = (handler::<DB>("1")?, format!("the pen is dry|{SECRET}"));
    for is_parked in [false, true, true] {
        ensure!(handler.handle(&pool, &to_note(&note)?).await?.is_parked() == is_parked);
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
    ensure!(timeout.is_some_and(|timeout| timeout["payload"]["Noted"]["note"] == note), "{objects:?}");
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
