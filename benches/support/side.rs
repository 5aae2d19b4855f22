//! One side of a comparison.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode};
use tokio::runtime::Runtime;

/// Does something a number of times, and says how long that took.
pub(crate) struct Side<'a> {
    pub(crate) name: &'static str,
    pub(crate) run: Box<dyn FnMut(u64) -> Duration + 'a>,
}

impl<'a> Side<'a> {
    /// All of `work` counts.
    pub(crate) fn new<R>(name: &'static str, runtime: &'a Runtime, mut work: impl AsyncFnMut() -> R + 'a) -> Self {
        let run = move |times| {
            runtime.block_on(async {
                let start = Instant::now();
                for _ in 0..times {
                    black_box(work().await);
                }
                start.elapsed()
            })
        };
        Self { name, run: Box::new(run) }
    }

    /// `work` says itself how long the part that counts took.
    pub(crate) fn timing_itself(
        name: &'static str,
        runtime: &'a Runtime,
        mut work: impl AsyncFnMut() -> Duration + 'a,
    ) -> Self {
        let run = move |times| {
            runtime.block_on(async {
                let mut sum = Duration::ZERO;
                for _ in 0..times {
                    sum += work().await;
                }
                sum
            })
        };
        Self { name, run: Box::new(run) }
    }
}

/// Quick by default: what decides is the comparison in rounds.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300))
        .without_plots()
        .configure_from_args()
}

/// Hands each side to criterion.
pub(crate) fn measure(criterion: &mut Criterion, group: &str, parameter: &str, sides: &mut [Side<'_>]) {
    let mut group = criterion.benchmark_group(group);
    group.sampling_mode(SamplingMode::Flat);
    for side in sides {
        group.bench_function(BenchmarkId::new(side.name, parameter), |bencher| bencher.iter_custom(&mut side.run));
    }
    group.finish();
}

/// False if everything is to be run only once, to see that it works.
pub(crate) fn is_measuring() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}
