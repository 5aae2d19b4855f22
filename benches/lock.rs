//! Leases: obtaining, renewing, releasing, refusing, and what a fence adds to a transaction.
//!
//! The yardstick is the plain driver writing one row with autocommit, as often as the library has to write:
//! twice for obtaining and releasing, once for renewing. The contended lease is asked for by eight tasks
//! without pause, each with a connection; who gets it gives it back at once.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use criterion::Criterion;
use futures_util::future::join_all;
use sagastore::lock::lease::{Lease, Obtained};
use sagastore::lock::{ClientId, DatabaseLock, Lock, ResourceId};
use sagastore::{Envelope, JSON_CONTENT_TYPE, MessageKind, Offset, Persister, StreamName};
use tokio::runtime::Runtime;

mod support;
use support::backlog::CounterEvent;
use support::bed::{Bed, Bench, Setup, on_every_database};
use support::rates::{Rated, Rates};
use support::side::{Side, criterion, is_measuring, measure};
use support::table::Table;

const CONTENDERS: usize = 8;
/// How long one round of contention lasts.
const CONTENTION: Duration = Duration::from_millis(500);
/// As many bytes as a lease's row has, about.
const ROW: [u8; 100] = [7; 100];

struct Locks {
    criterion: Criterion,
    leases: Table,
    fences: Table,
    contention: Rates,
    sessions: Table,
}

fn resource(name: &str) -> ResourceId {
    ResourceId::new(name).expect("valid")
}

fn client(name: &str) -> ClientId {
    ClientId::new(name).expect("valid")
}

async fn obtain(lock: &impl Lock, resource: &ResourceId, client: &ClientId) -> Lease {
    lock.obtain_no_wait(resource, client).await.expect("answers").lease().expect("nobody else wants it")
}

async fn obtain_and_release(lock: &impl Lock, resource: &ResourceId, client: &ClientId) {
    let lease = obtain(lock, resource, client).await;
    assert!(lock.release(&lease).await.expect("answers"));
}

impl Bench for Locks {
    const SETUP: Setup = Setup { connections: 8, sqlite_connections: 8, ..Setup::ONE_CLIENT };

    fn run(&mut self, runtime: &Runtime, bed: &impl Bed) {
        self.uncontended(runtime, bed);
        self.fenced(runtime, bed);
        self.contended(runtime, bed);
    }
}

impl Locks {
    fn uncontended<B: Bed>(&mut self, runtime: &Runtime, bed: &B) {
        let lock = DatabaseLock::new(bed.pool().clone()).with_length(Duration::from_secs(3600)).expect("valid");
        let (lock, one, other) = (&lock, &client("one"), &client("other"));
        let (same, held) = (&resource("same"), &resource("held"));
        let (mut next, mut next_raw, mut lease) = (0_u64, 1_i64, runtime.block_on(obtain(lock, held, one)));
        let same_again = async || obtain_and_release(lock, same, one).await;
        self.compare(runtime, bed, "obtain and release, the same resource", same_again, async || {
            bed.upsert_state(0, &ROW).await;
            bed.upsert_state(0, &ROW).await;
        });
        let another = async || {
            next += 1;
            obtain_and_release(lock, &resource(&next.to_string()), one).await;
        };
        self.compare(runtime, bed, "obtain and release, a resource that is new", another, async || {
            next_raw += 1;
            bed.upsert_state(next_raw, &ROW).await;
            bed.upsert_state(next_raw, &ROW).await;
        });
        let renew = async || lease = lock.renew(&lease).await.expect("answers").expect("is held");
        self.compare(runtime, bed, "renew", renew, async || bed.upsert_state(0, &ROW).await);
        let refused = async || assert!(lock.obtain_no_wait(held, other).await.expect("answers").is_held());
        self.compare(runtime, bed, "be refused what is held", refused, async || bed.upsert_state(0, &ROW).await);
    }

    fn compare<B: Bed, R, S>(
        &mut self,
        runtime: &Runtime,
        _: &B,
        what: &str,
        library: impl AsyncFnMut() -> R,
        raw: impl AsyncFnMut() -> S,
    ) {
        let mut sides = [Side::new("library", runtime, library), Side::new("raw upserts", runtime, raw)];
        measure(&mut self.criterion, &format!("lock/{}", B::NAME), what, &mut sides);
        self.leases.compare(what, B::NAME, &mut sides);
    }

    /// Transactions that append one event, of which the library knows the stream's end.
    fn fenced<B: Bed>(&mut self, runtime: &Runtime, bed: &B) {
        let lock = DatabaseLock::new(bed.pool().clone()).with_length(Duration::from_secs(3600)).expect("valid");
        let lease = runtime.block_on(obtain(&lock, &resource("fenced"), &client("one")));
        let (ends, raw_end) = ([Cell::new(Offset::default()), Cell::new(Offset::default())], Cell::new(0));
        let mut sides = [
            Side::new("fenced", runtime, async || append(bed, "fenced", &ends[0], Some(&lease)).await),
            Side::new("not fenced", runtime, async || append(bed, "free", &ends[1], None).await),
            Side::new("raw insert", runtime, async || {
                bed.begin().await;
                bed.write(-1, raw_end.replace(raw_end.get() + 1), &CounterEvent::counted(1).payload(), None).await;
                bed.commit().await;
            }),
        ];
        measure(&mut self.criterion, &format!("lock/{}", B::NAME), "transaction", &mut sides);
        self.fences.compare("begin, append one event, commit", B::NAME, &mut sides);
    }

