use compare_protocol::{CLIENTS, EVENTS, Line};

use crate::loads::replay_ms;
use crate::results::Results;
use crate::spread::Spread;
use crate::subject::{CACHED, COLD, Server, Subject};
use crate::units::per_second;

/// How many times a peer sagastore is meant to be, and is.
pub(crate) struct Verdict {
    pub(crate) server: Server,
    pub(crate) work: String,
    pub(crate) peer: Subject,
    pub(crate) ours: Subject,
    pub(crate) peers: Spread,
    pub(crate) own: Spread,
    pub(crate) unit: &'static str,
    /// None where nothing was wanted beforehand.
    pub(crate) wanted: Option<f64>,
    /// The median of the rounds.
    pub(crate) measured: f64,
}

/// What is wanted of units of work with so many events.
fn wanted_of_units(ours: &Subject, events: u32) -> Option<f64> {
    match (ours.name, events) {
        (COLD, 1) => Some(1.5),
        (CACHED, 1) => Some(2.5),
        (COLD | CACHED, 5) => Some(3.0),
        _ => None,
    }
}

fn wanted_of_replay(ours: &Subject, peer: &Subject) -> Option<f64> {
    match (ours.name, peer.name) {
        (COLD, "disintegrate") => Some(1.2),
        (COLD, _) => Some(3.0),
        _ => None,
    }
}

impl Verdict {
    pub(crate) fn is_met(&self) -> Option<bool> {
        self.wanted.map(|wanted| self.measured >= wanted)
    }

    pub(crate) fn all(results: &Results) -> Vec<Self> {
        let mut verdicts = Vec::new();
        for server in &results.servers {
            for peer in results.on(*server).filter(|subject| !subject.is_ours()) {
                for ours in results.on(*server).filter(|subject| subject.is_ours()) {
                    verdicts.extend(Self::of_units(results, ours, peer));
                    verdicts.extend(Self::of_replay(results, ours, peer));
                }
            }
        }
        verdicts
    }

    fn of_units(results: &Results, ours: &Subject, peer: &Subject) -> Vec<Self> {
        let loads = EVENTS.into_iter().flat_map(|events| CLIENTS.map(|clients| (events, clients)));
        let verdicts = loads.filter_map(|(events, clients)| {
            let pick = per_second(events, clients);
            Some(Self {
                server: ours.server,
                work: format!("units of work, {events} event{}, {clients} client{}", s(events), s(clients)),
                peer: *peer,
                ours: *ours,
                peers: results.spread(peer, pick)?,
                own: results.spread(ours, pick)?,
                unit: "/s",
                wanted: wanted_of_units(ours, events),
                measured: results.ratio(ours, peer, pick)?,
            })
        });
        verdicts.collect()
    }

    fn of_replay(results: &Results, ours: &Subject, peer: &Subject) -> Option<Self> {
        let wanted = wanted_of_replay(ours, peer)?;
        Some(Self {
            server: ours.server,
            work: format!("replay of {} events", compare_protocol::REPLAYED),
            peer: *peer,
            ours: *ours,
            peers: results.spread(peer, replay_ms)?,
            own: results.spread(ours, replay_ms)?,
            unit: "ms",
            wanted: Some(wanted),
            measured: results.ratio(peer, ours, |line: &Line| replay_ms(line))?,
        })
    }
}

/// Of a plural.
fn s(count: u32) -> &'static str {
    if count == 1 { "" } else { "s" }
}

#[cfg(test)]
mod tests {
    use compare_protocol::Line;

    use super::Verdict;
    use crate::results::{Results, Run};
    use crate::subject::{COLD, Server, Subject};

    fn units(per_second: f64) -> Line {
        Line::Units { events: 1, clients: 1, per_second, p50_us: 1.0, p90_us: 1.0, p99_us: 1.0 }
    }

    /// Rounds with so many units of work per second of sagastore and of a peer.
    fn results(rounds: &[(f64, f64)]) -> Results {
        let subjects = Subject::on(&[Server::Sqlite]);
        let named = |name| *subjects.iter().find(|subject| subject.name == name).expect("takes part");
        let (ours, peer) = (named(COLD), named("cqrs-es"));
        let runs = (1..).zip(rounds).flat_map(|(round, (own, other))| {
            [(ours, *own), (peer, *other)].map(|(subject, rate)| Run { subject, round, line: units(rate) })
        });
        Results { servers: vec![Server::Sqlite], runs: runs.collect(), subjects, ..Results::default() }
    }

    #[test]
    fn a_ratio_is_that_of_the_middle_round() {
        // In the last round both were slow, and the ratio of the medians would be 2.
        let verdicts = Verdict::all(&results(&[(200.0, 100.0), (300.0, 200.0), (10.0, 9.0)]));
        assert_eq!(verdicts.len(), 1, "what was not measured is not judged");
        let verdict = &verdicts[0];
        assert!((verdict.measured - 1.5).abs() < 1e-9, "{}", verdict.measured);
        assert_eq!((verdict.wanted, verdict.is_met()), (Some(1.5), Some(true)));
    }

    #[test]
    fn less_than_was_wanted_is_missed() {
        let verdicts = Verdict::all(&results(&[(149.0, 100.0)]));
        assert_eq!(verdicts[0].is_met(), Some(false));
    }
}
