//! Tests of sagas.

pub mod conformance;
mod saga;

pub use saga::{ExpectedCommand, ExpectedTimeout, MAX_DELIVERIES, SagaTest, TEST_START, stored_json};
