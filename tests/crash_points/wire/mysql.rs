//! MySQL and MariaDB: a request is a packet with number zero.

use std::collections::{HashMap, VecDeque};

use super::{Piece, Request, Wire, in_one_line};

const HEADER: usize = 4;
const QUIT: u8 = 0x01;
const QUERY: u8 = 0x03;
const PREPARE: u8 = 0x16;
const EXECUTE: u8 = 0x17;
const LONG_DATA: u8 = 0x18;
const CLOSE_STATEMENT: u8 = 0x19;
/// In the client's first answer: sets of rows end with a packet of the kind that ends everything else.
const DEPRECATE_EOF: u32 = 1 << 24;
const IN_TRANSACTION: u16 = 1;
const MORE_RESULTS: u16 = 8;

/// What the server sends next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The beginning of an answer, if something was asked.
    Answer,
    /// So many packets that describe columns, and then rows.
    Columns(u64),
    /// So many packets that describe a prepared statement.
    Prepared(u64),
    Rows,
}

#[derive(Debug)]
pub(crate) struct MysqlWire {
    client: Vec<u8>,
    server: Vec<u8>,
    deprecates_eof: bool,
    greeted: bool,
    /// Commands that are not answered, and their texts.
    asked: VecDeque<(u8, String)>,
    next: Next,
    status: u16,
    statements: HashMap<u32, String>,
}

impl Default for MysqlWire {
    fn default() -> Self {
        let (client, server, asked, statements) = (Vec::new(), Vec::new(), VecDeque::new(), HashMap::new());
        Self { client, server, deprecates_eof: false, greeted: false, asked, next: Next::Answer, status: 0, statements }
    }
}

/// A little-endian number of so many bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A number of variable length, and what comes after it.
fn varying(bytes: &[u8]) -> (u64, &[u8]) {
    let length = match bytes[0] {
        0xfc => 2,
        0xfd => 3,
        0xfe => 8,
        small => return (u64::from(small), &bytes[1..]),
    };
    (number(&bytes[1..=length]), &bytes[1 + length..])
}

/// Takes the first whole packet, with its header.
fn take(buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let whole = HEADER + usize::try_from(number(buffer.get(..3)?)).ok()?;
    (buffer.len() >= whole).then(|| buffer.drain(..whole).collect())
}

impl MysqlWire {
    fn command(&self, packet: &[u8]) -> Option<Request> {
        let (command, body) = (packet[HEADER], &packet[HEADER + 1..]);
        let text = match command {
            QUIT | LONG_DATA | CLOSE_STATEMENT => return None,
            QUERY => in_one_line(body),
            PREPARE => format!("prepare {}", in_one_line(body)),
            EXECUTE => {
                let id = u32::try_from(number(&body[..4])).unwrap_or_default();
                self.statements.get(&id).cloned().unwrap_or_default()
            }
            other => format!("command {other}"),
        };
        Some(Request { text, inside: self.status & IN_TRANSACTION != 0 })
    }

    fn packet(&mut self, body: &[u8]) {
        let Some((command, text)) = self.asked.front() else { return };
        let first = body[0];
        // Columns are followed by an EOF packet unless the client wants none.
        let eofs = |groups: u64| if self.deprecates_eof { 0 } else { groups };
        let ends = match self.next {
            _ if first == 0xff => true,
            Next::Answer if *command == PREPARE => {
                let (columns, parameters) = (number(&body[5..7]), number(&body[7..9]));
                let id = u32::try_from(number(&body[1..5])).unwrap_or_default();
                let groups = u64::from(columns > 0) + u64::from(parameters > 0);
                let left = columns + parameters + eofs(groups);
                self.statements.insert(id, text.trim_start_matches("prepare ").to_owned());
                self.next = Next::Prepared(left);
                left == 0
            }
            Next::Answer if first == 0 => self.ends_with(varying(varying(&body[1..]).1).1),
            Next::Answer => {
                self.next = Next::Columns(varying(body).0 + eofs(1));
                false
            }
            Next::Columns(left) => {
                self.next = if left > 1 { Next::Columns(left - 1) } else { Next::Rows };
                false
            }
            Next::Prepared(left) => {
                self.next = Next::Prepared(left - 1);
                left == 1
            }
            Next::Rows if first == 0xfe && body.len() == 5 => self.ends_with(&body[3..]),
            Next::Rows if first == 0xfe => self.ends_with(varying(varying(&body[1..]).1).1),
            Next::Rows => false,
        };
        if ends {
            self.next = Next::Answer;
            self.asked.pop_front();
        }
    }

    /// Whether an answer ends with this status, or another one follows.
    fn ends_with(&mut self, status: &[u8]) -> bool {
        self.status = u16::try_from(number(&status[..2])).unwrap_or_default();
        self.next = Next::Answer;
        self.status & MORE_RESULTS == 0
    }
}

impl Wire for MysqlWire {
    fn sent(&mut self, bytes: &[u8]) -> Vec<Piece> {
        self.client.extend_from_slice(bytes);
        let mut pieces = Vec::new();
        while let Some(packet) = take(&mut self.client) {
            if !self.greeted {
                self.greeted = true;
                self.deprecates_eof = number(&packet[HEADER..HEADER + 4]) & u64::from(DEPRECATE_EOF) != 0;
            }
            let request = if packet[3] == 0 { self.command(&packet) } else { None };
            pieces.push(Piece { bytes: packet, request });
        }
        pieces
    }

    fn passed_on(&mut self, piece: &Piece) {
        if let Some(request) = &piece.request {
            self.asked.push_back((piece.bytes[HEADER], request.text.clone()));
        }
    }

    fn answered(&mut self, bytes: &[u8]) {
        self.server.extend_from_slice(bytes);
        while let Some(packet) = take(&mut self.server) {
            self.packet(&packet[HEADER..]);
        }
    }

    fn is_answered(&self) -> bool {
        self.asked.is_empty()
    }
}
