//! Message types: old versions and names are upgraded as they load, and what is refused leaves no trace.

use std::collections::BTreeMap;

use sagastore::{
    Envelope, Error, JSON_CONTENT_TYPE, MessageId, MessageType, Offset, Saga, SnapshotFrequency, StoredForm, TypeTag,
};
use serde::{Deserialize, Serialize};

use crate::harness::sample::instance;
use crate::harness::{Clause, Subject, TestDb, assert_error, clauses, stream_of};
use crate::serialization::{append_after, counted, load};

clauses! {
    events_of_all_versions_and_names_load_upgraded_once,
    a_renamed_type_without_an_upcaster_is_an_unknown_type,
    an_event_that_cannot_be_encoded_leaves_the_rest_of_its_unit,
    an_event_that_is_not_valid_leaves_the_rest_of_its_unit,
}

/// A payment: in version 1 whole units, in version 2 cents, in version 3 with a currency. It was
/// called Payment at first.
#[derive(Serialize, Deserialize)]
enum AccountEvent {
    Paid { cents: i64, currency: String },
}

const PAID: TypeTag = TypeTag::new("AccountPaid", 3);

impl MessageType for AccountEvent {
    const TYPES: &'static [TypeTag] = &[PAID];

    fn message_type(&self) -> TypeTag {
        PAID
    }

    fn upcast(stored: StoredForm) -> Option<StoredForm> {
        let mut json: serde_json::Value = serde_json::from_slice(&stored.payload).ok()?;
        let paid = &mut json["Paid"];
        let version = match (&*stored.type_name, stored.type_version) {
            ("Payment", 1) => 1,
            ("AccountPaid", 1) => {
                *paid = serde_json::json!({ "cents": 100 * paid["units"].as_i64()? });
                2
            }
            ("AccountPaid", 2) => {
                paid["cents"] = (paid["cents"].as_i64()? + 1).into();
                paid["currency"] = "EUR".into();
                3
            }
            _ => return None,
        };
        let (type_name, payload) = ("AccountPaid".into(), serde_json::to_vec(&json).ok()?.into());
        Some(StoredForm { type_name, type_version: version, payload, ..stored })
    }
}

/// The same without upcasters.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Unaware(AccountEvent);

impl MessageType for Unaware {
    const TYPES: &'static [TypeTag] = &[PAID];

    fn message_type(&self) -> TypeTag {
        PAID
    }
}

impl From<Unaware> for AccountEvent {
    fn from(event: Unaware) -> Self {
        event.0
    }
}

struct Account<E>(std::marker::PhantomData<fn(E)>);

/// The event as it is, of either kind.
trait Payment {
    fn paid(&self) -> (i64, String);
}

impl Payment for AccountEvent {
    fn paid(&self) -> (i64, String) {
        let Self::Paid { cents, currency } = self;
        (*cents, currency.clone())
    }
}

impl Payment for Unaware {
    fn paid(&self) -> (i64, String) {
        self.0.paid()
    }
}

impl<E: Payment + MessageType + Send + Sync + Serialize + serde::de::DeserializeOwned> Saga for Account<E> {
    type Data = Vec<(i64, String)>;
    type Event = E;

    fn persistence_key(&self) -> &str {
        "account"
    }

    fn new_data(&self) -> Self::Data {
        Vec::new()
    }

    fn apply_event(&self, data: &mut Self::Data, event: &E, _: &Envelope) {
        data.push(event.paid());
    }
}

fn account<E>() -> Account<E> {
    Account(std::marker::PhantomData)
}

fn paid(cents: i64) -> AccountEvent {
    AccountEvent::Paid { cents, currency: "SEK".to_owned() }
}

