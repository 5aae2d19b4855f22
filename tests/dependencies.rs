//! What the library is built of: licences, origins, versions. Read from `cargo metadata` for this platform, of what a program
//! gets with all features; what only the tests and benches use is held to licences and origins alone.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use spdx::{Expression, ParseMode};

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Licences that ask for no more than to be named.
const LICENCES: [&str; 8] =
    ["MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Unicode-3.0", "Zlib", "Unlicense"];

/// Crates that are there in two versions, and why.
const DOUBLE: [(&str, &str); 8] = [
    ("block-buffer", "with sha2"),
    ("cpufeatures", "with sha2"),
    ("crypto-common", "with sha2"),
    ("digest", "with sha2"),
    ("getrandom", "ring of async-nats has 0.2, uuid has 0.4"),
    ("hashbrown", "sqlx-core has 0.16, quick_cache has 0.17"),
    ("sha2", "sqlx-core has 0.10, sqlx-postgres and this crate have 0.11"),
    ("syn", "derive macros on their way from 2 to 3"),
];

/// The last release with code in it; what came after does not compile, on purpose.
const BINCODE: &str = "=2.0.1";

struct Dependencies {
    metadata: Value,
    /// By id.
    packages: BTreeMap<String, Value>,
}

impl Dependencies {
    fn look() -> Self {
        let platform = output("rustc", &["-vV"]);
        let platform = platform.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let wanted = ["metadata", "--locked", "--offline", "--all-features", "--format-version", "1"];
        let text = output(&cargo, &[&wanted[..], &["--filter-platform", platform]].concat());
        let metadata: Value = serde_json::from_str(&text).unwrap();
        let package = |package: &Value| (package["id"].as_str().unwrap().to_owned(), package.clone());
        let packages = metadata["packages"].as_array().unwrap().iter().map(package).collect();
        Self { metadata, packages }
    }

    fn root(&self) -> &str {
        self.metadata["resolve"]["root"].as_str().unwrap()
    }

    /// All that is built with the library, by way of dependencies that `from_root` takes.
    fn reached(&self, from_root: impl Fn(&Value) -> bool) -> BTreeSet<&str> {
        let nodes = self.metadata["resolve"]["nodes"].as_array().unwrap();
        let nodes: BTreeMap<&str, &Value> = nodes.iter().map(|node| (node["id"].as_str().unwrap(), node)).collect();
        let (mut reached, mut ahead) = (BTreeSet::new(), vec![self.root()]);
        while let Some(id) = ahead.pop() {
            if !reached.insert(id) {
                continue;
            }
            for dependency in nodes[id]["deps"].as_array().unwrap() {
                let kinds = dependency["dep_kinds"].as_array().unwrap();
                if kinds.iter().any(|kind| if id == self.root() { from_root(kind) } else { kind["kind"] != "dev" }) {
                    ahead.push(dependency["pkg"].as_str().unwrap());
                }
            }
        }
        reached.remove(self.root());
        reached
    }

    /// What a program gets.
    fn of_the_library(&self) -> BTreeSet<&str> {
        self.reached(|kind| kind["kind"] != "dev")
    }

    fn of_everything(&self) -> BTreeSet<&str> {
        self.reached(|_| true)
    }
}

