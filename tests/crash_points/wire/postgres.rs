//! PostgreSQL: a request is a simple query, or a run of messages that ends with Sync.

use std::collections::HashMap;

use super::{Piece, Request, Wire, in_one_line};

/// A message's type and length.
const HEADER: usize = 5;

#[derive(Debug, Default)]
pub(crate) struct PostgresWire {
    client: Vec<u8>,
    server: Vec<u8>,
    /// The session is set up: the server was ready once.
    ready: bool,
    /// The message that begins a session has no type.
    begun: bool,
    unanswered: u32,
    in_transaction: bool,
    /// The run of messages that is not at its end.
    run: Vec<u8>,
    asks: Vec<String>,
    statements: HashMap<Vec<u8>, String>,
}

fn length(header: &[u8]) -> Option<usize> {
    let bytes: [u8; 4] = header.get(..4)?.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(bytes)).ok()
}

/// Up to the NUL, and what comes after it.
fn text(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    (&bytes[..end], bytes.get(end + 1..).unwrap_or_default())
}

/// Takes the first whole message, if there is one; `typed` messages have one byte before their length.
fn take(buffer: &mut Vec<u8>, typed: bool) -> Option<Vec<u8>> {
    let before = usize::from(typed);
    let whole = before + length(buffer.get(before..)?)?;
    (buffer.len() >= whole).then(|| buffer.drain(..whole).collect())
}

impl PostgresWire {
    fn message(&mut self, message: &[u8]) -> Option<Request> {
        let (kind, body) = (message[0], &message[HEADER..]);
        match kind {
            b'P' => {
                let (name, rest) = text(body);
                let sql = in_one_line(text(rest).0);
                self.statements.insert(name.to_vec(), sql.clone());
                self.asks.push(format!("prepare {sql}"));
            }
            b'B' => {
                let (name, _) = text(text(body).1);
                self.asks.push(self.statements.get(name).cloned().unwrap_or_default());
            }
            b'Q' => self.asks.push(in_one_line(text(body).0)),
            _ => {}
        }
        let ends = matches!(kind, b'Q' | b'S');
        ends.then(|| Request { text: self.asks.drain(..).collect::<Vec<_>>().join("; "), inside: self.in_transaction })
    }
}

impl Wire for PostgresWire {
    fn sent(&mut self, bytes: &[u8]) -> Vec<Piece> {
        self.client.extend_from_slice(bytes);
        let mut pieces = Vec::new();
        while let Some(message) = take(&mut self.client, self.begun) {
            self.begun = true;
            if !self.ready {
                pieces.push(Piece { bytes: message, request: None });
                continue;
            }
            let request = self.message(&message);
            self.run.extend_from_slice(&message);
            // Nothing is answered to a farewell; a flush asks for what there is so far.
            if request.is_some() || matches!(message[0], b'X' | b'H') {
                pieces.push(Piece { bytes: std::mem::take(&mut self.run), request });
            }
        }
        pieces
    }

    fn passed_on(&mut self, piece: &Piece) {
        self.unanswered += u32::from(piece.request.is_some());
    }

    fn answered(&mut self, bytes: &[u8]) {
        self.server.extend_from_slice(bytes);
        while let Some(message) = take(&mut self.server, true) {
            if message[0] == b'Z' {
                self.in_transaction = message.get(HEADER).is_some_and(|state| *state != b'I');
                self.unanswered = self.unanswered.saturating_sub(u32::from(self.ready));
                self.ready = true;
            }
        }
    }

    fn is_answered(&self) -> bool {
        self.unanswered == 0
    }
}
