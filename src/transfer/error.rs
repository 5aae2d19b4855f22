//! Why an export or an import ended.

use crate::error::Error;

/// Why an export or an import ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The database's.
    #[error(transparent)]
    Database(#[from] Error),

    /// The file's.
    #[error("reading the export failed: {0}")]
    Io(#[from] std::io::Error),

    /// A line of the export cannot be what was written.
    #[error("line {line} of the export is damaged: {detail}; take the file from its source again")]
    Damaged {
        /// The line, from 1 on.
        line: u64,
        /// What is wrong.
        detail: String,
    },

    /// A newer release wrote it.
    #[error("the export has format version {found}, this release knows up to {known}; use a newer release")]
    Newer {
        /// The version of the file.
        found: u32,
        /// The newest one that is known.
        known: u32,
    },

    /// The file ends before the export does.
    #[error("the export ends after line {line}, before its last line; resume the export, then go on")]
    Unfinished {
        /// The last whole line.
        line: u64,
    },

    /// The database holds something else than the file. Nothing of the page was written.
    #[error("stream {stream:?} in the database is another than in the export, at commit {number}: {detail}")]
    Differs {
        /// The stream's name.
        stream: String,
        /// The number of the commit; zero for the stream itself.
        number: u64,
        /// What differs.
        detail: String,
    },
}
