//! The library against what real ptys did: the traces in `traces/`, recorded on Linux 6.18 by `live.rs`.
#![forbid(unsafe_code)]
#![allow(dead_code)]

mod support;

use std::fs;
use std::path::Path;

use support::{model, script};

#[test]
fn the_library_does_what_linux_did_in_every_recorded_trace() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces");
    let mut count = 0;
    let mut differences = Vec::new();
    for entry in fs::read_dir(directory).expect("the traces") {
        let text = fs::read_to_string(entry.expect("a trace file").path()).expect("a trace file");
        for trace in script::parse(&text) {
            count += 1;
            differences.extend(script::difference(&trace.script, &trace.observed, &model::run(&trace.script)));
        }
    }
    assert!(differences.is_empty(), "{} of {count} traces differ:\n{}", differences.len(), differences.join("\n"));
    assert!(count > 500, "only {count} traces");
}
