//! The programs of `tests/guest`: compiling them, and running them on the host and in machines.
//!
//! Not here: what a run means. The test `guest` compares it with the host's Linux; the test `holes` wants attacks to be noticed.

use crate::machine::{Archive, Line, Running, compile};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long the machine may be silent beyond a program's own limit before it counts as hanging.
const SILENCE: Duration = Duration::from_secs(15);

/// One program, as its first lines describe it.
#[derive(Debug)]
pub struct Program {
    /// Its name, that of its source.
    pub name: String,
    path: PathBuf,
    /// How long it may take.
    pub limit: Duration,
    /// Why it does not run on the host.
    pub guest_only: Option<String>,
}

/// What a run of a program gave.
#[derive(Default, Debug)]
pub struct Outcome {
    /// Case -> `ok`, `skip` or what went wrong.
    pub cases: BTreeMap<String, String>,
    /// Everything it said.
    pub output: Vec<String>,
    /// How the whole program failed, beyond its cases.
    pub failure: Option<String>,
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

/// A kernel to boot.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The program that is `linux`.
    pub program: PathBuf,
    /// Its environment, beyond ours.
    pub environment: Vec<(&'static str, String)>,
}

/// Compiles those programs whose names contain one of the words, or all if there is no word, into `place`.
///
/// # Errors
/// What the compiler said.
pub fn compile_all(place: &Path, wanted: &[String]) -> Result<Vec<Program>, String> {
    let directory = crate::repository().join("tests/guest");
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
        let factor = if crate::scale() == "full" { 20 } else { crate::scale().parse().unwrap_or(1) };
        programs.push(Program { name, path, limit: Duration::from_secs(seconds * factor), guest_only: told("guest-only") });
    }
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    if programs.is_empty() { Err("no program of that name in tests/guest".into()) } else { Ok(programs) }
}

/// Runs a program on the host.
///
/// # Errors
/// A sentence, when it can't be run at all.
pub fn run_native(program: &Program, place: &Path) -> Result<Outcome, String> {
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
///
/// # Errors
/// A sentence, when a machine does not get as far as the first of them, or does not end well.
pub fn run_in_machines(kernel: &Kernel, programs: &[&Program], place: &Path) -> Result<HashMap<String, Outcome>, String> {
    let mut outcomes: HashMap<String, Outcome> = HashMap::new();
    loop {
        let left: Vec<&Program> = programs.iter().copied().filter(|program| !outcomes.contains_key(&program.name)).collect();
        if left.is_empty() {
            return Ok(outcomes);
        }
        let before = outcomes.len();
        boot_once(kernel, &left, place, &mut outcomes)?;
        if outcomes.len() == before {
            return Err("the machine ended before it ran any program".into());
        }
    }
}

fn boot_once(kernel: &Kernel, programs: &[&Program], place: &Path, outcomes: &mut HashMap<String, Outcome>) -> Result<(), String> {
    let initrd = place.join("initrd.cpio");
    std::fs::write(&initrd, pack(programs, place)?).map_err(|error| error.to_string())?;
    let mut command = Command::new(&kernel.program);
    std::os::unix::process::CommandExt::arg0(&mut command, "linux");
    command.envs(kernel.environment.iter().map(|(name, value)| (name, value)));
    command.arg(format!("initrd={}", initrd.display())).args(["mem=256M", "ncpus=2", "quiet", &format!("UMLAUT_SCALE={}", crate::scale())]);
    let mut running = Running::start(&mut command).map_err(|error| format!("{}: {error}", kernel.program.display()))?;
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
