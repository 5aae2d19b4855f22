//! The append of a unit of work, without what comes before it.

use std::time::Instant;

use sagastore::{Backend, EncodedCommit, Envelope, Head, InstanceId, JSON_CONTENT_TYPE, Limits, LoadFrom};
use sagastore::{
    LoadRequest, MessageId, MessageKind, MessageStore, Outbox, Persister, Saga, SagaStream, SnapshotChange,
};
use sagastore::{Loaded, UnitCommit};
use sqlx::Pool;

use super::backlog::{Counter, CounterEvent};
use super::bed::Bed;
use super::clients::{end_of_run, per_second, share, together};
use super::side::is_measuring;

/// Streams to append to; more than a run has time for.
const STREAMS: u32 = 1_600;
/// If nothing is measured.
const FEW_STREAMS: u32 = 64;

/// A stream and where it ends, as a load would have told.
#[derive(Clone)]
struct End {
    stream: SagaStream,
    head: Head,
}

/// Streams to append to, each once in a run.
pub(crate) struct Ends {
    ends: Vec<End>,
}

impl Ends {
    /// Starts the streams.
    pub(crate) async fn start<B: Bed>(bed: &B) -> Self {
        let persister = Persister::<B::Driver>::new();
        let mut tx = persister.begin(bed.pool()).await.expect("begins");
        let mut ends = Vec::new();
        for number in 0..if is_measuring() { STREAMS } else { FEW_STREAMS } {
            let id = InstanceId::new(format!("appended-{number}")).expect("valid");
            let mut unit = persister.begin_unit_of_work(&Counter, &mut tx, Outbox, &id).await.expect("loads");
            unit.publish(CounterEvent::counted(0)).expect("publishes");
            assert!(persister.save(&mut tx, unit).await.expect("saves").is_changed());
            let stream = SagaStream::new(Counter.persistence_key(), &id).expect("valid");
            ends.push(End { stream, head: Head::default() });
        }
        tx.commit().await.expect("commits");
        let mut started = Self { ends };
        started.find(bed.pool(), 1).await;
        started
    }

    /// Units of work per second of all clients together, each in a transaction of its own, until the time is over or each
    /// stream had one.
    pub(crate) async fn append<DB: Backend>(&mut self, pool: &Pool<DB>, clients: u32, events: u32) -> f64 {
        let count = u32::try_from(self.ends.len()).expect("small");
        let each = usize::try_from(share(count, clients)).expect("small");
        let until = end_of_run();
        let (done, taken) = together(self.ends.chunks(each).map(|ends| {
            let (pool, ends) = (pool.clone(), ends.to_vec());
            async move {
                let mut done = 0;
                for end in ends.iter().take_while(|_| Instant::now() < until) {
                    append(&pool, end, events).await;
                    done += 1;
                }
                done
            }
        }))
        .await;
        self.find(pool, clients).await;
        per_second(done.iter().sum(), taken)
    }

    /// Looks where the streams end now.
    async fn find<DB: Backend>(&mut self, pool: &Pool<DB>, clients: u32) {
        let each = self.ends.len().div_ceil(usize::try_from(clients).expect("small"));
        let (found, _) = together(self.ends.chunks(each).map(|ends| {
            let (pool, mut ends) = (pool.clone(), ends.to_vec());
            async move {
                let mut conn = pool.acquire().await.expect("a connection");
                for End { stream, head } in &mut ends {
                    let from = LoadFrom::Commit(head.commit_number);
                    let request = LoadRequest { stream, from, handled: None };
                    let loaded = DB::Store::default().load(&mut conn, &request).await.expect("loads");
                    *head = end_of(loaded).unwrap_or(*head);
                }
                ends
            }
        }))
        .await;
        self.ends = found.concat();
    }
}

/// The end of the stream, if it is not the one that was known.
fn end_of(loaded: Loaded) -> Option<Head> {
    let last = loaded.page.commits.last()?;
    Some(Head {
        key: loaded.stream.map(|row| row.key),
        commit_number: last.commit_number,
        next_offset: last.end().expect("in range"),
        recorded_at: last.recorded_at,
        order_token: last.order_token,
        checksum: last.checksum,
        completed: last.completed,
    })
}

/// All that counts: a message's envelopes and their row, with the mark of the outbox and that of the handled message.
async fn append<DB: Backend>(pool: &Pool<DB>, End { stream, head }: &End, events: u32) {
    let event = |number| {
        let payload = CounterEvent::counted(number).payload();
        Envelope::new(MessageKind::Event, "Counted", 1, JSON_CONTENT_TYPE, payload).expect("valid")
    };
    let events: Vec<Envelope> = (0..events).map(event).collect();
    let encoded = EncodedCommit::encode(&stream.name, &events, &Limits::default()).expect("encodes");
    let unit = UnitCommit {
        stream,
        head,
        encoded: &encoded,
        handled: Some(MessageId::new()),
        completed: false,
        deliver: true,
        snapshots: SnapshotChange::None,
    };
    let mut conn = pool.acquire().await.expect("a connection");
    let written = DB::Store::default().commit_alone(&mut conn, &unit).await.expect("commits");
    assert!(written, "nobody else appends to this stream");
}
