//! The verbs `parked`, and the filter of `instances` by it.

use std::collections::BTreeSet;

use sagastore::{Backend, MessageStore, ParkedFilter, ParkedId, ParkedMessage, StreamName};
use sagastore::{discard_parked, parked_messages};
use serde_json::json;
use sqlx::Pool;

use crate::arguments::{DiscardParked, ParkedVerb};
use crate::confirm::confirm;
use crate::connect::{Connected, with_pool};
use crate::outbox::refused;
use crate::output::{Output, plain};
use crate::verdict::{Failure, Outcome, Verdict};

/// Parked messages that are read at once.
const PAGE: u32 = 100;
/// As much of an error as fits on a few lines.
const ERROR_CHARACTERS: usize = 200;

pub(crate) async fn run(connected: &Connected, verb: Option<&ParkedVerb>, output: &mut Output) -> Outcome {
    with_pool!(connected, pool => match verb {
        Some(ParkedVerb::Discard(chosen)) => discard(pool, chosen, output).await,
        None => list(pool, output).await,
    })
}

async fn list<DB: Backend>(pool: &Pool<DB>, output: &mut Output) -> Outcome {
    let mut first = true;
    each(pool, ParkedFilter::default(), |page| {
        print(page, std::mem::take(&mut first), output)?;
        Ok(())
    })
    .await?;
    output.flush()?;
    Ok(Verdict::Fine)
}

/// Hands over all parked messages that pass the filter, page by page.
pub(crate) async fn each<DB: Backend>(
    pool: &Pool<DB>,
    mut filter: ParkedFilter<'_>,
    mut with: impl FnMut(&[ParkedMessage]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut conn = pool.acquire().await.map_err(|error| refused::<DB>(&DB::Store::default(), error))?;
    loop {
        let page = parked_messages::<DB>(&mut conn, filter, PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        filter.after = Some(last.id);
        with(&page)?;
    }
}

/// The streams of all instances that have parked messages.
pub(crate) async fn streams<DB: Backend>(
    pool: &Pool<DB>,
    persistence_key: Option<&str>,
) -> Result<BTreeSet<StreamName>, Failure> {
    let mut found = BTreeSet::new();
    let filter = ParkedFilter { persistence_key, ..ParkedFilter::default() };
    each(pool, filter, |page| {
        for parked in page {
            found.insert(StreamName::of_saga(&parked.persistence_key, &parked.instance_id)?);
        }
        Ok(())
    })
    .await?;
    Ok(found)
}

fn print(page: &[ParkedMessage], first: bool, output: &mut Output) -> std::io::Result<()> {
    if output.is_json() {
        return page.iter().try_for_each(|parked| output.object(&object(parked)));
    }
    let titles = ["ID", "PARKED SINCE", "TRIES", "SAGA", "INSTANCE", "TYPE", "MESSAGE", "ERROR"];
    let mut rows: Vec<Vec<String>> = Vec::new();
    rows.extend(first.then(|| titles.map(str::to_owned).into()));
    rows.extend(page.iter().map(|parked| {
        vec![
            parked.id.get().to_string(),
            parked.parked_at.to_string(),
            parked.tries.to_string(),
            plain(&parked.persistence_key),
            plain(parked.instance_id.as_str()),
            plain(&parked.message.type_name),
            parked.message.message_id.to_string(),
            why(parked),
        ]
    }));
    output.table(&rows)
}

pub(crate) fn why(parked: &ParkedMessage) -> String {
    if parked.tries == 0 {
        return "waits behind another".to_owned();
    }
    plain(&parked.last_error).chars().take(ERROR_CHARACTERS).collect()
}

pub(crate) fn object(parked: &ParkedMessage) -> serde_json::Value {
    json!({
        "id": parked.id.get(),
        "parked_at": parked.parked_at.to_string(),
        "tries": parked.tries,
        "saga": parked.persistence_key,
        "instance": parked.instance_id.as_str(),
        "type": &*parked.message.type_name,
        "message_id": parked.message.message_id,
        "last_error": parked.last_error,
    })
}

async fn discard<DB: Backend>(pool: &Pool<DB>, chosen: &DiscardParked, output: &mut Output) -> Outcome {
    confirm(chosen.yes, "Delete the parked message for good?")?;
    let store = DB::Store::default();
    let mut conn = pool.acquire().await.map_err(|error| refused::<DB>(&store, error))?;
    let mut tx = store.begin(&mut conn).await?;
    let found = discard_parked::<DB>(&mut tx, ParkedId::from_i64(chosen.id)).await?;
    tx.commit().await.map_err(|error| store.classify("committing", error))?;
    if !found {
        return Err(Failure::failed(format!("there is no parked message {}", chosen.id)));
    }
    if output.is_json() {
        output.object(&json!({ "discarded": chosen.id }))?;
    } else {
        output.line(format_args!("parked message {} was discarded", chosen.id))?;
    }
    output.flush()?;
    Ok(Verdict::Fine)
}
