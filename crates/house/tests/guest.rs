//! Runs the programs of `tests/guest`: each on the host's Linux first, then, unchanged, in a machine.
//!
//! One boot runs many programs. A program that takes the machine down fails, and the rest go on in a new machine. What a machine can't do
//! yet stands in `tests/guest/expected-failures` as `PROGRAM/CASE reason` (or `PROGRAM reason` for one that would take the machine down:
//! it gets a machine of its own); it fails the run when such a case passes.
//!
//! `cargo test -p house --test guest -- signal` runs the programs whose name contains "signal"; `--nocapture` shows what they said in the
//! machine.
#![forbid(unsafe_code)]

use house::guests::{Kernel, Outcome, Program, compile_all, run_in_machines, run_native};
use house::machine::Programs;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::ExitCode;

/// What `wall_jumps.c` tries to make on the host.
const BEYOND_THE_WALL: &str = "/tmp/umlaut-wall-was-passed";

/// What runs by the hand-over of signals too at every scale; at full scale everything does.
const BY_SIGNALS: [&str; 11] =
    ["exec", "memory", "process", "signals", "threads", "vectors", "wall_frames", "wall_jumps", "wall_races", "wall_recycle", "wall_stub"];

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if std::env::args().any(|word| word == "--list") {
        return ExitCode::SUCCESS;
    }
    match run(&wanted) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(sentence) => {
            eprintln!("guest tests: {sentence}");
            ExitCode::FAILURE
        }
    }
}

fn run(wanted: &[String]) -> Result<bool, String> {
    let place = house::repository().join("target/guest-tests");
    std::fs::create_dir_all(&place).map_err(|error| error.to_string())?;
    let programs = compile_all(&place, wanted)?;
    let expected = expected_failures()?;
    let mut report = Report::default();
    let mut native = HashMap::new();
    for program in &programs {
        if let Some(why) = &program.guest_only {
            report.skip(format!("{} on the host: {why}", program.name));
            continue;
        }
        let outcome = run_native(program, &place)?;
        report.judge_native(program, &outcome);
        native.insert(program.name.clone(), outcome);
    }
    let program = Programs::build()?.linux;
    let chosen = Kernel { program, environment: Vec::new() };
    let signals = Kernel { environment: vec![("UMLAUT_HANDOVER", "trap".into())], ..chosen.clone() };
    let (alone, together): (Vec<&Program>, Vec<&Program>) = programs.iter().partition(|program| expected.contains_key(&program.name));
    let mut outcomes = run_in_machines(&chosen, &together, &place)?;
    for program in alone {
        outcomes.extend(run_in_machines(&chosen, &[program], &place)?);
    }
    let by_signals: Vec<&Program> =
        together.iter().copied().filter(|program| house::scale() == "full" || BY_SIGNALS.contains(&program.name.as_str())).collect();
    let outcomes_by_signals = run_in_machines(&signals, &by_signals, &place)?;
    if Path::new(BEYOND_THE_WALL).exists() {
        report.wrong.push(format!("{BEYOND_THE_WALL} is on the host: a guest program reached the host's kernel"));
    }
    if std::env::args().any(|word| word == "--nocapture") {
        for (name, outcome) in &outcomes {
            println!("{name} in the machine:\n{}", outcome.output.join("\n"));
        }
    }
    for program in &programs {
        report.judge_guest("in the machine", program, outcomes.get(&program.name), native.get(&program.name), &expected);
    }
    for program in by_signals {
        let outcome = outcomes_by_signals.get(&program.name);
        report.judge_guest("in the machine by signals", program, outcome, native.get(&program.name), &expected);
    }
    Ok(report.print(programs.len()))
}

/// `PROGRAM/CASE` or `PROGRAM`, each with its reason.
fn expected_failures() -> Result<BTreeMap<String, String>, String> {
    let path = house::repository().join("tests/guest/expected-failures");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        let (what, reason) = line.split_once(' ').ok_or(format!("expected-failures: no reason in {line:?}"))?;
        found.insert(what.to_owned(), reason.trim().to_owned());
    }
    Ok(found)
}