    fn contended<B: Bed>(&mut self, runtime: &Runtime, bed: &B) {
        let lock = DatabaseLock::new(bed.pool().clone());
        let refusals = RefCell::new(0.0);
        let per_second = |count: u64, since: Instant| count as f64 / since.elapsed().as_secs_f64();
        let mut sides = [
            Rated::new("obtained/s", || {
                let start = Instant::now();
                let (obtained, refused) = runtime.block_on(contend(&lock, until(start)));
                *refusals.borrow_mut() = per_second(refused, start);
                per_second(obtained, start)
            }),
            Rated::new("refused/s", || *refusals.borrow()),
            Rated::new("raw upserts/s, one client", || {
                let (start, mut count) = (Instant::now(), 0);
                while Instant::now() < until(start) {
                    runtime.block_on(bed.upsert_state(0, &ROW));
                    count += 1;
                }
                per_second(count, start)
            }),
        ];
        self.contention.compare("eight tasks, one resource", B::NAME, &mut sides);
    }
}

async fn append<B: Bed>(bed: &B, stream: &str, end: &Cell<Offset>, lease: Option<&Lease>) {
    let persister = Persister::<B::Driver>::new();
    let stream = StreamName::new(stream).expect("valid");
    let payload = CounterEvent::counted(1).payload();
    let event = Envelope::new(MessageKind::Event, "Counted", 1, JSON_CONTENT_TYPE, payload).expect("valid");
    let mut tx = persister.begin(bed.pool()).await.expect("begins");
    if let Some(lease) = lease {
        lease.fence(&mut tx).await.expect("is held");
    }
    let appended = persister.store().append_messages(&mut tx, &stream, end.get(), &[event]).await;
    end.set(appended.expect("appends"));
    tx.commit().await.expect("commits");
}

fn until(start: Instant) -> Instant {
    start + if is_measuring() { CONTENTION } else { CONTENTION / 50 }
}

/// How often the tasks got the lease, and how often they were refused it.
async fn contend(lock: &impl Lock, until: Instant) -> (u64, u64) {
    let contended = resource("contended");
    let contender = async |number: usize| {
        let (client, mut obtained, mut refused) = (client(&number.to_string()), 0, 0);
        while Instant::now() < until {
            match lock.obtain_no_wait(&contended, &client).await.expect("answers") {
                Obtained::Lease(lease) => {
                    assert!(lock.release(&lease).await.expect("answers"));
                    obtained += 1;
                }
                Obtained::Held => refused += 1,
            }
        }
        (obtained, refused)
    };
    let counts = join_all((0..CONTENDERS).map(contender)).await;
    counts.iter().fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1))
}

/// The locks of a session of PostgreSQL, which write nothing.
#[cfg(feature = "postgres")]
fn sessions(locks: &mut Locks) {
    use sagastore::postgres::session::{SessionLockKey, SessionLocker, SessionLockerConfig};

    support::bed::on_postgres(Setup::ONE_CLIENT, |runtime, bed| {
        let options = bed.pool().connect_options();
        let locker = SessionLocker::new(SessionLockerConfig::new(options.as_ref().clone()));
        runtime.block_on(locker.start()).expect("starts");
        let key = SessionLockKey::new(["bench", "session"]).expect("valid");
        let mut sides = [
            Side::new("library", runtime, async || {
                let mut held = locker.lock(&key).await.expect("answers");
                held.release().await.expect("answers");
            }),
            Side::new("raw upserts", runtime, async || {
                bed.upsert_state(0, &ROW).await;
                bed.upsert_state(0, &ROW).await;
            }),
        ];
        measure(&mut locks.criterion, "lock/PostgreSQL", "session", &mut sides);
        locks.sessions.compare("lock and release a session's lock", "PostgreSQL", &mut sides);
        runtime.block_on(locker.close());
    });
}

fn main() {
    let mut locks = Locks {
        criterion: criterion(),
        leases: Table::new(
            "Leases, in rounds; the ratio is the library's time over that of as many one-row upserts by the plain driver",
        ),
        fences: Table::new(
            "What a fence adds to a transaction, in rounds; the ratios are the fenced one's time over the others",
        ),
        contention: Rates::new("Eight tasks that ask for one lease without pause: median (least–most)"),
        sessions: Table::new("Session locks, in rounds; the ratio is the library's time over two one-row upserts"),
    };
    on_every_database(&mut locks);
    #[cfg(feature = "postgres")]
    sessions(&mut locks);
    locks.criterion.final_summary();
    locks.leases.print();
    locks.fences.print();
    locks.contention.print();
    locks.sessions.print();
}
