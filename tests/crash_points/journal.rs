//! What happened outside the database: a file to which each process appends.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A file of lines, each a word and what it is about.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// A file in the same folder.
    #[cfg(feature = "export")]
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.path.with_file_name(name)
    }

    pub(crate) fn clear(&self) -> anyhow::Result<()> {
        Ok(self.file.set_len(0)?)
    }

    /// One write for each line: none is torn by a kill.
    pub(crate) fn note(&self, word: &str, about: &str) -> std::io::Result<()> {
        (&self.file).write_all(format!("{word} {about}\n").as_bytes())
    }

    /// What was noted under a word, in order.
    pub(crate) fn noted(&self, word: &str) -> anyhow::Result<Vec<String>> {
        let text = fs::read_to_string(&self.path)?;
        let about = |line: &str| line.strip_prefix(word)?.strip_prefix(' ').map(str::to_owned);
        Ok(text.lines().filter_map(about).collect())
    }
}
