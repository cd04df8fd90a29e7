//! The machine's consoles (`con`, `/dev/tty0` to `tty15`) and serial lines (`ssl`, `/dev/ttyS0` to `ttyS63`): what each is in the host, said on the
//! command line and changed while the machine runs.
//!
//! What it is not: the terminal behind the line ([`crate::terminal`]), or the host's side (`platform::HostChannels`).
//!
//! Always true: a line is opened in the host when it is first opened in the guest, and closed some moments after the last close. A line that is
//! open is not changed. A line that is `none` has no node in `/dev`, and opening one that somebody made fails with ENODEV.
//!
//! Source: specification consoles.md and mconsole.md section 4; the texts are the reference's.

mod connect;
mod spec;

pub use connect::{Emulator, Surroundings};
pub use spec::{Part, Spec};

use crate::ports::Kept;
use crate::terminal::{Jobs, Plug, Terminal, Tty};
use abi::{Errno, SysResult};
use connect::Request;
use mconsole::devices::{DeviceKind, leading_unit};
use mconsole::server::Refusal;
use platform::HostChannel;
use std::ops::RangeInclusive;
use std::sync::Arc;
use sync::SpinLock;
use vfs::{Device, DeviceInfo, DeviceNumber, Devices, FileOps, Open};

/// Major number of both families.
pub const MAJOR: u32 = 4;

/// Consoles or serial lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    Console,
    Serial,
}

impl Family {
    /// Its option: `con`, `ssl`.
    #[must_use]
    pub fn option(self) -> &'static str {
        if self == Family::Console { "con" } else { "ssl" }
    }
    fn noun(self) -> &'static str {
        if self == Family::Console { "console" } else { "serial line" }
    }
    /// What its devices' names begin with.
    #[must_use]
    pub fn device(self) -> &'static str {
        if self == Family::Console { "tty" } else { "ttyS" }
    }
    /// How many there are.
    #[must_use]
    pub fn count(self) -> u32 {
        if self == Family::Console { 16 } else { 64 }
    }
    fn first_minor(self) -> u32 {
        if self == Family::Console { 0 } else { 64 }
    }
    fn announced(self, unit: u32) -> String {
        if self == Family::Console { format!("Virtual console {unit}") } else { format!("Serial line {unit}") }
    }
    fn title(self, unit: u32) -> String {
        if self == Family::Console { format!("Virtual Console #{unit}") } else { format!("Serial Line #{unit}") }
    }
    /// What a line is when nobody says.
    fn default_setting(self, unit: u32) -> &'static str {
        match (self, unit) {
            (Family::Console, 0) => "fd:0,fd:1",
            (Family::Console, _) => "xterm",
            (Family::Serial, _) => "pts",
        }
    }
}

struct Setting {
    text: String,
    spec: Spec,
    /// What it is while it is open.
    shown: String,
    ports: Vec<Kept>,
}

impl Setting {
    fn new(text: String, spec: Spec) -> Setting {
        Setting { text, spec, shown: String::new(), ports: Vec::new() }
    }
}

/// A line's way into the host.
struct LinePlug {
    family: Family,
    unit: u32,
    raw: bool,
    setting: SpinLock<Setting>,
    surroundings: Arc<Surroundings>,
}

impl Plug for LinePlug {
    fn connect(&self) -> SysResult<Arc<dyn HostChannel>> {
        let spec = self.setting.lock().spec.clone();
        let (announced, title) = (self.family.announced(self.unit), self.family.title(self.unit));
        let opened = self.surroundings.open(&spec, &Request { announced: &announced, title: &title, raw: self.raw })?;
        let before = {
            let mut setting = self.setting.lock();
            setting.shown = opened.shown;
            std::mem::replace(&mut setting.ports, opened.ports)
        };
        // The same ports, held anew.
        drop(before);
        Ok(opened.channel)
    }
}

struct Line {
    plug: Arc<LinePlug>,
    terminal: Arc<Terminal>,
}

/// All lines of a family.
pub struct Lines {
    family: Family,
    lines: Vec<Line>,
    devices: &'static Devices,
    /// Held while a line is changed, and nodes come and go: outside of the registry's.
    changing: sync::Mutex<()>,
}

/// How the lines of a machine are to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// What follows `con` or `ssl`, `=` left out: (`3`, `pts`); an empty first part is for all lines.
    pub settings: Vec<(String, String)>,
    /// Lines that nothing is said of are `none`, rather than what the reference makes of them.
    pub bare: bool,
    /// Terminals of the host stay in their line mode (`ssl-non-raw`).
    pub cooked: bool,
}

