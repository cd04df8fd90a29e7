//! The library against this host's ptys, as they are now. Skipped, with a word, where there are none.
//!
//! `UMLAUT_SCALE` multiplies the random scripts (`full`: 20 times), `UMLAUT_SEED` moves them. `UMLAUT_RECORD=1` writes `traces/` anew.
#![forbid(unsafe_code)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use support::script::{Script, Step, Trace};
use support::{generate, host, model, script};

#[test]
#[ignore = "not a test: the process that plays scripts on the host, started by the tests"]
fn the_recorder_runs_the_scripts_that_it_is_given() {
    host::recorder();
}

fn scale() -> u64 {
    match std::env::var("UMLAUT_SCALE").as_deref() {
        Ok("full") => 20,
        Ok(number) => number.parse().unwrap_or(1),
        Err(_) => 1,
    }
}

fn seed() -> u64 {
    std::env::var("UMLAUT_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn uses_packets(script: &Script) -> bool {
    script.steps.iter().any(|step| matches!(step, Step::PacketMode(_)))
}

/// Records the scripts and compares them with the library. A difference is recorded again with more and more patience: the host moves bytes
/// in the background, and a busy machine does so late. A signal character that flushes what the same batch echoed before races with that
/// moving on the host itself; one run that goes as in the library is enough then.
fn agree(scripts: Vec<Script>) -> Vec<Trace> {
    if !host::is_available() {
        eprintln!("skipped: no ptys on this machine");
        return Vec::new();
    }
    let packets = host::has_packet_mode();
    let scripts: Vec<Script> = scripts.into_iter().filter(|script| packets || !uses_packets(script)).collect();
    let mut traces = host::record(&scripts, 1);
    for patience in [4, 20, 8, 2, 1, 1] {
        let disputed: Vec<usize> = (0..traces.len()).filter(|&at| differs(&traces[at]).is_some()).collect();
        let again: Vec<Script> = disputed.iter().take(200).map(|&at| traces[at].script.clone()).collect();
        if again.is_empty() {
            break;
        }
        for (at, trace) in disputed.into_iter().zip(host::record(&again, patience)) {
            traces[at] = trace;
        }
    }
    traces
}

fn differs(trace: &Trace) -> Option<String> {
    script::difference(&trace.script, &trace.observed, &model::run(&trace.script))
}

fn check(name: &str, scripts: Vec<Script>) {
    let traces = agree(scripts);
    record(name, &traces);
    let differences: Vec<String> = traces.iter().filter_map(differs).collect();
    let shown: Vec<&String> = differences.iter().take(12).collect();
    assert!(differences.is_empty(), "{} of {} scripts differ:\n{shown:#}", differences.len(), traces.len(), shown = Lines(&shown));
}

struct Lines<'a>(&'a [&'a String]);

impl std::fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// Keeps the traces for `traces.rs`, each sequence of steps once.
fn record(name: &str, traces: &[Trace]) {
    if std::env::var_os("UMLAUT_RECORD").is_none() || traces.is_empty() {
        return;
    }
    let mut seen = BTreeSet::new();
    let kept = traces.iter().filter(|trace| seen.insert(trace.script.steps.iter().map(Step::to_string).collect::<Vec<_>>()));
    let text: Vec<String> = kept.map(Trace::to_string).collect();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces");
    fs::write(directory.join(format!("{name}.txt")), text.join("\n")).expect("the traces are written");
}

#[test]
fn the_conversations_go_as_on_this_host() {
    check("conversations", generate::conversations());
}

#[test]
fn each_flag_does_what_it_does_on_this_host() {
    check("flags", generate::flags());
}

#[test]
fn each_control_character_does_what_it_does_on_this_host() {
    check("chars", generate::chars());
}

#[test]
fn the_echo_flags_combine_as_on_this_host() {
    check("echoes", generate::echoes());
}

#[test]
fn random_scripts_go_as_on_this_host() {
    let packets = host::has_packet_mode();
    let first = seed() * 1_000_000;
    check("random", (first..first + 200 * scale()).map(|seed| generate::random(seed, packets)).collect());
}
