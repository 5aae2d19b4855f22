//! How it ended, and what is said about it.

use std::fmt::Display;
use std::io::ErrorKind;
use std::process::ExitCode;

use crate::output::plain_lines;
use crate::secrets::Secrets;

/// The exit status of a command that was not understood.
pub(crate) const USAGE: u8 = 2;

pub(crate) type Outcome = Result<Verdict, Failure>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Fine,
    /// What was looked for is not there.
    Found,
}

#[derive(Debug)]
pub(crate) enum Failure {
    /// The command cannot be carried out as it was given.
    Usage(String),
    Failed(String),
    /// Whoever read the output has gone.
    NobodyReads,
}

impl Failure {
    pub(crate) fn failed(sentence: impl Display) -> Self {
        Self::Failed(sentence.to_string())
    }

    pub(crate) fn usage(sentence: impl Display) -> Self {
        Self::Usage(sentence.to_string())
    }
}

impl From<sagastore::Error> for Failure {
    fn from(error: sagastore::Error) -> Self {
        Self::failed(error)
    }
}

impl From<sagastore::transfer::TransferError> for Failure {
    fn from(error: sagastore::transfer::TransferError) -> Self {
        Self::failed(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(fault: std::io::Error) -> Self {
        match fault.kind() {
            ErrorKind::BrokenPipe => Self::NobodyReads,
            _ => Self::Failed(format!("reading or writing failed: {fault}")),
        }
    }
}

/// A verdict that does not depend on whether anybody reads to the end what is said about it.
pub(crate) fn whoever_reads(printed: std::io::Result<()>, verdict: Verdict) -> Outcome {
    match printed.map_err(Failure::from) {
        Ok(()) | Err(Failure::NobodyReads) => Ok(verdict),
        Err(failure) => Err(failure),
    }
}

pub(crate) fn end(outcome: Outcome, secrets: &Secrets) -> ExitCode {
    let (sentence, status) = match outcome {
        Ok(Verdict::Fine) | Err(Failure::NobodyReads) => return ExitCode::SUCCESS,
        Ok(Verdict::Found) => return ExitCode::FAILURE,
        Err(Failure::Usage(sentence)) => (sentence, ExitCode::from(USAGE)),
        Err(Failure::Failed(sentence)) => (sentence, ExitCode::FAILURE),
    };
    eprintln!("sagastore: {}", plain_lines(&secrets.hidden_in(&sentence)));
    status
}
