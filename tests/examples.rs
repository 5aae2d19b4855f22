//! The examples that need no server do what they say: each checks its own result.

use std::path::Path;
use std::process::Command;

/// Runs an example as `cargo test` built it.
fn run(example: &str) {
    let exe = std::env::current_exe().expect("a path");
    let folder = exe.parent().and_then(Path::parent).expect("a folder").join("examples");
    let output = Command::new(folder.join(example)).output().expect("built by `cargo test` as a whole");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{example}: {out}\n{err}");
}

#[test]
fn a_saga_in_forty_lines_runs() {
    run("quickstart");
}

#[test]
fn own_writes_share_the_fate_of_the_unit_of_work() {
    run("own_writes_in_the_same_transaction");
}

#[test]
fn a_zombies_fenced_write_is_refused() {
    run("fencing");
}

#[test]
fn the_outbox_is_relayed_in_order_and_a_dead_letter_put_right() {
    run("outbox_dispatch");
}

#[test]
fn sagas_come_to_their_ends_by_hand_and_with_a_handler() {
    run("sagas");
}
