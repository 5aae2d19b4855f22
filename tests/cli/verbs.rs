//! What the verbs say, and what they do.

use anyhow::ensure;
use sqlx::Pool;

use crate::command::{fine, run, run_showing};
use crate::fill::{complete, note, record};
use crate::secrets::SECRET;
use crate::site::{Place, Site};

/// A database that the program has migrated, with one diary of two pages.
async fn filled<DB: Site>() -> anyhow::Result<(Place, Pool<DB>)> {
    let place = DB::create().await?;
    let ran = fine(&place.url, &["migrate"])?;
    ensure!(ran.out.contains("from version 0 to"), "{ran:?}");
    let pool = DB::connect(&place).await?;
    note(&pool, "1", SECRET).await?;
    note(&pool, "1", SECRET).await?;
    Ok((place, pool))
}

pub(crate) async fn every<DB: Site>() -> anyhow::Result<()> {
    let (place, pool) = filled::<DB>().await?;
    let url = &place.url;
    record(&pool).await?;
    ensure!(fine(url, &["migrate"])?.out.contains("already"));

    let listed = fine(url, &["instances"])?;
    ensure!(listed.out.contains("diary/1") && listed.out.contains("open"), "{listed:?}");
    let objects = fine(url, &["instances", "--json"])?.objects();
    ensure!(objects.len() == 1 && objects[0]["revision"] == 2 && objects[0]["saga"] == "diary", "{objects:?}");

    for id in [&["show", "diary/1"][..], &["show", "1"], &["show", "1", "--saga", "diary"]] {
        let shown = fine(url, id)?;
        for part in
            ["revision 2, 2 commits", "commit 1", "commit 2", "handled", "event 0", "Noted v1", "SendMail v1 to post"]
        {
            ensure!(shown.out.contains(part), "{part:?} is not in {shown:?}");
        }
    }
    let objects = fine(url, &["show", "1", "--json"])?.objects();
    ensure!(objects.len() == 3 && objects[2]["commit"]["messages"][0]["offset"] == 1, "{objects:?}");
    let shown = run_showing(url, &["show", "1", "--payloads"])?;
    ensure!(shown.status == 0 && shown.out.contains(SECRET), "{shown:?}");
    let objects = run_showing(url, &["show", "1", "--payloads", "--json"])?.objects();
    ensure!(objects[1]["commit"]["messages"][0]["payload"]["Noted"]["note"] == SECRET, "{objects:?}");

    let outbox = fine(url, &["outbox"])?;
    ensure!(outbox.out.contains("messages that wait:  5") && outbox.out.contains("PARTITION"), "{outbox:?}");
    ensure!(fine(url, &["outbox", "--json"])?.objects()[0]["pending"] == 5);
    DB::execute(&pool, &lease::<DB>()).await?;
    let locks = fine(url, &["locks"])?;
    ensure!(locks.out.contains("nightly") && locks.out.contains("held") && locks.out.contains("worker-1"), "{locks:?}");
    ensure!(fine(url, &["locks", "--json"])?.objects()[0]["held"] == true);
    let checked = fine(url, &["check"])?;
    ensure!(checked.out.contains("1 streams with 2 commits and 4 messages"), "{checked:?}");
    ensure!(fine(url, &["check", "--json"])?.objects()[0]["checked"]["findings"] == 0);

    let unknown = run(url, &["show", "2"])?;
    ensure!(unknown.status == 1 && unknown.err.contains("there is no instance"), "{unknown:?}");
    pool.close().await;
    DB::remove(place).await
}

fn lease<DB: Site>() -> String {
    let request = if DB::KIND == "postgres" {
        "'00000000-0000-0000-0000-000000000001'"
    } else {
        "x'00000000000000000000000000000001'"
    };
    format!(
        "INSERT INTO saga_lease
            (namespace, resource_id, client_id, request_id, token, obtained_at, expires_at, lock_delay)
        VALUES ('jobs', 'nightly', 'worker-1', {request}, 7, 1, 4611686018427387904, 0)"
    )
}

pub(crate) async fn instances<DB: Site>() -> anyhow::Result<()> {
    let (place, pool) = filled::<DB>().await?;
    let url = &place.url;
    note(&pool, "2", "a").await?;
    complete(&pool, "2").await?;
    note(&pool, "3\u{1b}[2J", "a").await?;
    let ids = |arguments: &[&str]| -> anyhow::Result<Vec<String>> {
        let objects = fine(url, &[&["instances", "--json"], arguments].concat())?.objects();
        Ok(objects.iter().map(|object| object["instance"].as_str().unwrap().to_owned()).collect())
    };
    ensure!(ids(&[])? == ["1", "2", "3\u{1b}[2J"], "oldest first");
    ensure!(ids(&["--completed"])? == ["2"]);
    ensure!(ids(&["--open", "--limit", "1"])? == ["1"]);
    ensure!(ids(&["--prefix", "3"])?.len() == 1);
    ensure!(ids(&["--saga", "other"])?.is_empty());
    let listed = fine(url, &["instances"])?;
    ensure!(!listed.out.contains('\u{1b}'), "nothing acts upon the terminal: {listed:?}");
    pool.close().await;
    DB::remove(place).await
}

