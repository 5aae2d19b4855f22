//! One suite for every database: each clause says what sagastore promises, and runs in every mode.
//!
//! A clause is an `async fn name<DB: Subject>(db: TestDb<DB>) -> Clause` in the file of its noun, and stands
//! in the `clauses!` list at the end of that file; one that is written but not listed does not
//! compile. The list may restrict it: `name` alone runs in every mode, `name: SEVERAL_CONNECTIONS` not in
//! memory, `name: SERVERS`, `name: POSTGRES`, … ([`harness::Mode`] has them all), `name: BASIC` also on PostgreSQL
//! without prepared statements. A new file is added to the `mod`s and to [`main`] here.
//!
//! `TestDb` is a freshly migrated database of the clause's own, cheap to clone into tasks:
//! [`pool`](harness::TestDb::pool), [`store`](harness::TestDb::store), [`persister`](harness::TestDb::persister) (built
//! of separate parts in the mode `sqlite_parts`), [`begin`](harness::TestDb::begin),
//! [`second_pool`](harness::TestDb::second_pool) (as another process would have), raw SQL by
//! [`sql`](harness::TestDb::sql), [`count`](harness::TestDb::count) and [`rows`](harness::TestDb::rows), with
//! `DB::bytes` and `DB::text` for literals, and shorthands to append and read. The sagas `Order`
//! and `Counter` and the builders of envelopes are in [`harness::sample`].
//!
//! After every clause the harness checks: no connection is missing from the pool, no transaction
//! or lock is left on the server, every stream is dense and readable, every message of every saga
//! is in the outbox exactly once, and no timeout is without its commit or in two places. A clause that breaks rows on purpose says
//! [`will_damage`](harness::TestDb::will_damage), one that acknowledges messages, or sends them
//! by itself, [`will_relay`](harness::TestDb::will_relay).
//!
//! Servers are found by SAGASTORE_TEST_POSTGRES_URL and SAGASTORE_TEST_MYSQL_URL; without one, the trials
//! of its modes are reported as ignored. A database that is named in SAGASTORE_TEST_ONLY (a comma
//! list of sqlite, postgres, mysql), or whose URL is set, and that cannot be reached, fails its trials.
//! SAGASTORE_TEST_PGBOUNCER_TRANSACTION_URL and SAGASTORE_TEST_PGBOUNCER_SESSION_URL lead to that PostgreSQL
//! through a pooler. SAGASTORE_TEST_UNPREPARED=1 runs all of PostgreSQL's clauses without prepared statements too.

#![deny(dead_code)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a clause fails")]

use std::process::ExitCode;

#[allow(dead_code, reason = "a box of tools, of which not all are in use at all times")]
mod harness;

#[cfg(feature = "mysql")]
mod autocommit;
mod bad_input;
mod busy;
mod check;
mod completion;
mod consumer;
mod damage;
mod dead_letters;
mod dispatcher;
mod dispatcher_damage;
mod dispatcher_emitters;
mod dispatcher_failures;
mod dispatcher_fencing;
mod dispatcher_pace;
mod dispatcher_sharing;
mod dispatcher_stop;
mod event_logs;
mod event_stream;
mod execute;
#[cfg(feature = "export")]
mod export;
#[cfg(feature = "export")]
mod export_of_live;
mod failures;
mod fencing;
mod fencing_isolation;
mod fencing_races;
mod global_order;
mod group_commit;
mod group_commit_runtimes;
mod handlers;
mod hostile;
mod inbox;
mod inspect;
mod instance_cache;
mod isolation;
mod large_units;
mod lease;
mod lease_guard;
mod lease_interrupted;
mod lease_processes;
mod lease_purge;
mod lease_status;
mod lease_waiting;
mod load;
mod lock_purger;
mod mapper;
mod message_handler;
mod message_handler_failures;
mod message_handler_not_found;
mod message_store;
mod message_types;
mod migrations;
mod model;
mod once_only;
mod outbox;
mod outbox_acknowledge;
mod outbox_batches;
mod outbox_lock;
#[cfg(feature = "postgres")]
mod outbox_notifier;
mod outbox_order;
mod panics;
mod parking;
mod parking_races;
mod persister_races;
mod pool;
mod races;
mod ranges;
mod recording;
mod replay;
mod replay_law;
mod resource_lock;
mod rollback;
mod sagas;
mod schema_dropped;
mod serialization;
#[cfg(feature = "postgres")]
mod session_lock;
#[cfg(feature = "postgres")]
mod session_lock_fence;
#[cfg(feature = "postgres")]
mod session_lock_life;
#[cfg(feature = "postgres")]
mod session_lock_loss;
#[cfg(feature = "postgres")]
mod session_lock_pooler;
#[cfg(feature = "postgres")]
mod session_lock_transaction;
#[cfg(feature = "postgres")]
mod session_lock_waits;
mod shuffled;
mod small_units;
mod snapshot;
mod snapshot_due;
mod snapshot_faults;
mod subscriptions;
mod timeouts;
mod timeouts_changed;
mod timeouts_in_groups;
mod timeouts_relayed;
mod timeouts_unsupported;
#[allow(dead_code, reason = "not all of the example is looked at here")]
#[path = "../../examples/sagas/town/mod.rs"]
mod town;
mod transactions;
mod unit_of_work;
mod upgrades;
mod verify_replay;
#[cfg(feature = "export")]
mod verify_replay_export;

