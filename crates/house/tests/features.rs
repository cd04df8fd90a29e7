//! `docs/features.md` tells the truth: every row of the feature table stands there once, what works names tests that exist, what is partial
//! says what is missing.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

/// One line of the page's tables.
struct Row {
    id: String,
    status: String,
    note: String,
}

fn rows(text: &str) -> Vec<Row> {
    let lines = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| row "));
    lines
        .map(|line| {
            // Row names may hold bars of their own; the status is the last of the three words that there are.
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            let at = cells.iter().rposition(|cell| ["works", "partial", "not yet"].contains(cell));
            let at = at.unwrap_or_else(|| panic!("no status in {line:?}"));
            Row {
                id: cells[0].to_owned(),
                status: cells[at].to_owned(),
                note: cells.get(at + 1).unwrap_or(&"").trim_matches('|').trim().to_owned(),
            }
        })
        .collect()
}

/// The names of all tests there are: functions in Rust and C, files of tests, and programs of `tests/guest`.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut take = |path: &std::path::Path, start: &str| {
        names.insert(path.file_stem().unwrap_or_default().to_string_lossy().into_owned());
        for line in std::fs::read_to_string(path).unwrap().lines() {
            if let Some(rest) = line.trim_start().strip_prefix(start) {
                names.insert(rest.split('(').next().unwrap_or_default().to_owned());
            }
        }
    };
    for name in house::crate_names().unwrap() {
        for path in house::files_below(&house::repository().join("crates").join(name), ".rs") {
            take(&path, "fn ");
        }
    }
    for path in house::files_below(&house::repository().join("tests/guest"), ".c") {
        take(&path, "static void ");
    }
    names
}

/// The words of a note that are names of tests: at least three parts, or those in brackets.
fn named(note: &str) -> Vec<String> {
    let words = note.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.matches('_').count() >= 2).map(str::to_owned).collect()
}

#[test]
fn the_page_tells_of_every_row_once_and_names_tests_that_exist() {
    let page = std::fs::read_to_string(house::repository().join("docs/features.md")).unwrap();
    let list = std::fs::read_to_string(house::repository().join("crates/house/features.txt")).unwrap();
    let wanted: BTreeSet<&str> = list.lines().filter_map(|line| line.split(' ').next()).collect();
    let tests = tests();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for row in rows(&page) {
        *seen.entry(row.id.clone()).or_default() += 1;
        if !wanted.contains(row.id.as_str()) {
            wrong.push(format!("{} is no row of the feature table", row.id));
        }
        let names = named(&row.note);
        wrong.extend(names.iter().filter(|name| !tests.contains(*name)).map(|name| format!("{}: there is no test {name}", row.id)));
        if row.status == "works" && !row.note.split([',', ' ']).any(|word| tests.contains(word)) {
            wrong.push(format!("{} works, but no test is named", row.id));
        }
        if row.status == "partial" && row.note.is_empty() {
            wrong.push(format!("{} is partial: what is missing?", row.id));
        }
    }
    wrong.extend(wanted.iter().filter(|id| !seen.contains_key(**id)).map(|id| format!("{id} is missing")));
    wrong.extend(seen.iter().filter(|(_, count)| **count > 1).map(|(id, count)| format!("{id} stands there {count} times")));
    assert!(wrong.is_empty(), "docs/features.md:\n{}", wrong.join("\n"));
}

#[test]
fn names_of_tests_are_found_in_notes() {
    assert_eq!(named("there (a_merge_is_whole, reading); x86_64 isn't"), ["a_merge_is_whole"]);
}
