//! The lines of an export.

use std::fmt::Write;

use sagastore::transfer::{Entry, ExportReader};

/// The input: a byte of flags, then the lines.
///
/// As they are, or each of them as the text of a line whose checksum is right, which damage alone never gets to:
/// there the first letter says what kind of line it is.
pub(crate) fn export(input: &[u8]) {
    let (flags, rest) = input.split_first().unwrap_or((&0, &[]));
    let lines = if flags & 1 == 0 { rest.to_vec() } else { with_checksums(rest).into_bytes() };
    let mut reader = ExportReader::new(&*lines);
    let (mut streams, mut commits) = (0, 0);
    let ended = loop {
        match reader.next_entry() {
            Ok(Some(Entry::Stream(_))) => streams += 1,
            Ok(Some(Entry::Commit(_))) => commits += 1,
            Ok(Some(_)) => {}
            Ok(None) => break true,
            Err(_) => break false,
        }
    };
    assert_eq!((reader.tally().streams, reader.tally().commits), (streams, commits), "each entry is counted once");
    let finished = reader.tally().finished;
    assert_eq!(ExportReader::new(&*lines).verify().is_ok(), ended && finished, "verified if read to the end");
}

fn with_checksums(texts: &[u8]) -> String {
    let mut lines = line("header", r#"{"sagastore_export":1}"#);
    for text in String::from_utf8_lossy(texts).lines() {
        let mut letters = text.chars();
        match letters.next() {
            Some('s') => lines += &line("stream", letters.as_str()),
            Some('c') => lines += &line("commit", letters.as_str()),
            Some('e') => lines += &line("end", letters.as_str()),
            _ => lines += &line("header", letters.as_str()),
        }
    }
    lines
}

fn line(kind: &str, text: &str) -> String {
    let mut line = String::new();
    writeln!(line, r#"{{"crc":{},"{kind}":{text}}}"#, crc32fast::hash(text.as_bytes())).unwrap();
    line
}
