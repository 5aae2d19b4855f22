//! How the last step is expected to end.

use std::error::Error;
use std::fmt::{Debug, Write as _};

use super::SagaTest;
use super::diff::diff_debug;
use super::expected::Form;
use super::step::{Outcome, Step};
use crate::saga::Saga;
use crate::timeout::TimeoutChange;

impl<S: Saga<Data: PartialEq + Debug>> SagaTest<S> {
    /// Looks at the state; the closure asserts.
    ///
    /// # Panics
    /// If the closure does.
    #[track_caller]
    pub fn expect_state(self, look: impl FnOnce(&S::Data)) -> Self {
        look(&self.data());
        self
    }

    /// Expects this state.
    ///
    /// # Panics
    /// If it is another one.
    #[track_caller]
    pub fn expect_state_eq(self, expected: &S::Data) -> Self {
        let came = self.data();
        if came != *expected {
            panic!("the state is another than expected\n{}", diff_debug(("expected", expected), ("came", &came)));
        }
        self
    }

    /// Expects the instance to be completed.
    ///
    /// # Panics
    /// If it is not.
    #[track_caller]
    pub fn expect_completed(self) -> Self {
        self.settle();
        assert!(self.history.is_completed(), "the instance is not completed");
        self
    }

    /// Expects the instance not to be completed.
    ///
    /// # Panics
    /// If it is.
    #[track_caller]
    pub fn expect_not_completed(self) -> Self {
        self.settle();
        assert!(!self.history.is_completed(), "the instance is completed");
        self
    }

    /// Expects the last step to have been handled with nothing: no messages, no timeouts scheduled or cancelled, not
    /// completed by it.
    ///
    /// # Panics
    /// If it did something.
    #[track_caller]
    pub fn expect_nothing(mut self) -> Self {
        let step = self.handled();
        let mut came = String::new();
        for message in &step.messages {
            let _ = writeln!(came, "  {:?} {}", message.kind, Form::came(message));
        }
        for (_, change) in &step.timeouts {
            let _ = match change {
                TimeoutChange::Schedule { message, name, .. } => {
                    writeln!(came, "  Timeout {name:?} {}", Form::came(message))
                }
                other => writeln!(came, "  {other:?}"),
            };
        }
        if step.completes {
            came.push_str("  it completed the instance\n");
        }
        assert!(came.is_empty(), "nothing was expected, and this came:\n{came}");
        self
    }

    /// Expects that there was no instance, and that the message may not start one
    /// ([`Handling::NotFound`](crate::Handling::NotFound)).
    ///
    /// # Panics
    /// If it was handled, or failed.
    #[track_caller]
    pub fn expect_not_found(mut self) -> Self {
        let step = self.any_step();
        let fits = matches!(step.outcome, Outcome::NotFound);
        assert!(fits, "it was expected that no instance is found, but {}", step.outcome.describe());
        step.expected = true;
        self
    }

    /// Expects that the instance was completed before, so that the message was passed over
    /// ([`Handling::Completed`](crate::Handling::Completed)).
    ///
    /// # Panics
    /// If it was handled, or failed.
    #[track_caller]
    pub fn expect_passed_over(mut self) -> Self {
        let step = self.any_step();
        let fits = matches!(step.outcome, Outcome::PassedOver);
        assert!(fits, "it was expected that the message is passed over, but {}", step.outcome.describe());
        step.expected = true;
        self
    }

    /// Expects an error whose text contains this one. Nothing is stored then.
    ///
    /// # Panics
    /// If there was none, or another.
    #[track_caller]
    pub fn expect_error(mut self, text: &str) -> Self {
        let step = self.any_step();
        let fits = matches!(&step.outcome, Outcome::Failed(error) if error.to_string().contains(text));
        assert!(fits, "an error with {text:?} was expected, but {}", step.outcome.describe());
        step.expected = true;
        self
    }

    /// Expects an error of this type that fits, such as
    /// `expect_error_as(|error: &sagastore::Error| matches!(error, sagastore::Error::Completed { .. }))`.
    ///
    /// # Panics
    /// If there was none, or another.
    #[track_caller]
    pub fn expect_error_as<E: Error + 'static>(mut self, fits: impl FnOnce(&E) -> bool) -> Self {
        let step = self.any_step();
        let found = match &step.outcome {
            Outcome::Failed(error) => error.downcast_ref::<E>(),
            _ => None,
        };
        let kind = std::any::type_name::<E>();
        assert!(found.is_some_and(fits), "a certain {kind} was expected, but {}", step.outcome.describe());
        step.expected = true;
        self
    }

    /// The last step, which must have been handled.
    #[track_caller]
    pub(super) fn handled(&mut self) -> &Step {
        let step = self.any_step();
        if !matches!(step.outcome, Outcome::Handled) {
            panic!("this was not expected: {}", step.outcome.describe());
        }
        step
    }

    #[track_caller]
    fn any_step(&mut self) -> &mut Step {
        match &mut self.step {
            Some(step) => step,
            None => panic!("nothing has happened yet; say what does by when"),
        }
    }
}
