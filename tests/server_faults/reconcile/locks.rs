//! Whether those who held a lock wrote one after another.

use anyhow::ensure;
use sqlx::Pool;

use crate::site::Site;

/// The writes under each lock are there without a gap, and their tokens never fall. Gives how many there are.
pub(crate) async fn check<DB: Site>(pool: &Pool<DB>) -> anyhow::Result<usize> {
    let mut conn = pool.acquire().await?;
    let sql = "SELECT g.resource, CAST(g.writes AS CHAR(40)), CAST(f.number AS CHAR(40)), CAST(f.token AS CHAR(40))
        FROM guarded AS g
        JOIN fenced_write AS f ON f.resource = g.resource
        ORDER BY g.resource, f.number";
    let rows = DB::texts(&mut conn, sql.to_owned()).await?;
    let (mut resource, mut number, mut token, mut writes) = (String::new(), 0, 0, 0);
    for row in &rows {
        if row[0] != resource {
            ensure!(number == writes, "{resource}: {number} of {writes} writes are there");
            (resource, number, token) = (row[0].clone(), 0, 0);
        }
        let next: i64 = row[3].parse()?;
        number += 1;
        ensure!(row[2] == number.to_string(), "{resource}: write {} stands in place of {number}", row[2]);
        ensure!(next >= token, "{resource}: token {next} wrote after {token}");
        (token, writes) = (next, row[1].parse()?);
    }
    ensure!(number == writes, "{resource}: {number} of {writes} writes are there");
    Ok(rows.len())
}
