//! The emitters for brokers, each against a real broker.
//!
//! Brokers are found by SAGASTORE_TEST_NATS_URL and SAGASTORE_TEST_RABBITMQ_URL; without one, its trials are reported as
//! ignored. A broker that is named in SAGASTORE_TEST_ONLY, or whose URL is set, and that cannot be reached, fails its
//! trials. Those that kill or stop a broker need SAGASTORE_TEST_…_PID, its process id, and SAGASTORE_TEST_…_RESTART, a
//! program that becomes the broker, and fail without. One trial runs at a time, since they share the brokers.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a trial fails")]

use std::process::ExitCode;

#[path = "../conformance/harness/arguments.rs"]
mod arguments;
mod broker;
mod messages;
mod nats;
mod proxy;
mod rabbitmq;
mod relay;
mod suite;

fn main() -> ExitCode {
    if let Some(done) = relay::job() {
        return done;
    }
    let command_line = arguments::CommandLine::read();
    let mut suite = suite::Suite::new();
    nats::trials(&mut suite);
    rabbitmq::trials(&mut suite);
    suite.run(command_line)
}
