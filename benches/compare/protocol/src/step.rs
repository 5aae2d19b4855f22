use serde::{Deserialize, Serialize};

/// What every event carries: about 200 bytes as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// From 1 on, without gaps.
    pub number: u64,
    pub account: String,
    pub amount: i64,
    pub currency: String,
    pub note: String,
}

impl Step {
    pub fn new(number: u64) -> Self {
        Self {
            number,
            account: "DE02120300000000202051".to_owned(),
            amount: 1_999,
            currency: "EUR".to_owned(),
            note: "An instalment of the order, as agreed when it was placed; the rest follows with the delivery."
                .to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Step;

    #[test]
    fn a_step_has_about_200_bytes() {
        // Around it comes the name of the event, as each library stores it.
        let json = serde_json::to_vec(&Step::new(1_000)).expect("encodes");
        assert!((180..=200).contains(&json.len()), "{}", json.len());
    }
}
