use compare_protocol::Line;
use serde::Serialize;

use crate::made::Made;
use crate::spread::Spread;
use crate::subject::{Server, Subject};

#[derive(Default, Serialize)]
pub(crate) struct Results {
    #[serde(flatten)]
    pub(crate) made: Made,
    pub(crate) rounds: u32,
    pub(crate) servers: Vec<Server>,
    #[serde(skip)]
    pub(crate) subjects: Vec<Subject>,
    pub(crate) runs: Vec<Run>,
}

/// One result of one round.
#[derive(Serialize)]
pub(crate) struct Run {
    #[serde(flatten)]
    pub(crate) subject: Subject,
    pub(crate) round: u32,
    #[serde(flatten)]
    pub(crate) line: Line,
}

impl Results {
    pub(crate) fn on(&self, server: Server) -> impl Iterator<Item = &Subject> {
        self.subjects.iter().filter(move |subject| subject.server == server)
    }

    /// The values that `pick` takes from the results of a subject, with their rounds.
    fn values(&self, subject: &Subject, pick: impl Fn(&Line) -> Option<f64>) -> Vec<(u32, f64)> {
        let runs = self.runs.iter().filter(|run| run.subject == *subject);
        runs.filter_map(|run| Some((run.round, pick(&run.line)?))).collect()
    }

    pub(crate) fn spread(&self, subject: &Subject, pick: impl Fn(&Line) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.values(subject, pick).into_iter().map(|(_, value)| value))
    }

    /// The one's value divided by the other's, round by round; the median.
    pub(crate) fn ratio(&self, one: &Subject, other: &Subject, pick: impl Fn(&Line) -> Option<f64>) -> Option<f64> {
        let others = self.values(other, &pick);
        let divided = self.values(one, &pick).into_iter().filter_map(|(round, value)| {
            let (_, other) = others.iter().find(|(other, _)| *other == round)?;
            Some(value / other)
        });
        Spread::of(divided).map(|ratios| ratios.median)
    }
}
