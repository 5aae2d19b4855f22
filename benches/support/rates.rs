//! Rates with their spreads, for what takes too long to be sampled.

use std::fmt::Write;

use super::measured::Measured;
use super::side::is_measuring;

const ROUNDS: usize = 5;

/// One side of a comparison: does it, and says how much of it was done in a second.
pub(crate) struct Rated<'a> {
    pub(crate) name: &'static str,
    pub(crate) run: Box<dyn FnMut() -> f64 + 'a>,
}

impl<'a> Rated<'a> {
    pub(crate) fn new(name: &'static str, run: impl FnMut() -> f64 + 'a) -> Self {
        Self { name, run: Box::new(run) }
    }
}

/// A table in Markdown, with medians and, in brackets, least and most. The last side is the yardstick.
pub(crate) struct Rates {
    title: &'static str,
    rounds: usize,
    head: Vec<&'static str>,
    lines: Vec<String>,
}

impl Rates {
    pub(crate) fn new(title: &'static str) -> Self {
        Self { title, rounds: ROUNDS, head: Vec::new(), lines: Vec::new() }
    }

    pub(crate) fn with_rounds(self, rounds: usize) -> Self {
        Self { rounds, ..self }
    }

    /// Compares the sides by rounds and keeps the result as a line.
    pub(crate) fn compare(&mut self, what: &str, database: &str, sides: &mut [Rated<'_>]) -> Measured {
        if self.head.is_empty() {
            self.head = sides.iter().map(|side| side.name).collect();
        }
        let measured = Measured::in_rounds((what, database), self.rounds, sides.len(), |side| (sides[side].run)());
        let yardstick = sides.len() - 1;
        let mut line = format!("| {what} | {database} |");
        for side in 0..yardstick {
            let _ = write!(line, " {:.0} | {} |", measured.of(side), measured.ratio(side, yardstick));
        }
        let _ = write!(line, " {:.0} |", measured.of(yardstick));
        self.lines.push(line);
        measured
    }

    /// As [`compare`](Self::compare), after a round that does not count: connections are made, and statements prepared.
    pub(crate) fn compare_warm(&mut self, what: &str, database: &str, sides: &mut [Rated<'_>]) -> Measured {
        for side in sides.iter_mut().filter(|_| is_measuring()) {
            (side.run)();
        }
        self.compare(what, database, sides)
    }

    /// Prints nothing if nothing was measured.
    pub(crate) fn print(&self) {
        let Some((yardstick, sides)) = self.head.split_last().filter(|_| is_measuring()) else { return };
        let head: String = sides.iter().map(|name| format!(" {name} | ratio |")).collect();
        let rule = "--:|--:|".repeat(sides.len());
        let lines = self.lines.join("\n");
        println!("\n{}\n\n| what | database |{head} {yardstick} |\n|---|---|{rule}--:|\n{lines}\n", self.title);
    }
}
