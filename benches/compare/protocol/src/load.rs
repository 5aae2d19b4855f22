use std::time::{Duration, Instant};

use crate::{Line, Peer, REPLAYED, REVISIONS, Tally};

/// A load is measured for so long, and at least so often.
const RUN: Duration = Duration::from_millis(60);
const AT_LEAST: usize = 3;

pub(crate) fn instance(revision: u32) -> String {
    format!("history-{revision}")
}

pub(crate) async fn prepare(peer: &impl Peer) {
    for revision in REVISIONS {
        peer.start(&instance(revision), revision).await;
    }
}

pub(crate) async fn measure<P: Peer>(peer: &P) {
    for revision in REVISIONS {
        let us = median(revision, async || peer.load(&instance(revision)).await).await;
        Line::Load { revision, us }.print();
    }
    if !P::REPLAYS {
        return;
    }
    let us = median(REPLAYED, async || peer.replay(&instance(REPLAYED)).await).await;
    Line::Replay { events: REPLAYED, us }.print();
}

/// Microseconds, after a first time that is not counted.
async fn median(revision: u32, load: impl AsyncFn() -> Tally) -> f64 {
    let (start, mut taken) = (Instant::now(), Vec::new());
    while taken.len() <= AT_LEAST || start.elapsed() < RUN {
        let before = Instant::now();
        let tally = load().await;
        taken.push(before.elapsed());
        assert_eq!(tally.steps, u64::from(revision), "the whole history was loaded");
    }
    let mut taken = taken.split_off(1);
    taken.sort_unstable();
    taken[taken.len() / 2].as_secs_f64() * 1e6
}
