//! Where `unsafe` may stand: in `crates/host` and nowhere else, and there with its reason.
#![forbid(unsafe_code)]

use house::source::Source;
use std::path::Path;

#[test]
fn every_crate_but_host_forbids_unsafe_code() {
    let mut without = Vec::new();
    for name in house::crate_names().unwrap() {
        let directory = house::repository().join("crates").join(&name);
        let mut roots: Vec<_> =
            ["src/lib.rs", "src/main.rs"].iter().map(|root| directory.join(root)).filter(|path| path.exists()).collect();
        roots.extend(house::files_below(&directory.join("src/bin"), ".rs"));
        for root in roots {
            let forbids = Source::new(&std::fs::read_to_string(&root).unwrap()).code.contains("#![forbid(unsafe_code)]");
            if forbids != (name != "host") {
                without.push(root);
            }
        }
    }
    assert!(without.is_empty(), "must say #![forbid(unsafe_code)] (and host must not): {without:#?}");
}

#[test]
fn every_unsafe_in_host_says_why_it_is_sound() {
    let mut unexplained = Vec::new();
    for path in house::files_below(&house::repository().join("crates/host"), ".rs") {
        let text = std::fs::read_to_string(&path).unwrap();
        unexplained.extend(unexplained_lines(&text).into_iter().map(|line| format!("{}:{line}", short(&path))));
    }
    assert!(unexplained.is_empty(), "unsafe without a SAFETY comment above:\n{}", unexplained.join("\n"));
}

/// The numbers of lines with `unsafe` (but for declarations of what is foreign) that no `SAFETY:` or `# Safety` comment explains: on the line, or in the comment above the statement.
fn unexplained_lines(text: &str) -> Vec<usize> {
    let source = Source::new(text);
    let code: Vec<&str> = source.code.lines().collect();
    let comments: Vec<&str> = source.comments.lines().collect();
    let explains = |line: usize| comments[line].contains("SAFETY:") || comments[line].contains("# Safety");
    let explained = |at: usize| {
        if explains(at) {
            return true;
        }
        // Up through the lines of the same statement, then through the comment and the attributes above it.
        let mut line = at;
        while line > 0 && !ends_a_statement(code[line - 1]) && !code[line - 1].trim().is_empty() {
            line -= 1;
            if explains(line) {
                return true;
            }
        }
        while line > 0 && (!comments[line - 1].trim().is_empty() || code[line - 1].trim().starts_with("#[")) {
            line -= 1;
            if explains(line) {
                return true;
            }
        }
        false
    };
    let is_use = |line: &str| {
        line.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == "unsafe") && !line.contains("unsafe extern")
    };
    (0..code.len()).filter(|&at| is_use(code[at]) && !explained(at)).map(|at| at + 1).collect()
}

fn ends_a_statement(line: &str) -> bool {
    let line = line.trim_end();
    line.ends_with(';') || line.ends_with('}') || line.ends_with('{') || line.ends_with(',')
}

fn short(path: &Path) -> String {
    path.strip_prefix(house::repository()).unwrap_or(path).display().to_string()
}

#[test]
fn the_check_sees_what_is_unexplained() {
    assert_eq!(unexplained_lines("fn f() {\n    // SAFETY: because\n    let x =\n        unsafe { g() };\n    unsafe { g() };\n}\n"), [5]);
    assert_eq!(unexplained_lines("/// # Safety\n/// Only once.\n#[naked]\nunsafe fn f() {}\nstruct A;\nunsafe impl Send for A {}\n"), [6]);
}
