#![no_main]

#[path = "../../decoders/snapshot.rs"]
#[allow(dead_code, reason = "the samples are for the tests")]
mod snapshot;

libfuzzer_sys::fuzz_target!(|input: &[u8]| snapshot::snapshot(input));
