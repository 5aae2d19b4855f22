//! The verb `export`.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use sagastore::transfer::{ExportReader, Exporter, Tally};
use sagastore::{Backend, MessageStore, OutboxRepository};
use serde_json::json;
use sqlx::Pool;

use crate::connect::{Connected, with_pool};
use crate::outbox::refused;
use crate::output::Output;
use crate::progress::Progress;
use crate::verdict::{Failure, Outcome, Verdict};

/// How every export begins.
const FIRST_BYTES: &[u8] = b"{\"crc\":";

pub(crate) async fn run(connected: &Connected, path: &Path, output: &mut Output) -> Outcome {
    with_pool!(connected, pool => export(pool, path, output).await)
}

async fn export<DB: Backend>(pool: &Pool<DB>, path: &Path, output: &mut Output) -> Outcome {
    sagastore::check_schema(pool).await?;
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    let read = read_so_far(&mut file)?;
    let mut export = Exporter::resume(pool, &read).await?;
    // A last line that was cut off goes.
    file.set_len(read.bytes)?;
    file.seek(SeekFrom::Start(read.bytes))?;
    let progress = Progress::counting("exporting");
    while let Some(lines) = export.next_lines().await? {
        file.write_all(lines.as_bytes())?;
        progress.count(export.tally().commits);
    }
    file.sync_all()?;
    progress.end();
    let Tally { streams, commits, messages, .. } = export.tally();
    let [pending, dead_letters, timeouts] = left_behind(pool).await?;
    if output.is_json() {
        output.object(&json!({
            "exported": { "streams": streams, "commits": commits, "messages": messages },
            "left_behind": { "pending": pending, "dead_letters": dead_letters, "timeouts": timeouts },
        }))?;
    } else {
        let resumed = if read.lines > 0 { ", resumed" } else { "" };
        output
            .line(format_args!("exported {streams} streams with {commits} commits and {messages} messages{resumed}"))?;
        if [pending, dead_letters, timeouts] != [0; 3] {
            output.line(format_args!(
                "not in it: what waits in the outbox ({pending} messages, {dead_letters} dead letters) and {timeouts} timeouts"
            ))?;
        }
    }
    output.flush()?;
    Ok(Verdict::Fine)
}

/// What waits, of which an export has nothing: messages of the outbox, dead letters and timeouts.
async fn left_behind<DB: Backend>(pool: &Pool<DB>) -> Result<[u64; 3], Failure> {
    let store = DB::Store::default();
    let mut conn = pool.acquire().await.map_err(|error| refused::<DB>(&store, error))?;
    let (stats, timeouts) = (store.stats(&mut conn).await?, store.timeout_stats(&mut conn).await?);
    Ok([stats.pending, stats.dead_letters, timeouts.pending])
}

/// What an earlier run left, verified.
fn read_so_far(file: &mut File) -> Result<Tally, Failure> {
    let mut first = Vec::new();
    let length = u64::try_from(FIRST_BYTES.len()).unwrap_or_default();
    Read::by_ref(file).take(length).read_to_end(&mut first)?;
    if !FIRST_BYTES.starts_with(&first) {
        return Err(Failure::failed("the file is there and is no export; give another one"));
    }
    file.seek(SeekFrom::Start(0))?;
    let mut reader = ExportReader::new(BufReader::new(file));
    while reader.next_entry()?.is_some() {}
    Ok(reader.tally().clone())
}
