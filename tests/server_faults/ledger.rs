//! What each client was told, and when: a file to which all of them append.
//!
//! A line is one write, so that none is torn when the process is killed.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use sagastore::MessageId;

use super::clients::Manner;

/// One thing that happened to a client.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Told {
    /// It is about to handle a message.
    Tries(MessageId, Manner, String),
    /// The message is handled.
    Saved(MessageId),
    /// The message was handled before.
    Again(MessageId),
    /// Handling it failed, for this reason. `true`: it may be handled all the same.
    Failed(MessageId, bool, String),
    /// It was granted a lease on a resource, with this token.
    Granted(String, i64),
    /// It wrote under a lock on a resource, with this number.
    Wrote(String, i64),
    /// A fenced write was refused.
    Refused(String),
    /// A fenced write found that of a later holder there.
    Overlap(String),
    /// It let so many dead letters be delivered again.
    Revived(u64),
    /// Another call succeeded.
    Went,
    /// Another call failed, for this reason.
    Erred(String),
}

/// A line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    /// In milliseconds.
    pub(crate) at: u64,
    pub(crate) client: String,
    pub(crate) told: Told,
}

impl Entry {
    /// True if the client got what it wanted.
    pub(crate) fn succeeded(&self) -> bool {
        !matches!(self.told, Told::Tries(..) | Told::Failed(..) | Told::Erred(_) | Told::Overlap(_))
    }
}

pub(crate) fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// Writes down what happens.
#[derive(Debug)]
pub(crate) struct Ledger(File);

impl Ledger {
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        Ok(Self(OpenOptions::new().create(true).append(true).open(path)?))
    }

    pub(crate) fn tell(&self, client: &str, told: Told) {
        let entry = Entry { at: now(), client: client.to_owned(), told };
        (&self.0).write_all(format!("{entry}\n").as_bytes()).unwrap();
    }
}

/// All that happened, from this byte on.
pub(crate) fn read(path: &Path, from: u64) -> anyhow::Result<Vec<Entry>> {
    use std::io::{Read, Seek, SeekFrom};
    let (mut file, mut text) = (File::open(path)?, String::new());
    file.seek(SeekFrom::Start(from))?;
    file.read_to_string(&mut text)?;
    // The last line may be in the making.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(str::parse).collect()
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.at, self.client)?;
        match &self.told {
            Told::Tries(message, manner, name) => write!(f, "tries {message} {manner} {name}"),
            Told::Saved(message) => write!(f, "saved {message}"),
            Told::Again(message) => write!(f, "again {message}"),
            Told::Failed(message, maybe, why) => write!(f, "failed {message} {maybe} {}", one_line(why)),
            Told::Granted(resource, token) => write!(f, "granted {resource} {token}"),
            Told::Wrote(resource, number) => write!(f, "wrote {resource} {number}"),
            Told::Refused(resource) => write!(f, "refused {resource}"),
            Told::Overlap(what) => write!(f, "overlap {}", one_line(what)),
            Told::Revived(count) => write!(f, "revived {count}"),
            Told::Went => write!(f, "went"),
            Told::Erred(why) => write!(f, "erred {}", one_line(why)),
        }
    }
}

fn one_line(text: &str) -> String {
    text.replace('\n', " ")
}

impl FromStr for Entry {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> anyhow::Result<Self> {
        let parse = || -> anyhow::Result<Self> {
            let (at, rest) = line.split_once(' ').context("a torn line")?;
            let (client, rest) = rest.split_once(' ').context("a torn line")?;
            let (verb, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            let mut parts = rest.splitn(3, ' ');
            let mut part = || parts.next().context("a part is missing");
            let told = match verb {
                "tries" => Told::Tries(part()?.parse()?, part()?.parse()?, part()?.to_owned()),
                "saved" => Told::Saved(part()?.parse()?),
                "again" => Told::Again(part()?.parse()?),
                "failed" => Told::Failed(part()?.parse()?, part()?.parse()?, part()?.to_owned()),
                "granted" => Told::Granted(part()?.to_owned(), part()?.parse()?),
                "wrote" => Told::Wrote(part()?.to_owned(), part()?.parse()?),
                "refused" => Told::Refused(part()?.to_owned()),
                "overlap" => Told::Overlap(rest.to_owned()),
                "revived" => Told::Revived(part()?.parse()?),
                "went" => Told::Went,
                "erred" => Told::Erred(rest.to_owned()),
                _ => anyhow::bail!("an unknown verb"),
            };
            Ok(Self { at: at.parse()?, client: client.to_owned(), told })
        };
        parse().with_context(|| format!("line {line:?} of the ledger"))
    }
}
