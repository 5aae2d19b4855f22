//! Which fault comes next: all kinds in random order, then all again.

use std::time::Duration;

use fastrand::Rng;

pub(crate) struct Deck<K> {
    kinds: Vec<K>,
    left: Vec<K>,
    pub(crate) rng: Rng,
    drawn: usize,
}

impl<K: Copy> Deck<K> {
    pub(crate) fn new(kinds: Vec<K>, seed: u64) -> Self {
        Self { kinds, left: Vec::new(), rng: Rng::with_seed(seed), drawn: 0 }
    }

    pub(crate) fn draw(&mut self) -> K {
        if self.left.is_empty() {
            self.left.clone_from(&self.kinds);
            self.rng.shuffle(&mut self.left);
        }
        self.drawn += 1;
        self.left.pop().expect("there are kinds of faults")
    }

    /// Each kind came at least once.
    pub(crate) fn has_shown_all(&self) -> bool {
        self.drawn >= self.kinds.len()
    }

    /// A random time between these, in milliseconds.
    pub(crate) fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.rng.u64(least..=most))
    }
}
