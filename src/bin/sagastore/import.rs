//! The verb `import`.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use sagastore::Backend;
use sagastore::transfer::{ExportReader, Importer};
use serde_json::json;
use sqlx::Pool;

use crate::arguments::Import;
use crate::connect::{Connected, with_pool};
use crate::output::Output;
use crate::progress::Progress;
use crate::verdict::{Outcome, Verdict};

pub(crate) async fn run(connected: &Connected, wanted: &Import, output: &mut Output) -> Outcome {
    with_pool!(connected, pool => import(pool, wanted, output).await)
}

pub(crate) fn reader(path: &Path) -> std::io::Result<(ExportReader<BufReader<File>>, Progress)> {
    let file = File::open(path)?;
    let progress = Progress::of_bytes("reading", file.metadata()?.len());
    Ok((ExportReader::new(BufReader::new(file)), progress))
}

async fn import<DB: Backend>(pool: &Pool<DB>, wanted: &Import, output: &mut Output) -> Outcome {
    sagastore::check_schema(pool).await?;
    let (mut reader, progress) = reader(&wanted.file)?;
    let mut import = Importer::new(pool);
    if wanted.deliver {
        import = import.with_delivery();
    }
    while import.next_page(&mut reader).await? {
        progress.count(reader.tally().bytes);
    }
    progress.end();
    let done = import.imported();
    if output.is_json() {
        output.object(&json!({ "imported": { "commits": done.commits, "skipped": done.skipped } }))?;
    } else {
        output.line(format_args!("imported {} commits; {} were there already", done.commits, done.skipped))?;
    }
    output.flush()?;
    Ok(Verdict::Fine)
}
