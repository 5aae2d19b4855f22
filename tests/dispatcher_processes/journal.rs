//! What was delivered, in order: a file to which all processes append.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, ensure};
use sagastore::OutboxRecord;

/// One delivery.
#[derive(Debug)]
pub(crate) struct Entry {
    process: u32,
    stream: String,
    number: i64,
    message: String,
}

impl Entry {
    pub(crate) fn of(record: &OutboxRecord, process: u32) -> Self {
        let payload: serde_json::Value = serde_json::from_slice(record.payload()).unwrap();
        let number = payload["Added"]["number"].as_i64().unwrap();
        Self { process, stream: record.aggregate_id.clone(), number, message: record.envelope.message_id.to_string() }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {} {} {}", self.process, self.stream, self.number, self.message)
    }
}

impl FromStr for Entry {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> anyhow::Result<Self> {
        let parts: Vec<&str> = line.split(' ').collect();
        let [process, stream, number, message] = *parts.as_slice() else { anyhow::bail!("a torn line: {line:?}") };
        let (process, number) = (process.parse()?, number.parse()?);
        Ok(Self { process, stream: stream.to_owned(), number, message: message.to_owned() })
    }
}

/// What a journal tells.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told {
    pub(crate) deliveries: usize,
    pub(crate) repeats: usize,
    /// How often a stream went from one process to another.
    pub(crate) takeovers: usize,
}

/// A journal that is read while it grows: first deliveries are in order, and repeats come under the same id.
pub(crate) struct Reading {
    file: File,
    /// The beginning of a line whose end is not there yet.
    begun: String,
    told: Told,
    messages: HashMap<(String, i64), String>,
    next: HashMap<String, i64>,
    owners: HashMap<String, u32>,
    ids: HashSet<String>,
}

impl Reading {
    pub(crate) fn open(journal: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            file: File::open(journal)?,
            begun: String::new(),
            told: Told::default(),
            messages: HashMap::new(),
            next: HashMap::new(),
            owners: HashMap::new(),
            ids: HashSet::new(),
        })
    }

    /// As far as it was read.
    pub(crate) fn told(&self) -> Told {
        self.told
    }

    /// Reads and checks what was added.
    pub(crate) fn go_on(&mut self) -> anyhow::Result<Told> {
        self.file.read_to_string(&mut self.begun)?;
        let whole = self.begun.rfind('\n').map_or(0, |end| end + 1);
        let rest = self.begun.split_off(whole);
        for line in std::mem::replace(&mut self.begun, rest).lines() {
            self.check(line.parse()?)?;
        }
        Ok(self.told)
    }

    fn check(&mut self, entry: Entry) -> anyhow::Result<()> {
        let Entry { process, stream, number, message } = entry;
        self.told.deliveries += 1;
        let expected = self.next.entry(stream.clone()).or_default();
        ensure!(number <= *expected, "stream {stream}: {number} was delivered before {expected}, by process {process}");
        if number < *expected {
            self.told.repeats += 1;
            let first = self.messages.get(&(stream.clone(), number)).context("no first delivery")?;
            ensure!(*first == message, "stream {stream}: message {number} has two ids");
        } else {
            *expected += 1;
            ensure!(self.ids.insert(message.clone()), "two messages have the id {message}");
            self.messages.insert((stream.clone(), number), message);
        }
        if self.owners.insert(stream, process).is_some_and(|before| before != process) {
            self.told.takeovers += 1;
        }
        Ok(())
    }

    /// Once nobody delivers any more: of each stream so many messages as were committed are there, and no others.
    pub(crate) fn finish(&mut self, committed: &HashMap<String, i64>) -> anyhow::Result<()> {
        self.go_on()?;
        ensure!(self.begun.is_empty(), "the journal ends in the middle of a line: {:?}", self.begun);
        for (stream, committed) in committed {
            let delivered = self.next.get(stream).copied().unwrap_or_default();
            ensure!(delivered == *committed, "stream {stream}: {committed} committed, {delivered} delivered");
        }
        ensure!(self.next.len() <= committed.len(), "what was never committed was delivered");
        Ok(())
    }
}