pub(crate) async fn damage<DB: Site>() -> anyhow::Result<()> {
    let (place, pool) = filled::<DB>().await?;
    let url = &place.url;
    DB::execute(&pool, "UPDATE saga_commit SET checksum = 0 WHERE commit_no = 2").await?;
    let found = run(url, &["check"])?;
    ensure!(found.status == 1 && found.out.contains("wrong_checksum") && found.out.contains("diary/1"), "{found:?}");
    let found = run(url, &["check", "--json"])?;
    let objects = found.objects();
    ensure!(found.status == 1 && objects[0]["finding"]["kind"] == "wrong_checksum", "{found:?}");
    ensure!(objects[0]["finding"]["commit"] == 2 && objects[1]["checked"]["findings"] == 1, "{found:?}");
    let shown = fine(url, &["show", "1"])?;
    ensure!(shown.out.contains("damaged: "), "{shown:?}");
    let export = run(url, &["export", &place.file("export")])?;
    ensure!(export.status == 1 && export.err.contains("is damaged"), "{export:?}");
    DB::execute(&pool, "DROP TABLE saga_migrations").await?;
    for verb in [&["check"][..], &["export", &place.file("other")], &["import", &place.file("export")]] {
        let missing = run(url, verb)?;
        ensure!(missing.status == 1 && missing.err.contains("run the migrations"), "{missing:?}");
    }
    pool.close().await;
    DB::remove(place).await
}

pub(crate) async fn dead_letters<DB: Site>() -> anyhow::Result<()> {
    let (place, pool) = filled::<DB>().await?;
    let url = &place.url;
    for _ in 0..3 {
        record(&pool).await?;
    }
    let die = "UPDATE saga_outbox_message SET attempts = 9, dead_at = 7, last_error = 'refused'";
    DB::execute(&pool, die).await?;
    let letters = || fine(url, &["outbox", "dead-letters", "list", "--json"]).map(|ran| ran.objects());
    let listed = letters()?;
    ensure!(listed.len() == 3 && listed[0]["last_error"] == "refused" && listed[0]["attempts"] == 9, "{listed:?}");
    ensure!(fine(url, &["outbox", "dead-letters", "list"])?.out.contains("refused"));
    ensure!(fine(url, &["outbox", "--json"])?.objects()[0]["dead_letters"] == 3);
    let id = listed[1]["id"].as_str().unwrap();

    for verb in ["retry", "discard"] {
        let asked = run(url, &["outbox", "dead-letters", verb, "--all"])?;
        ensure!(asked.status == 2 && asked.err.contains("--yes"), "{asked:?}");
        let unclear = run(url, &["outbox", "dead-letters", verb, "--yes"])?;
        ensure!(unclear.status == 2, "{unclear:?}");
    }
    ensure!(letters()?.len() == 3, "nothing was done");
    let done = fine(url, &["outbox", "dead-letters", "discard", "--id", id, "--yes"])?;
    ensure!(done.out.contains("1 dead letters were discarded"), "{done:?}");
    ensure!(letters()?.len() == 2);
    let other = ["outbox", "dead-letters", "retry", "--saga", "account", "--instance", "8", "--yes"];
    ensure!(fine(url, &other)?.out.contains("0 dead letters"));
    let done =
        fine(url, &["outbox", "dead-letters", "retry", "--saga", "account", "--instance", "7", "--yes", "--json"])?;
    ensure!(done.objects()[0]["retried"] == 2, "{done:?}");
    ensure!(letters()?.is_empty() && fine(url, &["outbox", "--json"])?.objects()[0]["pending"] == 6);

    DB::execute(&pool, die).await?;
    DB::execute(&pool, "UPDATE saga_outbox_message SET contents = 'x'").await?;
    let damaged = letters()?;
    ensure!(damaged.len() == 2 && damaged[0]["damaged"].is_string() && damaged[0]["type"].is_null(), "{damaged:?}");
    ensure!(fine(url, &["outbox", "dead-letters", "list"])?.out.contains("damaged"));
    let id = damaged[0]["id"].as_str().unwrap();
    fine(url, &["outbox", "dead-letters", "discard", "--id", id, "--yes"])?;
    ensure!(letters()?.len() == 1);
    pool.close().await;
    DB::remove(place).await
}

/// Also no file is made where there is none.
pub(crate) async fn read_only() -> anyhow::Result<()> {
    let (place, pool) = filled::<sqlx::Sqlite>().await?;
    record(&pool).await?;
    pool.close().await;
    let file = place.folder.path().join("sagas.db");
    let before = std::fs::read(&file)?;
    let export = place.file("export");
    let verbs: [&[&str]; 7] = [
        &["instances"],
        &["show", "1"],
        &["outbox"],
        &["outbox", "dead-letters", "list"],
        &["locks"],
        &["check"],
        &["export", &export],
    ];
    for verb in verbs {
        fine(&place.url, verb)?;
        ensure!(std::fs::read(&file)? == before, "{verb:?} changed the file");
    }
    let missing = place.folder.path().join("missing.db");
    for verb in verbs {
        let ran = run(&format!("sqlite://{}", missing.display()), verb)?;
        ensure!(ran.status == 1 && ran.err.contains("connecting"), "{verb:?}: {ran:?}");
        ensure!(!missing.exists(), "{verb:?} made the file");
    }
    Ok(())
}
