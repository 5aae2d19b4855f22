//! The comparison by rounds, and how it is printed.

use std::fmt::Write;
use std::time::Duration;

use super::side::{Side, is_measuring};

const ROUNDS: usize = 15;
const ROUND_TIME: Duration = Duration::from_millis(8);
const MAX_TIMES: f64 = 5_000.0;

/// Lets the sides take turns: A B C, A B C, … so that a noisy neighbour disturbs all alike. Gives for
/// each side its median time, and the median of its ratios of the rounds: the first side over this one.
pub(crate) fn medians_in_rounds(sides: &mut [Side<'_>]) -> Vec<(Duration, f64)> {
    let rounds = if is_measuring() { ROUNDS } else { 1 };
    let times: Vec<u64> = sides.iter_mut().map(times_that_fill_a_round).collect();
    let mut taken: Vec<Vec<f64>> = vec![Vec::new(); sides.len()];
    for _ in 0..rounds {
        for ((side, times), taken) in sides.iter_mut().zip(&times).zip(&mut taken) {
            taken.push((side.run)(*times).as_secs_f64() / *times as f64);
        }
    }
    let of_first = taken[0].clone();
    let summary = |side: &Vec<f64>| {
        let ratios = of_first.iter().zip(side).map(|(first, own)| first / own).collect();
        (Duration::from_secs_f64(median(side.clone())), median(ratios))
    };
    taken.iter().map(summary).collect()
}

fn times_that_fill_a_round(side: &mut Side<'_>) -> u64 {
    if !is_measuring() {
        return 1;
    }
    (side.run)(1);
    let once = (side.run)(3).as_secs_f64() / 3.0;
    (ROUND_TIME.as_secs_f64() / once).clamp(1.0, MAX_TIMES) as u64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A table in Markdown: the first side is the library, the others are what it is compared to.
pub(crate) struct Table {
    title: &'static str,
    head: Vec<&'static str>,
    lines: Vec<String>,
}

impl Table {
    pub(crate) fn new(title: &'static str) -> Self {
        Self { title, head: Vec::new(), lines: Vec::new() }
    }

    /// Compares the sides by rounds and keeps the result as a line.
    pub(crate) fn compare(&mut self, what: &str, database: &str, sides: &mut [Side<'_>]) {
        if self.head.is_empty() {
            self.head = sides.iter().map(|side| side.name).collect();
        }
        let mut line = format!("| {what} | {database} |");
        for (side, (time, ratio)) in medians_in_rounds(sides).into_iter().enumerate() {
            let _ = write!(line, " {} |", readable(time));
            if side > 0 {
                let _ = write!(line, " {ratio:.2} |");
            }
        }
        self.lines.push(line);
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

fn readable(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    if micros < 1_000.0 { format!("{micros:.1} µs") } else { format!("{:.2} ms", micros / 1_000.0) }
}
