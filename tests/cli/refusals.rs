//! What is refused, and how that reads.

use anyhow::ensure;

use crate::command::{command, run};
use crate::site::Site;

pub(crate) async fn usage() -> anyhow::Result<()> {
    let url = "postgres://root:pa55word@localhost:1/shop";
    for arguments in [&[][..], &["dance"], &["show"], &["instances", "--limit", "many"], &[url], &["check", url]] {
        let ran = run(url, arguments)?;
        ensure!(ran.status == 2 && ran.out.is_empty() && !ran.err.is_empty(), "{arguments:?}: {ran:?}");
    }
    for other in ["oracle://root:pa55word@host/shop", "pa55word"] {
        let ran = run(other, &["check"])?;
        ensure!(ran.status == 2 && !ran.err.contains("pa55word"), "{ran:?}");
    }
    let none = command("", &["check"]).env_remove("DATABASE_URL").output()?;
    ensure!(none.status.code() == Some(2) && String::from_utf8(none.stderr)?.contains("DATABASE_URL"));
    for verb in ["--help", "instances", "outbox", "dead-letters"].map(|verb| [verb, "--help"]) {
        let help = run(url, &verb)?;
        ensure!(!help.out.contains("pa55word"), "{help:?}");
    }
    Ok(())
}

pub(crate) async fn unreachable() -> anyhow::Result<()> {
    let mut urls = vec!["sqlite:///nowhere/pa55word/sagas.db"];
    if cfg!(feature = "postgres") {
        urls.push("postgres://root:pa55word@127.0.0.1:1/shop");
    }
    if cfg!(feature = "mysql") {
        urls.push("mysql://root:pa55word@127.0.0.1:1/shop");
    }
    for url in urls {
        for arguments in [&["check"][..], &["instances", "--json"]] {
            let ran = run(url, arguments)?;
            ensure!(ran.status == 1 && ran.err.starts_with("sagastore: connecting"), "{ran:?}");
            ensure!(!ran.err.contains("pa55word"), "{ran:?}");
        }
    }
    Ok(())
}

pub(crate) async fn no_export() -> anyhow::Result<()> {
    let place = sqlx::Sqlite::create().await?;
    ensure!(run(&place.url, &["migrate"])?.status == 0);
    let file = place.file("letter.txt");
    for text in ["Dear", "Dear reader,\n", "{\"crc\":1,\"letter\":{}}\n"] {
        std::fs::write(&file, text)?;
        for verb in ["export", "import", "verify-replay"] {
            let ran = run(&place.url, &[verb, &file])?;
            ensure!(ran.status == 1 && !ran.err.is_empty(), "{verb} {text:?}: {ran:?}");
            ensure!(std::fs::read_to_string(&file)? == text, "{verb} changed the file");
        }
    }
    Ok(())
}
