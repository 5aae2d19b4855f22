use serde::{Deserialize, Serialize};

/// A result: the work and what it took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "work", rename_all = "snake_case")]
pub enum Line {
    /// Whole units of work of many clients.
    Units { events: u32, clients: u32, per_second: f64, p50_us: f64, p90_us: f64, p99_us: f64 },
    /// One load, as the library does it by itself; the median of several.
    Load { revision: u32, us: f64 },
    /// One load by all events; the median of several.
    Replay { events: u32, us: f64 },
}

impl Line {
    pub(crate) fn print(self) {
        println!("{}", serde_json::to_string(&self).expect("encodes"));
    }
}
