use bincode::{Decode, Encode};
use compare_protocol::{Step, Tally};
use evento::{AggregatorName, EventDetails};

/// A step.
#[derive(AggregatorName, Encode, Decode)]
pub(crate) struct Counted {
    number: u64,
    account: String,
    amount: i64,
    currency: String,
    note: String,
}

/// A tally.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub(crate) struct Counter {
    steps: u64,
    amount: i64,
    last_account: String,
    last_note: String,
}

impl From<Step> for Counted {
    fn from(Step { number, account, amount, currency, note }: Step) -> Self {
        Self { number, account, amount, currency, note }
    }
}

impl Counter {
    pub(crate) fn tally(&self) -> Tally {
        let Self { steps, amount, last_account, last_note } = self.clone();
        Tally { steps, amount, last_account, last_note }
    }
}

#[evento::aggregator]
impl Counter {
    async fn counted(&mut self, event: EventDetails<Counted>) -> anyhow::Result<()> {
        let Counted { number, account, amount, currency, note } = event.data;
        let mut tally = Tally {
            steps: self.steps,
            amount: self.amount,
            last_account: std::mem::take(&mut self.last_account),
            last_note: std::mem::take(&mut self.last_note),
        };
        tally.apply(&Step { number, account, amount, currency, note });
        let Tally { steps, amount, last_account, last_note } = tally;
        *self = Self { steps, amount, last_account, last_note };
        Ok(())
    }
}
