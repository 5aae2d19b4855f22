//! What is printed, for people or for scripts.

use std::fmt::Display;
use std::io::{self, BufWriter, Stdout, Write};
use std::time::Duration;

use serde::Serialize;

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
    pub(crate) fn object(&mut self, object: &impl Serialize) -> io::Result<()> {
        writeln!(self.to, "{}", json_line(object)?)
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
    let shown = |c: char| if is_acted_upon(c) { c.escape_default().collect() } else { String::from(c) };
    text.chars().map(shown).collect()
}

/// As [`plain`], of several lines.
pub(crate) fn plain_lines(text: &str) -> String {
    text.split('\n').map(plain).collect::<Vec<_>>().join("\n")
}

/// JSON on one line, such that it does nothing to a terminal. It is the same value: what JSON itself does not
/// escape stands in its strings alone.
pub(crate) fn json_line(value: &impl Serialize) -> io::Result<String> {
    let shown = |c: char| if is_acted_upon(c) { format!("\\u{:04x}", u32::from(c)) } else { String::from(c) };
    Ok(serde_json::to_string(value)?.chars().map(shown).collect())
}

/// Controls, and characters that turn the direction of what follows or end a line.
fn is_acted_upon(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61C}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
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
        assert_eq!(plain("\u{9b}2J \u{202e}abc"), "\\u{9b}2J \\u{202e}abc");
        assert_eq!(plain_lines("a\u{1b}\nb"), "a\\u{1b}\nb");
        let value = serde_json::json!({ "\u{7f}": "\u{1b}[2J\u{9b}2J\u{202e}ü" });
        let line = json_line(&value).expect("a line");
        assert_eq!(line, "{\"\\u007f\":\"\\u001b[2J\\u009b2J\\u202eü\"}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).expect("JSON"), value);
    }

    #[test]
    fn ages_are_short() {
        let ages = [5, 119, 120, 7199, 7200, 200_000].map(|seconds| age(Duration::from_secs(seconds)));
        assert_eq!(ages, ["5 s", "119 s", "2 min", "119 min", "2 h", "2 d"]);
    }
}
