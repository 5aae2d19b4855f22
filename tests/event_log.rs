//! The example `event_log`, on small logs in an SQLite file.
use std::fs;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

use event_log::{Fed, Options};
use serde_json::json;
use sqlx::SqlitePool;
use tempfile::TempDir;

#[path = "../examples/event_log/main.rs"]
#[allow(dead_code, reason = "the tests do not need its command line")]
mod event_log;

/// A folder with a log, its database and its summary.
struct Replay(TempDir);

impl Replay {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn url(&self) -> String {
        format!("sqlite://{}", self.path("log.db").display())
    }

    async fn feed(&self, log: &str) -> anyhow::Result<Fed> {
        self.feed_with(log, 2, 1000).await
    }

    async fn feed_with(&self, log: &str, workers: usize, snapshot_frequency: u64) -> anyhow::Result<Fed> {
        self.feed_and_relay(log, workers, snapshot_frequency, 0).await
    }

    async fn feed_and_relay(
        &self,
        log: &str,
        workers: usize,
        snapshot_frequency: u64,
        dispatchers: u32,
    ) -> anyhow::Result<Fed> {
        fs::write(self.path("log.jsonl"), log)?;
        let options = Options {
            file: self.path("log.jsonl"),
            database_url: Some(self.url()),
            snapshot_frequency: NonZeroU64::new(snapshot_frequency).expect("above zero"),
            workers: NonZeroUsize::new(workers).expect("above zero"),
            dispatchers,
            summary: Some(self.path("summary.tsv")),
        };
        event_log::replay(&options).await
    }

    fn summary(&self) -> String {
        fs::read_to_string(self.path("summary.tsv")).expect("a summary")
    }

    async fn count(&self, rows: &'static str) -> i64 {
        let pool = SqlitePool::connect(&self.url()).await.expect("the database of the log");
        sqlx::query_scalar(rows).fetch_one(&pool).await.expect("a number of rows")
    }
}

const COMMITS: &str = "SELECT COUNT(*) FROM saga_commit";
const SNAPSHOTS: &str = "SELECT COUNT(*) FROM saga_snapshot";
const OUT_OF_ORDER: &str = "SELECT COUNT(*) FROM saga_event WHERE payload ->> '$.Logged.seq' <> event_offset + 1";

fn line(case: &str, seq: u64, activity: &str) -> String {
    let attrs = json!({ "org:resource": "112", "cost": 1.5 });
    let line = json!({ "case": case, "seq": seq, "activity": activity, "timestamp": "2011-10-01T00:38:44.546+02:00", "attrs": attrs });
    format!("{line}\n")
}

fn submit_accept_pay(case: &str) -> String {
    line(case, 1, "submit") + &line(case, 2, "accept") + &line(case, 3, "pay")
}

/// FNV-1a of "submit\naccept\npay\n" and the others, computed elsewhere.
const SUBMIT_ACCEPT_PAY: &str = "81814c56b6b4fdf5";
const SUBMIT: &str = "fc342516e3e7a67d";
const PRUEFEN_ZAHLEN: &str = "484c6cfe2a29fd9f";

#[tokio::test]
async fn the_summary_has_revision_and_fingerprint_of_each_case_in_byte_order() {
    let replay = Replay::new();
    let log = line("é 1", 1, "prüfen") + &submit_accept_pay("b") + &line("é 1", 2, "zahlen") + &line("B", 1, "submit");
    let fed = replay.feed(&log).await.expect("fed");
    assert_eq!((fed.stored, fed.repeated), (6, 0));
    let expected = format!("B\t1\t{SUBMIT}\nb\t3\t{SUBMIT_ACCEPT_PAY}\né 1\t2\t{PRUEFEN_ZAHLEN}\n");
    assert_eq!(replay.summary(), expected);
}

#[tokio::test]
async fn feeding_a_log_twice_changes_nothing() {
    let replay = Replay::new();
    let log = submit_accept_pay("a") + &submit_accept_pay("b");
    for (stored, repeated) in [(6, 0), (0, 6), (0, 6)] {
        let fed = replay.feed_with(&log, 3, 2).await.expect("fed");
        assert_eq!((fed.stored, fed.repeated), (stored, repeated));
        assert_eq!(replay.summary(), format!("a\t3\t{SUBMIT_ACCEPT_PAY}\nb\t3\t{SUBMIT_ACCEPT_PAY}\n"));
        assert_eq!((replay.count(COMMITS).await, replay.count(SNAPSHOTS).await), (6, 2));
    }
}

