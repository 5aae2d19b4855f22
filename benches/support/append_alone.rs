//! The append of a unit of work, without what comes before it.

use std::time::Instant;

use sagastore::{
    Backend, EncodedCommit, Envelope, Head, HeadTrust, InstanceId, JSON_CONTENT_TYPE, Limits, MessageId, MessageKind,
};
use sagastore::{MessageStore, Saga, SagaStream, SnapshotChange, UnitCommit};
use sqlx::Pool;

use super::backlog::{Counter, CounterEvent};
use super::bed::Bed;
use super::clients::{end_of_run, per_second, share, together};
use super::side::is_measuring;

/// Streams to append to.
const STREAMS: u32 = 640;
/// If nothing is measured.
const FEW_STREAMS: u32 = 64;
/// Who starts the streams.
const STARTING_CLIENTS: u32 = 32;

/// Streams and where each ends.
pub(crate) struct Ends<DB: Backend> {
    /// As long-lived as that of a program.
    store: DB::Store,
    ends: Vec<(SagaStream, Head)>,
}

impl<DB: Backend> Ends<DB> {
    /// Starts the streams.
    pub(crate) async fn start(bed: &impl Bed<Driver = DB>) -> Self {
        let streams = 0..if is_measuring() { STREAMS } else { FEW_STREAMS };
        let ends = streams.map(|number| {
            let id = InstanceId::new(format!("appended-{number}")).expect("valid");
            (SagaStream::new(Counter.persistence_key(), &id).expect("valid"), Head::default())
        });
        let mut started = Self { store: DB::Store::default(), ends: ends.collect() };
        started.each(bed.pool(), STARTING_CLIENTS, 1, Turns::One).await;
        started
    }

    /// Units of work per second of all clients together, each in a transaction of its own. A client's streams take turns.
    pub(crate) async fn append(&mut self, pool: &Pool<DB>, clients: u32, events: u32) -> f64 {
        self.each(pool, clients, events, Turns::Until(end_of_run())).await
    }

    async fn each(&mut self, pool: &Pool<DB>, clients: u32, events: u32, turns: Turns) -> f64 {
        let share = share(u32::try_from(self.ends.len()).expect("small"), clients);
        let (ended, taken) = together(self.ends.chunks(usize::try_from(share).expect("small")).map(|ends| {
            let (pool, store, mut ends) = (pool.clone(), self.store.clone(), ends.to_vec());
            async move {
                let (mut done, streams) = (0, ends.len());
                while turns.go_on(done, streams) {
                    let (stream, head) = &mut ends[done % streams];
                    *head = append(&pool, &store, stream, head, events).await;
                    done += 1;
                }
                (ends, u32::try_from(done).expect("small"))
            }
        }))
        .await;
        let done = ended.iter().map(|(_, done)| done).sum();
        self.ends = ended.into_iter().flat_map(|(ends, _)| ends).collect();
        per_second(done, taken)
    }
}

/// How long a client goes on.
#[derive(Clone, Copy)]
enum Turns {
    /// Until each of its streams had one.
    One,
    Until(Instant),
}

impl Turns {
    fn go_on(self, done: usize, streams: usize) -> bool {
        match self {
            Self::One => done < streams,
            Self::Until(end) => Instant::now() < end,
        }
    }
}

/// All that counts: the envelopes and their row, with the mark of the outbox and that of the handled message.
///
/// Nobody else writes to the stream, so its end is where it was, as if it had just been read.
async fn append<DB: Backend>(
    pool: &Pool<DB>,
    store: &DB::Store,
    stream: &SagaStream,
    head: &Head,
    events: u32,
) -> Head {
    let event = |number| {
        let payload = CounterEvent::counted(number).payload();
        Envelope::new(MessageKind::Event, "Counted", 1, JSON_CONTENT_TYPE, payload).expect("valid")
    };
    let events: Vec<Envelope> = (0..events).map(event).collect();
    let encoded = EncodedCommit::encode(&stream.name, &events, &Limits::default()).expect("encodes");
    let unit = UnitCommit {
        stream,
        head,
        head_trust: HeadTrust::JustRead,
        encoded: &encoded,
        handled: Some(MessageId::new()),
        completed: false,
        deliver: true,
        snapshots: SnapshotChange::None,
    };
    let mut conn = pool.acquire().await.expect("a connection");
    let written = store.commit_alone(&mut conn, &unit).await.expect("commits");
    written.expect("nobody else appends to this stream")
}
