//! Where the first process's standard streams lead, the machine's consoles and serial lines, and the kernel's messages.

use crate::config::{Config, LineConfig, Streams};
use crate::machine::Machine;
use crate::wiring::INFO;
use abi::Errno;
use drivers::lines::{Family, Lines, MAJOR, NoLine, Surroundings};
use drivers::ports::{Log, Ports};
use drivers::stream::{HostStream, StreamDevice};
use drivers::terminal::{Console, ControllingTerminal, FixedPlug, Jobs, Terminal, Tty};
use fs::kernfs::FileSpec;
use fs::proc::Proc;
use host::channel::{Channel, HostLines, StandardStream};
use platform::{HostChannel, HostChannels, TerminalMode};
use std::sync::Arc;
use vfs::{Caller, Device, DeviceInfo, DeviceKind, DeviceNumber, OpenFile, OpenFlags, OpenHow, PathAt};

/// Major number of the streams' device nodes: from the range for local use.
const STREAM_MAJOR: u32 = 240;

/// The consoles of a machine.
pub struct Consoles {
    /// The terminal that the first process was started at, if any.
    pub terminal: Option<Arc<Terminal>>,
    /// Paths of what the first process gets as 0, 1 and 2.
    pub paths: [Vec<u8>; 3],
    /// Where kernel messages go: name and number; the last one is `/dev/console`.
    shown: Vec<(String, DeviceNumber)>,
}

/// `/proc/consoles` and `/proc/tty/drivers`, by which ps(1) names terminals.
pub fn make_files(proc: &Proc, consoles: &Consoles) {
    use std::fmt::Write as _;
    let mut text = String::new();
    for (i, (name, number)) in consoles.shown.iter().enumerate() {
        let preferred = if i + 1 == consoles.shown.len() { 'C' } else { ' ' };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<21}-W- (E{preferred} p  ) {:>4}:{}", number.major(), number.minor());
    }
    proc.tree().file("consoles", 0o444, FileSpec::text(move || text.clone()));
    proc.tree().file("tty/drivers", 0o444, FileSpec::text(|| DRIVERS.to_owned()));
}

/// Terminals' drivers, proc(5): name, nodes, major number, minors, kind.
const DRIVERS: &str = "\
/dev/tty             /dev/tty        5       0 system:/dev/tty
/dev/console         /dev/console    5       1 system:console
/dev/ptmx            /dev/ptmx       5       2 system
UML serial line      /dev/ttyS       4 64-127 serial
UML console          /dev/tty        4 0-15 console
pty_slave            /dev/pts      136 0-1048575 pty:slave
";

/// Makes the devices.
pub fn make(machine: &Machine, config: &Config) -> Result<Consoles, Errno> {
    if config.streams == Streams::Console { make_lines(machine, config) } else { make_streams(machine) }
}

/// `linux`: 16 consoles, 64 serial lines, each what the command line says.
fn make_lines(machine: &Machine, config: &Config) -> Result<Consoles, Errno> {
    let jobs: Arc<dyn Jobs> = machine.jobs.clone();
    let devices = &machine.vfs.devices;
    let kernel_log = &machine.vfs.log;
    let log: Log = Arc::new(move |text: &str| kernel_log.print(INFO, text));
    let host: Arc<dyn HostChannels> = Arc::new(HostLines);
    let LineConfig { consoles, serial, emulator, kernel, name, .. } = config.lines.clone();
    let ports = Ports::new(host.clone(), log.clone());
    let surroundings = Arc::new(Surroundings { host, log: log.clone(), ports, emulator, name });
    devices.register_major(DeviceKind::Char, MAJOR, Family::Console.device(), Some(Arc::new(NoLine)));
    devices.register_major(DeviceKind::Char, MAJOR, Family::Serial.device(), None);
    let consoles = Lines::new(Family::Console, &consoles, surroundings.clone(), jobs.clone(), devices)?;
    log("Initialized stdio console driver");
    let serial = Lines::new(Family::Serial, &serial, surroundings, jobs.clone(), devices)?;
    machine.configurable.register(consoles.clone());
    machine.configurable.register(serial.clone());

    let mut shown: Vec<Arc<Terminal>> = Vec::new();
    for device in &kernel {
        let Some(terminal) = line_called(&consoles, &serial, device) else { continue };
        if shown.iter().any(|known| Arc::ptr_eq(known, &terminal)) {
            continue;
        }
        // Waits where nobody is at the other end yet: a telnet port as the console holds the boot up until somebody comes.
        match terminal.pin() {
            Ok(()) => {
                if terminal.name().starts_with("ttyS") {
                    log(&format!("printk: console [{}] enabled", terminal.name()));
                } else {
                    log(&format!("Console initialized on /dev/{}", terminal.name()));
                    log(&format!("printk: console [{}] enabled", terminal.name()));
                }
                shown.push(terminal);
            }
            Err(error) => log(&format!("console {device} can't be opened: {}", error.errno())),
        }
    }
    log("Initializing software serial port version 1");
    let fallback = consoles.terminal(0).cloned();
    let console: Arc<dyn Device> = match shown.last().cloned().or(fallback) {
        Some(terminal) => Arc::new(Console(terminal)),
        None => Arc::new(NoLine),
    };
    fs::devices::register_tty_hooks(machine.vfs, Arc::new(ControllingTerminal(jobs)), console)?;
    let told = shown.iter().map(|terminal| (terminal.name().to_owned(), terminal.number())).collect();
    show_messages(machine, config, shown);
    let path = || b"/dev/console".to_vec();
    Ok(Consoles { terminal: None, paths: [path(), path(), path()], shown: told })
}

