//! An export is imported in pages, each whole or not at all, and the import is started again from the file's beginning.

use std::fs::{self, File};
use std::io::BufReader;

use anyhow::ensure;
use sagastore::transfer::{ExportReader, Exporter, Importer};
use sagastore::{Persister, migrate};
use sqlx::Sqlite;
use sqlx::sqlite::SqlitePoolOptions;

use super::Moment;
use crate::audit::commits_of;
use crate::desk::Desk;
use crate::saga::{OrderEvent, instance};
use crate::site::Site;

const ID: &str = "imported";
const FILE: &str = "export.jsonl";
const COMMITS: u32 = 510;
/// The first page has the stream's line and these.
const COMMITS_IN_PAGE: usize = 499;
/// One for each page.
pub(super) const CHANGES: usize = 2;

/// Makes the file, once for all processes.
pub(super) async fn prepare<DB: Site>(desk: &Desk<DB>) -> anyhow::Result<()> {
    let file = desk.journal.beside(FILE);
    if file.exists() {
        return Ok(());
    }
    let source = SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
    let _ = migrate(&source).await?;
    let persister = Persister::<Sqlite>::new().without_snapshots().with_instance_cache(&source, 1);
    let id = instance(ID);
    for number in 0..COMMITS {
        let stepped = OrderEvent::Stepped { number };
        let done = persister.execute(&source, &desk.saga, &id, None, |unit| unit.publish(stepped.clone()).map(drop));
        ensure!(!done.await?.is_already_handled(), "nothing was saved");
    }
    let (mut exporter, mut text) = (Exporter::new(&source), String::new());
    while let Some(lines) = exporter.next_lines().await? {
        text += &lines;
    }
    source.close().await;
    Ok(fs::write(file, text)?)
}

pub(super) async fn work<DB: Site>(desk: &Desk<DB>) -> anyhow::Result<()> {
    let mut reader = ExportReader::new(BufReader::new(File::open(desk.journal.beside(FILE))?));
    let mut importer = Importer::new(&desk.pool).with_delivery();
    while importer.next_page(&mut reader).await? {}
    let imported = importer.imported();
    ensure!(imported.commits + imported.skipped == u64::from(COMMITS), "{imported:?}");
    Ok(())
}

pub(super) async fn check<DB: Site>(desk: &Desk<DB>, moment: Moment) -> anyhow::Result<()> {
    let (all, there) = (usize::try_from(COMMITS)?, commits_of(desk, ID).await?.len());
    let whole: &[usize] = if moment == Moment::Killed { &[0, COMMITS_IN_PAGE, all] } else { &[all] };
    ensure!(whole.contains(&there), "{there} of {all} commits are there");
    Ok(())
}
