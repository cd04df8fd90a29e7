//! Counts that may only fall, by crate: `crates/house/ratchet.txt`.
//!
//! When a count has fallen, lower the file with `UMLAUT_RATCHET=lower cargo test -p house --test ratchet` and commit it. A count is never
//! raised by that; whoever must raise one edits the file and says why in the commit.
#![forbid(unsafe_code)]

use house::source::Source;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// What is counted, in the order of the file's columns.
const COLUMNS: [&str; 4] = ["unsafe", "unwrap", "unfinished", "long"];
const HEAD: &str = "\
# What may only fall (crates/house/tests/ratchet.rs).
# unsafe: the word in code. unwrap: .unwrap() and .expect( outside tests. unfinished: todo!, unimplemented!, and marks of things to be done.
# long: files of more than 1,000 lines.
";
const LONGEST: usize = 1000;

type Counts = [usize; COLUMNS.len()];

fn count_file(path: &Path, text: &str) -> Counts {
    let source = Source::new(text);
    let is_test = path.components().any(|part| ["tests", "examples"].iter().any(|name| part.as_os_str() == *name))
        || path.to_string_lossy().ends_with("tests.rs");
    let shipped = if is_test { String::new() } else { source.shipped() };
    let words = |text: &str, wanted: &str| text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| *word == wanted).count();
    let unsafe_words = words(&source.code, "unsafe") - source.code.matches("as unsafe extern").count();
    let unwraps = shipped.matches(".unwrap()").count() + shipped.matches(".expect( ").count();
    let marks: usize = ["todo", "unimplemented"].iter().map(|name| source.code.matches(&format!("{name}!(")).count()).sum::<usize>()
        + [concat!("TO", "DO"), concat!("FIX", "ME")]
            .iter()
            .map(|name| words(&source.comments, name) + words(&source.code, name))
            .sum::<usize>();
    [unsafe_words, unwraps, marks, usize::from(text.lines().count() > LONGEST)]
}

fn count() -> BTreeMap<String, Counts> {
    let mut all = BTreeMap::new();
    for name in house::crate_names().unwrap() {
        let sum: &mut Counts = all.entry(name.clone()).or_default();
        for path in house::files_below(&house::repository().join("crates").join(&name), ".rs") {
            let file = count_file(&path, &std::fs::read_to_string(&path).unwrap());
            for (total, n) in sum.iter_mut().zip(file) {
                *total += n;
            }
        }
    }
    all
}

fn parse(text: &str) -> BTreeMap<String, Counts> {
    let rows = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    rows.map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap().to_owned();
        let counts: Vec<usize> = words.map(|word| word.parse().unwrap()).collect();
        (name, counts.try_into().unwrap())
    })
    .collect()
}

fn print(counts: &BTreeMap<String, Counts>) -> String {
    let mut text = HEAD.to_owned();
    writeln!(text, "# {:<10} {}", "crate", COLUMNS.map(|column| format!("{column:>10}")).join(" ")).unwrap();
    for (name, row) in counts {
        writeln!(text, "{name:<12} {}", row.map(|n| format!("{n:>10}")).join(" ")).unwrap();
    }
    text
}

#[test]
fn counts_only_fall() {
    let path = house::repository().join("crates/house/ratchet.txt");
    let allowed = parse(&std::fs::read_to_string(&path).unwrap_or_default());
    let found = count();
    let mut risen = Vec::new();
    let mut fallen = Vec::new();
    for (name, counts) in &found {
        let limits = allowed.get(name).copied().unwrap_or_default();
        for (column, (n, limit)) in COLUMNS.iter().zip(counts.iter().zip(limits)) {
            match n.cmp(&limit) {
                std::cmp::Ordering::Greater => risen.push(format!("{name}: {column} is {n}, may be {limit}")),
                std::cmp::Ordering::Less => fallen.push(format!("{name}: {column} is {n}, the file says {limit}")),
                std::cmp::Ordering::Equal => (),
            }
        }
    }
    if std::env::var("UMLAUT_RATCHET").as_deref() == Ok("lower") {
        let lowered = found.iter().map(|(name, counts)| {
            let limits = allowed.get(name).copied().unwrap_or_default();
            (name.clone(), std::array::from_fn(|i| counts[i].min(limits[i])))
        });
        std::fs::write(&path, print(&lowered.collect())).unwrap();
    } else if !fallen.is_empty() {
        println!("fell; lower the file with UMLAUT_RATCHET=lower cargo test -p house --test ratchet:\n{}", fallen.join("\n"));
    }
    assert!(risen.is_empty(), "counts that may only fall have risen:\n{}\n\nas found:\n{}", risen.join("\n"), print(&found));
}

#[test]
fn the_count_sees_what_it_should() {
    let text = "unsafe fn f() { a.unwrap(); b.expect(\"x\"); todo!() }\n#[cfg(test)]\nmod tests { fn g() { c.unwrap() } }\n";
    assert_eq!(count_file(Path::new("src/a.rs"), text), [1, 2, 1, 0]);
    assert_eq!(count_file(Path::new("tests/a.rs"), text), [1, 0, 1, 0]);
    assert_eq!(count_file(Path::new("src/a.rs"), &"\n".repeat(1001)), [0, 0, 0, 1]);
}
