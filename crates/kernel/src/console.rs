//! Where the first process's standard streams lead, and the kernel's messages.

use crate::config::{Config, Streams};
use crate::machine::Machine;
use abi::Errno;
use drivers::stream::{HostStream, StreamDevice};
use drivers::terminal::{Console, ControllingTerminal, Jobs, Terminal};
use host::channel::{Channel, StandardStream};
use platform::{HostChannel, TerminalMode};
use std::sync::Arc;
use vfs::{Caller, Device, DeviceInfo, DeviceKind, DeviceNumber, OpenFile, OpenFlags, OpenHow, PathAt};

/// Major number of the streams' device nodes: from the range for local use.
const STREAM_MAJOR: u32 = 240;

/// The consoles of a machine.
pub struct Consoles {
    /// The terminal, if any of the streams is one.
    pub terminal: Option<Arc<Terminal>>,
    /// Paths of what the first process gets as 0, 1 and 2.
    pub paths: [Vec<u8>; 3],
}

/// Makes the devices.
pub fn make(machine: &Machine, config: &Config) -> Result<Consoles, Errno> {
    let jobs: Arc<dyn Jobs> = machine.jobs.clone();
    let devices = &machine.vfs.devices;
    let terminal = |channel: Channel| -> Result<Arc<Terminal>, Errno> {
        if channel.is_terminal() {
            channel.set_mode(TerminalMode::Raw)?;
        }
        let number = DeviceNumber::new(4, 0);
        let terminal = Terminal::new("tty0", number, Arc::new(channel), jobs.clone());
        let device: Arc<dyn Device> = terminal.clone();
        devices.register_major(DeviceKind::Char, 4, "tty", None);
        devices.add(DeviceInfo::char(number, "tty0", 0o620, "tty", device))?;
        fs::devices::register_tty_hooks(machine.vfs, Arc::new(ControllingTerminal(jobs.clone())), Arc::new(Console(terminal.clone())))?;
        Ok(terminal)
    };
    let console = || b"/dev/console".to_vec();
    if config.streams == Streams::Console {
        let terminal = terminal(Channel::standard_console()?)?;
        show_messages(machine, config, &terminal);
        return Ok(Consoles { terminal: Some(terminal), paths: [console(), console(), console()] });
    }
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
    Ok(Consoles { terminal: made, paths })
}

/// Shows kernel messages on the console from now on, and those that came before.
fn show_messages(machine: &Machine, config: &Config, terminal: &Arc<Terminal>) {
    let level = config.console_loglevel;
    let show = |terminal: &Terminal, record: &vfs::LogRecord, level: u8| {
        if record.level < level {
            terminal.print(&record.text);
            terminal.print(b"\n");
        }
    };
    let (mut at, _) = machine.vfs.log.range();
    while let Some(record) = machine.vfs.log.at(at) {
        at = record.sequence + 1;
        show(terminal, &record, level);
    }
    let terminal = terminal.clone();
    machine.vfs.log.set_console(Box::new(move |record| show(&terminal, record, level)));
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
