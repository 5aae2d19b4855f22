//! What a suite found.

use std::fmt;

/// The clauses of a suite, each with what became of it.
#[derive(Clone, Debug)]
#[must_use]
pub struct Report {
    title: &'static str,
    clauses: Vec<CheckedClause>,
}

/// A promise of a trait, and whether it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckedClause {
    /// The promise, in words joined by underscores.
    pub name: &'static str,
    /// What became of it.
    pub verdict: ClauseVerdict,
}

/// What became of a clause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClauseVerdict {
    /// The promise is kept.
    Passed,
    /// It is not, or it could not be seen because of an error; how it went, as a sentence.
    Failed(String),
    /// It could not be tried here; why, as a sentence.
    NotRun(String),
}

impl Report {
    pub(super) fn new(title: &'static str) -> Self {
        Self { title, clauses: Vec::new() }
    }

    pub(super) fn add(&mut self, name: &'static str, verdict: ClauseVerdict) {
        self.clauses.push(CheckedClause { name, verdict });
    }

    /// All clauses, in the order in which they were run.
    pub fn clauses(&self) -> &[CheckedClause] {
        &self.clauses
    }

    /// True if no clause failed.
    pub fn is_passed(&self) -> bool {
        self.failed().is_empty()
    }

    /// The names of the clauses that failed.
    pub fn failed(&self) -> Vec<&'static str> {
        let failed = |clause: &&CheckedClause| matches!(clause.verdict, ClauseVerdict::Failed(_));
        self.clauses.iter().filter(failed).map(|clause| clause.name).collect()
    }

    /// The names of the clauses that could not be tried.
    pub fn not_run(&self) -> Vec<&'static str> {
        let not_run = |clause: &&CheckedClause| matches!(clause.verdict, ClauseVerdict::NotRun(_));
        self.clauses.iter().filter(not_run).map(|clause| clause.name).collect()
    }

    /// Fails with the whole report if a clause failed. One that was not run has not: see [`not_run`](Self::not_run).
    ///
    /// # Panics
    /// If a clause failed.
    #[track_caller]
    pub fn assert_passed(&self) {
        assert!(self.is_passed(), "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (all, failed) = (self.clauses.len(), self.failed().len());
        writeln!(f, "{}: {failed} of {all} clauses failed", self.title)?;
        for CheckedClause { name, verdict } in &self.clauses {
            match verdict {
                ClauseVerdict::Passed => writeln!(f, "  passed   {name}")?,
                ClauseVerdict::Failed(fault) => writeln!(f, "  FAILED   {name}: {fault}")?,
                ClauseVerdict::NotRun(reason) => writeln!(f, "  not run  {name}: {reason}")?,
            }
        }
        Ok(())
    }
}
