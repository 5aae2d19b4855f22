//! What must never be printed.

use crate::command::Ran;

/// In payloads and in values of metadata.
pub(crate) const SECRET: &str = "s3cr3t";

/// Fails if the output holds a payload, the URL of the database, or its password.
pub(crate) fn check(ran: &Ran, url: &str) -> anyhow::Result<()> {
    let rest = url.split_once("://").map(|(_, rest)| rest);
    let password = rest.and_then(|rest| rest.rsplit_once('@')?.0.split_once(':').map(|(_, password)| password));
    for text in [Some(SECRET), Some(url), rest, password.filter(|password| password.len() > 4)].into_iter().flatten() {
        let found = ran.out.contains(text) || ran.err.contains(text);
        anyhow::ensure!(!found, "it shows {text:?}: {ran:?}");
    }
    Ok(())
}
