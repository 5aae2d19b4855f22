//! The verb `locks`.

use sagastore::Backend;
use sagastore::inspect::{Inspector, LeaseSummary};
use serde_json::json;
use sqlx::Pool;

use crate::connect::{Connected, with_pool};
use crate::output::{Output, plain};
use crate::verdict::{Outcome, Verdict};

/// Leases that are read at once.
const PAGE: u32 = 500;

pub(crate) async fn run(connected: &Connected, output: &mut Output) -> Outcome {
    with_pool!(connected, pool => list(pool, output).await)
}

async fn list<DB: Backend>(pool: &Pool<DB>, output: &mut Output) -> Outcome {
    let inspector = Inspector::new(pool);
    let mut last: Option<LeaseSummary> = None;
    loop {
        let after = last.as_ref().map(|lease| (&lease.namespace, &lease.resource_id));
        let mut page = inspector.leases(after, PAGE).await?;
        if page.is_empty() {
            break;
        }
        print(&page, last.is_none(), output)?;
        last = page.pop();
    }
    output.flush()?;
    Ok(Verdict::Fine)
}

fn print(page: &[LeaseSummary], first: bool, output: &mut Output) -> std::io::Result<()> {
    if output.is_json() {
        return page.iter().try_for_each(|lease| output.object(&object(lease)));
    }
    let titles = ["NAMESPACE", "RESOURCE", "STATE", "HOLDER", "TOKEN", "OBTAINED", "EXPIRES"];
    let mut rows: Vec<Vec<String>> = Vec::new();
    rows.extend(first.then(|| titles.map(str::to_owned).into()));
    rows.extend(page.iter().map(|lease| {
        vec![
            plain(lease.namespace.as_str()),
            plain(lease.resource_id.as_str()),
            if lease.held { "held" } else { "free" }.to_owned(),
            lease.client_id.as_ref().map_or_else(|| "-".to_owned(), |client| plain(client.as_str())),
            lease.token.to_string(),
            lease.obtained_at.to_string(),
            lease.expires_at.to_string(),
        ]
    }));
    output.table(&rows)
}

fn object(lease: &LeaseSummary) -> serde_json::Value {
    json!({
        "namespace": lease.namespace.as_str(),
        "resource": lease.resource_id.as_str(),
        "held": lease.held,
        "holder": lease.client_id.as_ref().map(|client| client.as_str()),
        "token": lease.token.get(),
        "obtained_at": lease.obtained_at.to_string(),
        "expires_at": lease.expires_at.to_string(),
    })
}
