#![no_main]

#[path = "../../decoders/commit.rs"]
#[allow(dead_code, reason = "the samples are for the tests")]
mod commit;

libfuzzer_sys::fuzz_target!(|input: &[u8]| commit::commit(input));
