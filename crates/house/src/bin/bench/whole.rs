//! Figures of whole machines: how long one takes to its first program, and what idle ones cost.
#![forbid(unsafe_code)]

use house::machine::{Line, Programs, Running};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// From exec of `linux` to init's first line, milliseconds.
const BOOT_MUST_MS: f64 = 100.0;
/// What an idle machine with `mem=128M` may hold, and each of [`MANY`], MiB.
const IDLE_MUST_MIB: f64 = 16.0;
const MANY_MUST_MIB: f64 = 12.0;
const MANY: usize = 10;
/// How often the threads of an idle machine may wake, in a second.
const WAKE_UPS_MUST: f64 = 5.0;
/// How long an idle machine is left alone, and then looked at.
const SETTLING: Duration = Duration::from_secs(3);
const LOOKING: Duration = Duration::from_secs(10);

pub fn print(machine: &Programs, archive: &Path) -> Result<(), String> {
    println!("\n| whole machine | measured | must | |\n|---|---|---|---|");
    let row = |what: &str, found: f64, unit: &str, must: f64| {
        let verdict = if found <= must { "holds" } else { "misses" };
        println!("| {what} | {found:.1} {unit} | {must} {unit} or less | {verdict} |");
    };
    let mut took = Vec::new();
    for _ in 0..11 {
        took.push(boot(machine, archive)?.1.as_secs_f64() * 1000.0);
    }
    row("exec of linux to init's first line", median(&took), "ms", BOOT_MUST_MS);
    let (one, _) = boot(machine, archive)?;
    std::thread::sleep(SETTLING);
    let before = wake_ups(one.id());
    std::thread::sleep(LOOKING);
    let woken = wake_ups(one.id()).saturating_sub(before) as f64 / LOOKING.as_secs_f64();
    row("idle machine, mem=128M: Pss of its processes and its memory file", held_mib(one.id()), "MiB", IDLE_MUST_MIB);
    drop(one);
    let many = (0..MANY).map(|_| Ok(boot(machine, archive)?.0)).collect::<Result<Vec<Running>, String>>()?;
    std::thread::sleep(SETTLING);
    let each = many.iter().map(|machine| held_mib(machine.id())).sum::<f64>() / MANY as f64;
    row("each of 10 idle machines", each, "MiB", MANY_MUST_MIB);
    row("wake-ups of an idle machine", woken, "/s", WAKE_UPS_MUST);
    Ok(())
}

/// A machine whose first program has begun and waits, and how long that took.
fn boot(machine: &Programs, archive: &Path) -> Result<(Running, Duration), String> {
    let begun = Instant::now();
    let initrd = format!("initrd={}", archive.display());
    let mut command = Command::new(&machine.linux);
    let mut running = Running::start(command.args([&initrd, "mem=128M", "quiet", "--", "idle"])).map_err(|error| error.to_string())?;
    loop {
        match running.line(Duration::from_secs(20)) {
            Line::Is(line) if line == "@begin" => return Ok((running, begun.elapsed())),
            Line::Is(_) => (),
            other => return Err(format!("the machine said nothing: {other:?}")),
        }
    }
}

/// The processes of a machine: its kernel and that one's children, the stubs.
fn processes(kernel: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.filter(|pid| *pid == kernel || parent(*pid) == Some(kernel)).collect()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// What a machine holds of the host's memory: its processes' share, but for files in memory, and those as a whole.
fn held_mib(kernel: u32) -> f64 {
    let kib: u64 = processes(kernel).iter().map(|pid| private_kib(*pid)).sum();
    let files = std::fs::read_dir(format!("/proc/{kernel}/fd")).into_iter().flatten().flatten();
    let in_memory = |path: &Path| std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("/memfd:"));
    let blocks = files.filter(|fd| in_memory(&fd.path())).filter_map(|fd| {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(fd.path()).ok().map(|file| ((file.dev(), file.ino()), file.blocks()))
    });
    let files: std::collections::BTreeMap<(u64, u64), u64> = blocks.collect();
    (kib as f64 + files.values().sum::<u64>() as f64 / 2.0) / 1024.0
}

/// Pss of all mappings but those of files in memory, KiB.
fn private_kib(pid: u32) -> u64 {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/smaps")) else { return 0 };
    let mut counts = true;
    let mut sum = 0;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Pss:") if counts => sum += words.next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0),
            Some(first) if !first.ends_with(':') => counts = !line.contains("/memfd:"),
            _ => (),
        }
    }
    sum
}

/// How often the threads of a machine have been given a processor so far.
fn wake_ups(kernel: u32) -> u64 {
    let tasks =
        processes(kernel).into_iter().flat_map(|pid| std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten());
    let switches = tasks.filter_map(|task| {
        let status = std::fs::read_to_string(task.path().join("status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<u64>().ok())
    });
    switches.sum()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    sorted.get(middle).copied().unwrap_or_default()
}
