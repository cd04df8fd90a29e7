//! From what the user says of a line to a channel, when the line is opened.

use super::spec::{Part, Spec};
use crate::ports::{Kept, Log, Ports};
use abi::{Errno, SysResult};
use platform::{Blocking, HostChannel, HostChannels, TerminalMode, Way, Window, WindowSize};
use std::sync::Arc;
use sync::Observer;

/// What the `xterm=` option says: the emulator and its two switches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Emulator {
    pub program: String,
    pub title_switch: String,
    pub exec_switch: String,
}

impl Default for Emulator {
    fn default() -> Emulator {
        Emulator { program: "xterm".into(), title_switch: "-T".into(), exec_switch: "-e".into() }
    }
}

impl Emulator {
    /// `EMULATOR,TITLE_SWITCH,EXEC_SWITCH`; what is left out stays as it is.
    #[must_use]
    pub fn parse(text: &str) -> Emulator {
        let mut emulator = Emulator::default();
        let fields = [&mut emulator.program, &mut emulator.title_switch, &mut emulator.exec_switch];
        for (field, value) in fields.into_iter().zip(text.splitn(3, ',')).filter(|(_, value)| !value.is_empty()) {
            value.clone_into(field);
        }
        emulator
    }
}

/// What lines need of their surroundings.
pub struct Surroundings {
    pub host: Arc<dyn HostChannels>,
    pub log: Log,
    pub ports: Ports,
    pub emulator: Emulator,
    /// The machine's name, for windows' titles.
    pub name: Option<String>,
}

/// An open line.
pub struct Open {
    pub channel: Arc<dyn HostChannel>,
    /// `pts:/dev/pts/3`, `fd:0,fd:1`.
    pub shown: String,
    /// Ports to be kept open as long as the line is configured so.
    pub ports: Vec<Kept>,
}

/// A line that is being opened.
pub struct Request<'a> {
    /// `Virtual console 1`.
    pub announced: &'a str,
    /// `Virtual Console #1`.
    pub title: &'a str,
    /// Whether terminals of the host are set raw.
    pub raw: bool,
}

impl Surroundings {
    /// Opens a line's ends. Waits for a telnet, and for a window to come up. ENODEV for `none`, and where the host has not what is asked for.
    pub fn open(&self, spec: &Spec, request: &Request<'_>) -> SysResult<Open> {
        match spec {
            Spec::None => Err(Errno::ENODEV.into()),
            Spec::One(part) => {
                let mut ports = Vec::new();
                let (channel, shown) = self.open_part(part, Way::Both, request, &mut ports)?;
                Ok(Open { channel, shown, ports })
            }
            Spec::Two(input, output) => {
                let mut ports = Vec::new();
                let (input, shown_in) = self.open_part(input, Way::In, request, &mut ports)?;
                let (output, shown_out) = self.open_part(output, Way::Out, request, &mut ports)?;
                Ok(Open { channel: Arc::new(Split { input, output }), shown: format!("{shown_in},{shown_out}"), ports })
            }
        }
    }

    fn open_part(&self, part: &Part, way: Way, request: &Request<'_>, ports: &mut Vec<Kept>) -> SysResult<(Arc<dyn HostChannel>, String)> {
        let opened = match part {
            Part::Null => (Arc::new(Null) as Arc<dyn HostChannel>, String::new()),
            Part::Descriptor(number) => (self.host.descriptor(*number, way)?, number.to_string()),
            Part::Pts | Part::Pty => {
                let new = if *part == Part::Pts { self.host.pts(way) } else { self.host.pty(way) }?;
                (self.log)(&format!("{} assigned device '{}'", request.announced, new.path));
                (new.channel, new.path)
            }
            Part::Terminal(path) => (self.host.terminal(path, way)?, path.clone()),
            Part::Port(number) => {
                let (channel, port) = self.ports.connect(*number)?;
                ports.push(port);
                (channel, number.to_string())
            }
            Part::Window => {
                let name = self.name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
                let window = Window {
                    emulator: self.emulator.program.clone(),
                    title_switch: self.emulator.title_switch.clone(),
                    exec_switch: self.emulator.exec_switch.clone(),
                    title: format!("{}{name}", request.title),
                };
                (self.host.window(&window, way, &*self.log)?, String::new())
            }
        };
        let (channel, data) = opened;
        // A terminal that can't be set raw (it is in the background) is set when it can.
        if request.raw && channel.is_terminal() {
            let _ = channel.set_mode(TerminalMode::Raw);
        }
        let shown = if data.is_empty() { part.kind().to_owned() } else { format!("{}:{data}", part.kind()) };
        Ok((channel, shown))
    }
}

/// Leads nowhere.
struct Null;

impl HostChannel for Null {
    fn read(&self, _: &mut [u8], _: Blocking) -> Result<usize, Errno> {
        Err(Errno::EAGAIN)
    }
    fn write(&self, data: &[u8], _: Blocking) -> Result<usize, Errno> {
        Ok(data.len())
    }
    fn is_terminal(&self) -> bool {
        false
    }
    fn window_size(&self) -> Result<WindowSize, Errno> {
        Err(Errno::ENOTTY)
    }
    fn set_mode(&self, _: TerminalMode) -> Result<(), Errno> {
        Err(Errno::ENOTTY)
    }
    fn observe(&self, _: Arc<dyn Observer>) {}
}

/// Input from one object, output to another.
struct Split {
    input: Arc<dyn HostChannel>,
    output: Arc<dyn HostChannel>,
}

impl HostChannel for Split {
    fn read(&self, buffer: &mut [u8], blocking: Blocking) -> Result<usize, Errno> {
        self.input.read(buffer, blocking)
    }
    fn write(&self, data: &[u8], blocking: Blocking) -> Result<usize, Errno> {
        self.output.write(data, blocking)
    }
    fn is_terminal(&self) -> bool {
        self.input.is_terminal()
    }
    fn window_size(&self) -> Result<WindowSize, Errno> {
        self.output.window_size().or_else(|_| self.input.window_size())
    }
    fn set_mode(&self, mode: TerminalMode) -> Result<(), Errno> {
        let done = [self.input.set_mode(mode), self.output.set_mode(mode)];
        if done.iter().any(Result::is_ok) { Ok(()) } else { Err(Errno::ENOTTY) }
    }
    fn observe(&self, observer: Arc<dyn Observer>) {
        self.input.observe(observer.clone());
        self.output.observe(observer);
    }
    fn close(&self) {
        self.input.close();
        self.output.close();
    }
}
