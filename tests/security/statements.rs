//! What the library's statements are made of.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::ensure;

/// What starts a statement of sqlx's.
const STARTS: [&str; 6] = ["query", "query_as", "query_scalar", "query_with", "raw_sql", "query_scalar_with"];

/// Macros of literals.
const LITERALS: [&str; 1] = ["concat!"];

/// Ways to make a statement of what is not a literal.
const FORBIDDEN: [&str; 6] =
    ["AssertSqlSafe", "QueryBuilder", "SqlSafeStr", ".leak()", "Box::leak", "sqlx::query_file"];

/// Statements that do not stand where they are run, and why.
const ELSEWHERE: [(&str, &str, &str); 6] = [
    ("mysql/pool.rs", "sql", "a constant, three lines above"),
    ("postgres/commit.rs", "statement", "one of two constants that a macro makes of literals"),
    ("postgres/session/pooler.rs", "statement", "a `&'static str`, of which there are two"),
    ("sqlite/acknowledge.rs", "*statement", "one of the constants that a macro makes of literals"),
    ("sqlite/commit_rows.rs", "*statement", "one of the constants that a macro makes of literals"),
    ("sqlite/packed.rs", "sql", "in its unit tests, a `&'static str`"),
];

pub(crate) async fn are_literals() -> anyhow::Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut statements, mut elsewhere) = (0, BTreeSet::<&(&str, &str, &str)>::new());
    for path in rust_files(&source)? {
        let text = fs::read_to_string(&path)?;
        let name = path.strip_prefix(&source)?.display().to_string();
        let code: String =
            text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
        for word in FORBIDDEN {
            ensure!(!code.contains(word), "{name} uses {word}");
        }
        for argument in statements_in(&code) {
            statements += 1;
            if is_literal(argument) {
                continue;
            }
            let known = |(file, what, _): &&(&str, &str, &str)| name == *file && argument.starts_with(what);
            let known = ELSEWHERE.iter().find(known);
            ensure!(known.is_some(), "{name} makes a statement of {:?}", first_line(argument));
            elsewhere.extend(known);
        }
    }
    println!("{statements} statements, {} of them not where they are run", elsewhere.len());
    ensure!(statements > 250, "only {statements} statements were found");
    ensure!(elsewhere.len() == ELSEWHERE.len(), "some exceptions are gone: {elsewhere:?}");
    Ok(())
}

/// The arguments of all calls that start a statement, each with all that follows it.
fn statements_in(code: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("sqlx::") {
        let call = &code[at + "sqlx::".len()..];
        let end = call.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(call.len());
        if !STARTS.contains(&&call[..end]) {
            continue;
        }
        let types = if call[end..].starts_with("::<") { call[end..].find(">(").map_or(0, |at| at + 1) } else { 0 };
        if let Some(argument) = call[end + types..].strip_prefix('(') {
            found.push(argument.trim_start());
        }
    }
    found
}

fn is_literal(argument: &str) -> bool {
    argument.starts_with('"')
        || argument.starts_with("r\"")
        || argument.starts_with("r#\"")
        || LITERALS.iter().any(|literals| argument.starts_with(literals))
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn rust_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(found)
}
