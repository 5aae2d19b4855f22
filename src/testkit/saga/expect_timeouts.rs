//! What is expected to be scheduled and cancelled.

use std::fmt::Debug;

use super::SagaTest;
use super::expect_messages::compare;
use super::expected::{ExpectedTimeout, Form, must_encode};
use super::pending::resolve;
use crate::saga::Saga;
use crate::timeout::TimeoutChange;

impl<S: Saga<Data: PartialEq + Debug>> SagaTest<S> {
    /// Expects the last step to have scheduled these timeouts (names, times and messages), in this order, and no
    /// others. Durations count from what the clock shows now.
    ///
    /// # Panics
    /// If it did not.
    #[track_caller]
    pub fn expect_timeouts<T: Into<ExpectedTimeout>>(mut self, timeouts: impl IntoIterator<Item = T>) -> Self {
        let now = self.now();
        let form = |timeout: ExpectedTimeout| {
            let due = resolve(timeout.due, now);
            must_encode(timeout.form(&self.codecs, &self.limits, due))
        };
        let expected: Vec<_> = timeouts.into_iter().map(|timeout| form(timeout.into())).collect();
        let mut came = Vec::new();
        for (at, change) in &self.handled().timeouts {
            if let TimeoutChange::Schedule { name, due, message } = change {
                came.push(Form::came(message).with_timeout(name, resolve(*due, *at)));
            }
        }
        compare("the saga scheduled other timeouts than expected", &expected, &came);
        self
    }

    /// Expects the last step to have scheduled no timeouts.
    ///
    /// # Panics
    /// If it did.
    #[track_caller]
    pub fn expect_no_timeouts(self) -> Self {
        self.expect_timeouts::<ExpectedTimeout>([])
    }

    /// Expects the last step to have cancelled the timeouts of these names, in this order, and no others. That they
    /// were pending is not expected.
    ///
    /// # Panics
    /// If it did not.
    #[track_caller]
    pub fn expect_cancelled<N: AsRef<str>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        let mut came = Vec::new();
        for (_, change) in &self.handled().timeouts {
            match change {
                TimeoutChange::Cancel { name } => came.push(name.clone()),
                TimeoutChange::CancelAll => {
                    panic!("the saga cancelled all timeouts, and some were expected; see expect_all_cancelled")
                }
                TimeoutChange::Schedule { .. } => {}
            }
        }
        let expected: Vec<_> = names.into_iter().map(|name| name.as_ref().to_owned()).collect();
        assert!(expected == came, "the saga cancelled the timeouts {came:?}, expected were {expected:?}");
        self
    }

    /// Expects the last step to have cancelled all timeouts.
    ///
    /// # Panics
    /// If it did not.
    #[track_caller]
    pub fn expect_all_cancelled(mut self) -> Self {
        let all = self.handled().timeouts.iter().any(|(_, change)| *change == TimeoutChange::CancelAll);
        assert!(all, "the saga did not cancel all timeouts");
        self
    }

    /// Expects that just the timeouts of these names are pending, in any order.
    ///
    /// # Panics
    /// If others are.
    #[track_caller]
    pub fn expect_pending<N: AsRef<str>>(self, names: impl IntoIterator<Item = N>) -> Self {
        let mut expected: Vec<_> = names.into_iter().map(|name| name.as_ref().to_owned()).collect();
        expected.sort_unstable();
        let pending = self.pending.names();
        assert!(expected == pending, "the timeouts {pending:?} are pending, expected were {expected:?}");
        self
    }
}