impl Lines {
    /// Makes the lines and their nodes. What is wrong with the options is logged, and the line is as if it were `none`.
    pub fn new(
        family: Family,
        options: &Options,
        surroundings: Arc<Surroundings>,
        jobs: Arc<dyn Jobs>,
        devices: &'static Devices,
    ) -> Result<Arc<Lines>, Errno> {
        let log = |text: &str| (surroundings.log)(text);
        let mut settings: Vec<String> = (0..family.count())
            .map(|unit| if options.bare { "none".to_owned() } else { family.default_setting(unit).to_owned() })
            .collect();
        let for_all = options.settings.iter().rev().find(|(unit, _)| unit.is_empty());
        if let Some((_, text)) = for_all {
            settings.fill(text.clone());
        }
        for (unit, text) in options.settings.iter().filter(|(unit, _)| !unit.is_empty()) {
            let refused = match parse_unit(unit) {
                None => "Couldn't parse device number",
                Some(n) => match settings.get_mut(n as usize) {
                    Some(setting) => {
                        setting.clone_from(text);
                        continue;
                    }
                    None => "Device number out of range",
                },
            };
            log(&format!("Failed to set up {} with configuration string \"{unit}={text}\" : {refused}", family.noun()));
        }
        let mut lines = Vec::new();
        for (unit, text) in (0..).zip(settings) {
            let spec = Spec::parse(&text).unwrap_or_else(|cause| {
                log(&cause);
                log(&format!("setup_one_line failed for device {unit} : failed to parse channel pair"));
                Spec::None
            });
            let text = if spec == Spec::None { "none".to_owned() } else { text };
            let setting = SpinLock::new(Setting::new(text, spec));
            let plug = Arc::new(LinePlug { family, unit, raw: !options.cooked, setting, surroundings: surroundings.clone() });
            let number = DeviceNumber::new(MAJOR, family.first_minor() + unit);
            let terminal = Terminal::new(&format!("{}{unit}", family.device()), number, plug.clone(), jobs.clone());
            lines.push(Line { plug, terminal });
        }
        let lines = Arc::new(Lines { family, lines, devices, changing: sync::Mutex::ranked(sync::Rank::Rename, ()) });
        for line in &lines.lines {
            if line.plug.setting.lock().spec != Spec::None {
                lines.show(line)?;
            }
        }
        Ok(lines)
    }

    /// The terminal of a line, whatever it leads to.
    #[must_use]
    pub fn terminal(&self, unit: u32) -> Option<&Arc<Terminal>> {
        self.lines.get(unit as usize).map(|line| &line.terminal)
    }

    /// Lines that exist.
    #[must_use]
    pub fn units_there(&self) -> Vec<u32> {
        (0..).zip(&self.lines).filter(|(_, line)| line.plug.setting.lock().spec != Spec::None).map(|(unit, _)| unit).collect()
    }

    fn show(&self, line: &Line) -> Result<(), Errno> {
        let device: Arc<dyn Device> = line.terminal.clone();
        let mode = if self.family == Family::Console { 0o620 } else { 0o660 };
        self.devices.add(DeviceInfo::char(line.terminal.number(), line.terminal.name(), mode, "tty", device))
    }

    fn hide(&self, line: &Line) -> Result<(), Errno> {
        self.devices.remove(vfs::DeviceKind::Char, line.terminal.number())
    }

    /// Makes a line something else, `none` among it.
    fn set(&self, unit: u32, text: &str) -> Result<(), Refusal> {
        let refuse = |errno, text: &str| Err(Refusal::errno(errno, text));
        let Some(line) = self.lines.get(unit as usize) else { return refuse(Errno::EINVAL, "Device number out of range") };
        let Ok(spec) = Spec::parse(text) else { return refuse(Errno::EINVAL, "failed to parse channel pair") };
        let _changing = self.changing.lock();
        let was = line.plug.setting.lock().spec.clone();
        if was == Spec::None && spec == Spec::None {
            return refuse(Errno::EINVAL, "configured as 'none'");
        }
        let is_none = spec == Spec::None;
        let text = if is_none { "none".to_owned() } else { text.to_owned() };
        let mut new = Setting::new(text, spec);
        if !line.terminal.replug(|| std::mem::swap(&mut *line.plug.setting.lock(), &mut new)) {
            return refuse(Errno::EBUSY, "Device is already open");
        }
        let changed = match (was == Spec::None, is_none) {
            (true, false) => self.show(line),
            (false, true) => self.hide(line),
            _ => Ok(()),
        };
        changed.or_else(|errno| refuse(errno, "Failed to register device"))
    }
}

/// A whole decimal number.
fn parse_unit(text: &str) -> Option<u32> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    (digits > 0 && digits == text.len()).then(|| text.parse().unwrap_or(u32::MAX))
}

impl DeviceKind for Lines {
    fn name(&self) -> &'static str {
        self.family.option()
    }

    fn configure(&self, setting: &str) -> Result<(), Refusal> {
        if setting.starts_with('=') {
            return Err(Refusal::errno(Errno::EINVAL, "Can't configure all devices from mconsole"));
        }
        let unit_and_text = setting.split_once('=').and_then(|(unit, text)| Some((parse_unit(unit)?, text)));
        let Some((unit, text)) = unit_and_text else {
            return Err(Refusal::errno(Errno::EINVAL, "Couldn't parse device number"));
        };
        self.set(unit, text)
    }

    fn query(&self, device: &str) -> Result<String, Refusal> {
        let unit = parse_unit(device).ok_or_else(|| Refusal::new("line_get_config failed to parse device number"))?;
        let line = self.lines.get(unit as usize).ok_or_else(|| Refusal::new("device number out of range"))?;
        let open = line.terminal.is_open();
        let setting = line.plug.setting.lock();
        Ok(if open && !setting.shown.is_empty() { setting.shown.clone() } else { setting.text.clone() })
    }

    fn units(&self) -> RangeInclusive<u32> {
        0..=self.family.count() - 1
    }

    fn parse_unit(&self, device: &str) -> Option<u32> {
        leading_unit(device)
    }

    fn remove(&self, unit: u32) -> Result<(), Refusal> {
        self.set(unit, "none")
    }
}

/// Answers for nodes of lines that are `none`, and for numbers that no line has.
pub struct NoLine;

impl Device for NoLine {
    fn open(&self, _: &Open<'_>) -> SysResult<Arc<dyn FileOps>> {
        Err(Errno::ENODEV.into())
    }
}
