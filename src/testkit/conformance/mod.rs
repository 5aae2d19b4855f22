//! What every store promises, as clauses that run against any implementation.
//!
//! Each suite takes a pool of a database that is ready for the implementation, with no more than this in use, and gives
//! a [`Report`]. It works by the public traits alone, on streams and aggregates of its own, one clause after the other. The
//! outbox is one for the whole database: its suite empties it. Give the pool at least two connections; what needs two is
//! else reported as not run.

use std::sync::Arc;

use sqlx::{Database, Pool};

use crate::message_store::MessageStore;
use crate::outbox::OutboxRepository;
use crate::snapshot::SnapshotRepository;

mod append;
mod bench;
mod commit;
mod handled;
mod load;
mod outbox_acknowledge;
mod outbox_find;
mod outbox_lock;
mod outbox_slots;
mod outbox_stats;
mod races;
mod read;
mod report;
mod sample;
mod snapshot;
mod transactions;

pub use report::{CheckedClause, ClauseVerdict, Report};

use bench::{Bench, run_clauses};

/// Tests a [`MessageStore`]: streams, and the verbs by which units of work are loaded and committed.
pub async fn message_store<DB: Database>(pool: &Pool<DB>, store: Arc<dyn MessageStore<DB>>) -> Report {
    let begin = store.begin_statement();
    let (bench, mut report) = (Bench::new(pool, store, begin), Report::new("message store"));
    run_clauses! { report, bench:
        append {
            a_stream_that_was_never_written_is_not_there,
            appended_events_get_dense_offsets_in_order,
            appended_commands_take_no_offset,
            an_append_below_the_end_is_a_conflict_that_tells_both_ends,
            an_append_beyond_the_end_is_a_conflict_that_tells_both_ends,
            a_conflict_leaves_the_transaction_usable,
            an_append_of_nothing_changes_nothing_and_checks_the_offset,
            an_id_that_stands_twice_in_an_append_is_refused,
            a_message_over_the_limit_is_refused_and_the_transaction_usable,
            names_that_differ_in_a_byte_are_different_streams,
        }
        read {
            every_field_of_an_event_comes_back,
            large_and_empty_payloads_come_back_byte_for_byte,
            a_page_has_as_many_events_as_asked_for,
            a_page_begins_at_its_offset,
            a_page_beyond_the_end_is_empty,
            the_last_event_and_the_next_offset_are_told,
            the_time_of_recording_rises_strictly,
        }
        transactions {
            an_append_that_is_rolled_back_leaves_nothing,
            a_transaction_sees_its_own_appends,
            a_unit_of_work_that_is_rolled_back_leaves_nothing,
            a_transaction_sees_its_own_unit_of_work,
            nobody_else_sees_what_is_not_committed,
        }
        load {
            an_instance_that_was_never_saved_is_loaded_as_nothing,
            a_unit_of_work_is_loaded_as_it_was_committed,
            a_unit_of_work_without_events_is_a_commit_too,
            two_sagas_with_one_instance_id_are_two_streams,
            loading_from_a_commit_gives_its_head_and_what_follows,
            loading_from_a_commit_that_is_not_there_gives_no_head,
            a_long_history_comes_in_pages_without_a_gap,
        }
        commit {
            a_unit_of_work_on_an_old_head_is_refused,
            a_refused_unit_of_work_leaves_the_transaction_usable,
            a_unit_of_work_on_a_head_that_was_rolled_back_is_refused,
            a_completed_instance_is_loaded_as_completed,
            a_unit_of_work_committed_alone_is_there_at_once,
            each_unit_of_work_of_a_group_is_judged_alone,
            a_unit_of_work_gives_the_head_that_a_load_finds,
        }
        handled {
            the_commit_that_handled_a_message_is_found,
            a_message_is_handled_once_only,
            another_instance_may_handle_the_same_message,
        }
        races {
            of_concurrent_appends_one_wins,
            of_concurrent_first_appends_one_wins,
            of_concurrent_units_of_work_one_wins,
        }
    }
    report
}

/// Tests a [`SnapshotRepository`].
pub async fn snapshot_repository<DB: Database>(pool: &Pool<DB>, repository: Arc<dyn SnapshotRepository<DB>>) -> Report {
    let (bench, mut report) = (Bench::new(pool, repository, None), Report::new("snapshot repository"));
    run_clauses! { report, bench:
        snapshot {
            an_instance_without_a_snapshot_has_none,
            a_snapshot_comes_back_as_it_was_saved,
            a_damaged_snapshot_comes_back_as_damaged,
            the_newest_snapshot_is_given,
            a_snapshot_at_the_same_revision_replaces_the_one_before,
            as_many_snapshots_as_asked_for_are_kept,
            snapshots_beyond_the_one_that_is_saved_are_deleted,
            deleting_leaves_none_and_says_how_many_there_were,
            instances_have_snapshots_of_their_own,
            another_sagas_snapshot_is_neither_given_nor_deleted,
            a_snapshot_that_is_rolled_back_is_not_there,
            a_transaction_sees_its_own_snapshot,
        }
    }
    report
}

/// Tests an [`OutboxRepository`]. Empties the outbox. Takes a few seconds, for what is due later.
///
/// Dead letters are made by dispatchers, which need a built-in store: here it is tested that what waits is not taken for
/// one.
pub async fn outbox_repository<DB: Database>(pool: &Pool<DB>, repository: Arc<dyn OutboxRepository<DB>>) -> Report {
    let (bench, mut report) = (Bench::new(pool, repository, None), Report::new("outbox repository"));
    run_clauses! { report, bench:
        outbox_find {
            saved_records_come_back_whole,
            records_of_one_aggregate_keep_their_order,
            names_that_differ_in_a_byte_are_different_aggregates,
            pages_give_every_record_once,
            batches_give_every_record_once_and_keep_to_the_limit,
            an_error_of_the_callback_ends_the_batches,
            a_record_is_not_given_before_it_is_due,
            a_record_that_is_rolled_back_was_never_there,
            a_record_that_cannot_be_stored_is_refused,
        }
        outbox_acknowledge {
            what_is_acknowledged_leaves_and_nothing_else,
            records_are_acknowledged_out_of_order,
            what_is_acknowledged_twice_counts_once,
            acknowledging_in_small_batches_acknowledges_all,
            an_acknowledgement_that_is_rolled_back_did_not_happen,
            what_waits_is_no_dead_letter,
        }
        outbox_stats {
            the_statistics_count_what_waits,
            the_lag_counts_what_is_due,
        }
        outbox_lock {
            one_dispatcher_at_a_time_holds_the_lock,
            the_lock_is_released_by_its_holder_only,
        }
        outbox_slots {
            slots_are_given_from_the_first_up_to_the_maximum,
            a_dispatcher_gets_the_slot_that_it_has,
            a_slot_that_is_given_up_is_free_and_takes_no_heartbeats,
            a_number_of_dispatchers_out_of_bounds_is_refused,
        }
    }
    report
}
