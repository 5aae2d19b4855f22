//! What the sides of a comparison came to, round by round.

use std::fmt;

use super::side::is_measuring;

/// A figure of each side in each round.
pub(crate) struct Measured {
    sides: Vec<Vec<f64>>,
}

impl Measured {
    /// Lets the sides take turns: A B C, A B C, … so that a noisy neighbour disturbs all alike.
    /// Says first what it is about: a whole run takes minutes.
    pub(crate) fn in_rounds(
        (what, database): (&str, &str),
        rounds: usize,
        sides: usize,
        mut run: impl FnMut(usize) -> f64,
    ) -> Self {
        if is_measuring() {
            println!("{database}: {what}");
        }
        let mut figures = vec![Vec::new(); sides];
        for _ in 0..if is_measuring() { rounds } else { 1 } {
            for (side, figures) in figures.iter_mut().enumerate() {
                figures.push(run(side));
            }
        }
        Self { sides: figures }
    }

    pub(crate) fn of(&self, side: usize) -> Spread {
        Spread::over(self.sides[side].clone())
    }

    /// One side over another, compared within each round.
    pub(crate) fn ratio(&self, side: usize, yardstick: usize) -> Spread {
        let pairs = self.sides[side].iter().zip(&self.sides[yardstick]);
        Spread::over(pairs.map(|(figure, yardstick)| figure / yardstick).collect())
    }
}

/// The median of some rounds, with the least and the most.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) least: f64,
    pub(crate) median: f64,
    pub(crate) most: f64,
}

impl Spread {
    fn over(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { least: values[0], median: values[values.len() / 2], most: values[values.len() - 1] }
    }
}

/// Takes the number of digits as the precision.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        write!(f, "{:.digits$} ({:.digits$}–{:.digits$})", self.median, self.least, self.most)
    }
}
