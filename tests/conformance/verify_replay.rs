//! New code is held against what old code has stored.

use std::num::NonZeroU32;

use anyhow::ensure;
use sagastore::verify_replay::{Baseline, ReplayFault, ReplayVerifier, VerifiedReplay};
use sagastore::{Envelope, Error, Saga, SnapshotFrequency};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::harness::sample::{Counter, CounterEvent, Order, added, line, note};
use crate::harness::{Clause, Subject, TestDb, clauses};

clauses! {
    the_code_that_wrote_it_replays_it,
    code_that_folds_otherwise_differs_from_the_baseline,
    an_instance_that_went_on_is_compared_as_it_was,
    code_that_folds_otherwise_differs_from_the_snapshots_that_it_would_trust,
    a_snapshot_that_new_code_cannot_read_is_told,
    an_event_that_new_code_does_not_know_is_told,
    damage_is_told_and_the_others_are_replayed,
    what_the_baseline_knows_and_the_database_does_not_is_told,
    a_sample_is_always_the_same,
    whole_numbers_beyond_64_bits_are_compared_to_the_last_digit,
}

/// The counter of another release.
pub(crate) struct Other<D> {
    factor: i64,
    version: u32,
    data: fn(i64) -> D,
    add: fn(&mut D, i64),
}

impl<D> Saga for Other<D>
where
    D: Clone + Send + Sync + Serialize + DeserializeOwned + 'static,
{
    type Data = D;
    type Event = CounterEvent;

    fn persistence_key(&self) -> &str {
        "counter"
    }

    fn new_data(&self) -> D {
        (self.data)(0)
    }

    fn apply_event(&self, data: &mut D, CounterEvent::Added { amount }: &CounterEvent, _: &Envelope) {
        (self.add)(data, amount * self.factor);
    }

    fn data_version(&self) -> u32 {
        self.version
    }
}

pub(crate) fn doubling(version: u32) -> Other<i64> {
    Other { factor: 2, version, data: |start| start, add: |data, amount| *data += amount }
}

async fn verify<DB: Subject, S: Saga>(db: &TestDb<DB>, saga: &S, baseline: &[u8]) -> anyhow::Result<VerifiedReplay> {
    let verifier = ReplayVerifier::new(saga, db.persister()).against(Baseline::read(baseline)?);
    Ok(verifier.run(db.pool(), |_| Ok(())).await?)
}

pub(crate) async fn baseline_of<DB: Subject, S: Saga>(db: &TestDb<DB>, saga: &S) -> anyhow::Result<Vec<u8>> {
    let mut lines = Vec::new();
    let verifier = ReplayVerifier::new(saga, db.persister());
    ensure!(verifier.run(db.pool(), |state| state.write_line(&mut lines)).await?.is_clean());
    Ok(lines)
}

/// Counters `0`, `1`, … with so many events each, and a snapshot at the third.
pub(crate) async fn counters<DB: Subject>(db: &TestDb<DB>, instances: u32, events: i64) -> anyhow::Result<()> {
    let persister = db.persister().with_snapshot_frequency(SnapshotFrequency::every(3));
    for id in 0..instances {
        let id = sagastore::InstanceId::new(id.to_string())?;
        for amount in 1..=events {
            let published = persister.execute(db.pool(), &Counter, &id, None, |unit| unit.publish(added(amount)));
            let _ = published.await?;
        }
    }
    Ok(())
}

fn faults(verified: &VerifiedReplay) -> Vec<(String, &ReplayFault)> {
    verified.findings.iter().map(|finding| (finding.instance_id.to_string(), &finding.fault)).collect()
}

async fn the_code_that_wrote_it_replays_it<DB: Subject>(db: TestDb<DB>) -> Clause {
    counters(&db, 5, 4).await?;
    db.publish(&Order, "1", [line("tea", 2, 350), note("a")]).await?;
    let baseline = baseline_of(&db, &Counter).await?;
    let verified = verify(&db, &Counter, &baseline).await?;
    assert_eq!((verified.instances, verified.events, verified.faults), (5, 20, 0));
    ensure!(verified.is_clean() && verify(&db, &Order, &baseline_of(&db, &Order).await?).await?.is_clean());
    let lines = String::from_utf8(baseline)?;
    let first = r#"{"persistence_key":"counter","instance_id":"0","commits":4,"revision":4,"state":10}"#;
    assert_eq!(lines.lines().next(), Some(first));
    Ok(())
}

async fn code_that_folds_otherwise_differs_from_the_baseline<DB: Subject>(db: TestDb<DB>) -> Clause {
    counters(&db, 2, 2).await?;
    let verified = verify(&db, &doubling(1), &baseline_of(&db, &Counter).await?).await?;
    assert_eq!((verified.instances, verified.faults), (2, 2));
    for (_, fault) in faults(&verified) {
        ensure!(
            matches!(fault, ReplayFault::DiffersFromBaseline { revision: 2, place } if place == "state"),
            "{fault:?}"
        );
    }
    let text = verified.findings[0].to_string();
    assert_eq!(text, "instance \"0\" differs at state from the baseline at revision 2");
    Ok(())
}

async fn an_instance_that_went_on_is_compared_as_it_was<DB: Subject>(db: TestDb<DB>) -> Clause {
    counters(&db, 2, 2).await?;
    let baseline = baseline_of(&db, &Counter).await?;
    db.publish(&Counter, "0", [added(7)]).await?;
    db.publish(&Counter, "new", [added(7)]).await?;
    ensure!(verify(&db, &Counter, &baseline).await?.is_clean());
    Ok(())
}

