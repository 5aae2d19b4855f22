//! The saga of the model: its state is the list of its events, so it tells which of them were applied,
//! and in which order.

use sagastore::{Envelope, Saga, message_types};
use serde::{Deserialize, Serialize};

/// Two sagas of one kind; they differ in their persistence keys only.
pub(super) static LEDGERS: [Ledger; 2] = [Ledger { key: "ledger" }, Ledger { key: "50 %/ledger" }];

pub(super) struct Ledger {
    key: &'static str,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LedgerData {
    pub(super) numbers: Vec<u32>,
    pub(super) closed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum LedgerEvent {
    Noted { number: u32 },
    Closed,
}
message_types!(LedgerEvent { Noted: "Noted" 1, Closed: "Closed" 3 });

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum LedgerCommand {
    Tell { number: u32 },
}
message_types!(LedgerCommand { Tell: "Tell" 1 });

impl Saga for Ledger {
    type Data = LedgerData;
    type Event = LedgerEvent;

    fn persistence_key(&self) -> &str {
        self.key
    }

    fn new_data(&self) -> LedgerData {
        LedgerData::default()
    }

    fn apply_event(&self, data: &mut LedgerData, event: &LedgerEvent, _: &Envelope) {
        match event {
            LedgerEvent::Noted { number } => data.numbers.push(*number),
            LedgerEvent::Closed => data.closed = true,
        }
    }

    fn is_complete(&self, data: &LedgerData) -> bool {
        data.closed
    }
}
