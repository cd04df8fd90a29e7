//! Runs the programs of `tests/guest`: each on the host's Linux first, then, unchanged, in a machine.
//!
//! One boot runs many programs. A program that takes the machine down fails, and the rest go on in a new machine. What a machine can't do
//! yet stands in `tests/guest/expected-failures` as `PROGRAM/CASE reason` (or `PROGRAM reason` for one that would take the machine down:
//! it gets a machine of its own); it fails the run when such a case passes.
//!
//! `cargo test -p house --test guest -- signal` runs the programs whose name contains "signal"; `--nocapture` shows what they said in the
//! machine.
#![forbid(unsafe_code)]

use house::machine::{Archive, Line, Programs, Running, compile};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// How long the machine may be silent beyond a program's own limit before it counts as hanging.
const SILENCE: Duration = Duration::from_secs(15);

/// What `wall_jumps.c` tries to make on the host.
const BEYOND_THE_WALL: &str = "/tmp/umlaut-wall-was-passed";

/// What runs by the hand-over of signals too at every scale; at full scale everything does.
const BY_SIGNALS: [&str; 10] =
    ["exec", "memory", "process", "signals", "threads", "vectors", "wall_frames", "wall_jumps", "wall_races", "wall_recycle"];

/// How a machine stops guest code: its own choice, or signals as on a host that lacks what notifications need.
#[derive(Clone, Copy, PartialEq, Eq)]
enum HandOver {
    Chosen,
    Signals,
}

/// One program, as its first lines describe it.
struct Program {
    name: String,
    path: PathBuf,
    limit: Duration,
    guest_only: Option<String>,
}

/// What a run of a program gave.
#[derive(Default)]
struct Outcome {
    /// Case -> `ok`, `skip` or what went wrong.
    cases: BTreeMap<String, String>,
    /// Everything it said.
    output: Vec<String>,
    /// How the whole program failed, beyond its cases.
    failure: Option<String>,
}

impl Outcome {
    fn take_line(&mut self, line: &str) {
        let mut words = line.splitn(3, [' ', ':']);
        match (words.next(), words.next()) {
            (Some("ok"), Some(case)) => drop(self.cases.insert(case.into(), "ok".into())),
            (Some("skip"), Some(case)) => drop(self.cases.insert(case.into(), "skip".into())),
            (Some("FAIL"), Some(case)) => drop(self.cases.insert(case.into(), line.to_owned())),
            _ => (),
        }
        self.output.push(line.to_owned());
    }

    fn ended(&mut self, how: &str) {
        if how != "exit 0" && !(how == "exit 1" && self.cases.values().any(|case| case.starts_with("FAIL"))) {
            self.failure = Some(how.to_owned());
        } else if self.cases.is_empty() {
            self.failure = Some("it ran no case".into());
        }
    }
}

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
    let machine = Programs::build()?;
    let (alone, together): (Vec<&Program>, Vec<&Program>) = programs.iter().partition(|program| expected.contains_key(&program.name));
    let mut outcomes = run_in_machines(&machine, HandOver::Chosen, &together, &place)?;
    for program in alone {
        outcomes.extend(run_in_machines(&machine, HandOver::Chosen, &[program], &place)?);
    }
    let by_signals: Vec<&Program> =
        together.iter().copied().filter(|program| house::scale() == "full" || BY_SIGNALS.contains(&program.name.as_str())).collect();
    let outcomes_by_signals = run_in_machines(&machine, HandOver::Signals, &by_signals, &place)?;
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

