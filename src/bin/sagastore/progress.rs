//! How far it has come, on standard error if that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often a bar of unknown length moves.
const TICK: Duration = Duration::from_millis(200);

pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Of so many commits, how many nobody knows.
    pub(crate) fn counting(doing: &'static str) -> Self {
        let bar = styled(ProgressBar::new_spinner(), "{spinner} {msg}: {pos} commits, {per_sec}");
        bar.enable_steady_tick(TICK);
        Self(bar.with_message(doing))
    }

    pub(crate) fn of_bytes(doing: &'static str, length: u64) -> Self {
        let bar = styled(ProgressBar::new(length), "{msg} {wide_bar} {bytes} of {total_bytes}, {eta} left");
        Self(bar.with_message(doing))
    }

    pub(crate) fn count(&self, done: u64) {
        self.0.set_position(done);
    }

    pub(crate) fn end(&self) {
        self.0.finish_and_clear();
    }
}

fn styled(bar: ProgressBar, template: &str) -> ProgressBar {
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
