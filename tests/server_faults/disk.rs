//! A small disk that can be filled.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::ensure;

#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) folder: PathBuf,
    control: PathBuf,
}

impl Disk {
    /// `None` if there is none.
    pub(crate) fn of_this_run() -> Option<Self> {
        let variable = |name| env::var_os(name).map(PathBuf::from);
        let folder = variable("SAGASTORE_TEST_SMALL_DISK")?;
        Some(Self { folder, control: variable("SAGASTORE_TEST_SMALL_DISK_CONTROL")? })
    }

    /// Takes all that is left, until the guard is dropped.
    pub(crate) fn fill(&self) -> anyhow::Result<Full> {
        let full = Full(self.clone());
        self.run("fill")?;
        Ok(full)
    }

    fn run(&self, verb: &str) -> anyhow::Result<()> {
        ensure!(Command::new(&self.control).arg(verb).status()?.success(), "the small disk failed to {verb}");
        Ok(())
    }
}

/// A disk on which nothing is left.
pub(crate) struct Full(Disk);

impl Drop for Full {
    fn drop(&mut self) {
        self.0.run("free").unwrap();
    }
}