async fn events_of_all_versions_and_names_load_upgraded_once<DB: Subject>(db: TestDb<DB>) -> Clause {
    let saga = account::<AccountEvent>();
    append_after(&db, &saga, vec![paid(5)], counted("Payment", 1, JSON_CONTENT_TYPE, r#"{"Paid":{"units":1}}"#))
        .await?;
    let rest = [
        counted("AccountPaid", 1, JSON_CONTENT_TYPE, r#"{"Paid":{"units":2}}"#),
        counted("AccountPaid", 2, JSON_CONTENT_TYPE, r#"{"Paid":{"cents":300}}"#),
        counted("AccountPaid", 3, JSON_CONTENT_TYPE, r#"{"Paid":{"cents":400,"currency":"NOK"}}"#),
        counted("Payment", 1, JSON_CONTENT_TYPE, r#"{"Paid":{"units":-5}}"#),
    ];
    db.append(&stream_of(&saga, "1"), 2, &rest).await?;
    let often = db.persister().with_snapshot_frequency(SnapshotFrequency::every(7));
    db.publish_by(&often, &saga, "1", [paid(6)]).await?;
    let expected = [(5, "SEK"), (101, "EUR"), (201, "EUR"), (301, "EUR"), (400, "NOK"), (-499, "EUR"), (6, "SEK")];
    for (persister, replayed) in [(often, 0), (db.persister().without_snapshots(), 7)] {
        let unit = db.load_by(&persister, &saga, "1").await?;
        let found: Vec<_> = unit.instance().data.iter().map(|(cents, currency)| (*cents, currency.as_str())).collect();
        assert_eq!((found.as_slice(), unit.load_report().replayed_events), (expected.as_slice(), replayed));
    }
    Ok(())
}

async fn a_renamed_type_without_an_upcaster_is_an_unknown_type<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (aware, unaware) = (account::<AccountEvent>(), account::<Unaware>());
    let old = counted("Payment", 1, JSON_CONTENT_TYPE, r#"{"Paid":{"units":1}}"#);
    let id = append_after(&db, &aware, vec![paid(5)], old).await?;
    load(&db, &db.persister(), &aware).await?;
    assert_error!(load(&db, &db.persister(), &unaware).await, Error::UnknownType { stream, offset, message_id, name, version } => {
        assert_eq!((stream, offset, message_id), (stream_of(&aware, "1"), Offset::of(1), id));
        assert_eq!((&*name, version), ("Payment", 1));
    });
    Ok(())
}

/// A saga with events that are refused.
struct Picky;

#[derive(Debug, Serialize, Deserialize)]
enum PickyEvent {
    Noted {
        number: u32,
    },
    /// JSON has no such keys.
    Mapped {
        map: BTreeMap<(u8, u8), u8>,
    },
}

impl MessageType for PickyEvent {
    const TYPES: &'static [TypeTag] = &[TypeTag::new("Noted", 1), TypeTag::new("Mapped", 1)];

    fn message_type(&self) -> TypeTag {
        Self::TYPES[usize::from(matches!(self, Self::Mapped { .. }))]
    }

    fn validate(&self) -> Result<(), String> {
        if matches!(self, Self::Noted { number: 0 }) { Err("nought is no number".to_owned()) } else { Ok(()) }
    }
}

impl Saga for Picky {
    type Data = Vec<u32>;
    type Event = PickyEvent;

    fn persistence_key(&self) -> &str {
        "picky"
    }

    fn new_data(&self) -> Vec<u32> {
        Vec::new()
    }

    fn apply_event(&self, data: &mut Vec<u32>, event: &PickyEvent, _: &Envelope) {
        data.push(if let PickyEvent::Noted { number } = event { *number } else { u32::MAX });
    }
}

/// Publishes 1, the bad event, and 2: the bad one leaves no trace. Gives its error.
async fn publish_around<DB: Subject>(db: &TestDb<DB>, bad: PickyEvent) -> anyhow::Result<sagastore::Result<MessageId>> {
    let mut unit = db.unit(&Picky, "1").await?;
    unit.publish(PickyEvent::Noted { number: 1 })?;
    let result = unit.publish(bad);
    assert_eq!((&unit.instance().data, unit.instance().revision.get(), unit.recorded().len()), (&vec![1], 1, 1));
    unit.publish(PickyEvent::Noted { number: 2 })?;
    assert!(db.save(unit).await?.is_changed());
    assert_eq!(db.state(&Picky, "1").await?, Some((vec![1, 2], 2)));
    assert_eq!(db.footprint().await?.outbox, 2);
    Ok(result)
}

async fn an_event_that_cannot_be_encoded_leaves_the_rest_of_its_unit<DB: Subject>(db: TestDb<DB>) -> Clause {
    let bad = PickyEvent::Mapped { map: BTreeMap::from([((1, 2), 3)]) };
    assert_error!(publish_around(&db, bad).await?, Error::Unencodable { what, .. } => assert_eq!(what, "Mapped"));
    // Unless it is given on: then nothing is saved.
    let (persister, id) = (db.persister(), instance("2"));
    let done = persister.execute(db.pool(), &Picky, &id, None, |unit| {
        unit.publish(PickyEvent::Noted { number: 1 })?;
        unit.publish(PickyEvent::Mapped { map: BTreeMap::from([((1, 2), 3)]) })
    });
    assert_error!(done.await, Error::Unencodable { what, .. } => assert_eq!(what, "Mapped"));
    assert_eq!(db.state(&Picky, "2").await?, None);
    Ok(())
}

async fn an_event_that_is_not_valid_leaves_the_rest_of_its_unit<DB: Subject>(db: TestDb<DB>) -> Clause {
    let bad = PickyEvent::Noted { number: 0 };
    assert_error!(publish_around(&db, bad).await?, Error::InvalidInput { detail, .. } => {
        assert_eq!(detail, "nought is no number");
    });
    Ok(())
}
