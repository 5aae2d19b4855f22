//! What becomes of clients that want the same instances.

use std::time::Duration;

use sagastore::DEFAULT_CONFLICT_RETRIES;

use super::clients::per_second;
use super::side::is_measuring;

/// Units of work, and what they cost.
#[derive(Default)]
pub(crate) struct Tries {
    /// From the first try to the commit.
    latencies: Vec<Duration>,
    lost: u32,
    given_up: u32,
}

impl Tries {
    pub(crate) fn done(&mut self, latency: Duration, conflicts: u32) {
        self.latencies.push(latency);
        self.lost += conflicts;
    }

    /// The last try was lost, too.
    pub(crate) fn given_up(&mut self) {
        self.lost += DEFAULT_CONFLICT_RETRIES + 1;
        self.given_up += 1;
    }

    pub(crate) fn and(mut self, other: Self) -> Self {
        self.latencies.extend(other.latencies);
        Self { latencies: self.latencies, lost: self.lost + other.lost, given_up: self.given_up + other.given_up }
    }
}

/// A table in Markdown.
#[derive(Default)]
pub(crate) struct Contention {
    lines: Vec<String>,
}

impl Contention {
    pub(crate) fn note(&mut self, instances: u32, database: &str, mut tries: Tries, taken: Duration) {
        tries.latencies.sort_unstable();
        let percentile = |percent: usize| {
            let place = tries.latencies.len().saturating_sub(1) * percent / 100;
            tries.latencies.get(place).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
        };
        let (median, late) = (percentile(50), percentile(99));
        let done = u32::try_from(tries.latencies.len()).expect("small");
        let lost = 100.0 * f64::from(tries.lost) / f64::from(tries.lost + done).max(1.0);
        let (rate, given_up) = (per_second(done, taken), tries.given_up);
        let line =
            format!("| {instances} | {database} | {rate:.0} | {lost:.1} | {given_up} | {median:.1} | {late:.1} |");
        self.lines.push(line);
    }

    /// Prints nothing if nothing was measured.
    pub(crate) fn print(&self) {
        if is_measuring() {
            println!("\n32 clients that share so many instances; tries lost to others are done again after a pause\n");
            println!("| instances | database | units/s | tries lost, % | given up | p50, ms | p99, ms |");
            println!("|--:|---|--:|--:|--:|--:|--:|\n{}\n", self.lines.join("\n"));
        }
    }
}