async fn code_that_folds_otherwise_differs_from_the_snapshots_that_it_would_trust<DB: Subject>(
    db: TestDb<DB>,
) -> Clause {
    counters(&db, 1, 4).await?;
    let verified = verify(&db, &doubling(1), b"").await?;
    let found = faults(&verified);
    ensure!(
        matches!(found[..], [(_, ReplayFault::DiffersFromSnapshot { revision, .. })] if revision.get() == 3),
        "{found:?}"
    );
    ensure!(verify(&db, &doubling(2), b"").await?.is_clean(), "with another data version it does not trust them");
    Ok(())
}

async fn a_snapshot_that_new_code_cannot_read_is_told<DB: Subject>(db: TestDb<DB>) -> Clause {
    counters(&db, 1, 4).await?;
    let grown = |version| Other {
        factor: 1,
        version,
        data: |start| vec![start.to_string(); 3],
        add: |data: &mut Vec<String>, amount| data.push(amount.to_string()),
    };
    let verified = verify(&db, &grown(1), b"").await?;
    let found = faults(&verified);
    ensure!(matches!(found[..], [(_, ReplayFault::UnreadableSnapshot { .. })]), "{found:?}");
    ensure!(verify(&db, &grown(2), b"").await?.is_clean());
    Ok(())
}

/// A counter whose release forgot the type of its events.
struct Forgetful;

#[derive(serde::Serialize, serde::Deserialize)]
enum Renamed {
    Increased,
}
sagastore::message_types!(Renamed { Increased: "CounterIncreased" 1 });

impl Saga for Forgetful {
    type Data = u32;
    type Event = Renamed;

    fn persistence_key(&self) -> &str {
        "counter"
    }

    fn new_data(&self) -> u32 {
        0
    }

    fn apply_event(&self, data: &mut u32, _: &Renamed, _: &Envelope) {
        *data += 1;
    }
}

async fn an_event_that_new_code_does_not_know_is_told<DB: Subject>(db: TestDb<DB>) -> Clause {
    counters(&db, 3, 1).await?;
    let verified = verify(&db, &Forgetful, b"").await?;
    assert_eq!((verified.instances, verified.faults), (3, 3));
    for (_, fault) in faults(&verified) {
        ensure!(matches!(fault, ReplayFault::Failed(Error::UnknownType { name, .. }) if name == "CounterAdded"));
    }
    Ok(())
}

async fn damage_is_told_and_the_others_are_replayed<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_damage();
    counters(&db, 3, 2).await?;
    let damaged = "(SELECT stream_id FROM saga_stream WHERE instance_id = '1')";
    db.sql(format!("UPDATE saga_commit SET checksum = checksum + 1 WHERE stream_id = {damaged}")).await?;
    let verified = verify(&db, &Counter, b"").await?;
    let found = faults(&verified);
    ensure!(matches!(&found[..], [(id, ReplayFault::Failed(Error::Corrupt { .. }))] if id == "1"), "{found:?}");
    assert_eq!((verified.instances, verified.events), (3, 4));
    Ok(())
}

async fn what_the_baseline_knows_and_the_database_does_not_is_told<DB: Subject>(db: TestDb<DB>) -> Clause {
    counters(&db, 2, 3).await?;
    let baseline = String::from_utf8(baseline_of(&db, &Counter).await?)?;
    let more =
        baseline.replace(r#""instance_id":"0""#, r#""instance_id":"gone""#).replace(r#""commits":3"#, r#""commits":9"#);
    let verified = verify(&db, &Counter, more.as_bytes()).await?;
    let mut found = faults(&verified);
    found.sort_by(|one, other| one.0.cmp(&other.0));
    ensure!(matches!(found[0], (ref id, ReplayFault::NotThere { revision: 3 }) if id == "1"), "{found:?}");
    ensure!(matches!(found[1], (ref id, ReplayFault::NotThere { revision: 3 }) if id == "gone"), "{found:?}");
    ensure!(matches!(Baseline::read(&b"{\n"[..]), Err(Error::InvalidInput { .. })));
    Ok(())
}

async fn a_sample_is_always_the_same<DB: Subject>(db: TestDb<DB>) -> Clause {
    counters(&db, 40, 1).await?;
    let mut runs = Vec::new();
    for _ in 0..2 {
        let (mut seen, persister) = (Vec::new(), db.persister());
        let verifier = ReplayVerifier::new(&Counter, persister).every(NonZeroU32::new(4).unwrap());
        let verified = verifier.run(db.pool(), |state| {
            seen.push(state.instance_id.clone());
            Ok(())
        });
        assert_eq!(usize::try_from(verified.await?.instances)?, seen.len());
        runs.push(seen);
    }
    ensure!(runs[0] == runs[1] && (1..30).contains(&runs[0].len()), "{runs:?}");
    Ok(())
}

async fn whole_numbers_beyond_64_bits_are_compared_to_the_last_digit<DB: Subject>(db: TestDb<DB>) -> Clause {
    let wide = |factor| Other {
        factor,
        version: 1,
        data: |_| u128::MAX - 100,
        add: |data: &mut u128, amount| *data += u128::from(amount.unsigned_abs()),
    };
    db.publish(&wide(1), "1", [added(1)]).await?;
    let baseline = baseline_of(&db, &wide(1)).await?;
    ensure!(verify(&db, &wide(1), &baseline).await?.is_clean());
    let verified = verify(&db, &wide(2), &baseline).await?;
    let found = faults(&verified);
    ensure!(matches!(found[..], [(_, ReplayFault::DiffersFromBaseline { .. })]), "{found:?}");
    Ok(())
}
