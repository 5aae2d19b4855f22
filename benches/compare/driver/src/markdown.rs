use std::fmt::Write;

use compare_protocol::{CLIENTS, EVENTS, Line, REVISIONS};

use crate::latencies::{PERCENTILES, ms};
use crate::loads::{load_ms, replay_ms};
use crate::results::Results;
use crate::spread::Spread;
use crate::subject::Server;
use crate::verdict::Verdict;

/// All results as a page.
pub(crate) fn page(results: &Results) -> String {
    let mut page = "# sagastore beside its peers\n\n".to_owned();
    page += "What is measured, how, and what cannot be compared is told in the [README](../README.md).\n\n";
    page += &made(results);
    page += &verdicts(results);
    page += &latencies(results);
    page += &loads(results);
    page += "![Units of work per second](throughput.svg)\n\n![Latencies](latency.svg)\n\n![Loads](load.svg)\n";
    page
}

fn made(results: &Results) -> String {
    let made = &results.made;
    let (machine, mut text) = (&made.machine, format!("- Date: {}\n", made.date));
    let _ = writeln!(
        text,
        "- Machine: {} cores of {}, {:.0} GiB of memory; SQLite files on {}, where a flush of a page takes {:.0} µs",
        machine.cores, machine.processor, machine.memory_gib, machine.disk, machine.flush_us
    );
    for (name, version) in &made.databases {
        let _ = writeln!(text, "- {name}: {version}");
    }
    for reason in &made.left_out {
        let _ = writeln!(text, "- Not measured on {reason}");
    }
    let crates: Vec<String> = made.crates.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let _ = writeln!(text, "- Crates: {}", crates.join(", "));
    let _ = writeln!(text, "- Rounds: {}; medians, with the least and the most in brackets\n", results.rounds);
    text
}

fn verdicts(results: &Results) -> String {
    let verdicts = Verdict::all(results);
    let judged = verdicts.iter().filter_map(Verdict::is_met);
    let (all, met) = (judged.clone().count(), judged.filter(|met| *met).count());
    let mut text = format!("## Wanted and measured\n\n{met} of {all} wanted ratios are met.\n\n");
    text += "| database | work | peer | measured | sagastore | measured | wanted | is | |\n";
    text += "|---|---|---|--:|---|--:|--:|--:|---|\n";
    for verdict in &verdicts {
        let wanted = verdict.wanted.map_or_else(|| "–".to_owned(), |wanted| format!("{wanted} ×"));
        let met = match verdict.is_met() {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "",
        };
        let Verdict { server, work, peer, ours, measured, unit, .. } = verdict;
        let (peers, own) = (spread(Some(verdict.peers)), spread(Some(verdict.own)));
        let (peer, ours) = (peer.name, ours.name);
        let _ = writeln!(
            text,
            "| {server} | {work} | {peer} | {peers} {unit} | {ours} | {own} {unit} | {wanted} | {measured:.2} × | {met} |"
        );
    }
    text + "\n"
}

fn latencies(results: &Results) -> String {
    let mut text = "## Latency of units of work, in ms\n\n".to_owned();
    for server in &results.servers {
        let _ = writeln!(text, "### {server}\n");
        text += "| library | events | clients | p50 | p90 | p99 |\n|---|--:|--:|--:|--:|--:|\n";
        for events in EVENTS {
            for clients in CLIENTS {
                for subject in results.on(*server) {
                    let of = |percentile| spread(results.spread(subject, ms(events, clients, percentile)));
                    let columns = PERCENTILES.map(of).join(" | ");
                    let _ = writeln!(text, "| {} | {events} | {clients} | {columns} |", subject.name);
                }
            }
        }
        text += "\n";
    }
    text
}

fn loads(results: &Results) -> String {
    let mut text = "## Loading an instance, in ms\n\n".to_owned();
    text += "As each library does it by itself, with snapshots if it takes any; the last column without them.\n\n";
    for server in &results.servers {
        text += &loads_on(results, *server);
    }
    text
}

fn loads_on(results: &Results, server: Server) -> String {
    let mut text = format!("### {server}\n\n| library |");
    for revision in REVISIONS {
        let _ = write!(text, " {revision} events |");
    }
    let _ = writeln!(text, " replay of {} |\n|---|{}", compare_protocol::REPLAYED, "--:|".repeat(REVISIONS.len() + 1));
    for subject in results.on(server) {
        let loads = REVISIONS.map(|revision| spread(results.spread(subject, load_ms(revision)))).join(" | ");
        let replay = spread(results.spread(subject, |line: &Line| replay_ms(line)));
        let _ = writeln!(text, "| {} | {loads} | {replay} |", subject.name);
    }
    text + "\n"
}

/// The median, and the least and the most in brackets; a dash if it was not measured.
fn spread(spread: Option<Spread>) -> String {
    let Some(Spread { least, median, most }) = spread else { return "–".to_owned() };
    format!("{} ({} – {})", number(median), number(least), number(most))
}

/// With three digits that mean something.
fn number(value: f64) -> String {
    let decimals = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else if value >= 1.0 {
        2
    } else {
        3
    };
    format!("{value:.decimals$}")
}