fn output(program: &str, arguments: &[&str]) -> String {
    let done = Command::new(program).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(done.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

fn is_allowed(licence: &str) -> bool {
    let expression = Expression::parse_mode(licence, ParseMode::LAX);
    let expression = expression.unwrap_or_else(|fault| panic!("{licence:?} is no licence: {fault}"));
    expression.evaluate(|asked| {
        asked.addition.is_none() && asked.license.id().is_some_and(|licence| LICENCES.contains(&licence.name))
    })
}

#[test]
fn every_licence_asks_for_no_more_than_to_be_named() {
    for (licence, allowed) in [
        ("MIT OR GPL-3.0-only", true),
        ("MIT/Apache-2.0", true),
        ("MIT AND GPL-3.0-only", false),
        ("MPL-2.0", false),
        ("Apache-2.0 WITH LLVM-exception", false),
    ] {
        assert_eq!(is_allowed(licence), allowed, "{licence}");
    }
    let all = Dependencies::look();
    let of_everything = all.of_everything();
    for id in &of_everything {
        let licence = all.packages[*id]["license"].as_str();
        assert!(licence.is_some_and(is_allowed), "{id} is under {licence:?}");
    }
    println!("{} dependencies, {} of them of the library", of_everything.len(), all.of_the_library().len());
    assert!(all.of_the_library().len() > 100, "they were not found");
}

#[test]
fn every_dependency_comes_from_crates_io() {
    let all = Dependencies::look();
    for id in all.of_everything() {
        assert_eq!(all.packages[id]["source"], CRATES_IO, "{id}");
    }
    for dependency in all.packages[all.root()]["dependencies"].as_array().unwrap() {
        assert_eq!((&dependency["source"], &dependency["path"]), (&CRATES_IO.into(), &Value::Null), "{dependency}");
    }
}

#[test]
fn no_crate_is_there_twice_without_a_reason() {
    let all = Dependencies::look();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for id in all.of_the_library() {
        let package = &all.packages[id];
        versions.entry(package["name"].as_str().unwrap()).or_default().insert(package["version"].as_str().unwrap());
    }
    versions.retain(|_, versions| versions.len() > 1);
    let found: Vec<_> = versions.keys().copied().collect();
    assert_eq!(found, DOUBLE.map(|(name, _)| name), "{versions:?}");
}

#[test]
fn bincode_stays_where_it_is() {
    let all = Dependencies::look();
    let dependencies = all.packages[all.root()]["dependencies"].as_array().unwrap();
    let asked: Vec<_> = dependencies.iter().filter(|dependency| dependency["name"] == "bincode").collect();
    assert!(!asked.is_empty() && asked.iter().all(|dependency| dependency["req"] == BINCODE), "{asked:?}");
    let found = all.packages.values().filter(|package| package["name"] == "bincode");
    assert!(found.map(|package| package["version"].as_str().unwrap()).eq([BINCODE.trim_start_matches('=')]));
}

/// TLS is the program's choice, made by features of sqlx.
#[test]
fn the_library_brings_no_tls_to_a_database() {
    let all = Dependencies::look();
    let dependencies = all.packages[all.root()]["dependencies"].as_array().unwrap();
    let asked = dependencies.iter().filter(|dependency| dependency["name"] == "sqlx" && dependency["kind"] != "dev");
    let features: Vec<_> = asked.flat_map(|dependency| dependency["features"].as_array().unwrap()).collect();
    assert!(!features.is_empty());
    assert!(features.iter().all(|feature| !feature.as_str().unwrap().contains("tls")), "{features:?}");
    let own = all.packages[all.root()]["features"].as_object().unwrap();
    assert!(own.values().all(|feature| !feature.to_string().contains("sqlx/tls")), "{own:?}");
}

/// Known holes are in a data base of others. It is looked at where a program for that, and the data base, are installed.
#[test]
fn advisories_are_checked_where_that_is_possible() {
    let checks: [&[&str]; 2] = [&["deny", "--offline", "check", "advisories"], &["audit", "--no-fetch", "--stale"]];
    let is_there = |check: &&[&str]| {
        let version = Command::new("cargo").args([check[0], "--version"]).output();
        version.is_ok_and(|version| version.status.success())
    };
    let home =
        std::env::var_os("CARGO_HOME").map(Into::into).or_else(|| std::env::home_dir().map(|at| at.join(".cargo")));
    let has_data = home.is_some_and(|home: std::path::PathBuf| {
        ["advisory-db", "advisory-dbs"].iter().any(|name| home.join(name).is_dir())
    });
    match checks.iter().find(|check| is_there(check)) {
        Some(check) if has_data => println!("{}", output("cargo", check)),
        Some(check) => say_not_checked(&format!("cargo-{} has no data base here", check[0])),
        None => say_not_checked("neither cargo-deny nor cargo-audit is installed"),
    }
}

/// Not by print!, which is not seen of a test that passes.
fn say_not_checked(why: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "not checked: advisories ({why})").unwrap();
}

#[test]
fn nothing_is_unsafe() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert!(fs::read_to_string(manifest.join("Cargo.toml")).unwrap().contains("\nunsafe_code = \"forbid\"\n"));
    let (mut folders, mut files) = (vec![manifest.join("src")], 0);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let mut words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
                assert!(words.all(|word| word != "unsafe"), "{}", path.display());
                files += 1;
            }
        }
    }
    assert!(files > 100, "the sources were not found");
}
