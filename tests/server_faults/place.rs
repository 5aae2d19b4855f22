//! Where a load finds its database and writes down what it was told.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

/// A database, and the folder of a run.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The URL of a server with the name of the database, or the path of a file.
    pub(crate) database: String,
    pub(crate) folder: PathBuf,
}

impl Place {
    /// What the clients were told.
    pub(crate) fn ledger(&self) -> PathBuf {
        self.folder.join("ledger")
    }

    /// What was delivered.
    pub(crate) fn journal(&self) -> PathBuf {
        self.folder.join("journal")
    }

    /// Which fault came when.
    fn faults(&self) -> PathBuf {
        self.folder.join("faults")
    }

    /// Writes down that a fault came, and is over.
    pub(crate) fn note(&self, fault: &str, began: u64, ended: u64) -> std::io::Result<()> {
        let mut log = OpenOptions::new().create(true).append(true).open(self.faults())?;
        writeln!(log, "{began} to {ended} {fault}")
    }

    /// While it is there, the database may not grow.
    pub(crate) fn full(&self) -> PathBuf {
        self.folder.join("full")
    }

    /// Once it is there, the load comes to its end.
    pub(crate) fn finish(&self) -> PathBuf {
        self.folder.join("finish")
    }
}
