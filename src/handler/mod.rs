//! Hands messages to sagas.

mod handle_message;

pub use handle_message::HandleMessage;
