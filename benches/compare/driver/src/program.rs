use std::env;
use std::process::{Command, Stdio};

use compare_protocol::Line;

use crate::subject::Subject;

pub(crate) fn prepare(subject: &Subject, url: &str) {
    eprintln!("preparing {subject}");
    call(subject, &["prepare", subject.variant, url, "0"]);
}

pub(crate) fn round(subject: &Subject, url: &str, round: u32) -> Vec<Line> {
    let answer = call(subject, &["round", subject.variant, url, &round.to_string()]);
    let lines = answer.lines().map(|line| serde_json::from_str(line).expect("a result"));
    lines.collect()
}

/// Calls a program that was built beside this one; gives what it printed.
fn call(subject: &Subject, arguments: &[&str]) -> String {
    let program = env::current_exe().expect("has a path").with_file_name(subject.program);
    let output = Command::new(&program).args(arguments).stderr(Stdio::inherit()).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {}: {error}", program.display()));
    assert!(output.status.success(), "{subject} failed: {}", output.status);
    String::from_utf8(output.stdout).expect("is text")
}
