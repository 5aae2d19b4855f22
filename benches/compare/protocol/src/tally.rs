use serde::{Deserialize, Serialize};

use crate::Step;

/// The state of an instance. Every library folds its events into it and decides by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub steps: u64,
    pub amount: i64,
    pub last_account: String,
    pub last_note: String,
}

impl Tally {
    /// Events that are missing, come twice or in the wrong order are found.
    pub fn apply(&mut self, step: &Step) {
        assert_eq!(step.number, self.steps + 1, "the steps come in order, each once");
        self.steps = step.number;
        self.amount += step.amount;
        self.last_account.clone_from(&step.account);
        self.last_note.clone_from(&step.note);
    }

    /// The next step, or the one that many later.
    pub fn decide(&self, later: u32) -> Step {
        Step::new(self.steps + 1 + u64::from(later))
    }

    /// The next steps.
    pub fn decide_all(&self, events: u32) -> Vec<Step> {
        (0..events).map(|later| self.decide(later)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Step, Tally};

    #[test]
    fn what_is_decided_can_be_applied() {
        let mut tally = Tally::default();
        tally.decide_all(5).into_iter().for_each(|step| tally.apply(&step));
        assert_eq!((tally.steps, tally.decide(0).number), (5, 6));
    }

    #[test]
    #[should_panic(expected = "each once")]
    fn a_step_that_comes_twice_is_found() {
        let mut tally = Tally::default();
        [1, 1].map(Step::new).into_iter().for_each(|step| tally.apply(&step));
    }
}