/// The line that `console=` means: `tty1`, `ttyS0,115200n8`.
fn line_called(consoles: &Lines, serial: &Lines, device: &str) -> Option<Arc<Terminal>> {
    let name = device.split(',').next()?;
    let (lines, unit) = match name.strip_prefix(Family::Serial.device()) {
        Some(unit) => (serial, unit),
        None => (consoles, name.strip_prefix(Family::Console.device())?),
    };
    lines.terminal(unit.parse().ok()?).cloned()
}

/// `umlaut run`: the three streams of this process, each a terminal only where it is one.
fn make_streams(machine: &Machine) -> Result<Consoles, Errno> {
    let jobs: Arc<dyn Jobs> = machine.jobs.clone();
    let devices = &machine.vfs.devices;
    let terminal = |channel: Channel| -> Result<Arc<Terminal>, Errno> {
        if channel.is_terminal() {
            channel.set_mode(TerminalMode::Raw)?;
        }
        let number = DeviceNumber::new(MAJOR, 0);
        let terminal = Terminal::new("tty0", number, Arc::new(FixedPlug(Arc::new(channel))), jobs.clone());
        terminal.pin().map_err(abi::SysError::errno)?;
        let device: Arc<dyn Device> = terminal.clone();
        devices.register_major(DeviceKind::Char, MAJOR, "tty", None);
        devices.add(DeviceInfo::char(number, "tty0", 0o620, "tty", device))?;
        let console = Arc::new(Console(terminal.clone()));
        fs::devices::register_tty_hooks(machine.vfs, Arc::new(ControllingTerminal(jobs.clone())), console)?;
        Ok(terminal)
    };
    let console = || b"/dev/console".to_vec();
    let streams = [StandardStream::Input, StandardStream::Output, StandardStream::Error];
    let mut made: Option<Arc<Terminal>> = None;
    let mut paths = [Vec::new(), Vec::new(), Vec::new()];
    let any_terminal = streams.iter().map(|s| Channel::standard(*s)).collect::<Result<Vec<_>, _>>()?;
    let has_terminal: Vec<bool> = any_terminal.iter().map(|channel| channel.is_terminal()).collect();
    drop(any_terminal);
    if has_terminal.iter().any(|is| *is) {
        made = Some(terminal(Channel::standard_console()?)?);
    } else {
        let nobody: Arc<dyn Device> = Arc::new(ControllingTerminal(jobs.clone()));
        devices.add(DeviceInfo::char(DeviceNumber::new(5, 0), "tty", 0o666, "tty", nobody))?;
    }
    devices.register_major(DeviceKind::Char, STREAM_MAJOR, "stream", None);
    for (i, (stream, is_terminal)) in streams.iter().zip(has_terminal).enumerate() {
        let Some(path) = paths.get_mut(i) else { continue };
        if is_terminal {
            *path = console();
            continue;
        }
        let channel: Arc<dyn HostChannel> = Arc::new(Channel::standard(*stream)?);
        let name = format!("stream{i}");
        let device: Arc<dyn Device> = Arc::new(StreamDevice(HostStream::new(channel)));
        devices.add(DeviceInfo::char(DeviceNumber::new(STREAM_MAJOR, i as u32), &name, 0o666, "stream", device))?;
        *path = format!("/dev/{name}").into_bytes();
    }
    Ok(Consoles { terminal: made, paths, shown: Vec::new() })
}

/// Shows kernel messages on standard error until the consoles are there.
pub fn show_early(machine: &Machine, config: &Config) {
    machine.vfs.log.set_console(Box::new(|record| {
        eprintln!("{}", String::from_utf8_lossy(&record.text));
    }));
    machine.vfs.log.set_console_level(config.console_loglevel);
}

/// Shows kernel messages on these terminals from now on, and those that came before.
fn show_messages(machine: &Machine, config: &Config, terminals: Vec<Arc<Terminal>>) {
    let log = &machine.vfs.log;
    log.set_console(Box::new(move |record| {
        for terminal in &terminals {
            terminal.print(&record.text);
            terminal.print(b"\n");
        }
    }));
    let (mut at, end) = log.range();
    while let Some(record) = log.at(at).filter(|record| record.sequence < end) {
        at = record.sequence + 1;
        if record.level < config.console_loglevel {
            log.show(&record);
        }
    }
    log.set_console_level(config.console_loglevel);
}

/// Opens the three streams as the first process's descriptors.
pub fn open(caller: &Caller<'_>, consoles: &Consoles) -> Result<Vec<Arc<OpenFile>>, Errno> {
    let flags = [OpenFlags::empty(), OpenFlags::WRONLY, OpenFlags::WRONLY];
    let mut files: Vec<Arc<OpenFile>> = Vec::new();
    for (path, flags) in consoles.paths.iter().zip(flags) {
        let console = path == b"/dev/console";
        // A terminal is one open file for all three, as getty and shells leave it.
        let same = consoles.paths.iter().take(files.len()).position(|p| console && p == path).and_then(|i| files.get(i).cloned());
        let file = match same {
            Some(file) => file,
            None => {
                let how = OpenHow::new(if console { OpenFlags::RDWR } else { flags } | OpenFlags::NOCTTY, 0);
                caller.open(PathAt::cwd(path), how).map_err(abi::SysError::errno)?
            }
        };
        files.push(file);
    }
    Ok(files)
}
