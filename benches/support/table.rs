//! The comparison by rounds, and how it is printed.

use std::fmt::Write;
use std::time::Duration;

use super::measured::Measured;
use super::side::{Side, is_measuring};

const ROUNDS: usize = 15;
const ROUND_TIME: Duration = Duration::from_millis(8);
const MAX_TIMES: f64 = 5_000.0;

/// How often each side is done in a round.
fn times_that_fill_a_round(side: &mut Side<'_>) -> u64 {
    if !is_measuring() {
        return 1;
    }
    let once = (side.run)(1).as_secs_f64();
    // The first time is slower than the others; what is long anyway is not done three times more to know that.
    let once = if once > ROUND_TIME.as_secs_f64() { once } else { (side.run)(3).as_secs_f64() / 3.0 };
    (ROUND_TIME.as_secs_f64() / once).clamp(1.0, MAX_TIMES) as u64
}

/// A table in Markdown: the first side is the library, the others are what it is compared to.
pub(crate) struct Table {
    title: &'static str,
    rounds: usize,
    head: Vec<&'static str>,
    lines: Vec<String>,
}

impl Table {
    pub(crate) fn new(title: &'static str) -> Self {
        Self { title, rounds: ROUNDS, head: Vec::new(), lines: Vec::new() }
    }

    pub(crate) fn with_rounds(self, rounds: usize) -> Self {
        Self { rounds, ..self }
    }

    /// Compares the sides by rounds and keeps the result as a line. Gives the seconds that each side took for once.
    pub(crate) fn compare(&mut self, what: &str, database: &str, sides: &mut [Side<'_>]) -> Measured {
        if self.head.is_empty() {
            self.head = sides.iter().map(|side| side.name).collect();
        }
        let times: Vec<u64> = sides.iter_mut().map(times_that_fill_a_round).collect();
        let measured = Measured::in_rounds((what, database), self.rounds, sides.len(), |side| {
            (sides[side].run)(times[side]).as_secs_f64() / times[side] as f64
        });
        let mut line = format!("| {what} | {database} |");
        for side in 0..sides.len() {
            let _ = write!(line, " {} |", readable(measured.of(side).median));
            if side > 0 {
                let _ = write!(line, " {:.2} |", measured.ratio(0, side).median);
            }
        }
        self.lines.push(line);
        measured
    }

    /// Prints nothing if nothing was measured.
    pub(crate) fn print(&self) {
        if !is_measuring() {
            return;
        }
        println!("\n{}\n", self.title);
        let mut head = "| what | database |".to_owned();
        let mut rule = "|---|---|".to_owned();
        for (side, name) in self.head.iter().enumerate() {
            head += &if side == 0 { format!(" {name} |") } else { format!(" {name} | ratio |") };
            rule += if side == 0 { "--:|" } else { "--:|--:|" };
        }
        println!("{head}\n{rule}\n{}\n", self.lines.join("\n"));
    }
}

fn readable(seconds: f64) -> String {
    let micros = seconds * 1e6;
    if micros < 1_000.0 { format!("{micros:.1} µs") } else { format!("{:.2} ms", micros / 1_000.0) }
}
