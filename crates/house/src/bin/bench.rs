//! The yardstick, natively and in a machine, in one run: `cargo run --release -p house --bin bench -- [--ubench FILE] [--rounds N] [--quick]
//! [TEST...]`.
//!
//! The rounds alternate: native pinned to one processor, machine pinned, native free, machine free. Only ratios within one run mean anything.
//! What each row must reach, as a ratio to native pinned, is in [`ROWS`]; those are the rows that issue "First light" carries. Nothing is
//! written but to the target directory.
#![forbid(unsafe_code)]

use house::machine::{Archive, Line, Programs, Running, compile};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// What a figure must reach.
enum Must {
    /// At most so many times native's figure.
    AtMost(f64),
    /// At least so many times native's figure.
    AtLeast(f64),
}
use Must::{AtLeast, AtMost};

/// Name, unit, and what it must reach in both ways of running, as a ratio to native pinned.
const ROWS: [(&str, &str, Must); 21] = [
    ("getppid", "ns", AtMost(27.0)),
    ("read_zero", "ns", AtMost(18.0)),
    ("open_close", "ns", AtMost(10.52)),
    ("stat", "ns", AtMost(11.90)),
    ("clock_gettime", "ns", AtMost(1.39)),
    ("pipe_pp", "us", AtMost(4.5)),
    ("unix_pp", "us", AtMost(3.61)),
    ("pipe_bw", "MB/s", AtLeast(0.47)),
    ("ctx_ring8", "us/hop", AtMost(3.0)),
    ("fork_exit_wait", "us", AtMost(1.5)),
    ("fork_exec_wait", "us", AtMost(1.25)),
    ("vfork_exec_wait", "us", AtMost(1.25)),
    ("thread_create_join", "us", AtMost(2.8)),
    ("futex_pp", "us", AtMost(5.62)),
    ("sig_self", "ns", AtMost(7.18)),
    ("segv_handle", "ns", AtMost(5.3)),
    ("mmap_touch", "ns/page", AtMost(0.65)),
    ("fork_cow", "ns/page", AtMost(0.6)),
    ("filemap_read", "ns/page", AtMost(2.0)),
    ("filemap_cow", "ns/page", AtMost(2.12)),
    ("mprotect_toggle", "ns/pair", AtMost(5.43)),
];
/// Groups of the yardstick's tests that hold the rows.
const TESTS: [&str; 10] = ["syscall", "time", "pipe", "pipebw", "unix", "ring", "proc", "futex", "signal", "mem"];
/// From exec of `linux` to init's first line, milliseconds.
const BOOT_MUST_MS: f64 = 100.0;

struct Options {
    yardstick: PathBuf,
    rounds: usize,
    quick: bool,
    tests: Vec<String>,
}

fn options() -> Result<Options, String> {
    let default = house::repository().join("../shared/bench/ubench.c");
    let yardstick = std::env::var_os("UMLAUT_UBENCH").map_or(default, PathBuf::from);
    let mut options = Options { yardstick, rounds: 2, quick: false, tests: Vec::new() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--ubench" => options.yardstick = words.next().ok_or("--ubench needs a file")?.into(),
            "--rounds" => options.rounds = words.next().and_then(|n| n.parse().ok()).ok_or("--rounds needs a number")?,
            "--quick" => options.quick = true,
            word if word.starts_with('-') => {
                return Err(format!("{word}: not known. bench [--ubench FILE] [--rounds N] [--quick] [TEST...]"));
            }
            test => options.tests.push(test.to_owned()),
        }
    }
    if options.tests.is_empty() {
        options.tests = TESTS.map(str::to_owned).to_vec();
    }
    if !options.yardstick.exists() {
        return Err(format!("{} is not there; name the yardstick's source: --ubench FILE", options.yardstick.display()));
    }
    Ok(options)
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("bench: {sentence}");
            ExitCode::FAILURE
        }
    }
}

