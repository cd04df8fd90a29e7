//! The yardstick, natively and in a machine, in one run: `cargo run --release -p house --bin bench -- [--ubench FILE] [--rounds N] [--quick]
//! [--first] [--rows | --whole] [TEST...]`.
//!
//! The rounds alternate: native pinned to one processor, machine pinned, native free, machine free. Only ratios within one run mean anything.
//! Of all rounds the best figure counts, natively and in the machine alike: what else runs on the host only adds. What each row must reach, as a
//! ratio to native pinned, is in [`ROWS`]; those are the rows that issue "First light" carries. Nothing is written but to the target directory.
//!
//! `--first` asks the host to run all this before everything else (root; sched(7), autogroup): on a machine that is shared it makes a run usable.
//! `--rows` leaves the figures of whole machines (`whole`) out, `--whole` all others.
#![forbid(unsafe_code)]

mod whole;

use house::machine::{Archive, Line, Programs, Running, compile};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

/// What a figure must reach.
enum Must {
    /// At most so many times native's figure.
    AtMost(f64),
    /// At least so many times native's figure.
    AtLeast(f64),
    /// At least this, where it may use all processors.
    FreeAtLeast(f64),
}
use Must::{AtLeast, AtMost, FreeAtLeast};

/// Name, unit, and what it must reach in both ways of running, as a ratio to native pinned.
const ROWS: [(&str, &str, Must); 27] = [
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
    ("cpu_2proc_speedup", "x", FreeAtLeast(1.8)),
    ("bare_fork_exec", "us", AtMost(1.5)),
    // 12 us on a machine where native took 0.24.
    ("syscall_beside_2", "us", AtMost(50.0)),
    ("touch_64k", "us", AtMost(8.0)),
    ("random_cow", "us", AtMost(4.5)),
    ("live_children", "us", AtMost(6.0)),
];
/// Groups of the yardstick's tests that hold the rows; `extra` is the program for those that it lacks.
const TESTS: [&str; 12] = ["syscall", "time", "pipe", "pipebw", "unix", "ring", "proc", "futex", "signal", "mem", "cpu", "extra"];
struct Options {
    yardstick: PathBuf,
    rounds: usize,
    quick: bool,
    /// Before everything else on the host.
    first: bool,
    rows: bool,
    whole: bool,
    tests: Vec<String>,
}

