use compare_protocol::{EVENTS, Line};

use crate::chart::{Chart, Series};
use crate::figure::Figure;
use crate::results::Results;

/// How many clients the picture shows.
const CLIENTS: u32 = 8;
pub(crate) const PERCENTILES: [u32; 3] = [50, 90, 99];

/// Milliseconds within which so many hundredths of the units of work were done.
pub(crate) fn ms(events: u32, clients: u32, percentile: u32) -> impl Fn(&Line) -> Option<f64> + Copy {
    move |line| match *line {
        Line::Units { events: e, clients: c, p50_us, p90_us, p99_us, .. } if e == events && c == clients => {
            match percentile {
                50 => Some(p50_us / 1e3),
                90 => Some(p90_us / 1e3),
                99 => Some(p99_us / 1e3),
                _ => None,
            }
        }
        _ => None,
    }
}

pub(crate) fn figure(results: &Results) -> Figure {
    let rows = EVENTS.map(|events| {
        let charts = results.servers.iter().map(|server| Chart {
            title: format!("{server}: {CLIENTS} clients, {events} event{} each", if events == 1 { "" } else { "s" }),
            x: "percentile of the units of work",
            ticks: PERCENTILES.map(|percentile| format!("p{percentile}")).to_vec(),
            y: "latency in ms",
            logarithmic: true,
            series: (results.on(*server))
                .map(|subject| {
                    let points = PERCENTILES.map(|p| results.spread(subject, ms(events, CLIENTS, p)));
                    Series { name: subject.name, points: points.to_vec() }
                })
                .collect(),
        });
        charts.collect()
    });
    Figure { file: "latency.svg", rows: rows.to_vec() }
}
