//! Which errors are worth trying again, one by one.

use super::*;

/// One of each kind.
fn all() -> Vec<Error> {
    let (doing, detail) = ("trying", String::new);
    let source = || Cause::from("a cause");
    let stream = || StreamName::new("a").expect("a name");
    let instance = || InstanceId::new("1").expect("an id");
    let (message_id, offset) = (MessageId::new(), Offset::ZERO);
    vec![
        Error::Conflict { stream: stream(), expected: offset, actual: offset },
        Error::ForeignInstance { instance: instance(), asked: detail(), found: detail() },
        Error::Corrupt { stream: stream(), offset, detail: detail() },
        Error::UnknownType { stream: stream(), offset, message_id, name: detail(), version: 1 },
        Error::Undecodable { stream: stream(), offset, message_id, content_type: detail(), source: source() },
        Error::Unencodable { what: detail(), source: source() },
        Error::TooLarge { what: "it", size: 2, limit: 1 },
        Error::InvalidInput { what: "it", detail: detail() },
        Error::DuplicateMessage { message_id, stream: stream() },
        Error::Completed { instance: instance() },
        Error::SchemaMissing { doing },
        Error::SchemaNewer { found: 2, known: 1 },
        Error::Migration { source: source() },
        Error::Unsupported { what: "it", detail: "" },
        Error::GlobalOrderRestored,
        Error::Contention { doing, source: source() },
        Error::Timeout { doing, source: source() },
        Error::PoolTimeout { doing },
        Error::Closed { doing },
        Error::Disconnected { doing, source: source() },
        Error::Denied { doing, source: source() },
        Error::Storage { doing, source: source() },
        Error::Sender { message_id, source: source() },
        Error::Handler { saga: detail(), instance: instance(), message_id, source: source() },
        Error::InstanceNotFound { saga: detail(), message_id, type_name: detail() },
        Error::UndecodableMessage { message_id, type_name: detail(), content_type: detail(), source: source() },
        Error::KeyHeld { saga: detail(), instance: instance(), key: detail() },
        Error::Fenced { resource: detail(), token: FencingToken::new(1) },
        Error::LockLost { resource: detail(), detail: detail() },
        Error::NotReleased { resource: detail() },
        Error::LockerBusy { resource: detail(), limit: 1 },
        Error::NeverStarted { doing },
        Error::MaxRetries { resource: detail(), tries: 1 },
        Error::UnlockFailed { resource: detail(), tries: 1, source: Box::new(Error::PoolTimeout { doing }) },
    ]
}

/// Without a wildcard, so that a new kind is thought about.
fn is_trouble_that_passes(error: &Error) -> bool {
    match error {
        Error::Contention { .. } | Error::Timeout { .. } | Error::PoolTimeout { .. } | Error::Disconnected { .. } => {
            true
        }
        Error::Conflict { .. }
        | Error::ForeignInstance { .. }
        | Error::Corrupt { .. }
        | Error::UnknownType { .. }
        | Error::Undecodable { .. }
        | Error::Unencodable { .. }
        | Error::TooLarge { .. }
        | Error::InvalidInput { .. }
        | Error::DuplicateMessage { .. }
        | Error::Completed { .. }
        | Error::SchemaMissing { .. }
        | Error::SchemaNewer { .. }
        | Error::Migration { .. }
        | Error::Unsupported { .. }
        | Error::GlobalOrderRestored
        | Error::Closed { .. }
        | Error::Denied { .. }
        | Error::Storage { .. }
        | Error::Sender { .. }
        | Error::Handler { .. }
        | Error::InstanceNotFound { .. }
        | Error::UndecodableMessage { .. }
        | Error::KeyHeld { .. }
        | Error::Fenced { .. }
        | Error::LockLost { .. }
        | Error::NotReleased { .. }
        | Error::LockerBusy { .. }
        | Error::NeverStarted { .. }
        | Error::MaxRetries { .. }
        | Error::UnlockFailed { .. } => false,
    }
}

#[test]
fn only_troubles_of_the_database_that_pass_are_transient() {
    for error in all() {
        assert_eq!(error.is_transient(), is_trouble_that_passes(&error), "{error:?}");
        assert_eq!(error.is_conflict(), matches!(error, Error::Conflict { .. }), "{error:?}");
    }
}
