//! The test kit, tested: that what it expects is met and missed as it should, that its suite passes on the built-in
//! stores and fails on stores that break a promise, and that faults come when they were asked for.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod broken;
mod databases;
mod faults;
mod order;
mod own_values;
mod saga;
mod saga_replay;
mod saga_timeouts;
mod suite;
