//! The order of the rooms: `docs/design.md`, "The rooms".
//!
//! The rule in words. The crates stand in levels. A crate may use crates of earlier levels, never one of its own level or of a later one.
//! `host` is a side room: it implements `ram`'s backing and `platform`'s traits, so it may use `abi`, `sync`, `ram` and `platform`, and only
//! `kernel`, `tools` and `umlaut` may use it. `tools` are thin over the pure rooms and know nothing of the kernel. Nobody uses `tools`,
//! `umlaut` or `house`. Tests of a crate (dev-dependencies) may also use `host`, for real files and real memory, and rooms up to their own level.
#![forbid(unsafe_code)]

use house::manifest::Dependencies;
use std::collections::BTreeMap;

const LEVELS: [&[&str]; 13] = [
    &["abi"],
    &["sync"],
    &["ram"],
    &["platform"],
    &["block"],
    &["cow", "ext4", "tty", "net", "mconsole", "switch"],
    &["vfs", "usernet"],
    &["fs", "sock", "mm"],
    &["task"],
    &["syscall"],
    &["drivers"],
    &["kernel"],
    &["tools", "umlaut", "house"],
];
const HOST_MAY_USE: [&str; 4] = ["abi", "sync", "ram", "platform"];
const MAY_USE_HOST: [&str; 3] = ["kernel", "tools", "umlaut"];
const TOOLS_MAY_USE: [&str; 6] = ["abi", "block", "cow", "mconsole", "switch", "host"];

/// Why `user` may not use `used`, if it may not.
fn objection(user: &str, used: &str, in_tests: bool) -> Option<String> {
    let level = |name: &str| LEVELS.iter().position(|names| names.contains(&name));
    if used == "host" {
        return (!in_tests && !MAY_USE_HOST.contains(&user)).then(|| format!("{user} uses host, which only {MAY_USE_HOST:?} may"));
    }
    if user == "host" {
        return (!HOST_MAY_USE.contains(&used)).then(|| format!("host uses {used}; it may use {HOST_MAY_USE:?}"));
    }
    if user == "tools" {
        return (!TOOLS_MAY_USE.contains(&used)).then(|| format!("tools uses {used}; it may use {TOOLS_MAY_USE:?}"));
    }
    match (level(user), level(used)) {
        (None, _) => Some(format!("{user} stands in no level: give it a place in this test and in docs/design.md")),
        (_, None) => Some(format!("{used} stands in no level")),
        (Some(user_level), Some(used_level)) if used_level < user_level || in_tests && used_level == user_level && user != used => None,
        _ => Some(format!("{user} uses {used}, which is not above it")),
    }
}

#[test]
fn every_crate_uses_only_crates_above_it() {
    let names = house::crate_names().unwrap();
    let mut manifests = BTreeMap::new();
    for name in &names {
        let path = house::repository().join("crates").join(name).join("Cargo.toml");
        manifests.insert(name.as_str(), Dependencies::parse(&std::fs::read_to_string(path).unwrap()));
    }
    let mut objections = Vec::new();
    for (user, dependencies) in &manifests {
        for (list, in_tests) in [(&dependencies.normal, false), (&dependencies.dev, true)] {
            let rooms = list.iter().filter(|name| manifests.contains_key(name.as_str()));
            objections.extend(rooms.filter_map(|used| objection(user, used, in_tests)));
        }
    }
    assert!(objections.is_empty(), "layer order (docs/design.md, \"The rooms\"):\n{}", objections.join("\n"));
    let missing: Vec<_> = names.iter().filter(|name| *name != "host" && !LEVELS.concat().contains(&name.as_str())).collect();
    assert!(missing.is_empty(), "crates without a level: {missing:?}");
}

#[test]
fn the_rule_objects_to_what_it_should() {
    for (user, used, in_tests, allowed) in [
        ("vfs", "ram", false, true),
        ("vfs", "task", false, false),
        ("net", "sock", false, false),
        ("fs", "mm", false, false),
        ("mm", "host", false, false),
        ("mm", "host", true, true),
        ("host", "vfs", false, false),
        ("kernel", "host", false, true),
        ("tools", "kernel", false, false),
        ("umlaut", "kernel", false, true),
        ("abi", "abi", false, false),
        ("attic", "abi", false, false),
    ] {
        assert_eq!(objection(user, used, in_tests).is_none(), allowed, "{user} -> {used}");
    }
}
