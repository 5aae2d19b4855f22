//! Rates with their spreads, for what takes too long to be sampled.

use std::fmt::Write;

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
    head: Vec<&'static str>,
    lines: Vec<String>,
}

impl Rates {
    pub(crate) fn new(title: &'static str) -> Self {
        Self { title, head: Vec::new(), lines: Vec::new() }
    }

    /// Lets the sides take turns, as [`medians_in_rounds`](super::table::medians_in_rounds) does, and keeps the result.
    pub(crate) fn compare(&mut self, what: &str, database: &str, sides: &mut [Rated<'_>]) {
        if self.head.is_empty() {
            self.head = sides.iter().map(|side| side.name).collect();
        }
        let mut rates = vec![Vec::new(); sides.len()];
        for _ in 0..if is_measuring() { ROUNDS } else { 1 } {
            for (side, rates) in sides.iter_mut().zip(&mut rates) {
                rates.push((side.run)());
            }
        }
        let yardstick = rates.pop().expect("a yardstick");
        let mut line = format!("| {what} | {database} |");
        for rates in rates {
            let ratios: Vec<f64> = rates.iter().zip(&yardstick).map(|(rate, yardstick)| rate / yardstick).collect();
            let _ = write!(line, " {} | {} |", spread(rates, 0), spread(ratios, 2));
        }
        let _ = write!(line, " {} |", spread(yardstick, 0));
        self.lines.push(line);
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

fn spread(mut values: Vec<f64>, digits: usize) -> String {
    values.sort_by(f64::total_cmp);
    let (least, middle, most) = (values[0], values[values.len() / 2], values[values.len() - 1]);
    format!("{middle:.digits$} ({least:.digits$}–{most:.digits$})")
}
