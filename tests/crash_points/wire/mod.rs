//! What two servers' protocols say about where a request begins, where it ends, and when it is answered.

pub(crate) mod mysql;
pub(crate) mod postgres;

/// A request of a client, as a person may want to read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) text: String,
    /// It came in the middle of a transaction.
    pub(crate) inside: bool,
}

/// Bytes that are passed on together.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) bytes: Vec<u8>,
    /// What they ask for; `None` if they are not to be counted.
    pub(crate) request: Option<Request>,
}

/// One connection, seen from between.
pub(crate) trait Wire: Send {
    /// Takes what the client sent; gives what is complete of it.
    fn sent(&mut self, bytes: &[u8]) -> Vec<Piece>;

    /// A piece is about to be passed on to the server.
    fn passed_on(&mut self, piece: &Piece);

    /// Takes what the server sent.
    fn answered(&mut self, bytes: &[u8]);

    /// Everything that was passed on is answered whole.
    fn is_answered(&self) -> bool;
}

/// Which protocol.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Protocol {
    Postgres,
    Mysql,
}

impl Protocol {
    pub(crate) fn wire(self) -> Box<dyn Wire> {
        match self {
            Self::Postgres => Box::new(postgres::PostgresWire::default()),
            Self::Mysql => Box::new(mysql::MysqlWire::default()),
        }
    }
}

/// A text in one line.
pub(crate) fn in_one_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
