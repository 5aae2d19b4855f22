//! A record as AMQP's properties.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};

use super::RabbitMqError;
use crate::outbox::OutboxRecord;
use crate::timestamp::Timestamp;

/// AMQP's number for messages that survive a restart.
const PERSISTENT: u8 = 2;
/// Headers by which RabbitMQ sends copies elsewhere.
const COPIES: [&str; 2] = ["CC", "BCC"];
/// What a text in a table takes beside name and value, in bytes: a length, a type and a length.
const ENTRY_BYTES: usize = 6;
/// What a frame holds beside the headers at most, in bytes: its own form and five properties of 255 bytes.
const FRAME_BYTES: usize = 1_500;
const MICROS_PER_SECOND: i64 = 1_000_000;

/// A text of at most 255 bytes.
pub(super) fn short(what: &'static str, text: &str) -> Result<ShortString, RabbitMqError> {
    ShortString::try_new(text).map_err(|error| RabbitMqError::Unusable { what, detail: error.to_string() })
}

/// Whole seconds since 1970, as AMQP has it; `None` before.
fn seconds(at: Timestamp) -> Option<u64> {
    u64::try_from(at.as_micros().div_euclid(MICROS_PER_SECOND)).ok()
}

/// Properties and headers of a record, for frames of this size at most.
pub(super) fn of(record: &OutboxRecord, frame_max: u32) -> Result<BasicProperties, RabbitMqError> {
    let message = &record.envelope;
    let mut properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_message_id(short("message id", &message.message_id.to_string())?)
        .with_correlation_id(short("correlation id", &message.correlation_id.to_string())?)
        .with_type(short("message type", &message.type_name)?)
        .with_content_type(short("content type", &message.content_type)?)
        .with_headers(headers(record, frame_max)?);
    if let Some(seconds) = seconds(message.created_at) {
        properties = properties.with_timestamp(seconds);
    }
    Ok(properties)
}

fn headers(record: &OutboxRecord, frame_max: u32) -> Result<FieldTable, RabbitMqError> {
    let unusable = |detail| RabbitMqError::Unusable { what: "header", detail };
    let (mut table, mut size) = (FieldTable::default(), FRAME_BYTES);
    for (name, value) in record.headers() {
        if COPIES.contains(&name.as_str()) {
            return Err(unusable(format!(
                "RabbitMQ sends copies by one named {name:?}; name the metadata differently"
            )));
        }
        size = size.saturating_add(ENTRY_BYTES).saturating_add(name.len()).saturating_add(value.len());
        table.insert(short("name of a header", &name)?, AMQPValue::LongString(LongString::from(value)));
    }
    // A larger frame makes the broker close the connection, with all that is on its way.
    let limit = usize::try_from(frame_max).unwrap_or(usize::MAX);
    if size > limit {
        return Err(unusable(format!("all headers take about {size} bytes, and a frame has {limit} at most")));
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Envelope, MessageKind, OutboxId};

    const FRAME: u32 = 131_072;

    fn record(metadata: &[(&str, String)]) -> OutboxRecord {
        let mut envelope = Envelope::new(MessageKind::Event, "Paid", 1, "text/plain", "1 €").expect("valid");
        envelope.created_at = Timestamp::from_micros(1_700_000_000_999_999);
        envelope.metadata.extend(metadata.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        OutboxRecord {
            id: OutboxId::START,
            aggregate_type: "order".into(),
            aggregate_id: "1".into(),
            envelope,
            attempts: 0,
        }
    }

    fn refusal(metadata: &[(&str, String)]) -> String {
        of(&record(metadata), FRAME).expect_err("not usable").to_string()
    }

    #[test]
    fn identity_type_and_time_are_properties() {
        let record = record(&[]);
        let properties = of(&record, FRAME).expect("usable");
        assert_eq!(properties.delivery_mode(), &Some(PERSISTENT));
        let text = |text: &Option<ShortString>| text.as_ref().map(ToString::to_string);
        assert_eq!(text(properties.message_id()), Some(record.envelope.message_id.to_string()));
        assert_eq!(text(properties.correlation_id()), Some(record.envelope.correlation_id.to_string()));
        assert_eq!(text(properties.kind()).as_deref(), Some("Paid"));
        assert_eq!(text(properties.content_type()).as_deref(), Some("text/plain"));
        assert_eq!(properties.timestamp(), &Some(1_700_000_000));
    }

    #[test]
    fn all_headers_are_sent_as_they_are() {
        let record = record(&[("", String::new()), ("a\r\nb", "\0 é ".into()), ("traceparent", "00-1".into())]);
        let properties = of(&record, FRAME).expect("usable");
        let table = properties.headers().as_ref().expect("headers").inner();
        let expected = record.headers();
        assert_eq!(table.len(), expected.len());
        for (name, value) in expected {
            assert_eq!(table[name.as_str()], AMQPValue::LongString(value.into()), "{name}");
        }
    }

    #[test]
    fn what_would_send_copies_or_break_the_channel_is_refused() {
        assert!(refusal(&[("CC", "audit".into())]).contains("copies"));
        assert!(refusal(&[(&"n".repeat(256), String::new())]).contains("name of a header"));
        assert!(refusal(&[("big", "v".repeat(131_072))]).contains("frame"));
        assert!(of(&record(&[("big", "v".repeat(128_000))]), FRAME).is_ok());
    }

    #[test]
    fn a_time_before_1970_has_no_property() {
        assert_eq!(seconds(Timestamp::from_micros(-1)), None);
        assert_eq!(seconds(Timestamp::from_micros(0)), Some(0));
    }
}