/// The four ways of running, in the order of the table's columns.
const WAYS: [&str; 4] = ["native pinned", "native free", "machine pinned", "machine free"];

fn run() -> Result<(), String> {
    let options = options()?;
    if cfg!(debug_assertions) {
        eprintln!("bench: this is a debug build; measure with cargo run --release -p house --bin bench");
    }
    let place = house::repository().join("target/bench");
    std::fs::create_dir_all(place.join("scratch")).map_err(|error| error.to_string())?;
    let archive = prepare(&options, &place)?;
    let machine = Programs::build()?;
    let mut figures: [BTreeMap<String, Vec<f64>>; 4] = Default::default();
    for round in 0..options.rounds {
        for (way, machine_runs, pinned) in [(0, false, true), (2, true, true), (1, false, false), (3, true, false)] {
            eprintln!("bench: round {} of {}: {}", round + 1, options.rounds, WAYS[way]);
            let lines = if machine_runs { in_machine(&options, &machine, &archive, pinned)? } else { natively(&options, &place, pinned)? };
            for line in lines {
                let words: Vec<&str> = line.split_whitespace().collect();
                if let [name, value, ..] = words.as_slice() {
                    if let Ok(value) = value.parse() {
                        figures[way].entry((*name).to_owned()).or_default().push(value);
                    } else if ["FAIL", "TIMEOUT"].contains(value) {
                        eprintln!("bench: {}: {line}", WAYS[way]);
                    }
                }
            }
        }
    }
    print(&figures);
    print_boot(&machine, &archive)
}

fn prepare(options: &Options, place: &Path) -> Result<PathBuf, String> {
    let source = house::repository().join("tests/guest/runner/bench.c");
    std::fs::write(place.join("true.c"), "int main(void) { return 0; }\n").map_err(|error| error.to_string())?;
    compile(&options.yardstick, &place.join("ubench"), &[], &[])?;
    compile(&place.join("true.c"), &place.join("true"), &[], &[])?;
    compile(&source, &place.join("init"), &[], &[])?;
    let read = |name: &str| std::fs::read(place.join(name)).map_err(|error| error.to_string());
    let mut archive = Archive::default();
    for directory in ["bench", "dev"] {
        archive.directory(directory);
    }
    archive.file("bench/ubench", &read("ubench")?);
    archive.file("bench/true", &read("true")?);
    archive.file("init", &read("init")?);
    let path = place.join("bench.cpio");
    std::fs::write(&path, archive.finish()).map_err(|error| error.to_string())?;
    Ok(path)
}

/// A command that is bound to one processor, the last that we may use, or free.
fn bound(program: &Path, pinned: bool) -> Command {
    if !pinned {
        return Command::new(program);
    }
    let last = std::thread::available_parallelism().map_or(0, |count| count.get() - 1);
    let mut command = Command::new("taskset");
    command.arg("-c").arg(last.to_string()).arg(program);
    command
}

fn arguments(options: &Options, true_path: &str) -> Vec<String> {
    let mut words: Vec<String> = ["-x", true_path].map(str::to_owned).to_vec();
    if options.quick {
        words.extend(["-t", "20", "-r", "3"].map(str::to_owned));
    }
    words.extend(options.tests.iter().cloned());
    words
}

fn gather(command: &mut Command) -> Result<Vec<String>, String> {
    let mut running = Running::start(command).map_err(|error| format!("{command:?}: {error}"))?;
    let mut lines = Vec::new();
    loop {
        match running.line(Duration::from_secs(120)) {
            Line::Is(line) => lines.push(line),
            Line::Ended => return Ok(lines),
            Line::Late => {
                eprintln!("bench: two minutes of silence after {:?}", lines.last());
                return Ok(lines);
            }
        }
    }
}

