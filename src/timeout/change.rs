//! Changing the timeouts of an instance, once its unit of work is written and in the same transaction.

use std::collections::BTreeMap;

use sqlx::{Database, Transaction};

use super::tables::{NewTimeout, TimeoutTables};
use super::{Due, TIMEOUT_INDEX_BASE, TimeoutChange};
use crate::envelope::Envelope;
use crate::error::{Error, Result};
use crate::ids::{CommitNumber, Offset};
use crate::saga::SagaStream;
use crate::slow_lane;

/// What changes come to: the last one of each name counts.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome<'a> {
    cancels_all: bool,
    names: BTreeMap<&'a str, Option<Scheduled<'a>>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Scheduled<'a> {
    /// Among the changes: those of one time are delivered in the order in which they were scheduled.
    place: i64,
    due: Due,
    message: &'a Envelope,
}

fn outcome(changes: &[TimeoutChange]) -> Outcome<'_> {
    let mut outcome = Outcome::default();
    for (place, change) in (0_i64..).zip(changes) {
        match change {
            TimeoutChange::Schedule { name, due, message } => {
                outcome.names.insert(name, Some(Scheduled { place, due: *due, message }));
            }
            TimeoutChange::Cancel { name } => {
                outcome.names.insert(name, None);
            }
            TimeoutChange::CancelAll => outcome = Outcome { cancels_all: true, ..Outcome::default() },
        }
    }
    outcome
}

pub(crate) async fn change<DB: Database, T: TimeoutTables<DB> + ?Sized>(
    tables: &T,
    tx: &mut Transaction<'_, DB>,
    stream: &SagaStream,
    commit: CommitNumber,
    changes: &[TimeoutChange],
) -> Result<()> {
    const FIRST_COMMIT: i64 = 1;
    let Outcome { cancels_all, names } = outcome(changes);
    let commit_number = commit.to_i64();
    if commit_number > FIRST_COMMIT {
        if cancels_all {
            tables.delete_all_timeouts(tx, &stream.name).await?;
        } else {
            let names: Vec<_> = names.keys().copied().collect();
            tables.delete_timeouts(tx, &stream.name, &names).await?;
        }
    }
    for (name, scheduled) in names {
        let Some(Scheduled { place, due, message }) = scheduled else { continue };
        let (index, contents) = (TIMEOUT_INDEX_BASE + place, slow_lane::contents(message)?);
        let new = NewTimeout { stream, commit_number, index, name, due, contents, body: &message.payload };
        if !tables.insert_timeout(tx, &new).await? {
            let detail = format!("commit {commit}, which schedules a timeout, is not there");
            return Err(Error::corrupt(&stream.name, Offset::ZERO, detail));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MessageKind;
    use std::time::Duration;

    fn schedule(name: &str, seconds: u64) -> TimeoutChange {
        let message = Envelope::new(MessageKind::Command, "T", 1, "text/plain", "").expect("valid");
        TimeoutChange::Schedule { name: name.to_owned(), due: Duration::from_secs(seconds).into(), message }
    }

    fn cancel(name: &str) -> TimeoutChange {
        TimeoutChange::Cancel { name: name.to_owned() }
    }

    /// Names with the places of what is scheduled under them.
    fn places<'a>(outcome: &Outcome<'a>) -> Vec<(&'a str, Option<i64>)> {
        outcome.names.iter().map(|(name, change)| (*name, change.as_ref().map(|it| it.place))).collect()
    }

    #[test]
    fn the_last_change_of_a_name_counts() {
        let changes =
            [schedule("a", 1), schedule("b", 1), cancel("a"), schedule("b", 2), cancel("c"), schedule("c", 1)];
        let found = outcome(&changes);
        assert!(!found.cancels_all);
        assert_eq!(places(&found), [("a", None), ("b", Some(3)), ("c", Some(5))]);
    }

    #[test]
    fn cancelling_all_forgets_what_came_before_and_not_what_comes_after() {
        let changes = [schedule("a", 1), cancel("b"), TimeoutChange::CancelAll, schedule("c", 1)];
        let found = outcome(&changes);
        assert!(found.cancels_all);
        assert_eq!(places(&found), [("c", Some(3))]);
    }
}