fn options() -> Result<Options, String> {
    let default = house::repository().join("../shared/bench/ubench.c");
    let yardstick = std::env::var_os("UMLAUT_UBENCH").map_or(default, PathBuf::from);
    let mut options = Options { yardstick, rounds: 2, quick: false, first: false, rows: true, whole: true, tests: Vec::new() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--ubench" => options.yardstick = words.next().ok_or("--ubench needs a file")?.into(),
            "--rounds" => options.rounds = words.next().and_then(|n| n.parse().ok()).ok_or("--rounds needs a number")?,
            "--quick" => options.quick = true,
            "--first" => options.first = true,
            "--rows" => options.whole = false,
            "--whole" => options.rows = false,
            word if word.starts_with('-') => {
                return Err(format!(
                    "{word}: not known. bench [--ubench FILE] [--rounds N] [--quick] [--first] [--rows | --whole] [TEST...]"
                ));
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
    let _urgent = options.first.then(Urgent::begin).transpose()?;
    if options.rows {
        print(&measure(&options, &place, &machine, &archive)?);
    }
    if options.whole {
        whole::print(&machine, &archive)?;
    }
    Ok(())
}

/// As long as it lives, this session's processes run before all others of the host.
struct Urgent;

impl Urgent {
    const WHERE: &str = "/proc/self/autogroup";

    fn begin() -> Result<Urgent, String> {
        std::fs::write(Urgent::WHERE, "-20").map_err(|error| format!("--first: {}: {error}", Urgent::WHERE))?;
        Ok(Urgent)
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(Urgent::WHERE, "0") {
            eprintln!("bench: {}: {error}", Urgent::WHERE);
        }
    }
}

/// The figures of each way of running, of all rounds.
type Figures = [BTreeMap<String, Vec<f64>>; 4];

fn measure(options: &Options, place: &Path, machine: &Programs, archive: &Path) -> Result<Figures, String> {
    let mut figures = Figures::default();
    for round in 0..options.rounds {
        for (way, machine_runs, pinned) in [(0, false, true), (2, true, true), (1, false, false), (3, true, false)] {
            eprintln!("bench: round {} of {}: {}", round + 1, options.rounds, WAYS[way]);
            let lines = if machine_runs { in_machine(options, machine, archive, pinned)? } else { natively(options, place, pinned)? };
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
    Ok(figures)
}

fn prepare(options: &Options, place: &Path) -> Result<PathBuf, String> {
    let runner = |name: &str| house::repository().join("tests/guest/runner").join(name);
    std::fs::write(place.join("true.c"), "int main(void) { return 0; }\n").map_err(|error| error.to_string())?;
    compile(&options.yardstick, &place.join("ubench"), &[], &[])?;
    compile(&place.join("true.c"), &place.join("true"), &[], &[])?;
    compile(&runner("bench.c"), &place.join("init"), &[], &[])?;
    compile(&runner("extra.c"), &place.join("extra"), &[], &[])?;
    compile(&runner("bare.c"), &place.join("bare"), &[], &["-nostdlib".into()])?;
    let read = |name: &str| std::fs::read(place.join(name)).map_err(|error| error.to_string());
    let mut archive = Archive::default();
    for directory in ["bench", "dev"] {
        archive.directory(directory);
    }
    archive.file("bench/ubench", &read("ubench")?);
    for name in ["true", "extra", "bare"] {
        archive.file(&format!("bench/{name}"), &read(name)?);
    }
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

/// What the yardstick is called with; none when nothing of it is wanted.
fn arguments(options: &Options, true_path: &str) -> Option<Vec<String>> {
    let wanted: Vec<String> = options.tests.iter().filter(|test| *test != "extra").cloned().collect();
    let mut words: Vec<String> = ["-x", true_path].map(str::to_owned).to_vec();
    words.extend(slices(options));
    (!wanted.is_empty()).then(|| [words, wanted].concat())
}

/// The same for the extra program, with the path of the program without libc.
fn extra_arguments(options: &Options, bare: &str) -> Option<Vec<String>> {
    let words = slices(options).chain([bare.to_owned()]).collect();
    options.tests.iter().any(|test| test == "extra").then_some(words)
}

fn slices(options: &Options) -> impl Iterator<Item = String> {
    let words: &[&str] = if options.quick { &["-t", "20", "-r", "3"] } else { &[] };
    words.iter().map(|word| (*word).to_owned())
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
    let path = |name: &str| place.join(name).to_string_lossy().into_owned();
    let mut lines = Vec::new();
    if let Some(words) = arguments(options, &path("true")) {
        lines.extend(gather(bound(&place.join("ubench"), pinned).args(words).current_dir(&scratch))?);
    }
    if let Some(words) = extra_arguments(options, &path("bare")) {
        lines.extend(gather(bound(&place.join("extra"), pinned).args(words).current_dir(&scratch))?);
    }
    Ok(lines)
}

fn in_machine(options: &Options, machine: &Programs, archive: &Path, pinned: bool) -> Result<Vec<String>, String> {
    let initrd = format!("initrd={}", archive.display());
    let run = |program: &str, words: Vec<String>| {
        gather(bound(&machine.linux, pinned).args([&initrd, "mem=1G", "quiet", "--", program]).args(words))
    };
    let mut lines = Vec::new();
    if let Some(words) = arguments(options, "/bench/true") {
        lines.extend(run("/bench/ubench", words)?);
    }
    if let Some(words) = extra_arguments(options, "/bench/bare") {
        lines.extend(run("/bench/extra", words)?);
    }
    Ok(lines)
}

/// The best of all rounds: the greatest where more is better.
fn best(values: &[f64], must: &Must) -> Option<f64> {
    let pick = if matches!(must, AtMost(_)) { f64::min } else { f64::max };
    values.iter().copied().reduce(pick)
}

/// How far a ratio is from what it must be, in words.
fn verdict(ratio: f64, must: &Must) -> String {
    let over = match must {
        AtMost(limit) => ratio / limit - 1.0,
        AtLeast(limit) | FreeAtLeast(limit) => limit / ratio - 1.0,
    };
    if over <= 0.0 { "holds".into() } else { format!("misses by {:.0} %", (over * 100.0).ceil()) }
}

fn print(figures: &Figures) {
    println!("| figure | unit | {} | pinned ratio | free ratio | must | pinned | free |", WAYS.join(" | "));
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    let shown = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.4}").chars().take(7).collect::<String>());
    let mut missed = Vec::new();
    for (name, unit, must) in &ROWS {
        let of = |way: usize| figures[way].get(*name).and_then(|values| best(values, must));
        if (0..4).all(|way| of(way).is_none()) {
            continue;
        }
        let cells: Vec<String> = (0..4).map(|way| shown(of(way))).collect();
        let ratio = |way| match must {
            FreeAtLeast(_) => of(way),
            _ => Some(of(way)? / of(0)?),
        };
        let told = |way| match (ratio(way), must) {
            (_, FreeAtLeast(_)) if way == 2 => "-".into(),
            (Some(ratio), _) => verdict(ratio, must),
            (None, _) => "not measured".into(),
        };
        let verdicts: [String; 2] = [told(2), told(3)];
        if verdicts.iter().any(|verdict| verdict != "holds" && verdict != "-") {
            missed.push(*name);
        }
        let wanted = match must {
            AtMost(limit) => format!("{limit} or less"),
            AtLeast(limit) => format!("{limit} or more"),
            FreeAtLeast(limit) => format!("{limit} free"),
        };
        let two = |ratio: Option<f64>| ratio.map_or("-".into(), |ratio| format!("{ratio:.2}"));
        println!(
            "| {name} | {unit} | {} | {} | {} | {wanted} | {} |",
            cells.join(" | "),
            two(ratio(2)),
            two(ratio(3)),
            verdicts.join(" | ")
        );
    }
    println!("\n{} of {} rows miss: {}", missed.len(), ROWS.len(), missed.join(", "));
}
