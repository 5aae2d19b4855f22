//! The verb `instances`.

use sagastore::Backend;
use sagastore::inspect::{Inspector, InstanceFilter, InstanceSummary};
use serde_json::json;
use sqlx::Pool;

use crate::arguments::Instances;
use crate::connect::{Connected, with_pool};
use crate::output::{Output, plain};
use crate::parked;
use crate::verdict::{Outcome, Verdict};

/// Instances that are read at once.
const PAGE: u32 = 500;

pub(crate) async fn run(connected: &Connected, wanted: &Instances, output: &mut Output) -> Outcome {
    with_pool!(connected, pool => list(pool, wanted, output).await)
}

async fn list<DB: Backend>(pool: &Pool<DB>, wanted: &Instances, output: &mut Output) -> Outcome {
    let inspector = Inspector::new(pool);
    let filter = InstanceFilter {
        persistence_key: wanted.saga.clone(),
        completed: (wanted.completed || wanted.open).then_some(wanted.completed),
        instance_prefix: wanted.prefix.clone(),
    };
    let parked = match wanted.parked {
        true => Some(parked::streams(pool, wanted.saga.as_deref()).await?),
        false => None,
    };
    let (mut after, mut left) = (None, wanted.limit.unwrap_or(u64::MAX));
    let mut first = true;
    while left > 0 {
        let limit = if parked.is_some() { PAGE } else { u32::try_from(left).unwrap_or(u32::MAX).min(PAGE) };
        let mut page = inspector.instances(&filter, after, limit).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.key);
        if let Some(parked) = &parked {
            page.retain(|instance| parked.contains(&instance.stream));
            page.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        }
        print(&page, std::mem::take(&mut first), output)?;
        left = left.saturating_sub(u64::try_from(page.len()).unwrap_or(u64::MAX));
    }
    output.flush()?;
    Ok(Verdict::Fine)
}

fn print(page: &[InstanceSummary], first: bool, output: &mut Output) -> std::io::Result<()> {
    if output.is_json() {
        return page.iter().try_for_each(|instance| output.object(&object(instance)));
    }
    let titles = ["STARTED", "LAST COMMIT", "STATE", "REVISION", "COMMITS", "STREAM"];
    let mut rows: Vec<Vec<String>> = Vec::new();
    rows.extend(first.then(|| titles.map(str::to_owned).into()));
    rows.extend(page.iter().map(|instance| {
        vec![
            instance.created_at.to_string(),
            instance.last_recorded_at.to_string(),
            state(instance).to_owned(),
            instance.revision.to_string(),
            instance.commits.to_string(),
            plain(instance.stream.as_str()),
        ]
    }));
    output.table(&rows)
}

pub(crate) fn state(instance: &InstanceSummary) -> &'static str {
    if instance.completed { "completed" } else { "open" }
}

pub(crate) fn object(instance: &InstanceSummary) -> serde_json::Value {
    json!({
        "stream": instance.stream.as_str(),
        "saga": instance.persistence_key,
        "instance": instance.instance_id.as_str(),
        "revision": instance.revision.get(),
        "commits": instance.commits.get(),
        "completed": instance.completed,
        "created_at": instance.created_at.to_string(),
        "last_recorded_at": instance.last_recorded_at.to_string(),
    })
}
