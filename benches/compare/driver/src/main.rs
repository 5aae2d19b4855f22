//! Runs sagastore and its peers in turns, and makes the table, the numbers and the pictures.

use std::path::Path;

use compare_protocol::Line;

mod chart;
mod crates;
mod database;
mod figure;
mod latencies;
mod loads;
mod machine;
mod made;
mod markdown;
mod options;
mod program;
mod results;
mod spread;
mod subject;
mod units;
mod verdict;

use database::Host;
use made::Made;
use options::Options;
use results::{Results, Run};
use subject::Subject;

#[tokio::main]
async fn main() {
    let options = Options::read();
    let (mut hosts, left_out) = options.hosts().await;
    let servers: Vec<_> = hosts.iter().map(Host::server).collect();
    let subjects = Subject::on(&servers);
    for host in &mut hosts {
        for subject in &host.those_of(&subjects) {
            host.create(subject).await;
            program::prepare(subject, &host.url(subject));
        }
    }
    let mut runs = Vec::new();
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        for host in &hosts {
            for subject in &host.those_of(&subjects) {
                let lines: Vec<Line> = program::round(subject, &host.url(subject), round);
                runs.extend(lines.into_iter().map(|line| Run { subject: *subject, round, line }));
            }
        }
    }
    for host in &mut hosts {
        for subject in &host.those_of(&subjects) {
            host.drop(subject).await;
        }
    }
    let made = Made::with(&mut hosts, left_out).await;
    write(&Results { made, rounds: options.rounds, servers, subjects, runs }, &options.folder);
}

fn write(results: &Results, folder: &Path) {
    std::fs::create_dir_all(folder).expect("makes the folder");
    let write = |name: &str, text: String| std::fs::write(folder.join(name), text).expect("writes");
    write("compare.md", markdown::page(results));
    write("compare.json", serde_json::to_string_pretty(results).expect("encodes") + "\n");
    for figure in [units::figure(results), latencies::figure(results), loads::figure(results)] {
        write(figure.file, figure.draw());
    }
    eprintln!("wrote {}", folder.join("compare.md").display());
}
