//! A long history: what replaying it holds in memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use sagastore::{Envelope, InstanceId, Persister, Saga, message_types, migrate};
use serde::{Deserialize, Serialize};
use sqlx::Pool;

use super::backlog::most_memory;
use super::process::{Process, Role};
use super::site::Site;
use super::{chaos, scaled};

const PAYLOAD_BYTES: usize = 1024;
const EVENTS_IN_A_UNIT: i64 = 100;
/// Much less than the history's payloads.
const MOST_MEMORY_KIB: u64 = 64 * 1024;
const LOOK_EVERY: Duration = Duration::from_millis(100);
const LOOKS: u32 = 6_000;

/// Counts events that are large.
struct Archive;

#[derive(Clone, Debug, Serialize, Deserialize)]
enum ArchiveEvent {
    Filed { number: i64, text: String },
}
message_types!(ArchiveEvent { Filed: "ArchiveFiled" 1 });

impl Saga for Archive {
    type Data = i64;
    type Event = ArchiveEvent;

    fn persistence_key(&self) -> &str {
        "archive"
    }

    fn new_data(&self) -> i64 {
        0
    }

    fn apply_event(&self, data: &mut i64, event: &ArchiveEvent, _: &Envelope) {
        let ArchiveEvent::Filed { number, .. } = event;
        assert_eq!(number, data, "the order is lost");
        *data += 1;
    }
}

pub(crate) async fn run<DB: Site>() -> anyhow::Result<()> {
    chaos::with_database::<DB, _>(|database, journal| async move {
        let events = scaled(100_000, 1_000_000);
        let pool = DB::connect(&database, 2).await?;
        let _ = migrate(&pool).await?;
        fill(&pool, events).await?;
        pool.close().await;

        let mut process = Process::start::<DB>(Role::Replaying, &database, &journal)?;
        let replayed = replayed(&mut process, &journal).await?;
        let memory = most_memory(process.id())?;
        println!(
            "dispatcher processes: {}: {replayed} of {events} events replayed, at most {memory} KiB of memory",
            DB::KIND
        );
        ensure!(replayed == events, "{replayed} of {events} events were replayed");
        ensure!(memory < MOST_MEMORY_KIB, "replaying needed {memory} KiB of memory");
        Ok(())
    })
    .await
}

fn id() -> anyhow::Result<InstanceId> {
    Ok(InstanceId::new("long")?)
}

async fn fill<DB: Site>(pool: &Pool<DB>, events: i64) -> anyhow::Result<()> {
    let persister = Persister::<DB>::new().without_snapshots().with_instance_cache(pool, 1);
    let text = "x".repeat(PAYLOAD_BYTES);
    for _ in 0..events / EVENTS_IN_A_UNIT {
        let id = id()?;
        let filed = persister.execute(pool, &Archive, &id, None, |unit| {
            for _ in 0..EVENTS_IN_A_UNIT {
                let number = unit.instance().data;
                unit.publish(ArchiveEvent::Filed { number, text: text.clone() })?;
            }
            Ok::<_, sagastore::Error>(())
        });
        ensure!(!filed.await?.is_already_handled(), "nothing was saved");
    }
    Ok(())
}

/// Replays in a process of its own, and writes down what came of it.
pub(crate) async fn replay<DB: Site>(database: &str, journal: PathBuf) -> anyhow::Result<()> {
    let pool = DB::connect(database, 1).await?;
    let persister = Persister::<DB>::new().without_snapshots();
    let loaded = persister.load_instance(&Archive, &mut *pool.acquire().await?, &id()?).await?;
    let events = loaded.map_or(0, |unit| unit.instance().data);
    fs::write(journal, format!("{events}\n"))?;
    // Until it is killed: what it needed can be asked for until then.
    std::future::pending().await
}

async fn replayed(process: &mut Process, journal: &Path) -> anyhow::Result<i64> {
    for _ in 0..LOOKS {
        process.ensure_running()?;
        if let Some(line) = fs::read_to_string(journal)?.strip_suffix('\n') {
            return Ok(line.parse()?);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    anyhow::bail!("replaying does not come to an end")
}
