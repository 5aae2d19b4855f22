//! The verbs `outbox dead-letters`.

use sagastore::{Backend, DeadLetter, DeadLetters, MessageStore, OutboxId, OutboxRepository};
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

/// How many there are.
pub(crate) async fn count<DB: Backend>(store: &DB::Store, conn: &mut DB::Connection) -> Result<u64, Failure> {
    let (mut after, mut counted) = (None, 0_u64);
    loop {
        let page = store.dead_letters(conn, after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(counted) };
        after = Some(last.record.id);
        counted = counted.saturating_add(u64::try_from(page.len()).unwrap_or(u64::MAX));
    }
}

async fn list<DB: Backend>(pool: &Pool<DB>, output: &mut Output) -> Outcome {
    let store = DB::Store::default();
    let mut conn = pool.acquire().await.map_err(|error| refused::<DB>(&store, error))?;
    let mut after = None;
    loop {
        let page = store.dead_letters(&mut conn, after, PAGE).await?;
        let Some(last) = page.last() else { break };
        print(&page, after.is_none(), output)?;
        after = Some(last.record.id);
    }
    output.flush()?;
    Ok(Verdict::Fine)
}

fn print(page: &[DeadLetter], first: bool, output: &mut Output) -> std::io::Result<()> {
    if output.is_json() {
        return page.iter().try_for_each(|letter| output.object(&object(letter)));
    }
    let titles = ["ID", "DEAD SINCE", "ATTEMPTS", "SAGA", "INSTANCE", "TYPE", "MESSAGE", "ERROR"];
    let mut rows: Vec<Vec<String>> = Vec::new();
    rows.extend(first.then(|| titles.map(str::to_owned).into()));
    rows.extend(page.iter().map(|letter| {
        vec![
            letter.record.id.to_string(),
            letter.dead_at.to_string(),
            letter.record.attempts.to_string(),
            plain(&letter.record.aggregate_type),
            plain(&letter.record.aggregate_id),
            plain(letter.record.event_type()),
            letter.record.envelope.message_id.to_string(),
            plain(&letter.last_error).chars().take(ERROR_CHARACTERS).collect(),
        ]
    }));
    output.table(&rows)
}

fn object(letter: &DeadLetter) -> serde_json::Value {
    json!({
        "id": letter.record.id.to_string(),
        "dead_at": letter.dead_at.to_string(),
        "attempts": letter.record.attempts,
        "saga": letter.record.aggregate_type,
        "instance": letter.record.aggregate_id,
        "type": letter.record.event_type(),
        "message_id": letter.record.envelope.message_id,
        "last_error": letter.last_error,
    })
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
