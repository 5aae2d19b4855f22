//! The verb `verify-replay`.

use std::path::Path;

use sagastore::transfer::{Entry, ExportedCommit, Tally};
use sagastore::{Envelope, JSON_CONTENT_TYPE};
use serde_json::json;

use crate::import::reader;
use crate::output::{Output, plain};
use crate::verdict::{Failure, Outcome, Verdict, whoever_reads};

pub(crate) fn run(path: &Path, output: &mut Output) -> Outcome {
    let (mut reader, progress) = reader(path)?;
    let (mut stream, mut broken, mut printed) = (String::new(), 0_u64, Ok(()));
    while let Some(entry) = reader.next_entry()? {
        match entry {
            Entry::Stream(next) => stream = next.name,
            Entry::Commit(commit) => {
                for message in commit.messages.iter().filter(|message| !is_readable(message)) {
                    broken += 1;
                    printed = printed.and_then(|()| tell(&stream, &commit, message, output));
                }
            }
            _ => {}
        }
        progress.count(reader.tally().bytes);
    }
    progress.end();
    let tally = reader.tally();
    let printed = printed.and_then(|()| sum_up(tally, broken, output)).and_then(|()| output.flush());
    if !tally.finished {
        return Err(Failure::failed("the export is not finished: its last line is missing; resume it"));
    }
    whoever_reads(printed, if broken == 0 { Verdict::Fine } else { Verdict::Found })
}

fn sum_up(tally: &Tally, broken: u64, output: &mut Output) -> std::io::Result<()> {
    if output.is_json() {
        return output.object(&json!({
            "verified": {
                "streams": tally.streams,
                "commits": tally.commits,
                "messages": tally.messages,
                "undecodable": broken,
                "finished": tally.finished,
            }
        }));
    }
    output.line(format_args!(
        "{} streams with {} commits and {} messages are as they were exported; {broken} payloads do not decode",
        tally.streams, tally.commits, tally.messages
    ))
}

/// Only of JSON it is known what makes it readable.
fn is_readable(message: &Envelope) -> bool {
    let is_json = |text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    // What is passed over in a slice need not be UTF-8.
    &*message.content_type != JSON_CONTENT_TYPE || std::str::from_utf8(&message.payload).is_ok_and(is_json)
}

fn tell(stream: &str, commit: &ExportedCommit, message: &Envelope, output: &mut Output) -> std::io::Result<()> {
    if output.is_json() {
        return output.object(&json!({
            "undecodable": { "stream": stream, "commit": commit.number.get(), "message_id": message.message_id }
        }));
    }
    let (name, number, id) = (plain(stream), commit.number, message.message_id);
    output.line(format_args!("stream {name:?}, commit {number}: the payload of message {id} is no JSON"))
}