fn natively(options: &Options, place: &Path, pinned: bool) -> Result<Vec<String>, String> {
    // On tmpfs, as in the machine, where the host has one.
    let scratch = if Path::new("/dev/shm").is_dir() { PathBuf::from("/dev/shm") } else { place.join("scratch") };
    let true_path = place.join("true").to_string_lossy().into_owned();
    gather(bound(&place.join("ubench"), pinned).args(arguments(options, &true_path)).current_dir(scratch))
}

fn in_machine(options: &Options, machine: &Programs, archive: &Path, pinned: bool) -> Result<Vec<String>, String> {
    let initrd = format!("initrd={}", archive.display());
    gather(bound(&machine.linux, pinned).args([&initrd, "mem=1G", "quiet", "--"]).args(arguments(options, "/bench/true")))
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted.get(middle).copied()
    } else {
        Some((sorted.get(middle.checked_sub(1)?)? + sorted.get(middle)?) / 2.0)
    }
}

fn print(figures: &[BTreeMap<String, Vec<f64>>; 4]) {
    let of = |way: usize, name: &str| figures[way].get(name).and_then(|values| median(values));
    println!("| figure | unit | {} | pinned ratio | free ratio | must | |", WAYS.join(" | "));
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let mut missed = Vec::new();
    let mut told = Vec::new();
    for (name, unit, must) in &ROWS {
        told.push(*name);
        let cells: Vec<String> =
            (0..4).map(|way| of(way, name).map_or("-".into(), |value| format!("{value:.4}").chars().take(7).collect())).collect();
        let ratio = |way| Some(of(way, name)? / of(0, name)?);
        let (pinned, free) = (ratio(2), ratio(3));
        let holds = |ratio: Option<f64>| match (ratio, must) {
            (Some(ratio), AtMost(limit)) => ratio <= *limit,
            (Some(ratio), AtLeast(limit)) => ratio >= *limit,
            (None, _) => false,
        };
        let verdict = if holds(pinned) && holds(free) { "holds" } else { "MISSES" };
        if verdict == "MISSES" && of(0, name).is_some() {
            missed.push(*name);
        }
        let shown = |ratio: Option<f64>| ratio.map_or("-".into(), |ratio| format!("{ratio:.2}"));
        let wanted = match must {
            AtMost(limit) => format!("{limit} or less"),
            AtLeast(limit) => format!("{limit} or more"),
        };
        println!("| {name} | {unit} | {} | {} | {} | {wanted} | {verdict} |", cells.join(" | "), shown(pinned), shown(free));
    }
    for name in figures[0].keys().filter(|name| !told.contains(&name.as_str())) {
        let cells: Vec<String> = (0..4).map(|way| of(way, name).map_or("-".into(), |value| format!("{value:.1}"))).collect();
        let ratio = |way| of(way, name).zip(of(0, name)).map_or("-".into(), |(one, native)| format!("{:.2}", one / native));
        println!("| {name} | | {} | {} | {} | | |", cells.join(" | "), ratio(2), ratio(3));
    }
    println!("\n{} of {} rows miss: {}", missed.len(), told.len(), missed.join(", "));
}

fn print_boot(machine: &Programs, archive: &Path) -> Result<(), String> {
    let mut took = Vec::new();
    for _ in 0..11 {
        let start = Instant::now();
        let initrd = format!("initrd={}", archive.display());
        let mut running =
            Running::start(Command::new(&machine.linux).args([&initrd, "mem=128M", "quiet"])).map_err(|error| error.to_string())?;
        loop {
            match running.line(Duration::from_secs(10)) {
                Line::Is(line) if line == "@begin" => break,
                Line::Is(_) => (),
                other => return Err(format!("the machine said nothing: {other:?}")),
            }
        }
        took.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    let middle = median(&took).unwrap_or_default();
    println!(
        "exec of linux to init's first line: {middle:.1} ms (must: {BOOT_MUST_MS} ms: {})",
        if middle <= BOOT_MUST_MS { "holds" } else { "MISSES" }
    );
    Ok(())
}