fn main() -> ExitCode {
    if let Some(played) = harness::play_lease_client() {
        return played;
    }
    let command_line = harness::CommandLine::read();
    let mut suite = harness::Suite::new();
    for clauses in [
        #[cfg(feature = "mysql")]
        autocommit::clauses,
        bad_input::clauses,
        busy::clauses,
        check::clauses,
        completion::clauses,
        consumer::clauses,
        damage::clauses,
        dead_letters::clauses,
        dispatcher::clauses,
        dispatcher_damage::clauses,
        dispatcher_emitters::clauses,
        dispatcher_failures::clauses,
        dispatcher_fencing::clauses,
        dispatcher_pace::clauses,
        dispatcher_sharing::clauses,
        dispatcher_stop::clauses,
        event_logs::clauses,
        event_stream::clauses,
        execute::clauses,
        #[cfg(feature = "export")]
        export::clauses,
        #[cfg(feature = "export")]
        export_of_live::clauses,
        failures::clauses,
        fencing::clauses,
        fencing_isolation::clauses,
        fencing_races::clauses,
        global_order::clauses,
        group_commit::clauses,
        group_commit_runtimes::clauses,
        handlers::clauses,
        hostile::clauses,
        inbox::clauses,
        inspect::clauses,
        instance_cache::clauses,
        isolation::clauses,
        large_units::clauses,
        lease::clauses,
        lease_guard::clauses,
        lease_interrupted::clauses,
        lease_processes::clauses,
        lease_purge::clauses,
        lease_status::clauses,
        lease_waiting::clauses,
        load::clauses,
        lock_purger::clauses,
        mapper::clauses,
        message_handler::clauses,
        message_handler_failures::clauses,
        message_handler_not_found::clauses,
        message_store::clauses,
        message_types::clauses,
        migrations::clauses,
        model::clauses,
        once_only::clauses,
        outbox::clauses,
        outbox_acknowledge::clauses,
        outbox_batches::clauses,
        outbox_lock::clauses,
        #[cfg(feature = "postgres")]
        outbox_notifier::clauses,
        outbox_order::clauses,
        panics::clauses,
        parking::clauses,
        parking_races::clauses,
        persister_races::clauses,
        pool::clauses,
        races::clauses,
        ranges::clauses,
        recording::clauses,
        replay::clauses,
        replay_law::clauses,
        resource_lock::clauses,
        rollback::clauses,
        sagas::clauses,
        schema_dropped::clauses,
        serialization::clauses,
        shuffled::clauses,
        #[cfg(feature = "postgres")]
        session_lock::clauses,
        #[cfg(feature = "postgres")]
        session_lock_fence::clauses,
        #[cfg(feature = "postgres")]
        session_lock_life::clauses,
        #[cfg(feature = "postgres")]
        session_lock_loss::clauses,
        #[cfg(feature = "postgres")]
        session_lock_pooler::clauses,
        #[cfg(feature = "postgres")]
        session_lock_transaction::clauses,
        #[cfg(feature = "postgres")]
        session_lock_waits::clauses,
        small_units::clauses,
        snapshot::clauses,
        snapshot_due::clauses,
        snapshot_faults::clauses,
        subscriptions::clauses,
        timeouts::clauses,
        timeouts_changed::clauses,
        timeouts_in_groups::clauses,
        timeouts_relayed::clauses,
        timeouts_unsupported::clauses,
        transactions::clauses,
        unit_of_work::clauses,
        upgrades::clauses,
        verify_replay::clauses,
        #[cfg(feature = "export")]
        verify_replay_export::clauses,
    ] {
        clauses(&mut suite);
    }
    suite.run(&command_line)
}
