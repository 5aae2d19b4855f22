//! Whether those who held a lock wrote one after another, and what they were told they wrote is there.

use std::collections::{BTreeMap, HashSet};

use anyhow::ensure;
use sqlx::Pool;

use crate::ledger::{Entry, Told};
use crate::site::Site;

/// The writes under one lock.
#[derive(Default)]
struct Writes {
    count: i64,
    token: i64,
}

/// The writes under each lock are there without a gap, each that was answered among them once, and their tokens never fall.
/// Gives how many there are.
pub(crate) async fn check<DB: Site>(pool: &Pool<DB>, entries: &[Entry]) -> anyhow::Result<usize> {
    let mut conn = pool.acquire().await?;
    let sql = "SELECT w.resource, CAST(w.number AS CHAR(40)), CAST(w.token AS CHAR(40))
        FROM fenced_write AS w
        ORDER BY w.resource, w.number";
    let rows = DB::texts(&mut conn, sql.to_owned()).await?;
    let mut writes = BTreeMap::<&str, Writes>::new();
    for row in &rows {
        let (resource, number, token) = (row[0].as_str(), row[1].parse::<i64>()?, row[2].parse::<i64>()?);
        let before = writes.entry(resource).or_default();
        ensure!(number == before.count + 1, "{resource}: write {number} stands after {}", before.count);
        ensure!(token >= before.token, "{resource}: token {token} wrote after {}", before.token);
        *before = Writes { count: number, token };
    }
    let sql = "SELECT resource, CAST(writes AS CHAR(40)), CAST(token AS CHAR(40)) FROM guarded";
    let guarded = DB::texts(&mut conn, sql.to_owned()).await?;
    for row in &guarded {
        let Writes { count, token } = writes.entry(row[0].as_str()).or_default();
        ensure!(row[1] == count.to_string(), "{}: {count} of {} writes are there", row[0], row[1]);
        ensure!(row[2] == token.to_string(), "{}: token {token} wrote last, and not {}", row[0], row[2]);
    }
    let mut told = HashSet::new();
    for entry in entries {
        if let Told::Wrote(resource, number) = &entry.told {
            ensure!(told.insert((resource, number)), "{resource}: write {number} was answered twice");
            let there = writes.get(resource.as_str()).map_or(0, |writes| writes.count);
            ensure!(*number <= there, "{resource}: write {number} was answered, and {there} are there");
        }
    }
    ensure!(!told.is_empty(), "no write under a lock was answered");
    Ok(rows.len())
}
