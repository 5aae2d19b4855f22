//! The verbs `outbox dead-letters`.

use sagastore::{
    Backend, DamagedDeadLetter, DeadLetter, DeadLetters, MessageId, MessageStore, OutboxId, OutboxRepository, Timestamp,
};
use serde_json::json;
use sqlx::Pool;

use crate::arguments::{self, Chosen};
use crate::confirm::confirm;
use crate::connect::{Connected, with_pool};
use crate::outbox::refused;
use crate::output::{Output, plain};
use crate::verdict::{Failure, Outcome, Verdict};

/// Dead letters that are read at once.
const PAGE: u32 = 100;
/// As much of an error as fits on a few lines.
const ERROR_CHARACTERS: usize = 200;

pub(crate) async fn run(connected: &Connected, verb: &arguments::DeadLetters, output: &mut Output) -> Outcome {
    with_pool!(connected, pool => match verb {
        arguments::DeadLetters::List => list(pool, output).await,
        arguments::DeadLetters::Retry(chosen) => settle(pool, chosen, true, output).await,
        arguments::DeadLetters::Discard(chosen) => settle(pool, chosen, false, output).await,
    })
}

async fn list<DB: Backend>(pool: &Pool<DB>, output: &mut Output) -> Outcome {
    let store = DB::Store::default();
    let mut conn = pool.acquire().await.map_err(|error| refused::<DB>(&store, error))?;
    let (mut after, mut first) = (None, true);
    loop {
        let page = store.dead_letters(&mut conn, after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.record.id);
        print(&page.iter().map(Line::of).collect::<Vec<_>>(), std::mem::take(&mut first), output)?;
    }
    after = None;
    loop {
        let page = store.damaged_dead_letters(&mut conn, after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        print(&page.iter().map(Line::of_damaged).collect::<Vec<_>>(), std::mem::take(&mut first), output)?;
    }
    output.flush()?;
    Ok(Verdict::Fine)
}

/// What is told of a dead letter.
struct Line<'a> {
    id: OutboxId,
    dead_at: Timestamp,
    attempts: u32,
    saga: &'a str,
    instance: &'a str,
    /// Its type and id, or what is wrong with it.
    message: Result<(&'a str, MessageId), String>,
    last_error: &'a str,
}

impl<'a> Line<'a> {
    fn of(letter: &'a DeadLetter) -> Self {
        let record = &letter.record;
        Self {
            id: record.id,
            dead_at: letter.dead_at,
            attempts: record.attempts,
            saga: &record.aggregate_type,
            instance: &record.aggregate_id,
            message: Ok((record.event_type(), record.envelope.message_id)),
            last_error: &letter.last_error,
        }
    }

    fn of_damaged(letter: &'a DamagedDeadLetter) -> Self {
        Self {
            id: letter.id,
            dead_at: letter.dead_at,
            attempts: letter.attempts,
            saga: &letter.aggregate_type,
            instance: &letter.aggregate_id,
            message: Err(letter.error.to_string()),
            last_error: &letter.last_error,
        }
    }

    fn cells(&self) -> Vec<String> {
        let (kind, message, error) = match &self.message {
            Ok((kind, id)) => (plain(kind), id.to_string(), self.last_error),
            Err(damage) => ("damaged".to_owned(), "-".to_owned(), damage.as_str()),
        };
        vec![
            self.id.to_string(),
            self.dead_at.to_string(),
            self.attempts.to_string(),
            plain(self.saga),
            plain(self.instance),
            kind,
            message,
            plain(error).chars().take(ERROR_CHARACTERS).collect(),
        ]
    }

    fn object(&self) -> serde_json::Value {
        let (message, damage) = (self.message.as_ref().ok(), self.message.as_ref().err());
        json!({
            "id": self.id.to_string(),
            "dead_at": self.dead_at.to_string(),
            "attempts": self.attempts,
            "saga": self.saga,
            "instance": self.instance,
            "type": message.map(|(kind, _)| kind),
            "message_id": message.map(|(_, id)| id),
            "last_error": self.last_error,
            "damaged": damage,
        })
    }
}

fn print(page: &[Line<'_>], first: bool, output: &mut Output) -> std::io::Result<()> {
    if output.is_json() {
        return page.iter().try_for_each(|letter| output.object(&letter.object()));
    }
    let titles = ["ID", "DEAD SINCE", "ATTEMPTS", "SAGA", "INSTANCE", "TYPE", "MESSAGE", "ERROR"];
    let mut rows: Vec<Vec<String>> = Vec::new();
    rows.extend(first.then(|| titles.map(str::to_owned).into()));
    rows.extend(page.iter().map(Line::cells));
    output.table(&rows)
}

async fn settle<DB: Backend>(pool: &Pool<DB>, chosen: &Chosen, retry: bool, output: &mut Output) -> Outcome {
    let which = which(chosen)?;
    let doing = if retry { "Deliver again" } else { "Delete for good" };
    confirm(chosen.yes, &format!("{doing} the dead letters that were chosen?"))?;
    let store = DB::Store::default();
    let mut conn = pool.acquire().await.map_err(|error| refused::<DB>(&store, error))?;
    let mut tx = store.begin(&mut conn).await?;
    let settled = if retry {
        store.retry_dead_letters(&mut tx, which).await?
    } else {
        store.discard_dead_letters(&mut tx, which).await?
    };
    tx.commit().await.map_err(|error| store.classify("committing", error))?;
    let done = if retry { "retried" } else { "discarded" };
    if output.is_json() {
        output.object(&json!({ done: settled }))?;
    } else {
        output.line(format_args!("{settled} dead letters were {done}"))?;
    }
    output.flush()?;
    Ok(Verdict::Fine)
}

fn which(chosen: &Chosen) -> Result<DeadLetters<'_>, Failure> {
    let which = &chosen.which;
    match (&which.id, &which.saga, &chosen.instance) {
        (Some(id), ..) => Ok(DeadLetters::One(id.parse::<OutboxId>().map_err(Failure::usage)?)),
        (None, Some(aggregate_type), Some(aggregate_id)) => Ok(DeadLetters::Of { aggregate_type, aggregate_id }),
        _ if which.all => Ok(DeadLetters::All),
        _ => Err(Failure::usage("no dead letters were chosen; say --all, --id, or --saga with --instance")),
    }
}
