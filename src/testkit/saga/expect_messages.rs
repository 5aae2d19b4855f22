//! What is expected to be sent.

use std::fmt::Debug;

use super::SagaTest;
use super::diff::{Shown, diff_lists};
use super::expected::{ExpectedCommand, Form, must_encode};
use crate::message::{MessageKind, MessageType};
use crate::saga::Saga;

impl<S: Saga<Data: PartialEq + Debug>> SagaTest<S> {
    /// Expects the last step to have published these events, in this order, and no others.
    ///
    /// # Panics
    /// If it did not.
    #[track_caller]
    pub fn expect_events(mut self, events: impl IntoIterator<Item = S::Event>) -> Self {
        let came = self.came(MessageKind::Event);
        let form = |event: S::Event| {
            let tag = event.message_type();
            must_encode(Form::encoded(tag, &event, &self.codecs, &self.limits))
        };
        let expected: Vec<_> = events.into_iter().map(form).collect();
        compare("the saga published other events than expected", &expected, &came);
        self
    }

    /// Expects the last step to have published no events.
    ///
    /// # Panics
    /// If it did.
    #[track_caller]
    pub fn expect_no_events(self) -> Self {
        self.expect_events([])
    }

    /// Expects the last step to have sent these commands, in this order, and no others. Commands of several types are
    /// each turned into an [`ExpectedCommand`], which can also name a destination.
    ///
    /// # Panics
    /// If it did not.
    #[track_caller]
    pub fn expect_commands<C: Into<ExpectedCommand>>(mut self, commands: impl IntoIterator<Item = C>) -> Self {
        let came = self.came(MessageKind::Command);
        let form = |command: C| must_encode(command.into().form(&self.codecs, &self.limits));
        let expected: Vec<_> = commands.into_iter().map(form).collect();
        compare("the saga sent other commands than expected", &expected, &came);
        self
    }

    /// Expects the last step to have sent no commands.
    ///
    /// # Panics
    /// If it did.
    #[track_caller]
    pub fn expect_no_commands(self) -> Self {
        self.expect_commands::<ExpectedCommand>([])
    }

    #[track_caller]
    fn came(&mut self, kind: MessageKind) -> Vec<Form> {
        self.handled().of_kind(kind).map(Form::came).collect()
    }
}

/// Fails with both lists if they differ.
#[track_caller]
pub(super) fn compare(complaint: &str, expected: &[Form], came: &[Form]) {
    let same = expected.iter().zip(came).take_while(|(expected, came)| expected.fits(came)).count();
    if same < expected.len().max(came.len()) {
        let shown = |forms: &[Form]| forms.iter().map(Form::shown).collect::<Vec<Shown>>();
        let difference = diff_lists(&shown(expected), &shown(came), same);
        panic!("{complaint}; the first difference is in number {}\n{difference}", same + 1);
    }
}
