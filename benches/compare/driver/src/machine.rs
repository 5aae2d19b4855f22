use std::fs::{self, File};
use std::io::Write;
use std::time::Instant;

use serde::Serialize;

/// Flushes that are timed.
const FLUSHES: usize = 101;

/// What the results depend on.
#[derive(Default, Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: f64,
    /// Device and file system of the SQLite files.
    pub(crate) disk: String,
    /// Microseconds until a page that was appended to a file is on the disk; the median.
    pub(crate) flush_us: f64,
}

impl Machine {
    pub(crate) fn read() -> Self {
        Self {
            processor: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: memory_gib(),
            disk: disk(),
            flush_us: flush_us(),
        }
    }
}

fn field(file: &str, name: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let value = text.lines().filter(|line| line.starts_with(name)).find_map(|line| line.split_once(':'));
    value.map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
}

fn memory_gib() -> f64 {
    let kib = field("/proc/meminfo", "MemTotal");
    kib.trim_end_matches(" kB").parse::<f64>().unwrap_or_default() / 1024.0 / 1024.0
}

/// The mount that is nearest to the program.
fn disk() -> String {
    let program = std::env::current_exe().expect("has a path");
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let nearest = fields.filter(|mount| mount.len() > 2 && program.starts_with(mount[1])).max_by_key(|m| m[1].len());
    nearest.map_or_else(|| "unknown".to_owned(), |mount| format!("{} on {}", mount[2], mount[0]))
}

fn flush_us() -> f64 {
    let path = std::env::current_exe().expect("has a path").with_file_name("compare-flush");
    let mut file = File::create(&path).expect("creates a file");
    let mut taken = [0.0; FLUSHES];
    for taken in &mut taken {
        let start = Instant::now();
        file.write_all(&[1; 4096]).expect("writes");
        file.sync_data().expect("flushes");
        *taken = start.elapsed().as_secs_f64() * 1e6;
    }
    fs::remove_file(path).expect("removes the file");
    taken.sort_unstable_by(f64::total_cmp);
    taken[FLUSHES / 2]
}
