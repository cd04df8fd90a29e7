//! Every crate from outside is in `docs/dependencies.md` with its reason, and nothing else is.
#![forbid(unsafe_code)]

use house::manifest::Dependencies;
use std::collections::BTreeSet;

#[test]
fn every_outside_crate_is_pinned_and_explained() {
    let root = std::fs::read_to_string(house::repository().join("Cargo.toml")).unwrap();
    let page = std::fs::read_to_string(house::repository().join("docs/dependencies.md")).unwrap();
    let outside: Vec<(String, String)> =
        Dependencies::parse(&root).workspace.into_iter().filter(|(_, rest)| !rest.contains("path =")).collect();
    let explained: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let declared: BTreeSet<&str> = outside.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(explained, declared, "docs/dependencies.md (left) and [workspace.dependencies] (right)");
    for (name, rest) in &outside {
        assert!(rest.contains("\"="), "{name} is not pinned to one version: {rest}");
    }
}

#[test]
fn crates_take_outside_crates_from_the_workspace_only() {
    for name in house::crate_names().unwrap() {
        let text = std::fs::read_to_string(house::repository().join("crates").join(&name).join("Cargo.toml")).unwrap();
        let mut table = "";
        for line in text.lines() {
            if line.starts_with('[') {
                table = line;
            } else if table.contains("dependencies") && line.contains('=') && !line.starts_with('#') {
                assert!(line.contains("workspace = true"), "{name}: {line}");
            }
        }
    }
}
