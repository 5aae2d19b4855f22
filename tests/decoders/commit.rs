//! A commit's row, as a damaged or hostile database may give it.

use sagastore::{CommitNumber, EncodedCommit, Limits, Offset, StoredCommit, StreamName};

/// The input: a byte of flags, then the contents up to a line break, then the body.
///
/// With a right checksum the index and the payloads are looked at, which damage alone never gets to.
pub(crate) fn commit(input: &[u8]) {
    let (flags, rest) = input.split_first().unwrap_or((&0, &[]));
    let line = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    let (contents, body) = rest.split_at(line);
    let contents = String::from_utf8_lossy(contents).into_owned();
    let body = body.get(1..).unwrap_or_default().to_vec();
    let checksum = if flags & 1 == 0 { checksum(&contents, &body) } else { 0 };
    // How many events it should have is taken from the contents more often than not.
    let events = contents.matches("\"id\"").count().saturating_sub(contents.matches("\"command\"").count());
    let stored = StoredCommit {
        commit_number: CommitNumber::ZERO,
        first_offset: if flags & 2 == 0 { Offset::ZERO } else { Offset::MAX },
        event_count: if flags & 4 == 0 { u32::try_from(events).unwrap() } else { u32::MAX },
        completed: flags & 8 != 0,
        recorded_at: sagastore::Timestamp::from_micros(i64::MAX),
        order_token: i64::MIN,
        causation_id: None,
        correlation_id: None,
        checksum,
        contents,
        body: body.into(),
    };
    let stream = StreamName::new("fuzzed/1").unwrap();
    let _ = stored.end();
    let Ok(messages) = stored.messages(&stream) else { return };
    let events = stored.events(&stream).unwrap();
    assert_eq!(u32::try_from(events.len()).unwrap(), stored.event_count, "as many events as the row says");
    comes_back(&stream, stored, messages);
}

/// What was read can be written, and is read again as it was.
fn comes_back(stream: &StreamName, stored: StoredCommit, messages: Vec<sagastore::Envelope>) {
    let Ok(encoded) = EncodedCommit::encode(stream, &messages, &Limits::default()) else { return };
    let again = StoredCommit {
        event_count: encoded.event_count,
        causation_id: encoded.causation_id,
        correlation_id: encoded.correlation_id,
        checksum: encoded.checksum,
        contents: encoded.contents,
        body: encoded.body.into(),
        ..stored
    };
    let mut expected = messages;
    expected.iter_mut().for_each(|message| message.recorded_at = Some(again.recorded_at));
    assert_eq!(again.messages(stream).unwrap(), expected);
}

fn checksum(contents: &str, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(contents.as_bytes());
    hasher.update(body);
    hasher.finalize()
}
