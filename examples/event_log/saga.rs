//! One case of the log as a saga instance, and one line as an event of it.
use std::collections::BTreeMap;
use std::num::NonZeroU64;

use sagastore::{Envelope, MessageId, Saga, message_types};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::{Uuid, uuid};

/// The namespace of the message ids; any UUID that never changes.
const MESSAGES: Uuid = uuid!("6c1f0c0e-5d0a-5b1e-9a53-2f3f53a17e0d");

/// One line of the log.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Line {
    pub(crate) case: String,
    pub(crate) seq: NonZeroU64,
    activity: String,
    timestamp: String,
    attrs: Map<String, Value>,
}

impl Line {
    /// The same whenever the line is fed: the UUIDv5 of `seq` in decimal digits, a colon, and `case`.
    /// The digits end at the first colon, so no two pairs share a name.
    pub(crate) fn message_id(&self) -> MessageId {
        let name = format!("{}:{}", self.seq, self.case);
        Uuid::new_v5(&MESSAGES, name.as_bytes()).into()
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum CaseEvent {
    Logged { seq: NonZeroU64, activity: String, timestamp: String, attrs: Map<String, Value> },
}
message_types!(CaseEvent { Logged: "ActivityLogged" 1 });

impl From<Line> for CaseEvent {
    fn from(Line { seq, activity, timestamp, attrs, .. }: Line) -> Self {
        Self::Logged { seq, activity, timestamp, attrs }
    }
}

/// What is known of a case: the fingerprint of its activities in the order of `seq`, in whichever
/// order they came.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CaseData {
    folded: Fingerprint,
    next_seq: u64,
    /// Activities that came before one with a smaller `seq`.
    early: BTreeMap<u64, String>,
}

impl CaseData {
    /// Sixteen hexadecimal digits.
    pub(crate) fn fingerprint(&self) -> String {
        let Fingerprint(hash) = self.early.values().fold(self.folded, |hash, activity| hash.with_line(activity));
        format!("{hash:016x}")
    }
}

pub(crate) struct Case;

impl Saga for Case {
    type Data = CaseData;
    type Event = CaseEvent;

    fn persistence_key(&self) -> &str {
        "event-log-case"
    }

    fn new_data(&self) -> CaseData {
        CaseData { folded: Fingerprint::EMPTY, next_seq: 1, early: BTreeMap::new() }
    }

    fn apply_event(&self, data: &mut CaseData, event: &CaseEvent, _: &Envelope) {
        let CaseEvent::Logged { seq, activity, .. } = event;
        data.early.insert(seq.get(), activity.clone());
        while let Some(activity) = data.early.remove(&data.next_seq) {
            data.folded = data.folded.with_line(&activity);
            data.next_seq += 1;
        }
    }
}

/// The 64-bit FNV-1a hash (Fowler, Noll, Vo).
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Fingerprint(u64);

impl Fingerprint {
    const EMPTY: Self = Self(0xcbf2_9ce4_8422_2325);
    const PRIME: u64 = 0x0100_0000_01b3;

    /// Takes in a text and a newline after it.
    fn with_line(self, text: &str) -> Self {
        let bytes = text.bytes().chain([b'\n']);
        Self(bytes.fold(self.0, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(Self::PRIME)))
    }
}