/// What the runs gave, as it is told at the end.
#[derive(Default)]
struct Report {
    passed: usize,
    expected: Vec<String>,
    skipped: Vec<String>,
    wrong: Vec<String>,
}

impl Report {
    fn skip(&mut self, what: String) {
        self.skipped.push(what);
    }

    fn judge_native(&mut self, program: &Program, outcome: &Outcome) {
        for (case, result) in &outcome.cases {
            match result.as_str() {
                "ok" => (),
                "skip" => self.skip(format!("{}/{case} on the host: {}", program.name, reason(outcome, case))),
                failure => self.wrong.push(format!("on the host: {}/{case}:\n    {}", program.name, said_before(outcome, failure))),
            }
        }
        if let Some(failure) = &outcome.failure {
            self.wrong.push(format!("on the host: {}: {failure}\n{}", program.name, outcome.output.join("\n")));
        }
    }

    fn judge_guest(
        &mut self,
        place: &str,
        program: &Program,
        outcome: Option<&Outcome>,
        native: Option<&Outcome>,
        expected: &BTreeMap<String, String>,
    ) {
        let name = &program.name;
        let Some(outcome) = outcome else {
            self.wrong.push(format!("{place}: {name} didn't run"));
            return;
        };
        if let Some(why) = expected.get(name) {
            match &outcome.failure {
                Some(failure) => self.expected.push(format!("{name}: {failure} ({why})")),
                None => self.wrong.push(format!("{name} was expected to fail and didn't: take it out of expected-failures ({why})")),
            }
            return;
        }
        if let Some(failure) = &outcome.failure {
            self.wrong.push(format!("{place}: {name}: {failure}\n{}", outcome.output.join("\n")));
        }
        for (case, result) in &outcome.cases {
            match (result.as_str(), expected.get(&format!("{name}/{case}"))) {
                ("ok", None) => self.passed += 1,
                ("ok", Some(why)) => {
                    self.wrong.push(format!("{name}/{case} was expected to fail and didn't: take it out of expected-failures ({why})"))
                }
                ("skip", _) => self.skip(format!("{name}/{case} {place}: {}", reason(outcome, case))),
                (_, Some(why)) => self.expected.push(format!("{name}/{case}: {why}")),
                (failure, None) => {
                    self.wrong.push(format!("{place}: {name}/{case}:\n    {}", said_before(outcome, failure)));
                }
            }
        }
        if outcome.failure.is_none() {
            let missing = native.iter().flat_map(|native| native.cases.keys()).filter(|case| !outcome.cases.contains_key(*case));
            self.wrong.extend(missing.map(|case| format!("{place}: {name}/{case} said nothing")));
        }
    }

    /// Tells it all; whether nothing is wrong.
    fn print(&self, programs: usize) -> bool {
        for (title, list) in [("skipped", &self.skipped), ("expected to fail", &self.expected), ("WRONG", &self.wrong)] {
            for line in list {
                println!("{title}: {line}");
            }
        }
        println!(
            "guest tests: {programs} programs, {} cases passed in the machine, {} expected failures, {} skipped, {} wrong",
            self.passed,
            self.expected.len(),
            self.skipped.len(),
            self.wrong.len()
        );
        self.wrong.is_empty()
    }
}

/// A line and what was said just before it.
fn said_before(outcome: &Outcome, line: &str) -> String {
    let at = outcome.output.iter().position(|said| said == line).unwrap_or(0);
    outcome.output.get(at.saturating_sub(3)..=at).unwrap_or_default().join("\n    ")
}

/// What a skipped case said: the line before its own.
fn reason(outcome: &Outcome, case: &str) -> String {
    let at = outcome.output.iter().position(|line| line == &format!("skip {case}")).unwrap_or(0);
    outcome.output.get(at.wrapping_sub(1)).map_or_else(String::new, |line| line.trim().trim_start_matches("skipped: ").to_owned())
}
