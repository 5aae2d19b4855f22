//! The verb `show`.

use std::collections::BTreeMap;
use std::io;

use sagastore::inspect::{Inspector, InstanceFilter, InstanceSummary, LifeCommit, LifeMessage, SnapshotSummary};
use sagastore::{
    Backend, CommitNumber, InstanceId, MessageKind, MessageStore, ParkedFilter, ParkedMessage, StreamName,
};
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::Pool;

use crate::arguments::Show;
use crate::connect::{Connected, with_pool};
use crate::instances;
use crate::outbox::refused;
use crate::output::{Output, json_line, plain};
use crate::parked;
use crate::payload::{self, WithPayload};
use crate::verdict::{Failure, Outcome, Verdict};

/// Candidates that are read at once.
const PAGE: u32 = 500;

pub(crate) async fn run(connected: &Connected, wanted: &Show, output: &mut Output) -> Outcome {
    with_pool!(connected, pool => show(pool, wanted, output).await)
}

async fn show<DB: Backend>(pool: &Pool<DB>, wanted: &Show, output: &mut Output) -> Outcome {
    let inspector = Inspector::new(pool);
    let instance = find(&inspector, wanted).await?;
    if output.is_json() {
        output.object(&json!({ "instance": instances::object(&instance) }))?;
    } else {
        head(&instance, output)?;
    }
    let mut after = CommitNumber::ZERO;
    loop {
        let page = inspector.life(&instance.stream, after).await?;
        let Some(last) = page.last() else { break };
        after = last.number;
        for commit in &page {
            if output.is_json() {
                output.object(&BTreeMap::from([("commit", commit_object(commit, wanted.payloads)?)]))?;
            } else {
                print_commit(commit, wanted.payloads, output)?;
            }
        }
    }
    for snapshot in inspector.snapshots(&instance.stream).await? {
        if output.is_json() {
            output.object(&json!({ "snapshot": snapshot_object(&snapshot) }))?;
        } else {
            print_snapshot(&snapshot, output)?;
        }
    }
    show_parked(pool, &instance, output).await?;
    show_timeouts(pool, &instance.stream, wanted.payloads, output).await?;
    output.flush()?;
    Ok(Verdict::Fine)
}

async fn show_parked<DB: Backend>(
    pool: &Pool<DB>,
    instance: &InstanceSummary,
    output: &mut Output,
) -> Result<(), Failure> {
    let filter = ParkedFilter {
        persistence_key: Some(&instance.persistence_key),
        instance_id: Some(&instance.instance_id),
        ..ParkedFilter::default()
    };
    parked::each(pool, filter, |page| Ok(page.iter().try_for_each(|parked| print_parked(parked, output))?)).await
}

/// What the instance waits for.
async fn show_timeouts<DB: Backend>(
    pool: &Pool<DB>,
    stream: &StreamName,
    payloads: bool,
    output: &mut Output,
) -> Result<(), Failure> {
    let store = DB::Store::default();
    let mut conn = pool.acquire().await.map_err(|error| refused::<DB>(&store, error))?;
    let mut after: Option<String> = None;
    loop {
        let page = store.pending_timeouts(&mut conn, stream, after.as_deref(), PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.name.clone());
        for timeout in &page {
            let envelope = &timeout.message;
            if output.is_json() {
                let object = json!({
                    "name": timeout.name,
                    "due_at": timeout.due_at.to_string(),
                    "in_outbox": timeout.in_outbox,
                    "type": &*envelope.type_name,
                    "message_id": envelope.message_id,
                });
                let payload = payloads.then(|| payload::text(envelope)).transpose()?;
                output.object(&BTreeMap::from([("timeout", WithPayload { object, payload })]))?;
            } else {
                let (name, kind) = (plain(&timeout.name), plain(&envelope.type_name));
                let place = if timeout.in_outbox { ", in the outbox" } else { "" };
                let id = envelope.message_id;
                output.line(format_args!("\ntimeout {name}  due {}{place}  {kind}  {id}", timeout.due_at))?;
                if payloads {
                    output.line(format_args!("    {}", json_line(&payload::text(envelope)?)?))?;
                }
            }
        }
    }
}

/// By saga and id, else by the stream's name, else by an id that one saga alone has.
async fn find<DB: Backend>(inspector: &Inspector<DB>, wanted: &Show) -> Result<InstanceSummary, Failure> {
    let unknown = || Failure::failed(format!("there is no instance {:?}", wanted.id));
    if let Some(saga) = &wanted.saga {
        let id = InstanceId::new(&wanted.id).map_err(Failure::usage)?;
        let stream = StreamName::of_saga(saga, &id).map_err(Failure::usage)?;
        return inspector.instance(&stream).await?.ok_or_else(unknown);
    }
    let stream = StreamName::new(&wanted.id).map_err(Failure::usage)?;
    if let Some(found) = inspector.instance(&stream).await? {
        return Ok(found);
    }
    let filter = InstanceFilter { instance_prefix: Some(wanted.id.clone()), ..InstanceFilter::default() };
    let (mut after, mut found) = (None, Vec::new());
    loop {
        let page = inspector.instances(&filter, after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.key);
        found.extend(page.into_iter().filter(|instance| instance.instance_id.as_str() == wanted.id));
    }
    match (found.pop(), found.pop()) {
        (None, _) => Err(unknown()),
        (Some(one), None) => Ok(one),
        (Some(one), Some(other)) => Err(Failure::usage(format!(
            "several sagas have an instance {:?}, {:?} and {:?} among them; say which one by --saga",
            wanted.id, one.persistence_key, other.persistence_key
        ))),
    }
}

