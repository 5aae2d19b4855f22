//! What was expected beside what came, with the first difference marked.

use std::fmt::{Debug, Write as _};

use serde_json::Value;

/// How many lines of a state are shown before and after the first that differs.
const CONTEXT_LINES: usize = 6;

/// One of a list, as it is shown, and its content where that can be looked into.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) line: String,
    pub(super) value: Option<Value>,
}

/// Two lists that differ from the index `at` on.
pub(super) fn diff_lists(expected: &[Shown], came: &[Shown], at: usize) -> String {
    let mut text = String::new();
    for (title, list) in [("expected", expected), ("came", came)] {
        let lines: Vec<_> = list.iter().map(|shown| shown.line.as_str()).collect();
        let _ = writeln!(text, "  {title}:");
        write_marked(&mut text, &lines, at, 0..usize::MAX);
    }
    let values = (expected.get(at).and_then(|shown| shown.value.as_ref()), came.get(at).and_then(|s| s.value.as_ref()));
    if let (Some(expected), Some(came)) = values
        && let Some(difference) = first_difference(expected, came, String::new())
    {
        let _ = writeln!(text, "  {difference}");
    }
    text
}

/// Two values by their debug output, around the first line that differs.
pub(super) fn diff_debug<T: Debug>(left: (&str, &T), right: (&str, &T)) -> String {
    let (left_text, right_text) = (format!("{:#?}", left.1), format!("{:#?}", right.1));
    let (left_lines, right_lines): (Vec<_>, Vec<_>) = (left_text.lines().collect(), right_text.lines().collect());
    let same = left_lines.iter().zip(&right_lines).take_while(|(left, right)| left == right).count();
    let shown = same.saturating_sub(CONTEXT_LINES)..same.saturating_add(CONTEXT_LINES);
    let mut text = String::new();
    for (title, lines) in [(left.0, left_lines), (right.0, right_lines)] {
        let _ = writeln!(text, "  {title}:");
        write_marked(&mut text, &lines, same, shown.clone());
    }
    text
}

/// Numbers the lines and marks one; what is not there is shown as nothing.
fn write_marked(text: &mut String, lines: &[&str], marked: usize, shown: std::ops::Range<usize>) {
    for (index, line) in lines.iter().enumerate().filter(|(index, _)| shown.contains(index)) {
        let mark = if index == marked { '>' } else { ' ' };
        let _ = writeln!(text, "  {mark} {}. {line}", index + 1);
    }
    if marked >= lines.len() {
        let _ = writeln!(text, "  > {}. (nothing)", lines.len() + 1);
    }
}

/// Where two values differ first, as a sentence.
fn first_difference(expected: &Value, came: &Value, path: String) -> Option<String> {
    match (expected, came) {
        (Value::Object(left), Value::Object(right)) => {
            let keys = left.keys().chain(right.keys().filter(|key| !left.contains_key(*key)));
            keys.into_iter().find_map(|key| {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                either(left.get(key), right.get(key), path)
            })
        }
        (Value::Array(left), Value::Array(right)) => (0..left.len().max(right.len()))
            .find_map(|index| either(left.get(index), right.get(index), format!("{path}[{index}]"))),
        (left, right) if left == right => None,
        (left, right) => {
            let place = if path.is_empty() { "the payload".to_owned() } else { path };
            Some(format!("{place}: expected {left}, came {right}"))
        }
    }
}

fn either(expected: Option<&Value>, came: Option<&Value>, path: String) -> Option<String> {
    match (expected, came) {
        (Some(expected), Some(came)) => first_difference(expected, came, path),
        (Some(expected), None) => Some(format!("{path}: expected {expected}, came nothing")),
        (None, Some(came)) => Some(format!("{path}: expected nothing, came {came}")),
        (None, None) => None,
    }
}
