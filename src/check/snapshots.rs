//! Whether snapshots are those of their streams.

use super::finding::{Finding, FindingKind, FindingPlace};
use crate::inspect::snapshots::read;
use crate::inspect::tables::{SnapshotRow, StreamColumns};

/// Looks at one snapshot, with its stream if that has a row.
pub(super) fn check(row: SnapshotRow, stream: Option<&StreamColumns>, found: &mut Vec<Finding>) {
    let revision = row.columns.revision;
    let Some(stream) = stream else {
        let detail = format!("there is a snapshot at revision {revision}");
        found.push(Finding::new(FindingKind::OrphanSnapshot, FindingPlace::Key(row.stream), detail));
        return;
    };
    let place = FindingPlace::Snapshot { stream: stream.name.clone(), revision };
    let mut find = |kind, detail: &str| found.push(Finding::new(kind, place.clone(), detail));
    if stream.persistence_key.as_ref() != Some(&row.columns.persistence_key) {
        find(FindingKind::ForeignSnapshot, "it is of another saga than the stream");
    }
    let (commit_end, commit) = (row.commit_end, row.columns.commit_no);
    if !read(row.columns).is_intact() {
        find(FindingKind::DamagedSnapshot, "it does not fit its checksum; it is never used");
        return;
    }
    match commit_end {
        None => {
            let detail = format!("commit {commit}, at which it was taken, is not there; it is never used");
            find(FindingKind::MisplacedSnapshot, &detail);
        }
        Some(end) if end != revision => {
            let detail = format!("commit {commit}, at which it was taken, ends at revision {end}; it is never used");
            find(FindingKind::MisplacedSnapshot, &detail);
        }
        Some(_) => {}
    }
}