#[tokio::test]
async fn what_is_fed_is_relayed_in_the_order_of_each_case() {
    let replay = Replay::new();
    let log: String = (0..60).map(|case| submit_accept_pay(&case.to_string())).collect();
    let fed = replay.feed_and_relay(&log, 4, 1000, 3).await.expect("fed, and relayed in order");
    assert_eq!((fed.stored, fed.repeated), (180, 0));
    assert_eq!(replay.count("SELECT COUNT(*) FROM saga_commit WHERE undelivered IS NOT NULL").await, 0);
}

#[tokio::test]
async fn the_fingerprint_follows_seq_also_where_the_lines_do_not() {
    for snapshot_frequency in [1, 2, 1000] {
        let replay = Replay::new();
        let log = line("a", 3, "pay") + &line("b", 9, "submit") + &line("a", 1, "submit") + &line("a", 2, "accept");
        replay.feed_with(&log, 2, snapshot_frequency).await.expect("fed");
        assert_eq!(replay.summary(), format!("a\t3\t{SUBMIT_ACCEPT_PAY}\nb\t1\t{SUBMIT}\n"));
    }
}

#[tokio::test]
async fn a_malformed_line_is_named_and_leaves_nothing() {
    let good = line("a", 2, "accept");
    let malformed = [
        "\n".to_owned(),
        "not json\n".to_owned(),
        "[]\n".to_owned(),
        good.replace('}', ""),
        format!("{} {good}", good.trim_end()),
        good.replace("\"seq\":2", "\"seq\":0"),
        good.replace("\"seq\":2", "\"seq\":-2"),
        good.replace("\"seq\":2", "\"seq\":2.5"),
        good.replace("\"seq\":2", "\"seq\":\"2\""),
        good.replace("\"case\":\"a\"", "\"case\":1"),
        good.replace("\"case\":\"a\"", "\"case\":\"\""),
        good.replace("\"case\":\"a\"", "\"case\":\"a\\tb\""),
        good.replace("\"case\":\"a\"", "\"case\":\"a\\nb\""),
        good.replace("\"activity\"", "\"activities\""),
        good.replace("\"case\"", "\"more\":1,\"case\""),
    ];
    for bad in malformed {
        let replay = Replay::new();
        assert_ne!(bad, good);
        let log = line("a", 1, "submit") + &bad + &line("a", 3, "pay");
        let error = replay.feed(&log).await.expect_err(&bad);
        assert!(format!("{error:#}").starts_with("line 2 is malformed: "), "{bad:?}: {error:#}");
        assert!(replay.count(COMMITS).await <= 1, "{bad:?}");
        assert!(!replay.path("summary.tsv").exists(), "{bad:?}");

        replay.feed(&submit_accept_pay("a")).await.expect("the mended log");
        assert_eq!(replay.summary(), format!("a\t3\t{SUBMIT_ACCEPT_PAY}\n"));
    }
}

#[tokio::test]
async fn a_line_that_says_something_else_than_before_is_refused() {
    let replay = Replay::new();
    let error = replay.feed(&(submit_accept_pay("a") + &line("a", 2, "refuse"))).await.expect_err("another activity");
    assert_eq!(format!("{error:#}"), "line 4: seq 2 of case \"a\" is stored with other contents");
    assert_eq!(replay.count(COMMITS).await, 3);
}

#[tokio::test]
async fn the_number_of_workers_and_snapshots_makes_no_difference() {
    let log: String =
        (1..=30).flat_map(|seq| (0..40).map(move |case| line(&format!("c{case}"), seq, "submit"))).collect();
    let mut summaries = Vec::new();
    for (workers, snapshot_frequency) in [(1, 1000), (8, 10)] {
        let replay = Replay::new();
        assert_eq!(replay.feed_with(&log, workers, snapshot_frequency).await.expect("fed").stored, 1200);
        assert_eq!(replay.count(SNAPSHOTS).await > 0, snapshot_frequency == 10);
        assert_eq!(replay.count(OUT_OF_ORDER).await, 0);
        summaries.push(replay.summary());
    }
    assert_eq!(summaries.first(), summaries.last());
    assert_eq!(summaries.concat().lines().filter(|line| line.contains("\t30\t")).count(), 80);
}

#[tokio::test]
async fn events_keep_the_time_and_the_attributes_of_their_line() {
    let replay = Replay::new();
    replay.feed(&line("a", 1, "submit")).await.expect("fed");
    let pool = SqlitePool::connect(&replay.url()).await.expect("the database of the log");
    let payload: String =
        sqlx::query_scalar("SELECT payload FROM saga_event").fetch_one(&pool).await.expect("an event");
    let payload: serde_json::Value = serde_json::from_str(&payload).expect("JSON");
    let fed: serde_json::Value = serde_json::from_str(&line("a", 1, "submit")).expect("JSON");
    for field in ["seq", "activity", "timestamp", "attrs"] {
        assert_eq!(payload["Logged"][field], fed[field], "{field}");
    }
}
