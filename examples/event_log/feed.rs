//! Reads the log line by line and hands each line to the worker of its case, so that the lines of one
//! case are handled in their order.
use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Read};
use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use sagastore::{Backend, Executed, Handled, Inbound, InstanceId, Persister, Revision};
use sqlx::Pool;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinSet;

use super::saga::{Case, CaseEvent, Line};
use super::support::Progress;

/// Lines that wait for one worker.
const QUEUED_LINES: usize = 64;
/// Longest line, in bytes: 8 MiB, twice what one event can hold.
const MAX_LINE_BYTES: u64 = 8 * 1024 * 1024;

/// What feeding the log came to.
#[derive(Debug, Default)]
pub(crate) struct Fed {
    /// The cases, and the highest revision that was acknowledged of each.
    pub(crate) cases: BTreeMap<String, Revision>,
    pub(crate) stored: u64,
    pub(crate) repeated: u64,
}

/// A line and its number in the file, from one on.
type Numbered = (u64, Line);

/// Feeds a whole file. A malformed line ends it with an error; lines before it may be stored.
pub(crate) async fn feed<DB: Backend>(
    file: &Path,
    persister: &Persister<DB>,
    pool: &Pool<DB>,
    workers: NonZeroUsize,
) -> Result<Fed> {
    let log = File::open(file).with_context(|| format!("opening {}", file.display()))?;
    let progress = Progress::new("bytes", log.metadata()?.len());
    let (mut queues, mut tasks) = (Vec::new(), JoinSet::new());
    for _ in 0..workers.get() {
        let (queue, lines) = channel(QUEUED_LINES);
        queues.push(queue);
        tasks.spawn(work(persister.clone(), pool.clone(), lines));
    }
    let read = hand_out(log, &queues, &progress).await;
    drop(queues);
    let mut fed = Fed::default();
    while let Some(ended) = tasks.join_next().await {
        let part = ended??;
        fed.cases.extend(part.cases);
        fed.stored += part.stored;
        fed.repeated += part.repeated;
    }
    progress.finish();
    read.map(|()| fed)
}

async fn hand_out(log: File, queues: &[Sender<Numbered>], progress: &Progress) -> Result<()> {
    let (mut log, mut bytes) = (BufReader::new(log), Vec::new());
    for number in 1.. {
        bytes.clear();
        let read = log.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut bytes);
        let length = u64::try_from(read.with_context(|| format!("reading line {number}"))?)?;
        if length == 0 {
            break;
        }
        ensure!(length < MAX_LINE_BYTES, "line {number} has {MAX_LINE_BYTES} bytes or more");
        let line = parse(&bytes).with_context(|| format!("line {number} is malformed"))?;
        let worker = worker_of(&line.case, queues.len());
        let queue = queues.get(worker).expect("BUG: no such worker");
        if queue.send((number, line)).await.is_err() {
            break; // the worker has ended with an error, which it is asked for next
        }
        progress.add(length);
    }
    Ok(())
}

fn parse(bytes: &[u8]) -> Result<Line> {
    let line: Line = serde_json::from_slice(bytes)?;
    let fits = !line.case.contains(['\t', '\n', '\r']);
    ensure!(fits, "`case` holds a tab or a line break, which cannot stand in a summary");
    InstanceId::new(&line.case).context("`case` is no instance id")?;
    Ok(line)
}

fn worker_of(case: &str, workers: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    case.hash(&mut hasher);
    let worker = hasher.finish() % u64::try_from(workers).expect("BUG: a length fits into 64 bits");
    usize::try_from(worker).expect("BUG: it is smaller than a length")
}

async fn work<DB: Backend>(persister: Persister<DB>, pool: Pool<DB>, mut lines: Receiver<Numbered>) -> Result<Fed> {
    let mut fed = Fed::default();
    while let Some((number, line)) = lines.recv().await {
        let (id, message) = (InstanceId::new(&line.case)?, Inbound::from(line.message_id()));
        let executed = persister.execute(&pool, &Case, &id, Some(message), |unit| unit.publish(line.clone()));
        let revision = match executed.await.with_context(|| format!("storing line {number}"))? {
            Executed::Done { saved, .. } => {
                fed.stored += 1;
                saved.revision()
            }
            Executed::AlreadyHandled(first) => {
                check_same(&first, line.clone()).with_context(|| format!("line {number}"))?;
                fed.repeated += 1;
                first.revision
            }
        };
        match fed.cases.get_mut(&line.case) {
            Some(highest) => *highest = revision.max(*highest),
            None => drop(fed.cases.insert(line.case, revision)),
        }
    }
    Ok(fed)
}

/// A line that comes again must say what it said the first time, or something would be lost.
fn check_same(first: &Handled, line: Line) -> Result<()> {
    let (case, seq) = (line.case.clone(), line.seq);
    let stored =
        first.messages.first().with_context(|| format!("seq {seq} of case {case:?} is stored without event"))?;
    let same = serde_json::from_slice::<CaseEvent>(&stored.payload)? == CaseEvent::from(line);
    ensure!(same, "seq {seq} of case {case:?} is stored with other contents");
    Ok(())
}
