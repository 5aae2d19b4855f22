//! What reads bytes from a database or a file, given bytes that nobody wrote: it neither panics nor takes much memory, and
//! what it accepts can be written and read again.
//!
//! The inputs are those of `tests/fuzz/corpus`, which a fuzzer found, each as it is and with random changes. The fuzzer
//! itself runs the same decoders: see `tests/fuzz`. SAGASTORE_TEST_SEED=n begins at that seed.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

use std::io::Write;
use std::path::Path;

use fastrand::Rng;

mod commit;
mod export;
mod mutate;
mod snapshot;

/// Most memory that the program may have taken in the end.
#[cfg(target_os = "linux")]
const MEMORY_KIB: u64 = 256 * 1024;
/// Most that it may have asked for, its threads' stacks and arenas among it.
#[cfg(target_os = "linux")]
const ADDRESSES_KIB: u64 = 2 * 1024 * 1024;

/// Random inputs for each decoder.
fn inputs() -> u64 {
    if std::env::var_os("SAGASTORE_LONG").is_some() { 2_000_000 } else { 20_000 }
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

fn withstands(name: &str, samples: &[Vec<u8>], decode: impl Fn(&[u8]) + std::panic::RefUnwindSafe) {
    assert!(samples.len() >= 4, "there are too few samples of {name}");
    let first: u64 = std::env::var("SAGASTORE_TEST_SEED").map_or(0, |seed| seed.parse().unwrap());
    samples.iter().for_each(|sample| decode(sample));
    for seed in first..first + inputs() {
        let input = mutate::mutate(&mut Rng::with_seed(seed), samples);
        let done = std::panic::catch_unwind(|| decode(&input));
        assert!(done.is_ok(), "the {name} of SAGASTORE_TEST_SEED={seed} is not withstood: {}", input.escape_ascii());
    }
    check_memory();
    // Not by println, which a test that passes keeps to itself: tests/run looks for it.
    let mut out = std::io::stdout();
    let (samples, inputs) = (samples.len(), inputs());
    writeln!(out, "decoders: {name}: {samples} samples and {inputs} changed ones withstood, from seed {first} on")
        .unwrap();
}

#[cfg(target_os = "linux")]
fn check_memory() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let kib = |name: &str| -> u64 {
        let most = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        most.trim().trim_end_matches(" kB").parse().unwrap()
    };
    let (taken, asked) = (kib("VmHWM:"), kib("VmPeak:"));
    assert!(taken < MEMORY_KIB, "the program took {taken} KiB of memory");
    assert!(asked < ADDRESSES_KIB, "the program asked for {asked} KiB of memory");
}

#[cfg(not(target_os = "linux"))]
fn check_memory() {}

#[test]
fn no_commit_makes_its_decoder_panic_or_take_much_memory() {
    withstands("commit", &corpus("commit"), commit::commit);
}

#[test]
fn no_snapshot_makes_its_decoder_panic_or_take_much_memory() {
    let mut samples = snapshot::samples();
    samples.extend(corpus("snapshot"));
    withstands("snapshot", &samples, snapshot::snapshot);
}

#[test]
fn no_export_makes_its_reader_panic_or_take_much_memory() {
    withstands("export", &corpus("export"), export::export);
}
