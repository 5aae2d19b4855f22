//! The verb `check`.

use sagastore::Backend;
use sagastore::check::{Checked, Finding, FindingPlace, check_data};
use serde_json::{Value, json};
use sqlx::Pool;

use crate::connect::{Connected, with_pool};
use crate::output::{Output, plain};
use crate::verdict::{Outcome, Verdict, whoever_reads};

pub(crate) async fn run(connected: &Connected, output: &mut Output) -> Outcome {
    with_pool!(connected, pool => check(pool, output).await)
}

async fn check<DB: Backend>(pool: &Pool<DB>, output: &mut Output) -> Outcome {
    sagastore::check_schema(pool).await?;
    let mut printed = Ok(());
    let checked = check_data(pool, &mut |finding| {
        if printed.is_ok() {
            printed = print(&finding, output);
        }
    })
    .await?;
    let printed = printed.and_then(|()| sum_up(&checked, output)).and_then(|()| output.flush());
    whoever_reads(printed, if checked.findings == 0 { Verdict::Fine } else { Verdict::Found })
}

fn print(finding: &Finding, output: &mut Output) -> std::io::Result<()> {
    if output.is_json() {
        output.object(&json!({ "finding": object(finding) }))
    } else {
        output.line(plain(&finding.to_string()))
    }
}

fn object(finding: &Finding) -> Value {
    let (stream, number) = match &finding.place {
        FindingPlace::Stream(stream) => (Some(stream), None),
        FindingPlace::Commit { stream, number } => (Some(stream), Some(number)),
        _ => (None, None),
    };
    json!({
        "kind": finding.kind.name(),
        "place": finding.place.to_string(),
        "stream": stream,
        "commit": number,
        "detail": finding.detail,
    })
}

fn sum_up(checked: &Checked, output: &mut Output) -> std::io::Result<()> {
    let Checked { streams, commits, messages, snapshots, outbox, findings, .. } = *checked;
    if output.is_json() {
        return output.object(&json!({
            "checked": {
                "streams": streams,
                "commits": commits,
                "messages": messages,
                "snapshots": snapshots,
                "outbox": outbox,
                "findings": findings,
            }
        }));
    }
    output.line(format_args!(
        "checked {streams} streams with {commits} commits and {messages} messages, {snapshots} snapshots, {outbox} \
         entries of the outbox: {}",
        if findings == 0 { "all is well".to_owned() } else { format!("{findings} findings") }
    ))
}
