//! The verb `export`.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use sagastore::Backend;
use sagastore::transfer::{ExportReader, Exporter, Tally};
use serde_json::json;
use sqlx::Pool;

use crate::connect::{Connected, with_pool};
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
    if output.is_json() {
        output.object(&json!({ "exported": { "streams": streams, "commits": commits, "messages": messages } }))?;
    } else {
        let resumed = if read.lines > 0 { ", resumed" } else { "" };
        output
            .line(format_args!("exported {streams} streams with {commits} commits and {messages} messages{resumed}"))?;
    }
    output.flush()?;
    Ok(Verdict::Fine)
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
