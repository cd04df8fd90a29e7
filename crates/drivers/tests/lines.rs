//! Consoles and serial lines as the management console changes them, with the reference's words.

use abi::{Errno, Signal};
use drivers::lines::{Emulator, Family, Lines, Options, Surroundings};
use drivers::ports::{Log, Ports};
use drivers::terminal::{Jobs, Tty};
use mconsole::devices::DeviceKind;
use platform::{ConsoleListener, HostChannel, HostChannels, NewPty, Way, Window};
use std::sync::{Arc, Mutex};
use tty::job::{Caller, Id, Target};

/// A host that has nothing.
struct Nowhere;

impl HostChannels for Nowhere {
    fn descriptor(&self, _: u32, _: Way) -> Result<Arc<dyn HostChannel>, Errno> {
        Err(Errno::EBADF)
    }
    fn pts(&self, _: Way) -> Result<NewPty, Errno> {
        Err(Errno::ENOENT)
    }
    fn pty(&self, _: Way) -> Result<NewPty, Errno> {
        Err(Errno::ENOENT)
    }
    fn terminal(&self, _: &str, _: Way) -> Result<Arc<dyn HostChannel>, Errno> {
        Err(Errno::ENOENT)
    }
    fn listen(&self, _: u16) -> Result<Arc<dyn ConsoleListener>, Errno> {
        Err(Errno::EADDRINUSE)
    }
    fn window(&self, _: &Window, _: Way, _: &dyn Fn(&str)) -> Result<Arc<dyn HostChannel>, Errno> {
        Err(Errno::ENODEV)
    }
}

/// Nobody calls.
struct NoJobs;

impl Jobs for NoJobs {
    fn caller(&self, _: u64) -> Caller {
        unreachable!("nothing is opened here")
    }
    fn group_session(&self, _: Id) -> Option<Id> {
        None
    }
    fn signal(&self, _: Target, _: Signal) {}
    fn set_controlling(&self, _: Id, _: Option<Arc<dyn Tty>>) {}
    fn remember_group(&self, _: Id, _: Id) {}
    fn drop_controlling(&self) {}
    fn controlling(&self) -> Option<Arc<dyn Tty>> {
        None
    }
}

/// The lines, the machine's devices, and what was logged.
fn lines(family: Family, settings: &[(&str, &str)]) -> (Arc<Lines>, &'static vfs::Devices, Arc<Mutex<Vec<String>>>) {
    let said: Arc<Mutex<Vec<String>>> = Arc::default();
    let to = said.clone();
    let log: Log = Arc::new(move |text: &str| to.lock().unwrap().push(text.to_owned()));
    let host: Arc<dyn HostChannels> = Arc::new(Nowhere);
    let ports = Ports::new(host.clone(), log.clone());
    let surroundings = Arc::new(Surroundings { host, log, ports, emulator: Emulator::default(), name: None });
    let devices: &'static vfs::Devices = Box::leak(Box::default());
    let settings = settings.iter().map(|(unit, text)| ((*unit).to_owned(), (*text).to_owned())).collect();
    let options = Options { settings, bare: false, cooked: false };
    (Lines::new(family, &options, surroundings, Arc::new(NoJobs), devices).unwrap(), devices, said)
}

#[test]
fn what_is_said_of_one_line_beats_what_is_said_of_all() {
    let (lines, devices, _) = lines(Family::Console, &[("1", "pts"), ("", "null"), ("3", "none")]);
    for (unit, wanted) in [("0", "null"), ("1", "pts"), ("2", "null"), ("3", "none"), ("15", "null")] {
        assert_eq!(lines.query(unit).as_deref(), Ok(wanted), "con{unit}");
    }
    let there = |name: &str| devices.by_name(vfs::DeviceKind::Char, name).is_some();
    assert!(there("tty0") && there("tty15") && !there("tty3"));
}

#[test]
fn nothing_said_is_what_the_reference_makes_of_it() {
    let (consoles, ..) = lines(Family::Console, &[]);
    assert_eq!((consoles.query("0").as_deref(), consoles.query("5").as_deref()), (Ok("fd:0,fd:1"), Ok("xterm")));
    let (serial, ..) = lines(Family::Serial, &[]);
    assert_eq!(serial.query("63").as_deref(), Ok("pts"));
}

#[test]
fn mistakes_on_the_command_line_are_logged_in_the_references_words() {
    let (lines, _, said) = lines(Family::Serial, &[("64", "pts"), ("1x", "pts"), ("2", "bogus"), ("3", "fd:x")]);
    let said = said.lock().unwrap().join("\n");
    for wanted in [
        "Failed to set up serial line with configuration string \"64=pts\" : Device number out of range",
        "Failed to set up serial line with configuration string \"1x=pts\" : Couldn't parse device number",
        "No match for configured backends",
        "setup_one_line failed for device 2 : failed to parse channel pair",
        "fd_init : couldn't parse file descriptor 'x'",
    ] {
        assert!(said.contains(wanted), "{wanted}\n{said}");
    }
    assert_eq!(lines.query("2").as_deref(), Ok("none"));
}

#[test]
fn lines_are_changed_asked_for_and_removed_while_the_machine_runs() {
    let (lines, devices, _) = lines(Family::Console, &[("3", "pts")]);
    let there = |name: &str| devices.by_name(vfs::DeviceKind::Char, name).is_some();
    lines.configure("3=port:9000").unwrap();
    assert_eq!(lines.query("3").as_deref(), Ok("port:9000"));
    lines.remove(3).unwrap();
    assert!(!there("tty3"));
    assert_eq!(lines.query("3").as_deref(), Ok("none"));
    let refused = lines.remove(3).unwrap_err();
    assert_eq!((refused.err, refused.text.as_str()), (-22, "configured as 'none'"));
    lines.configure("3=fd:0,fd:1").unwrap();
    assert!(there("tty3"));
    for (setting, wanted) in [
        ("=pts", "Can't configure all devices from mconsole"),
        ("x=pts", "Couldn't parse device number"),
        ("16=pts", "Device number out of range"),
        ("3=bogus", "failed to parse channel pair"),
    ] {
        assert_eq!(lines.configure(setting).unwrap_err().text, wanted, "{setting}");
    }
    assert_eq!(lines.query("x").unwrap_err().text, "line_get_config failed to parse device number");
    assert_eq!(lines.query("16").unwrap_err().text, "device number out of range");
}
