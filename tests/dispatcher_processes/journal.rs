//! What was delivered, in order: a file to which all processes append.

use std::collections::{HashMap, HashSet};
use std::fmt;
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
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) deliveries: usize,
    pub(crate) repeats: usize,
    /// How often a stream went from one process to another.
    pub(crate) takeovers: usize,
}

/// Checks that of each stream so many messages as were committed are there, first deliveries in order, and repeats
/// under the same id.
pub(crate) fn check(journal: &str, committed: &HashMap<String, i64>) -> anyhow::Result<Told> {
    let (mut told, mut messages) = (Told::default(), HashMap::<(String, i64), String>::new());
    let (mut next, mut owners, mut ids) =
        (HashMap::<String, i64>::new(), HashMap::<String, u32>::new(), HashSet::new());
    for line in journal.lines() {
        let Entry { process, stream, number, message } = line.parse()?;
        told.deliveries += 1;
        let expected = next.entry(stream.clone()).or_default();
        ensure!(number <= *expected, "stream {stream}: {number} was delivered before {expected}");
        if number < *expected {
            told.repeats += 1;
            let first = messages.get(&(stream.clone(), number)).context("no first delivery")?;
            ensure!(*first == message, "stream {stream}: message {number} has two ids");
        } else {
            *expected += 1;
            ensure!(ids.insert(message.clone()), "two messages have the id {message}");
            messages.insert((stream.clone(), number), message);
        }
        if owners.insert(stream, process).is_some_and(|before| before != process) {
            told.takeovers += 1;
        }
    }
    for (stream, committed) in committed {
        let delivered = next.get(stream).copied().unwrap_or_default();
        ensure!(delivered == *committed, "stream {stream}: {committed} committed, {delivered} delivered");
    }
    ensure!(next.len() <= committed.len(), "what was never committed was delivered");
    Ok(told)
}
