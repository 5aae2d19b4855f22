//! A snapshot's body, under every codec.

use std::collections::BTreeMap;

use sagastore::{BINCODE_CONTENT_TYPE, Codec, Codecs, JSON_CONTENT_TYPE};
use serde::{Deserialize, Serialize};

/// A state with all that has a length, and that holds itself.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct State {
    number: i64,
    text: String,
    bytes: Vec<u8>,
    names: BTreeMap<String, u32>,
    lines: Vec<Line>,
    inner: Option<Box<State>>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Line {
    Empty,
    Note(String),
    Part { weight: Option<u64>, parts: Vec<Line> },
}

/// The input: a byte that chooses the codec, then the body.
pub(crate) fn snapshot(input: &[u8]) {
    let (flags, body) = input.split_first().unwrap_or((&0, &[]));
    let codecs = Codecs::default();
    let content_type = match flags % 3 {
        0 => BINCODE_CONTENT_TYPE,
        1 => JSON_CONTENT_TYPE,
        _ => "text/plain",
    };
    let Ok(state) = codecs.decode::<State>(content_type, body) else { return };
    for codec in [codecs.events(), codecs.snapshots()] {
        let mut encoded = Vec::new();
        // What one codec reads may nest too deep for another, which then does not write it either.
        if codec.encode(&state, &mut encoded).is_err() {
            continue;
        }
        assert_eq!(codecs.decode::<State>(codec.content_type(), &encoded).unwrap(), state);
    }
}

/// Bodies that decode.
pub(crate) fn samples() -> Vec<Vec<u8>> {
    let parts = vec![Line::Empty, Line::Note("note".into())];
    let part = |parts| Line::Part { weight: Some(7), parts };
    let state = State {
        number: -5,
        text: "text".into(),
        bytes: vec![0, 255],
        names: BTreeMap::from([("one".into(), 1), ("two".into(), 2)]),
        lines: vec![Line::Empty, part(parts)],
        inner: Some(Box::new(State { lines: vec![part(Vec::new())], ..State::default() })),
    };
    let codecs = Codecs::default();
    let body = |flags: u8, codec: &dyn Codec, state: &State| {
        let mut sample = vec![flags];
        codec.encode(state, &mut sample).unwrap();
        sample
    };
    vec![
        body(0, codecs.snapshots(), &state),
        body(0, codecs.snapshots(), &State::default()),
        body(1, codecs.events(), &state),
        body(1, codecs.events(), &State::default()),
    ]
}
