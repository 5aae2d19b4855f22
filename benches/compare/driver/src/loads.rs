use compare_protocol::{Line, REVISIONS};

use crate::chart::{Chart, Series};
use crate::figure::Figure;
use crate::results::Results;

/// Milliseconds of a load at a revision.
pub(crate) fn load_ms(revision: u32) -> impl Fn(&Line) -> Option<f64> + Copy {
    move |line| match *line {
        Line::Load { revision: r, us } => (r == revision).then_some(us / 1e3),
        _ => None,
    }
}

/// Milliseconds of a load by all events.
pub(crate) fn replay_ms(line: &Line) -> Option<f64> {
    match *line {
        Line::Replay { us, .. } => Some(us / 1e3),
        _ => None,
    }
}

pub(crate) fn figure(results: &Results) -> Figure {
    let charts = results.servers.iter().map(|server| Chart {
        title: format!("{server}: loading an instance"),
        x: "events of the instance",
        ticks: REVISIONS.map(|revision| revision.to_string()).to_vec(),
        y: "time of a load in ms",
        logarithmic: true,
        series: (results.on(*server))
            .map(|subject| {
                let points = REVISIONS.map(|revision| results.spread(subject, load_ms(revision)));
                Series { name: subject.name, points: points.to_vec() }
            })
            .collect(),
    });
    Figure { file: "load.svg", rows: vec![charts.collect()] }
}
