//! Accounts: they take and give money for transfers, and refuse what they cannot do.
use sagastore::{Cause, Envelope, HandleMessage, InstanceId, Saga, UnitOfWork, message_types};
use serde::{Deserialize, Serialize};

use super::transfer::TransferMessage;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum AccountMessage {
    Open { account: String, cents: i64 },
    Debit { account: String, cents: i64, transfer: String },
    Credit { account: String, cents: i64, transfer: String },
    Refund { account: String, cents: i64 },
}
message_types!(AccountMessage {
    Open: "OpenAccount" 1,
    Debit: "DebitAccount" 1,
    Credit: "CreditAccount" 1,
    Refund: "RefundAccount" 1,
});

impl AccountMessage {
    /// The account that it is for.
    pub(crate) fn account(&self) -> sagastore::Result<InstanceId> {
        let (Self::Open { account, .. }
        | Self::Debit { account, .. }
        | Self::Credit { account, .. }
        | Self::Refund { account, .. }) = self;
        InstanceId::new(account)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum AccountEvent {
    Changed { cents: i64 },
}
message_types!(AccountEvent { Changed: "BalanceChanged" 1 });

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Account;

impl Saga for Account {
    type Data = i64; // cents
    type Event = AccountEvent;
    fn persistence_key(&self) -> &str {
        "account"
    }
    fn new_data(&self) -> i64 {
        0
    }
    fn apply_event(&self, balance: &mut i64, AccountEvent::Changed { cents }: &AccountEvent, _: &Envelope) {
        *balance += cents;
    }
}

impl HandleMessage for Account {
    type Message = AccountMessage;

    /// Money can be asked of and sent to accounts that were never opened: they answer too.
    fn is_trigger(&self, _: &AccountMessage) -> bool {
        true
    }

    fn handle(&self, unit: &mut UnitOfWork<'_, Self>, message: &AccountMessage) -> Result<(), Cause> {
        let is_open = unit.instance().revision.get() > 0;
        match message {
            AccountMessage::Open { cents, .. } | AccountMessage::Refund { cents, .. } => {
                unit.publish(AccountEvent::Changed { cents: *cents })?;
            }
            AccountMessage::Debit { cents, transfer, .. } if unit.instance().data >= *cents => {
                unit.publish(AccountEvent::Changed { cents: -cents })?;
                unit.execute(&TransferMessage::Debited { transfer: transfer.clone() })?;
            }
            AccountMessage::Credit { cents, transfer, .. } if is_open => {
                unit.publish(AccountEvent::Changed { cents: *cents })?;
                unit.execute(&TransferMessage::Credited { transfer: transfer.clone() })?;
            }
            AccountMessage::Debit { transfer, .. } | AccountMessage::Credit { transfer, .. } => {
                unit.execute(&TransferMessage::Refused { transfer: transfer.clone() })?;
            }
        }
        Ok(())
    }
}
