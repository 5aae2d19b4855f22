//! The page about the guarantees names tests that are there.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::Path;

/// All that stands in the tests.
fn tests_in(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("target") {
            continue;
        }
        if path.is_dir() {
            text += &tests_in(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &fs::read_to_string(path).unwrap();
        }
    }
    text
}

#[test]
fn each_test_that_the_page_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("src/docs/guarantees.md")).unwrap();
    let tests = tests_in(&root.join("tests"));
    let table = page.lines().filter(|line| line.starts_with('|'));
    let quoted = table.flat_map(|line| line.split('`').skip(1).step_by(2));
    let named: Vec<_> = quoted.filter(|name| !name.contains('/')).collect();
    assert!(named.len() >= 40, "the page names {} tests", named.len());
    for name in named {
        let is_there = tests.contains(&format!("fn {name}")) || tests.contains(&format!("\"{name}\""));
        assert!(is_there, "there is no test {name}");
    }
}
