use compare_protocol::{CLIENTS, EVENTS, Line};

use crate::chart::{Chart, Series};
use crate::figure::Figure;
use crate::results::Results;

/// Units of work per second with so many events of so many clients.
pub(crate) fn per_second(events: u32, clients: u32) -> impl Fn(&Line) -> Option<f64> + Copy {
    move |line| match *line {
        Line::Units { events: e, clients: c, per_second, .. } => (e == events && c == clients).then_some(per_second),
        _ => None,
    }
}

pub(crate) fn figure(results: &Results) -> Figure {
    let rows = EVENTS.map(|events| {
        let charts = results.servers.iter().map(|server| Chart {
            title: format!("{server}: units of work with {events} event{}", if events == 1 { "" } else { "s" }),
            x: "clients at the same time",
            ticks: CLIENTS.map(|clients| clients.to_string()).to_vec(),
            y: "units of work per second",
            logarithmic: false,
            series: (results.on(*server))
                .map(|subject| {
                    let points = CLIENTS.map(|clients| results.spread(subject, per_second(events, clients)));
                    Series { name: subject.name, points: points.to_vec() }
                })
                .collect(),
        });
        charts.collect()
    });
    Figure { file: "throughput.svg", rows: rows.to_vec() }
}
