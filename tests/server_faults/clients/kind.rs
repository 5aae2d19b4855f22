//! Errors as they are written down.

use sagastore::{Error, MessageStore};

use crate::site::Site;

/// The errors that may be tried again, the only ones that an outage may bring.
const PASSING: [&str; 5] = ["Conflict", "Contention", "Timeout", "PoolTimeout", "Disconnected"];
/// In the library's errors and in those of a client's own statements.
const OF_FULL_DISKS: [&str; 2] = ["Storage", "Handler"];
/// Before what a statement of the client's own would be called.
const OWN: &str = "Own";

/// The variant of an error with the database's own code, in one word, and what it says.
pub(crate) fn kind<DB: Site>(error: &Error) -> String {
    let debug = format!("{error:?}");
    let name = debug.split([' ', '{', '(']).next().unwrap_or_default();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(answer) = error.downcast_ref::<sqlx::Error>().and_then(sqlx::Error::as_database_error) {
            return format!("{name}({}) {error}", DB::code(answer));
        }
        cause = error.source();
    }
    format!("{name} {error}")
}

/// The same for a statement of the client's own.
pub(crate) fn own<DB: Site>(error: sqlx::Error) -> String {
    let error = DB::Store::default().classify("running a statement of the client's own", error);
    format!("{OWN}{}", kind::<DB>(&error))
}

/// Whether the library may answer so while its database fails: that it may be tried again, or that the disk is full. While
/// it is, a server may say whatever it likes: of its temporary tables it says that they are damaged.
pub(crate) fn is_expected<DB: Site>(kind: &str, disk_is_full: bool) -> bool {
    let (name, code) = split(kind);
    PASSING.contains(&name) || OF_FULL_DISKS.contains(&name) && (disk_is_full || DB::FULL.contains(&code))
}

/// Whether a row of the client's own was there already.
pub(crate) fn is_duplicate<DB: Site>(kind: &str) -> bool {
    split(kind).1 == DB::DUPLICATE
}

/// The variant and the code.
fn split(kind: &str) -> (&str, &str) {
    let kind = kind.strip_prefix(OWN).unwrap_or(kind);
    let (name, code) = kind.split_once('(').unwrap_or((kind, ""));
    (name, code.trim_end_matches(')'))
}
