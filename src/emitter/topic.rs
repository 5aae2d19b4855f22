//! Under which name a message goes to a broker.

use std::sync::Arc;

use crate::outbox::OutboxRecord;

/// What every default topic begins with.
pub const TOPIC_PREFIX: &str = "outbox-";

/// Names the topic, subject or routing key of a record.
pub type TopicFn = Arc<dyn Fn(&OutboxRecord) -> String + Send + Sync>;

/// [`TOPIC_PREFIX`] and the message's type name in kebab case: `OrderShipped` goes to `outbox-order-shipped`.
pub fn default_topic(record: &OutboxRecord) -> String {
    format!("{TOPIC_PREFIX}{}", kebab_case(record.event_type()))
}

/// Words in lower case with hyphens between. A word begins at a capital after a small letter or digit, at the last of
/// several capitals, and after what is neither letter nor digit.
fn kebab_case(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let (mut kebab, mut gap) = (String::with_capacity(name.len() + 4), false);
    for (at, letter) in letters.iter().enumerate() {
        if !letter.is_alphanumeric() {
            gap = true;
            continue;
        }
        let before = at.checked_sub(1).and_then(|before| letters.get(before));
        let after_small = before.is_some_and(|before| before.is_lowercase() || before.is_numeric());
        let last_capital = before.is_some_and(|before| before.is_uppercase())
            && letters.get(at + 1).is_some_and(|after| after.is_lowercase());
        if !kebab.is_empty() && (gap || letter.is_uppercase() && (after_small || last_capital)) {
            kebab.push('-');
        }
        gap = false;
        kebab.extend(letter.to_lowercase());
    }
    kebab
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_names_become_kebab_case() {
        for (name, kebab) in [
            ("OrderShipped", "order-shipped"),
            ("HTTPRequestSent", "http-request-sent"),
            ("order_line.added", "order-line-added"),
            ("Order2Shipped", "order2-shipped"),
            ("shop::Order", "shop-order"),
            ("already-kebab", "already-kebab"),
            ("ÜberweisungGebucht", "überweisung-gebucht"),
            ("", ""),
            ("--", ""),
        ] {
            assert_eq!(kebab_case(name), kebab, "{name}");
        }
    }
}
