//! Runs scripts against the host kernel's ptys.
//!
//! The recorder is a process of its own, the leader of a session, because the slave has to be its controlling terminal and it gets the
//! signals. The test program starts itself again for that ([`record`]).
//!
//! A pty moves bytes in the background. So after each step the recorder looks at both ends until nothing changes any more; a test that sees
//! a difference records again with more patience before it believes it.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use abi::Signal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{self as host, OptionalActions, QueueSelector, SpecialCodeIndex};
use signal_hook::iterator::Signals;
use tty::ioctl::{FlowControl, When};
use tty::{InputFlags, LocalFlags, OutputFlags, Queue, Side, Termios};

use super::script::{EndState, Script, State, Step, Trace, parse, poll_letters, quoted, words};

/// Names the test that is the recorder, when it is started again.
pub const RECORDER: &str = "the_recorder_runs_the_scripts_that_it_is_given";
const SCRIPTS: &str = "UMLAUT_TTY_SCRIPTS";
const PATIENCE: &str = "UMLAUT_TTY_PATIENCE";

/// Whether this machine has ptys for us.
pub fn is_available() -> bool {
    openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).is_ok()
}

/// Whether packet mode can be turned on here: the one call that needs a helper, perl.
pub fn has_packet_mode() -> bool {
    Command::new("perl").args(["-e", "0"]).stdin(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Records the scripts on the host. `patience`: how long the ends must rest before a step counts as over, from 1.
pub fn record(scripts: &[Script], patience: u32) -> Vec<Trace> {
    let directory = std::env::temp_dir().join(format!("umlaut-tty-{}-{:?}-{patience}", std::process::id(), thread::current().id()));
    fs::create_dir_all(&directory).expect("a temporary directory");
    let text: String = scripts.iter().map(|script| format!("{script}\n")).collect();
    fs::write(directory.join("scripts"), text).expect("the scripts are written");
    let mut recorder = Command::new(std::env::current_exe().expect("our own path"))
        .args(["--exact", RECORDER, "--ignored", "--nocapture"])
        .env(SCRIPTS, &directory)
        .env(PATIENCE, patience.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("the recorder starts");
    let started = Instant::now();
    let limit = Duration::from_secs(60 + scripts.len() as u64 * u64::from(patience));
    let status = loop {
        if let Some(status) = recorder.try_wait().expect("our child") {
            break status;
        }
        if started.elapsed() > limit {
            let _ = recorder.kill();
            let _ = recorder.wait();
            panic!("the recorder hangs: a script waits for what never comes");
        }
        thread::sleep(Duration::from_millis(5));
    };
    let traces = fs::read_to_string(directory.join("traces"));
    let _ = fs::remove_dir_all(&directory);
    assert!(status.success(), "the recorder failed: {status}");
    parse(&traces.expect("the recorder left traces"))
}

/// The recorder's main program. Nothing to do unless [`record`] started it.
pub fn recorder() {
    let Ok(directory) = std::env::var(SCRIPTS) else { return };
    let patience = std::env::var(PATIENCE).ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    rustix::process::setsid().expect("a session");
    let signals = Signals::new([1, 2, 3, 18, 20, 21, 22, 28]).expect("signal handlers");
    let mut recorder = Recorder { signals, patience };
    let scripts = parse(&fs::read_to_string(Path::new(&directory).join("scripts")).expect("scripts"));
    let traces: String = scripts.into_iter().map(|script| format!("{}\n", recorder.run(script.script))).collect();
    fs::write(Path::new(&directory).join("traces"), traces).expect("the traces are written");
}

struct Recorder {
    signals: Signals,
    patience: u32,
}

struct Ends {
    master: Option<OwnedFd>,
    slave: Option<OwnedFd>,
    name: String,
}

fn open_slave(name: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
}

impl Recorder {
    fn run(&mut self, script: Script) -> Trace {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a master");
        grantpt(&master).expect("grantpt");
        unlockpt(&master).expect("unlockpt");
        fcntl_setfl(&master, OFlags::NONBLOCK).expect("a master that doesn't block");
        let name = ptsname(&master, Vec::new()).expect("a name").into_string().expect("a plain name");
        let slave = open_slave(&name).expect("a slave");
        rustix::process::ioctl_tiocsctty(&slave).expect("a controlling terminal");
        let mut ends = Ends { master: Some(master), slave: Some(slave), name };
        let _ = self.signals.pending().count();
        let observed = script.steps.iter().map(|step| self.step(&mut ends, step)).collect();
        // The pair must be gone, and with it its signals, before the next one can become the controlling terminal.
        drop(ends);
        while rustix::fs::open("/dev/tty", OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).is_ok() {
            thread::sleep(Duration::from_micros(200));
        }
        Trace { script, observed }
    }

    fn step(&mut self, ends: &mut Ends, step: &Step) -> String {
        let result = ends.apply(step).unwrap_or_else(|error| error_name(error).to_owned());
        let mut signals = BTreeSet::new();
        let mut last = None;
        let mut rests = 0;
        while rests < 2 + self.patience {
            thread::sleep(Duration::from_micros(u64::from(100 * self.patience)));
            let before = signals.len();
            signals.extend(self.signals.pending().filter_map(Signal::new).map(Signal::name));
            let state = (ends.state(Side::Slave).to_string(), ends.state(Side::Master).to_string());
            let rested = last.as_ref() == Some(&state) && before == signals.len();
            rests = if rested { rests + 1 } else { 0 };
            last = Some(state);
        }
        State { result, slave: ends.state(Side::Slave), master: ends.state(Side::Master), signals: signals.into_iter().collect() }
            .to_string()
    }
}

impl Ends {
    fn end(&self, side: Side) -> Option<BorrowedFd<'_>> {
        match side {
            Side::Master => self.master.as_ref(),
            Side::Slave => self.slave.as_ref(),
        }
        .map(OwnedFd::as_fd)
    }

    fn state(&self, side: Side) -> EndState {
        let Some(end) = self.end(side) else { return EndState { open: false, pending: Ok(0), poll: String::new() } };
        let mut fds = [PollFd::from_borrowed_fd(end, PollFlags::IN | PollFlags::OUT | PollFlags::PRI)];
        let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        let got = fds[0].revents();
        let letters = [PollFlags::IN, PollFlags::OUT, PollFlags::PRI, PollFlags::HUP, PollFlags::ERR].map(|flag| got.contains(flag));
        EndState {
            open: true,
            pending: rustix::io::ioctl_fionread(end).map(|count| count as usize).map_err(|error| error_name(error).to_owned()),
            poll: poll_letters(letters),
        }
    }

    fn apply(&mut self, step: &Step) -> Result<String, Errno> {
        let ok = || Ok("ok".to_owned());
        match step {
            Step::CloseSlave => self.slave = None,
            Step::CloseMaster => self.master = None,
            Step::OpenSlave => self.slave = Some(open_slave(&self.name)?),
            Step::Set(termios, when) => self.set(termios, *when)?,
            Step::Get => return self.get(),
            Step::Write(side, bytes) => return rustix::io::write(self.end(*side).ok_or(Errno::BADF)?, bytes).map(|n| n.to_string()),
            Step::Read(side, count) => return read(self.end(*side).ok_or(Errno::BADF)?, *count),
            Step::ReadWaiting(side, count) => {
                let end = self.end(*side).ok_or(Errno::BADF)?;
                fcntl_setfl(end, OFlags::empty())?;
                let result = read(end, *count);
                fcntl_setfl(end, OFlags::NONBLOCK)?;
                return result;
            }
            Step::Flush(side, queue) => {
                let selector = match queue {
                    Queue::Input => QueueSelector::IFlush,
                    Queue::Output => QueueSelector::OFlush,
                    Queue::Both => QueueSelector::IOFlush,
                };
                host::tcflush(self.end(*side).ok_or(Errno::BADF)?, selector)?;
            }
            Step::Flow(side, flow) => {
                let action = match flow {
                    FlowControl::StopOutput => host::Action::OOff,
                    FlowControl::StartOutput => host::Action::OOn,
                    FlowControl::SendStop => host::Action::IOff,
                    FlowControl::SendStart => host::Action::IOn,
                };
                host::tcflow(self.end(*side).ok_or(Errno::BADF)?, action)?;
            }
            Step::PacketMode(on) => self.set_packet_mode(*on)?,
            Step::Size(rows, columns) => {
                let size = host::Winsize { ws_row: *rows, ws_col: *columns, ws_xpixel: 0, ws_ypixel: 0 };
                host::tcsetwinsize(self.end(Side::Master).ok_or(Errno::BADF)?, size)?;
            }
        }
        ok()
    }

    /// TIOCPKT has no safe function anywhere; perl has ioctl.
    fn set_packet_mode(&self, on: bool) -> Result<(), Errno> {
        let master = self.end(Side::Master).ok_or(Errno::BADF)?.try_clone_to_owned().map_err(|_| Errno::BADF)?;
        let program = format!("ioctl(STDIN, 0x5420, my $on = pack('i', {})) or die", u8::from(on));
        let status = Command::new("perl").args(["-e", &program]).stdin(master).status().map_err(|_| Errno::NOSYS)?;
        if status.success() { Ok(()) } else { Err(Errno::INVAL) }
    }

    fn settings_end(&self) -> Result<BorrowedFd<'_>, Errno> {
        self.end(Side::Slave).or(self.end(Side::Master)).ok_or(Errno::BADF)
    }

    fn set(&self, wanted: &Termios, when: When) -> Result<(), Errno> {
        let end = self.settings_end()?;
        let mut settings = host::tcgetattr(end)?;
        settings.input_modes = host::InputModes::from_bits_retain(wanted.input.bits());
        settings.output_modes = host::OutputModes::from_bits_retain(wanted.output.bits());
        settings.local_modes = host::LocalModes::from_bits_retain(wanted.local.bits());
        settings.control_modes = host::ControlModes::from_bits_retain(wanted.control);
        for (index, byte) in CODES.into_iter().zip(wanted.chars) {
            settings.special_codes[index] = byte;
        }
        let action = match when {
            When::Now => OptionalActions::Now,
            When::Drain => OptionalActions::Drain,
            When::Flush => OptionalActions::Flush,
        };
        host::tcsetattr(end, action, &settings)
    }

    fn get(&self) -> Result<String, Errno> {
        let settings = host::tcgetattr(self.settings_end()?)?;
        let mut termios = Termios::pty_slave();
        termios.input = InputFlags::from_bits_retain(settings.input_modes.bits());
        termios.output = OutputFlags::from_bits_retain(settings.output_modes.bits());
        termios.local = LocalFlags::from_bits_retain(settings.local_modes.bits());
        for (index, slot) in CODES.into_iter().zip(&mut termios.chars) {
            *slot = settings.special_codes[index];
        }
        termios.control = settings.control_modes.bits();
        Ok(format!("[{}]", words(&termios)))
    }
}

fn read(end: BorrowedFd<'_>, count: usize) -> Result<String, Errno> {
    let mut buf = vec![0; count];
    let filled = rustix::io::read(end, buf.as_mut_slice())?;
    Ok(quoted(&buf[..filled]))
}

/// The order of `c_cc`.
const CODES: [SpecialCodeIndex; 17] = [
    SpecialCodeIndex::VINTR,
    SpecialCodeIndex::VQUIT,
    SpecialCodeIndex::VERASE,
    SpecialCodeIndex::VKILL,
    SpecialCodeIndex::VEOF,
    SpecialCodeIndex::VTIME,
    SpecialCodeIndex::VMIN,
    SpecialCodeIndex::VSWTC,
    SpecialCodeIndex::VSTART,
    SpecialCodeIndex::VSTOP,
    SpecialCodeIndex::VSUSP,
    SpecialCodeIndex::VEOL,
    SpecialCodeIndex::VREPRINT,
    SpecialCodeIndex::VDISCARD,
    SpecialCodeIndex::VWERASE,
    SpecialCodeIndex::VLNEXT,
    SpecialCodeIndex::VEOL2,
];

fn error_name(error: Errno) -> &'static str {
    abi::Errno::from_raw(error.raw_os_error()).map_or("E?", abi::Errno::name)
}
