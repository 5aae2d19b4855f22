//! Writing an export.

use std::collections::VecDeque;

use sqlx::Pool;

use super::EXPORT_VERSION;
use super::error::TransferError;
use super::lines::{ExportedCommit, ExportedStream, Header, commit_line, line};
use super::tally::Tally;
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::ids::MessageId;
use crate::inspect::Inspector;
use crate::inspect::tables::{CommitRow, InspectTables, Place, StreamChoice, StreamColumns};
use crate::row;
use crate::stream_name::StreamName;

/// Streams that are read at once.
const STREAMS: u32 = 200;
/// Commits that are read at once.
const COMMITS: u32 = 500;

/// Exports all streams with all their commits, in the order in which the streams were started. Each commit is as it was when
/// it was read, and a stream that is committed after one that was started later has been exported is left out: export while
/// nothing writes to have the state of one moment. Damaged commits are an error.
#[derive(Debug)]
pub struct Exporter<DB: Backend> {
    inspector: Inspector<DB>,
    tally: Tally,
    /// Streams whose commits are being read, the next one first.
    streams: VecDeque<StreamColumns>,
    /// The last of them.
    to: i64,
    /// All of their commits were read.
    page_ended: bool,
    /// The last commit.
    place: Place,
    /// The stream whose line was written.
    open: Option<(i64, StreamName)>,
}

impl<DB: Backend> Exporter<DB> {
    /// An export from the beginning.
    pub fn new(pool: &Pool<DB>) -> Self {
        Self {
            inspector: Inspector::new(pool),
            tally: Tally::default(),
            streams: VecDeque::new(),
            to: i64::MIN,
            page_ended: true,
            place: Place::end_of(i64::MIN),
            open: None,
        }
    }

    /// An export that goes on after what was read of an earlier one, which is to be cut to
    /// [its whole lines](Tally::bytes). What was written since to streams before the last one is not in it.
    ///
    /// # Errors
    /// [`TransferError::Differs`] if the last stream is not in this database; the database's.
    pub async fn resume(pool: &Pool<DB>, read: &Tally) -> Result<Self, TransferError> {
        let mut export = Self { tally: read.clone(), ..Self::new(pool) };
        let Some(name) = &read.stream else { return Ok(export) };
        let stream = StreamName::new(name)?;
        let mut conn = export.inspector.connection("resuming an export").await?;
        let key = export.inspector.store().stream_key(&mut conn, &stream).await?;
        conn.release();
        let Some(key) = key else {
            let detail = "it is not there, so the export is of another database".to_owned();
            return Err(TransferError::Differs { stream: name.clone(), number: 0, detail });
        };
        (export.to, export.place) = (key.saturating_sub(1), Place { stream: key, number: read.number });
        export.open = Some((key, stream));
        Ok(export)
    }

    /// What was exported so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Some more lines, each whole and with its line break; `None` after the last one. It may be dropped half-way and called
    /// again. After an error go on by [`resume`](Self::resume), from what was written.
    ///
    /// # Errors
    /// [`Error::Corrupt`] of a damaged commit; the database's.
    pub async fn next_lines(&mut self) -> Result<Option<String>, TransferError> {
        if self.tally.finished {
            return Ok(None);
        }
        let mut conn = self.inspector.connection("exporting").await?;
        if self.page_ended {
            let choice = StreamChoice::all_after(self.to);
            self.streams = self.inspector.store().streams(&mut conn, &choice, STREAMS).await?.into();
            let Some(last) = self.streams.back() else {
                conn.release();
                let mut lines = self.first_lines()?;
                let end = self.tally.last_line();
                self.add(&mut lines, &encoded(line("end", &end))?);
                self.tally.finished = true;
                return Ok(Some(lines));
            };
            (self.to, self.page_ended) = (last.key, false);
        }
        let page = self.inspector.store().commit_rows(&mut conn, self.place, self.to, COMMITS).await?;
        self.list_late(&mut conn, &page.rows).await?;
        conn.release();
        let mut lines = self.first_lines()?;
        for row in page.rows {
            self.commit(row, &mut lines)?;
        }
        self.page_ended = !page.more;
        Ok(Some(lines))
    }

    /// Lists the streams that were committed after the others of their page had been listed.
    async fn list_late(&mut self, conn: &mut DB::Connection, rows: &[CommitRow]) -> Result<()> {
        let mut listed = self.open.as_ref().map(|(key, _)| *key);
        for row in rows {
            if listed.replace(row.stream) == Some(row.stream) {
                continue;
            }
            let at = self.streams.partition_point(|stream| stream.key < row.stream);
            if self.streams.get(at).is_none_or(|stream| stream.key != row.stream) {
                let Some(late) = self.inspector.store().stream_of_key(conn, row.stream).await? else { break };
                self.streams.insert(at, late);
            }
        }
        Ok(())
    }

    /// The header, if it was not written yet.
    fn first_lines(&mut self) -> Result<String> {
        let mut lines = String::new();
        if self.tally.lines == 0 {
            self.add(&mut lines, &encoded(line("header", &Header { sagastore_export: EXPORT_VERSION }))?);
        }
        Ok(lines)
    }

    fn add(&mut self, lines: &mut String, line: &str) {
        self.tally.add_line(line.as_bytes());
        lines.push_str(line);
    }

    fn commit(&mut self, row: CommitRow, lines: &mut String) -> Result<(), TransferError> {
        let (place, handled) = (row.place(), row.handled.map(MessageId::from));
        let name = self.stream(row.stream, lines)?;
        let stored = row::commit(&name, row.columns)?;
        let commit = ExportedCommit {
            number: stored.commit_number,
            first_offset: stored.first_offset,
            recorded_at: stored.recorded_at,
            handled,
            completed: stored.completed,
            messages: stored.messages(&name)?,
        };
        if let Err(detail) = self.tally.check_next(&commit) {
            return Err(Error::corrupt(&name, commit.first_offset, detail).into());
        }
        self.add(lines, &encoded(commit_line(&commit))?);
        self.tally.add_commit(&commit);
        self.place = place;
        Ok(())
    }

    /// The name of a stream, whose line is written before its first commit.
    fn stream(&mut self, key: i64, lines: &mut String) -> Result<StreamName, TransferError> {
        if let Some((open, name)) = &self.open
            && *open == key
        {
            return Ok(name.clone());
        }
        // Those before it have no commits.
        while self.streams.front().is_some_and(|stream| stream.key < key) {
            self.streams.pop_front();
        }
        let Some(columns) = self.streams.pop_front().filter(|stream| stream.key == key) else {
            let detail = "there are commits of a stream that has no row".to_owned();
            return Err(TransferError::Differs { stream: format!("(key {key})"), number: 0, detail });
        };
        let name = StreamName::new(&columns.name)?;
        let stream = ExportedStream {
            name: columns.name,
            saga: columns.persistence_key,
            instance: columns.instance_id,
            created_at: columns.created_at,
            completed_at: columns.completed_at,
        };
        self.add(lines, &encoded(line("stream", &stream))?);
        self.tally.add_stream(&stream);
        self.open = Some((key, name.clone()));
        Ok(name)
    }
}

fn encoded(line: Result<String, serde_json::Error>) -> Result<String> {
    line.map_err(|fault| Error::Unencodable { what: "line of an export".to_owned(), source: fault.into() })
}
