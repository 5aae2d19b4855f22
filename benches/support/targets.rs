//! What ratios are to be, and whether they are.

use super::measured::Spread;
use super::side::is_measuring;

/// A ratio that some work is to reach, or not to exceed, on each database.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    work: &'static str,
    bound: Bound,
    /// By the names of the databases; one that is not named has no such target.
    wanted: &'static [(&'static str, f64)],
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast,
    AtMost,
}

impl Target {
    pub(crate) const fn at_least(work: &'static str, wanted: &'static [(&'static str, f64)]) -> Self {
        Self { work, bound: Bound::AtLeast, wanted }
    }

    pub(crate) const fn at_most(work: &'static str, wanted: &'static [(&'static str, f64)]) -> Self {
        Self { work, bound: Bound::AtMost, wanted }
    }
}

/// The targets that were looked at, with what was measured. `tests/run --bench` gathers those of all benches by the form
/// of their lines.
#[derive(Default)]
pub(crate) struct Verdicts {
    lines: Vec<String>,
}

impl Verdicts {
    /// Holds the median of a ratio against a target, if there is one on this database. `detail` says which case it is.
    pub(crate) fn judge(&mut self, target: &Target, detail: &str, database: &str, measured: Spread) {
        let Some((_, wanted)) = target.wanted.iter().find(|(name, _)| *name == database) else { return };
        let (sign, is_met) = match target.bound {
            Bound::AtLeast => ("≥", measured.median >= *wanted),
            Bound::AtMost => ("≤", measured.median <= *wanted),
        };
        let verdict = if is_met { "met" } else { "**missed**" };
        let work = target.work;
        self.lines.push(format!("| {work}{detail} | {database} | {sign} {wanted:.2} | {measured} | {verdict} |"));
    }

    /// Prints nothing if nothing was measured.
    pub(crate) fn print(&self) {
        if is_measuring() && !self.lines.is_empty() {
            println!("\nWhat was wanted of the ratios, and what was measured: median (least–most) of the rounds\n");
            println!("| work | database | wanted | measured | |\n|---|---|--:|--:|---|\n{}\n", self.lines.join("\n"));
        }
    }
}
