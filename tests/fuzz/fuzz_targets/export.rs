#![no_main]

#[path = "../../decoders/export.rs"]
#[allow(dead_code, reason = "the samples are for the tests")]
mod export;

libfuzzer_sys::fuzz_target!(|input: &[u8]| export::export(input));