fn head(instance: &InstanceSummary, output: &mut Output) -> io::Result<()> {
    output.line(format_args!(
        "{}: saga {:?}, instance {:?}",
        plain(instance.stream.as_str()),
        instance.persistence_key,
        instance.instance_id
    ))?;
    output.line(format_args!(
        "{}, revision {}, {} commits, started {}, last commit {}",
        instances::state(instance),
        instance.revision,
        instance.commits,
        instance.created_at,
        instance.last_recorded_at
    ))
}

fn print_commit(commit: &LifeCommit, payloads: bool, output: &mut Output) -> io::Result<()> {
    let handled = commit.handled.map(|id| format!("  handled {id}")).unwrap_or_default();
    let completed = if commit.completed { "  completed" } else { "" };
    output.line(format_args!("\ncommit {}  {}{handled}{completed}", commit.number, commit.recorded_at))?;
    match &commit.messages {
        Ok(messages) => messages.iter().try_for_each(|message| print_message(message, payloads, output)),
        Err(fault) => output.line(format_args!("  damaged: {}", plain(&fault.to_string()))),
    }
}

fn print_message(message: &LifeMessage, payloads: bool, output: &mut Output) -> io::Result<()> {
    let envelope = &message.envelope;
    let what = match message.offset {
        Some(offset) => format!("event {offset}"),
        None => "command".to_owned(),
    };
    let to = envelope.destination.as_deref().map(|to| format!(" to {}", plain(to))).unwrap_or_default();
    output.line(format_args!(
        "  {what}  {} v{}{to}  {}  {}, {} bytes",
        plain(&envelope.type_name),
        envelope.type_version,
        envelope.message_id,
        plain(&envelope.content_type),
        envelope.payload.len()
    ))?;
    if envelope.causation_id != envelope.message_id {
        output.line(format_args!("    caused by {}, chain {}", envelope.causation_id, envelope.correlation_id))?;
    }
    for (name, value) in &envelope.metadata {
        let value = if payloads { format!(": {}", plain(value)) } else { String::new() };
        output.line(format_args!("    metadata {}{value}", plain(name)))?;
    }
    if payloads { output.line(format_args!("    {}", json_line(&payload::text(envelope)?)?)) } else { Ok(()) }
}

fn print_parked(parked: &ParkedMessage, output: &mut Output) -> io::Result<()> {
    if output.is_json() {
        return output.object(&json!({ "parked": parked::object(parked) }));
    }
    let (kind, id, since) = (plain(&parked.message.type_name), parked.message.message_id, parked.parked_at);
    output.line(format_args!("\nparked {}  {since}  {kind}  {id}  {}", parked.id.get(), parked::why(parked)))
}

#[derive(Serialize)]
struct CommitObject {
    #[serde(flatten)]
    object: Value,
    /// Unless they are damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<Vec<WithPayload<Value>>>,
}

fn commit_object(commit: &LifeCommit, payloads: bool) -> io::Result<CommitObject> {
    let mut object = json!({
        "number": commit.number.get(),
        "recorded_at": commit.recorded_at.to_string(),
        "handled_message_id": commit.handled,
        "causation_id": commit.causation_id,
        "correlation_id": commit.correlation_id,
        "completed": commit.completed,
    });
    let messages = match &commit.messages {
        Ok(messages) => {
            Some(messages.iter().map(|message| message_object(message, payloads)).collect::<Result<_, _>>()?)
        }
        Err(fault) => {
            put(&mut object, "damaged", Value::String(fault.to_string()));
            None
        }
    };
    Ok(CommitObject { object, messages })
}

fn message_object(message: &LifeMessage, payloads: bool) -> io::Result<WithPayload<Value>> {
    let envelope = &message.envelope;
    let mut object = json!({
        "kind": if envelope.kind == MessageKind::Event { "event" } else { "command" },
        "offset": message.offset.map(|offset| offset.get()),
        "message_id": envelope.message_id,
        "causation_id": envelope.causation_id,
        "correlation_id": envelope.correlation_id,
        "type": &*envelope.type_name,
        "version": envelope.type_version,
        "content_type": &*envelope.content_type,
        "destination": envelope.destination.as_deref(),
        "created_at": envelope.created_at.to_string(),
        "size": envelope.payload.len(),
    });
    if payloads {
        put(&mut object, "metadata", json!(envelope.metadata));
    } else {
        put(&mut object, "metadata_names", envelope.metadata.keys().cloned().collect());
    }
    Ok(WithPayload { object, payload: payloads.then(|| payload::text(envelope)).transpose()? })
}

fn put(object: &mut Value, name: &str, value: Value) {
    if let Value::Object(fields) = object {
        fields.insert(name.to_owned(), value);
    }
}

fn print_snapshot(snapshot: &SnapshotSummary, output: &mut Output) -> io::Result<()> {
    let state = if snapshot.intact { "intact" } else { "damaged" };
    output.line(format_args!(
        "\nsnapshot at revision {}, commit {}  {}  data version {}, {}, {} bytes, {state}",
        snapshot.revision,
        snapshot.commit_number,
        snapshot.taken_at,
        snapshot.data_version,
        plain(&snapshot.content_type),
        snapshot.size
    ))
}

fn snapshot_object(snapshot: &SnapshotSummary) -> Value {
    json!({
        "revision": snapshot.revision.get(),
        "commit_number": snapshot.commit_number.get(),
        "taken_at": snapshot.taken_at.to_string(),
        "data_version": snapshot.data_version,
        "content_type": snapshot.content_type,
        "size": snapshot.size,
        "intact": snapshot.intact,
    })
}
