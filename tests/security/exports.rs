//! Exports that nobody exported.

use anyhow::ensure;
use serde_json::{Value, json};
use sqlx::Pool;

use crate::command::{fine, run};
use crate::fill::note;
use crate::site::{Place, Site};

/// How deep JSON nests that is to exhaust a stack.
const DEEP: usize = 10_000;

/// A line as an export has it, with its checksum.
fn line(what: &str, text: &str) -> String {
    format!("{{\"crc\":{},\"{what}\":{text}}}\n", crc32fast::hash(text.as_bytes()))
}

/// The lines of an export with one value of the first commit, or of the stream, changed, and all checksums right.
fn forged(lines: &[Value], what: &str, pointer: &str, value: Value) -> String {
    let mut lines = lines.to_vec();
    let place = lines.iter_mut().find_map(|line| line.get_mut(what)).unwrap();
    *place.pointer_mut(pointer).unwrap_or_else(|| panic!("there is no {pointer}")) = value;
    let (end, lines) = lines.split_last_mut().unwrap();
    let lines: String = lines.iter().map(written).collect();
    end["end"]["crc"] = json!(crc32fast::hash(lines.as_bytes()));
    lines + &written(end)
}

fn written(line: &Value) -> String {
    let (what, text) = line.as_object().unwrap().iter().find(|(name, _)| *name != "crc").unwrap();
    self::line(what, &text.to_string())
}

/// Two commits, of which the first is the later one.
async fn later_than_the_next<DB: Site>(from: &Place, pool: &Pool<DB>) -> anyhow::Result<String> {
    note(pool, "1", "b").await?;
    let file = from.file("longer-export");
    fine(&from.url, &["export", &file])?;
    let lines = std::fs::read_to_string(&file)?;
    let lines: Vec<Value> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let second = lines.iter().filter_map(|line| line.pointer("/commit/recorded_at")).nth(1).unwrap();
    Ok(forged(&lines, "commit", "/recorded_at", second.clone()))
}

pub(crate) async fn are_refused<DB: Site>() -> anyhow::Result<()> {
    let (from, to) = (DB::create().await?, DB::create().await?);
    fine(&from.url, &["migrate"])?;
    fine(&to.url, &["migrate"])?;
    let pool = DB::connect(&from).await?;
    note(&pool, "1", "a").await?;
    let file = from.file("export");
    fine(&from.url, &["export", &file])?;
    let text = std::fs::read_to_string(&file)?;
    let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let header = format!("{}\n", text.lines().next().unwrap());
    let nested = format!("{}{}", "[".repeat(DEEP), "]".repeat(DEEP));

    let mut forgeries = vec![
        header.clone() + &line("stream", &nested),
        header.clone() + &line("commit", &nested),
        header.clone() + &line("stream", &format!("{{\"name\":{nested}}}")),
        format!("{nested}\n"),
        line("header", "{\"sagastore_export\":18446744073709551616}"),
        forged(&lines, "header", "/sagastore_export", json!(u32::MAX)),
    ];
    let names = [json!("a\0b"), json!(""), json!("x".repeat(10_000)), json!(1), json!(null)];
    forgeries.extend(names.into_iter().map(|name| forged(&lines, "stream", "/name", name)));
    let numbers = [json!(-1), json!(i64::MAX), json!(u64::MAX), json!(1e300), json!("1"), json!(null)];
    for pointer in ["/number", "/first_offset", "/recorded_at", "/messages/0/version"] {
        let is_good = |value: &Value| pointer == "/recorded_at" && *value == json!(-1);
        let wrong = numbers.iter().filter(|value| !is_good(value));
        forgeries.extend(wrong.map(|value| forged(&lines, "commit", pointer, value.clone())));
    }
    for pointer in ["/messages/0/type", "/messages/0/content_type", "/messages/0/id", "/messages/0/kind"] {
        let wrong = [json!("a\0b"), json!("x".repeat(10_000)), json!(7)];
        forgeries.extend(wrong.map(|value| forged(&lines, "commit", pointer, value)));
    }
    forgeries.push(later_than_the_next(&from, &pool).await?);
    println!("{} forgeries", forgeries.len());
    for (number, forgery) in forgeries.iter().enumerate() {
        let start: String = forgery.chars().take(600).collect();
        std::fs::write(&file, forgery)?;
        let ran = run(&to.url, &["import", &file])?;
        ensure!(ran.status == 1 && ran.err.starts_with("sagastore: "), "forgery {number}: {ran:?}: {start}");
        let listed = fine(&to.url, &["instances", "--json"])?;
        ensure!(listed.out.is_empty(), "forgery {number} left {listed:?}: {start}");
        let verified = run(&to.url, &["verify-replay", &file])?;
        ensure!([0, 1].contains(&verified.status), "forgery {number}: {verified:?}");
    }
    // Refused for what was changed, and for nothing else.
    std::fs::write(&file, forged(&lines, "commit", "/number", json!(1)))?;
    ensure!(fine(&to.url, &["import", &file])?.out.contains("imported 1 commits"), "the true one");
    pool.close().await;

    DB::remove(from).await?;
    DB::remove(to).await
}
