//! `umlaut doctor`: what this host offers, and what to do about what it lacks.

use host::checks::{self, Verdict};
use std::process::ExitCode;

/// Prints one line a check; status 1 if the machine can't run here.
pub fn main() -> ExitCode {
    let mut missing = false;
    for check in checks::all() {
        let (mark, text) = match check.verdict {
            Verdict::Good(text) => ("ok     ", text),
            Verdict::Limited(text) => ("limited", text),
            Verdict::Missing(text) => {
                missing = true;
                ("MISSING", text)
            }
        };
        println!("{mark}  {}: {text}", check.name);
    }
    println!("ok       processors: {}; memory available: {} MiB", checks::processors(), checks::available_memory() >> 20);
    if missing {
        println!("\nA machine can't run on this host until what is missing is there.");
        ExitCode::from(1)
    } else {
        println!("\nMachines run on this host.");
        ExitCode::SUCCESS
    }
}
