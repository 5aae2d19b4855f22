//! The verb `migrate`.

use sagastore::Migrated;
use serde_json::json;

use crate::connect::{Connected, with_pool};
use crate::output::Output;
use crate::verdict::{Outcome, Verdict};

pub(crate) async fn run(connected: &Connected, output: &mut Output) -> Outcome {
    let (from, to) = match with_pool!(connected, pool => sagastore::migrate(pool).await)? {
        Migrated::NothingToDo { version } => (version, version),
        Migrated::Applied { from, to } => (from, to),
        _ => (0, 0),
    };
    if output.is_json() {
        output.object(&json!({ "from": from, "to": to }))?;
    } else if from == to {
        output.line(format_args!("the schema is at version {to} already"))?;
    } else {
        output.line(format_args!("the schema was brought from version {from} to {to}"))?;
    }
    output.flush()?;
    Ok(Verdict::Fine)
}
