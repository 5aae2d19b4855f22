//! What is printed, for people or for scripts.

use std::fmt::Display;
use std::io::{self, BufWriter, Stdout, Write};
use std::time::Duration;

use serde_json::Value;

/// Standard output.
pub(crate) struct Output {
    to: BufWriter<Stdout>,
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { to: BufWriter::new(io::stdout()), json }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// An object for scripts.
    pub(crate) fn object(&mut self, object: &Value) -> io::Result<()> {
        writeln!(self.to, "{object}")
    }

    /// A line for people.
    pub(crate) fn line(&mut self, text: impl Display) -> io::Result<()> {
        writeln!(self.to, "{text}")
    }

    /// Rows with as much room for each column as it needs; the last one ends where it ends.
    pub(crate) fn table(&mut self, rows: &[Vec<String>]) -> io::Result<()> {
        let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|text| text.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|at| width(at).unwrap_or_default()).collect();
        for row in rows {
            let cells = row.iter().zip(&widths).map(|(text, width)| format!("{text:<width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            writeln!(self.to, "{}", line.trim_end())?;
        }
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// A text from the database, such that it does nothing to a terminal.
pub(crate) fn plain(text: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().collect() } else { String::from(c) };
    text.chars().map(shown).collect()
}

/// How long ago, in the largest units that fit.
pub(crate) fn age(span: Duration) -> String {
    match span.as_secs() {
        0 => format!("{} ms", span.as_millis()),
        seconds @ 1..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_that_it_would_act_upon() {
        assert_eq!(plain("a\u{1b}[2J\nb ü"), "a\\u{1b}[2J\\nb ü");
    }

    #[test]
    fn ages_are_short() {
        let ages = [5, 119, 120, 7199, 7200, 200_000].map(|seconds| age(Duration::from_secs(seconds)));
        assert_eq!(ages, ["5 s", "119 s", "2 min", "119 min", "2 h", "2 d"]);
    }
}
