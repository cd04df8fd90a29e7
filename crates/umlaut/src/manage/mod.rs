//! The front end's commands for machines that run: `ps`, `console`, `stop`, `config`, `backup`, `log`, `top`.
//!
//! All of them ask the machine's management console; none needs a program of its own in the machine.

mod backup;
mod client;
mod json;

use clap::{Args, Subcommand};
use client::Machine;
use json::Json;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long an orderly end may take before it is said that it did not come.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// What can be done with machines that run.
#[derive(Subcommand)]
pub enum Manage {
    /// List this user's machines
    Ps {
        /// Where machines have their directories (uml_dir=) [default: ~/.uml]
        #[arg(long, value_name = "DIR")]
        uml_dir: Option<PathBuf>,
        #[command(flatten)]
        format: Format,
    },
    /// Talk to a machine's console N over a pty or port of the host (con1=pts, say); Ctrl-] ends it
    Console {
        name: String,
        /// Which console
        #[arg(default_value_t = 1)]
        number: u32,
    },
    /// End a machine: its disks are written back and can't be changed any more; its programs are not asked
    Stop {
        name: String,
        /// At once, as when the plug is pulled
        #[arg(long)]
        now: bool,
    },
    /// Show or change a device: umlaut config NAME ubdb, umlaut config NAME ubdb=FILE, umlaut config NAME --remove ubdb
    Config {
        name: String,
        /// DEVICE, or DEVICE=SETTING
        device: String,
        /// Take the device away
        #[arg(long, conflicts_with = "format")]
        remove: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Copy a disk of a machine that runs: stop, copy, go
    Backup {
        name: String,
        /// The copy
        file: PathBuf,
        /// Which disk
        #[arg(long, default_value = "ubda")]
        disk: String,
        #[command(flatten)]
        format: Format,
    },
    /// Show a machine's kernel log
    Log { name: String },
    /// Show a machine's processes, again and again
    Top {
        name: String,
        /// How often, and then end; 0 for ever
        #[arg(short = 'n', long, value_name = "N", default_value_t = 0)]
        rounds: u32,
    },
}

/// How an answer is printed.
#[derive(Args)]
#[group(id = "format")]
pub struct Format {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Does what was asked; status 1 and a sentence on standard error when that failed.
pub fn main(what: Manage) -> ExitCode {
    let done = match what {
        Manage::Ps { uml_dir, format } => {
            ps(uml_dir.as_deref(), &format);
            Ok(())
        }
        Manage::Console { name, number } => Machine::find(&name).and_then(|machine| console(&machine, number)),
        Manage::Stop { name, now } => Machine::find(&name).and_then(|machine| stop(&machine, now)),
        Manage::Config { name, device, remove, format } => {
            Machine::find(&name).and_then(|machine| config(&machine, &device, remove, &format))
        }
        Manage::Backup { name, file, disk, format } => Machine::find(&name).and_then(|machine| backup(&machine, &disk, &file, &format)),
        Manage::Log { name } => Machine::find(&name).and_then(|machine| log(&machine)),
        Manage::Top { name, rounds } => Machine::find(&name).and_then(|machine| top(&machine, rounds)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("umlaut: {}", sentence.trim_end());
            ExitCode::from(1)
        }
    }
}

/// Prints, and does not mind that nobody reads.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
    let _ = std::io::stdout().flush();
}

fn ps(uml_dir: Option<&Path>, format: &Format) {
    let machines = client::machines(uml_dir);
    if format.json {
        let list = machines.iter().map(|entry| {
            Json::Object(vec![
                ("name", Json::Text(entry.name.clone())),
                ("pid", Json::Number(u64::from(entry.pid().unwrap_or(0)))),
                ("running", Json::Boolean(entry.is_alive())),
                ("mconsole", Json::Text(entry.socket().display().to_string())),
            ])
        });
        return say(&format!("{}\n", Json::List(list.collect())));
    }
    say(&format!("{:<20} {:>8}  {:<8} {}\n", "NAME", "PID", "STATE", "MCONSOLE"));
    for entry in machines {
        let pid = entry.pid().map_or_else(|| "-".into(), |pid| pid.to_string());
        let state = if entry.is_alive() { "running" } else { "dead" };
        say(&format!("{:<20} {pid:>8}  {state:<8} {}\n", entry.name, entry.socket().display()));
    }
}

fn stop(machine: &Machine, now: bool) -> Result<(), String> {
    if !now {
        // What was written goes to the disks, and nobody may change them any more.
        for command in ["sysrq s", "sysrq u"] {
            machine.ask(command)?;
        }
    }
    match machine.ask("halt") {
        Ok(_) => {}
        // It ended by itself meanwhile.
        Err(_) if !machine.entry.is_alive() => return Ok(()),
        Err(reason) => return Err(reason),
    }
    let until = Instant::now() + STOP_PATIENCE;
    while machine.entry.is_alive() {
        if Instant::now() > until {
            return Err(format!("{} does not end", machine.entry.name));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn config(machine: &Machine, device: &str, remove: bool, format: &Format) -> Result<(), String> {
    if remove {
        return machine.ask(&format!("remove {device}")).map(drop);
    }
    if device.contains('=') {
        return machine.ask(&format!("config {}", absolute_names(device))).map(drop);
    }
    let text = machine.ask(&format!("config {device}"))?;
    if format.json {
        let object = vec![("device", Json::Text(device.to_owned())), ("config", Json::Text(text))];
        say(&format!("{}\n", Json::Object(object)));
    } else {
        say(&format!("{text}\n"));
    }
    Ok(())
}

/// The machine works in another directory than we: names of disks' files are sent in full.
fn absolute_names(device: &str) -> String {
    let mut command = format!("config {device}");
    for range in mconsole::client::disk_names(&command).into_iter().rev() {
        let full = command.get(range.clone()).and_then(|name| std::path::absolute(name).ok());
        if let Some(full) = full.as_deref().and_then(Path::to_str) {
            command.replace_range(range, full);
        }
    }
    command.strip_prefix("config ").unwrap_or(&command).to_owned()
}

fn backup(machine: &Machine, disk: &str, to: &Path, format: &Format) -> Result<(), String> {
    let copied = backup::backup(machine, disk, to)?;
    if format.json {
        let object = vec![
            ("source", Json::Text(copied.source.display().to_string())),
            ("file", Json::Text(to.display().to_string())),
            ("length_bytes", Json::Number(copied.len_bytes)),
            ("data_bytes", Json::Number(copied.data_bytes)),
            ("stopped_ms", Json::Number(copied.stopped_ms)),
        ];
        say(&format!("{}\n", Json::Object(object)));
    } else {
        say(&format!(
            "{} copied to {}: {} MiB of data; the machine stood still for {} ms\n",
            copied.source.display(),
            to.display(),
            copied.data_bytes >> 20,
            copied.stopped_ms
        ));
    }
    Ok(())
}

fn log(machine: &Machine) -> Result<(), String> {
    let text = machine.ask("proc umlaut/log")?;
    say(text.strip_prefix('\n').unwrap_or(&text));
    Ok(())
}

/// One process in a machine.
struct Row {
    pid: u32,
    name: String,
    state: char,
    ticks: u64,
    resident_kib: u64,
}

fn rows(machine: &Machine) -> Result<Vec<Row>, String> {
    let states = machine.ask("sysrq t")?;
    let pids = states.lines().filter(|line| line.starts_with("task:")).filter_map(|line| {
        let field = |name: &str| line.split_once(name)?.1.split_whitespace().next()?.parse::<u32>().ok();
        (field("pid:") == field("tgid:")).then(|| field("tgid:"))?
    });
    let mut rows = Vec::new();
    for pid in pids {
        // One that ended meanwhile is not shown.
        let Ok(stat) = machine.ask(&format!("proc {pid}/stat")) else { continue };
        let Some((before, after)) = stat.rsplit_once(')') else { continue };
        let fields: Vec<&str> = after.split_whitespace().collect();
        let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        rows.push(Row {
            pid,
            name: before.split_once('(').map(|(_, name)| name.to_owned()).unwrap_or_default(),
            state: fields.first().and_then(|state| state.chars().next()).unwrap_or('?'),
            ticks: number(11) + number(12),
            resident_kib: number(21) * 4,
        });
    }
    Ok(rows)
}

fn top(machine: &Machine, rounds: u32) -> Result<(), String> {
    let mut before: Vec<Row> = Vec::new();
    let mut looked_at = Instant::now();
    for round in 1.. {
        let mut now = rows(machine)?;
        let ticks = (looked_at.elapsed().as_millis() as u64 / 10).max(1);
        looked_at = Instant::now();
        let used = |row: &Row| row.ticks.saturating_sub(before.iter().find(|old| old.pid == row.pid).map_or(row.ticks, |old| old.ticks));
        now.sort_by_key(|row| (std::cmp::Reverse(used(row)), row.pid));
        let mut text = if std::io::stdout().is_terminal() { "\x1b[H\x1b[2J".to_owned() } else { String::new() };
        let uptime = machine.ask("proc uptime")?;
        let uptime = uptime.split_whitespace().next().unwrap_or_default();
        text.push_str(&format!("{}: up {uptime} s, {} processes\n\n", machine.entry.name, now.len()));
        text.push_str(&format!("{:>7} {:>1} {:>5} {:>10} {}\n", "PID", "S", "%CPU", "RES KiB", "COMMAND"));
        for row in now.iter().take(40) {
            let percent = used(row) * 100 / ticks;
            text.push_str(&format!("{:>7} {:>1} {percent:>5} {:>10} {}\n", row.pid, row.state, row.resident_kib, row.name));
        }
        say(&text);
        if round == rounds {
            break;
        }
        before = now;
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

/// Our own terminal lets every byte through while this lives.
struct RawTerminal;

impl RawTerminal {
    fn enter() -> RawTerminal {
        if std::io::stdin().is_terminal() {
            // A terminal that refuses stays as it is, with its own echo.
            let _ = host::channel::make_standard_input_raw();
        }
        RawTerminal
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        host::channel::restore_terminals();
    }
}

/// Ctrl-], as telnet has it.
const ESCAPE: u8 = 0x1d;

fn console(machine: &Machine, number: u32) -> Result<(), String> {
    let channel = machine.ask(&format!("config con{number}"))?;
    let (kind, data) = channel.split_once(':').unwrap_or((&channel, ""));
    let failed = |error: std::io::Error| format!("console {number} ({channel}) can't be reached: {error}");
    match (kind, data) {
        ("pts" | "pty" | "tty", path) if path.starts_with('/') => {
            let open = || std::fs::File::options().read(true).write(true).open(path).map_err(failed);
            relay(open()?, open()?)
        }
        ("port", port) => {
            let port: u16 = port.parse().map_err(|_| format!("console {number} is {channel}, which has no port"))?;
            let stream = std::net::TcpStream::connect(("127.0.0.1", port)).map_err(failed)?;
            relay(stream.try_clone().map_err(failed)?, stream)
        }
        ("pts" | "pty", _) => Err(format!("nobody in the machine has console {number} open; start a getty on tty{number} there")),
        _ => Err(format!(
            "console {number} is {channel}, which leads to no place that we could open; umlaut config {} con{number}=pts makes it one",
            machine.entry.name
        )),
    }
}

/// Carries bytes both ways until the other end closes or Ctrl-] comes.
fn relay(mut from: impl Read + Send + 'static, mut to: impl Write) -> Result<(), String> {
    let _mode = RawTerminal::enter();
    let (sender, ended) = std::sync::mpsc::channel();
    let other = sender.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            let mut stdout = std::io::stdout();
            if stdout.write_all(&buffer[..len]).and_then(|()| stdout.flush()).is_err() {
                break;
            }
        }
        let _ = other.send(());
    });
    let (keys, typed) = std::sync::mpsc::channel::<Vec<u8>>();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(len @ 1..) = std::io::stdin().read(&mut buffer) {
            let end = buffer[..len].iter().position(|byte| *byte == ESCAPE);
            if keys.send(buffer[..end.unwrap_or(len)].to_vec()).is_err() || end.is_some() {
                break;
            }
        }
        drop(keys);
        let _ = sender.send(());
    });
    loop {
        match typed.recv_timeout(Duration::from_millis(20)) {
            Ok(bytes) if to.write_all(&bytes).and_then(|()| to.flush()).is_err() => return Ok(()),
            Ok(_) => {}
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) if ended.try_recv().is_ok() => return Ok(()),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
        }
    }
}
