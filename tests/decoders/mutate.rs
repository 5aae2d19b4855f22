//! Inputs that are a little wrong.

use fastrand::Rng;

/// Most changes of one input.
const CHANGES: usize = 6;
/// Longest input.
const MAX_BYTES: usize = 64 * 1024;

/// What decoders have tripped over.
const TELLING: [&[u8]; 12] = [
    b"18446744073709551615",
    b"-9223372036854775808",
    b"4294967296",
    b"-1",
    b"1e400",
    b"null",
    b"\"\\ud800\"",
    b"\\u0000",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xfd\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xf0\x9f\x92\xa5",
];

/// One of the samples with a few changes.
pub(crate) fn mutate(random: &mut Rng, samples: &[Vec<u8>]) -> Vec<u8> {
    let mut input = random.choice(samples).unwrap().clone();
    for _ in 0..random.usize(0..=CHANGES) {
        change(random, &mut input, samples);
    }
    input.truncate(MAX_BYTES);
    input
}

fn change(random: &mut Rng, input: &mut Vec<u8>, samples: &[Vec<u8>]) {
    let at = random.usize(0..=input.len());
    let until = at + random.usize(0..=(input.len() - at).min(16));
    match random.u32(0..8) {
        0 => drop(input.drain(at..until)),
        1 => input.truncate(at),
        2 => drop(input.splice(at..until, random.choice(TELLING).unwrap().iter().copied())),
        3 => {
            let again = input[at..until].to_vec();
            drop(input.splice(at..at, again));
        }
        4 => {
            let other = random.choice(samples).unwrap();
            let from = random.usize(0..=other.len());
            input.truncate(at);
            input.extend(&other[from..]);
        }
        5 => input.insert(at, random.u8(..)),
        _ if at < input.len() => input[at] ^= 1 << random.u32(0..8),
        _ => {}
    }
}