fn compile_all(place: &Path, wanted: &[String]) -> Result<Vec<Program>, String> {
    let directory = house::repository().join("tests/guest");
    let header = directory.join("t.h");
    compile(&directory.join("runner/init.c"), &place.join("init"), &[], &[])?;
    let mut programs = Vec::new();
    for entry in std::fs::read_dir(&directory).map_err(|error| error.to_string())?.flatten() {
        let source = entry.path();
        let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if source.extension().is_none_or(|ext| ext != "c") || !wanted.is_empty() && !wanted.iter().any(|word| name.contains(word)) {
            continue;
        }
        let text = std::fs::read_to_string(&source).map_err(|error| error.to_string())?;
        let told = |what: &str| {
            let mut lines = text.lines().take_while(|line| line.starts_with("//"));
            lines.find_map(|line| line.strip_prefix("// ")?.strip_prefix(what)?.strip_prefix(": ")).map(str::to_owned)
        };
        let flags: Vec<String> = told("flags").unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        let path = place.join(&name);
        compile(&source, &path, &[&header], &flags)?;
        let seconds = told("timeout").and_then(|text| text.parse().ok()).unwrap_or(20);
        let factor = if house::scale() == "full" { 20 } else { house::scale().parse().unwrap_or(1) };
        programs.push(Program { name, path, limit: Duration::from_secs(seconds * factor), guest_only: told("guest-only") });
    }
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    if programs.is_empty() { Err("no program of that name in tests/guest".into()) } else { Ok(programs) }
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

fn run_native(program: &Program, place: &Path) -> Result<Outcome, String> {
    let scratch = place.join("scratch").join(&program.name);
    // What an earlier run left; it may not be there.
    let _ = std::fs::remove_dir_all(&scratch);
    std::fs::create_dir_all(&scratch).map_err(|error| error.to_string())?;
    let mut command = Command::new(&program.path);
    command.current_dir(&scratch);
    let mut running = Running::start(&mut command).map_err(|error| format!("{}: {error}", program.name))?;
    let mut outcome = Outcome::default();
    let until = Instant::now() + program.limit;
    loop {
        match running.line(until.saturating_duration_since(Instant::now())) {
            Line::Is(line) => outcome.take_line(&line),
            Line::Ended => break,
            Line::Late => {
                outcome.failure = Some(format!("took over {} s", program.limit.as_secs()));
                return Ok(outcome);
            }
        }
    }
    let status = running.end(Duration::from_secs(5)).ok_or("closed its output and didn't end")?;
    outcome.ended(&status.code().map_or_else(|| status.to_string(), |code| format!("exit {code}")));
    Ok(outcome)
}

/// Runs programs in as few machines as it takes.
fn run_in_machines(
    machine: &Programs,
    hand_over: HandOver,
    programs: &[&Program],
    place: &Path,
) -> Result<HashMap<String, Outcome>, String> {
    let mut outcomes: HashMap<String, Outcome> = HashMap::new();
    loop {
        let left: Vec<&Program> = programs.iter().copied().filter(|program| !outcomes.contains_key(&program.name)).collect();
        if left.is_empty() {
            return Ok(outcomes);
        }
        let before = outcomes.len();
        boot_once(machine, hand_over, &left, place, &mut outcomes)?;
        if outcomes.len() == before {
            return Err("the machine ended before it ran any program".into());
        }
    }
}

fn boot_once(
    machine: &Programs,
    hand_over: HandOver,
    programs: &[&Program],
    place: &Path,
    outcomes: &mut HashMap<String, Outcome>,
) -> Result<(), String> {
    let initrd = place.join("initrd.cpio");
    std::fs::write(&initrd, pack(programs, place)?).map_err(|error| error.to_string())?;
    let mut command = Command::new(&machine.linux);
    command.arg(format!("initrd={}", initrd.display())).args(["mem=256M", "ncpus=2", "quiet", &format!("UMLAUT_SCALE={}", house::scale())]);
    if hand_over == HandOver::Signals {
        command.env("UMLAUT_HANDOVER", "trap");
    }
    let mut running = Running::start(&mut command).map_err(|error| format!("{}: {error}", machine.linux.display()))?;
    let mut current: Option<&Program> = None;
    let mut outcome = Outcome::default();
    let mut stray = Vec::new();
    loop {
        let limit = current.map_or(SILENCE, |program| program.limit + SILENCE);
        let line = match running.line(limit) {
            Line::Is(line) => line,
            end => {
                let what = if end == Line::Late { "the machine hangs" } else { "the machine ended" };
                running.kill();
                outcome.failure = Some(what.into());
                match current {
                    Some(program) => drop(outcomes.insert(program.name.clone(), outcome)),
                    None => eprintln!("guest tests: {what}:\n{}", stray.join("\n")),
                }
                return Ok(());
            }
        };
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["@begin", name] => {
                current = programs.iter().copied().find(|program| program.name == *name);
                outcome = Outcome::default();
            }
            ["@end", name, how, number, _ms] => {
                outcome.ended(&format!("{how} {number}"));
                outcomes.insert((*name).to_owned(), std::mem::take(&mut outcome));
                current = None;
            }
            ["@done"] => break,
            _ if current.is_some() => outcome.take_line(&line),
            _ => stray.push(line),
        }
    }
    match running.end(Duration::from_secs(10)) {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!("the machine powered off with {status}\n{}", stray.join("\n"))),
        None => Err("the machine didn't power off".into()),
    }
}

fn pack(programs: &[&Program], place: &Path) -> Result<Vec<u8>, String> {
    let read = |path: &Path| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    let mut archive = Archive::default();
    let mut list = String::new();
    archive.directory("tests");
    archive.directory("dev");
    for program in programs {
        archive.file(&format!("tests/{}", program.name), &read(&program.path)?);
        writeln!(list, "{} {}", program.name, program.limit.as_secs()).map_err(|error| error.to_string())?;
    }
    archive.file("tests/list", list.as_bytes());
    archive.file("init", &read(&place.join("init"))?);
    Ok(archive.finish())
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
