//! What the program holds on to.

use std::fs;

use anyhow::{Context, ensure};
use sqlx::{Database, Pool};

/// How much more memory the program may hold in the end than after its first window: the pages that SQLite caches for
/// each connection, and what the allocator keeps.
const MORE_MEMORY_KIB: u64 = 64 * 1024;
/// How many more files, among which connections to a server are: sockets that are being closed.
const MORE_FILES: usize = 8;

/// Memory, files and connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) memory_kib: u64,
    pub(crate) files: usize,
    pub(crate) connections: u32,
}

impl Held {
    pub(crate) fn by<DB: Database>(pool: &Pool<DB>) -> anyhow::Result<Self> {
        let status = fs::read_to_string("/proc/self/status")?;
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let memory_kib = memory.trim().trim_end_matches(" kB").parse()?;
        Ok(Self { memory_kib, files: fs::read_dir("/proc/self/fd")?.count(), connections: pool.size() })
    }

    /// Fails if there is more of it than there was.
    pub(crate) fn check_flat(&self, before: &Self) -> anyhow::Result<()> {
        ensure!(self.memory_kib <= before.memory_kib + MORE_MEMORY_KIB, "more memory: {self:?} after {before:?}");
        ensure!(self.files <= before.files + MORE_FILES, "more files: {self:?} after {before:?}");
        Ok(())
    }
}
