//! How far the work is: a bar on a terminal, a line now and then elsewhere.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressStyle};

/// Time between two lines.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
const TEMPLATE: &str = "{msg} {wide_bar} {percent}% {human_len} {per_sec} ETA {eta}";

#[derive(Clone)]
pub(crate) struct Progress {
    what: &'static str,
    bar: ProgressBar,
    begun: Instant,
    lines: Arc<AtomicU64>,
}

impl Progress {
    /// Counts up to `length`, in units of the caller's choice.
    pub(crate) fn new(what: &'static str, length: u64) -> Self {
        let style = ProgressStyle::with_template(TEMPLATE).expect("BUG: the template is a constant");
        let bar = ProgressBar::new(length).with_style(style).with_message(what);
        Self { what, bar, begun: Instant::now(), lines: Arc::default() }
    }

    pub(crate) fn add(&self, count: u64) {
        self.bar.inc(count);
        if !self.bar.is_hidden() {
            return;
        }
        let printed = self.lines.load(Ordering::Relaxed);
        let due = self.begun.elapsed().as_secs() / LINE_INTERVAL.as_secs();
        let swapped = || self.lines.compare_exchange(printed, due, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if due > printed && swapped() {
            let (done, length) = (HumanCount(self.bar.position()), HumanCount(self.bar.length().unwrap_or_default()));
            eprintln!("{}: {done} of {length} after {} s", self.what, self.begun.elapsed().as_secs());
        }
    }

    /// Clears the bar and tells how long it took.
    pub(crate) fn finish(self) -> Duration {
        self.bar.finish_and_clear();
        self.begun.elapsed()
    }
}
