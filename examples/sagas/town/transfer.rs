//! A transfer between two accounts: debit, credit, and the debit given back if the credit is refused.
use sagastore::{Cause, Envelope, HandleMessage, InstanceId, Saga, UnitOfWork, message_types};
use serde::{Deserialize, Serialize};

use super::account::AccountMessage;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TransferMessage {
    Start { transfer: String, from: String, to: String, cents: i64 },
    Debited { transfer: String },
    Credited { transfer: String },
    Refused { transfer: String },
}
message_types!(TransferMessage {
    Start: "StartTransfer" 1,
    Debited: "AccountDebited" 1,
    Credited: "AccountCredited" 1,
    Refused: "AccountRefused" 1,
});

impl TransferMessage {
    /// The transfer that it is for.
    pub(crate) fn transfer(&self) -> sagastore::Result<InstanceId> {
        let (Self::Start { transfer, .. }
        | Self::Debited { transfer }
        | Self::Credited { transfer }
        | Self::Refused { transfer }) = self;
        InstanceId::new(transfer)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TransferEvent {
    Started { from: String, to: String, cents: i64 },
    MoneyTaken,
    Completed,
    Refused,
    GivenBack,
}
message_types!(TransferEvent {
    Started: "TransferStarted" 1,
    MoneyTaken: "TransferMoneyTaken" 1,
    Completed: "TransferCompleted" 1,
    Refused: "TransferRefused" 1,
    GivenBack: "TransferGivenBack" 1,
});

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TransferData {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) cents: i64,
    pub(crate) step: Step,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Step {
    #[default]
    Taking,
    Giving,
    Completed,
    Refused,
    GivenBack,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Transfer;

impl Saga for Transfer {
    type Data = TransferData;
    type Event = TransferEvent;
    fn persistence_key(&self) -> &str {
        "transfer"
    }
    fn new_data(&self) -> TransferData {
        TransferData::default()
    }
    fn apply_event(&self, data: &mut TransferData, event: &TransferEvent, _: &Envelope) {
        match event {
            TransferEvent::Started { from, to, cents } => {
                *data = TransferData { from: from.clone(), to: to.clone(), cents: *cents, step: Step::Taking };
            }
            TransferEvent::MoneyTaken => data.step = Step::Giving,
            TransferEvent::Completed => data.step = Step::Completed,
            TransferEvent::Refused => data.step = Step::Refused,
            TransferEvent::GivenBack => data.step = Step::GivenBack,
        }
    }
    fn is_complete(&self, data: &TransferData) -> bool {
        matches!(data.step, Step::Completed | Step::Refused | Step::GivenBack)
    }
}

impl HandleMessage for Transfer {
    type Message = TransferMessage;

    fn is_trigger(&self, message: &TransferMessage) -> bool {
        matches!(message, TransferMessage::Start { .. })
    }

    fn handle(&self, unit: &mut UnitOfWork<'_, Self>, message: &TransferMessage) -> Result<(), Cause> {
        let TransferData { from: account, to, cents, step } = unit.instance().data.clone();
        let transfer = unit.instance().instance_id.to_string();
        match (message, step) {
            (TransferMessage::Start { from, to, cents, .. }, _) => {
                let (account, cents) = (from.clone(), *cents);
                unit.publish(TransferEvent::Started { from: from.clone(), to: to.clone(), cents })?;
                unit.execute(&AccountMessage::Debit { account, cents, transfer })?;
            }
            (TransferMessage::Debited { .. }, Step::Taking) => {
                unit.publish(TransferEvent::MoneyTaken)?;
                unit.execute(&AccountMessage::Credit { account: to, cents, transfer })?;
            }
            (TransferMessage::Credited { .. }, Step::Giving) => {
                unit.publish(TransferEvent::Completed)?;
            }
            (TransferMessage::Refused { .. }, Step::Taking) => {
                unit.publish(TransferEvent::Refused)?;
            }
            (TransferMessage::Refused { .. }, Step::Giving) => {
                unit.publish(TransferEvent::GivenBack)?;
                unit.execute(&AccountMessage::Refund { account, cents })?;
            }
            (message, step) => return Err(format!("{message:?} comes at the wrong time: {step:?}").into()),
        }
        Ok(())
    }
}
