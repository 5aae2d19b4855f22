//! Whether what waits in the outbox is there to be delivered.

use super::finding::{Finding, FindingKind, FindingPlace};
use super::tables::{MarkRow, OutboxRow};
use crate::outbox::partition_of_row;
use crate::slow_lane;
use crate::timeout::TIMEOUT_INDEX_BASE;

pub(super) fn check_mark(mark: &MarkRow, found: &mut Vec<Finding>) {
    let place = FindingPlace::Mark { stream: mark.stream, number: mark.commit_no };
    let mut find = |kind, detail: &str| found.push(Finding::new(kind, place.clone(), detail));
    let Some((recorded_at, messages)) = mark.commit else {
        return find(FindingKind::DanglingMark, "its commit is not there");
    };
    if messages == 0 {
        find(FindingKind::WrongMark, "its commit has no messages");
    } else if mark.message_count != messages {
        let said = mark.message_count;
        find(FindingKind::WrongMark, &format!("it says {said} messages, its commit has {messages}"));
    } else if mark.recorded_at != recorded_at {
        find(FindingKind::WrongMark, "its time is not that of its commit");
    }
}

pub(super) fn check_row(row: OutboxRow, found: &mut Vec<Finding>) {
    let OutboxRow { partition, commit_messages, row } = row;
    let place = FindingPlace::OutboxMessage(row.row);
    let mut find = |kind, detail: &str| found.push(Finding::new(kind, place.clone(), detail));
    if row.stream > 0 {
        let (number, index) = (row.commit_number, row.index);
        match commit_messages {
            None => find(FindingKind::DanglingOutboxMessage, &format!("its commit {number} is not there")),
            Some(messages) if !(0..messages).contains(&index) && index < TIMEOUT_INDEX_BASE => {
                let detail = format!("it is message {index} of commit {number}, which has {messages}");
                find(FindingKind::DanglingOutboxMessage, &detail);
            }
            Some(_) => {}
        }
    }
    let expected = partition_of_row(row.stream, &row.aggregate_type, &row.aggregate_id);
    if partition != expected {
        let detail = format!("it is in partition {partition}, its dispatcher looks in {expected}");
        find(FindingKind::WrongPartition, &detail);
    }
    if slow_lane::record(row).is_err() {
        find(FindingKind::UndecodableOutboxMessage, "its contents do not parse, or do not fit its body");
    }
}
