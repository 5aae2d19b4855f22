//! Running the program.

use std::process::{Command, Output, Stdio};

use crate::secrets;

/// What it printed, and its exit status.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Its output as JSON, an object a line.
    pub(crate) fn objects(&self) -> Vec<serde_json::Value> {
        self.out.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }
}

/// The command for a database.
pub(crate) fn command(url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sagastore"));
    command.args(arguments).env("DATABASE_URL", url).stdin(Stdio::null());
    command
}

/// Runs it on a database. Nothing that it prints holds a secret.
pub(crate) fn run(url: &str, arguments: &[&str]) -> anyhow::Result<Ran> {
    let ran = run_showing(url, arguments)?;
    secrets::check(&ran, url)?;
    Ok(ran)
}

/// As [`run`], where secrets are asked for.
pub(crate) fn run_showing(url: &str, arguments: &[&str]) -> anyhow::Result<Ran> {
    let Output { status, stdout, stderr } = command(url, arguments).output()?;
    Ok(Ran { status: status.code().unwrap_or(-1), out: String::from_utf8(stdout)?, err: String::from_utf8(stderr)? })
}

/// Runs it, and fails unless all was well. Gives what it printed.
pub(crate) fn fine(url: &str, arguments: &[&str]) -> anyhow::Result<Ran> {
    let ran = run(url, arguments)?;
    anyhow::ensure!(ran.status == 0 && ran.err.is_empty(), "{arguments:?}: {ran:?}");
    Ok(ran)
}
