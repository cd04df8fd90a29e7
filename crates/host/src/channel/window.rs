//! Windows for consoles: a terminal emulator of the host, and the helper in it that hands its terminal over.
//!
//! The emulator runs `port-helper -uml-socket PATH`. The helper sends its standard input over that socket, its pid as the payload, and stays, so
//! that the emulator does. Ours also tells when the window's size changed, and ends when the machine does. `UML_PORT_HELPER` names another
//! program to run, the reference's for one.
//!
//! Always true: the socket lies in a directory that only this user can enter, for the time of the hand-over; closing the line ends helper and emulator.
//!
//! Source: utilities' port-helper (CNX-01, CNX-02), unix(7).

use super::{Channel, errno};
use abi::Errno;
use platform::{Blocking, HostChannel, TerminalMode, Way, Window, WindowSize};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use sync::{Events, Observer};

/// How long an emulator may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// Every window that is open.
static WINDOWS: Mutex<Vec<Weak<Processes>>> = Mutex::new(Vec::new());

/// Closes every window: the machine ends.
pub fn close_windows() {
    for processes in WINDOWS.lock().unwrap_or_else(PoisonError::into_inner).drain(..).filter_map(|weak| weak.upgrade()) {
        processes.end();
    }
}

/// The emulator and the helper in it.
struct Processes {
    emulator: OwnedFd,
    helper: Mutex<Option<OwnedFd>>,
    socket: UnixDatagram,
}

impl Processes {
    fn end(&self) {
        // Whoever has ended already needs no signal.
        if let Some(helper) = &*self.helper.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = pidfd_send_signal(helper, Signal::KILL);
        }
        let _ = pidfd_send_signal(&self.emulator, Signal::TERM);
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

/// A directory of our own for a moment.
struct Place(PathBuf);

impl Place {
    fn new() -> Result<Place, Errno> {
        let mut name = [0; 8];
        crate::checks::entropy(&mut name);
        let path = std::env::temp_dir().join(format!("umlaut-{:016x}", u64::from_ne_bytes(name)));
        std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(|_| Errno::EACCES)?;
        Ok(Place(path))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What is left in the user's temporary directory is empty and harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A window as a channel.
struct WindowChannel {
    channel: Arc<Channel>,
    processes: Arc<Processes>,
}

impl Drop for WindowChannel {
    fn drop(&mut self) {
        self.processes.end();
    }
}

impl HostChannel for WindowChannel {
    fn read(&self, buffer: &mut [u8], blocking: Blocking) -> Result<usize, Errno> {
        self.channel.read(buffer, blocking)
    }
    fn write(&self, data: &[u8], blocking: Blocking) -> Result<usize, Errno> {
        self.channel.write(data, blocking)
    }
    fn is_terminal(&self) -> bool {
        true
    }
    fn window_size(&self) -> Result<WindowSize, Errno> {
        self.channel.window_size()
    }
    fn set_mode(&self, _: TerminalMode) -> Result<(), Errno> {
        // Raw from the beginning, and gone at the end: there is nothing to restore.
        Ok(())
    }
    fn observe(&self, observer: Arc<dyn Observer>) {
        self.channel.observe(observer);
    }
    fn close(&self) {
        self.channel.close();
        self.processes.end();
    }
}

/// Opens a window; waits until the helper has handed its terminal over.
pub(super) fn open(wanted: &Window, way: Way, log: &dyn Fn(&str)) -> Result<Arc<dyn HostChannel>, Errno> {
    if std::env::var_os("DISPLAY").is_none_or(|display| display.is_empty()) {
        log("xterm_open: $DISPLAY not set.");
        return Err(Errno::ENODEV);
    }
    let wanted = wanted.clone();
    let opened = crate::files::may_block(move || start(&wanted, way));
    match opened {
        Ok(channel) => Ok(Arc::new(channel)),
        Err(sentence) => {
            log(&sentence);
            Err(Errno::ENODEV)
        }
    }
}

fn start(wanted: &Window, way: Way) -> Result<WindowChannel, String> {
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("xterm_open: {what}: {error}");
    let place = Place::new().map_err(|error| failed("no temporary directory", &error))?;
    let path = place.0.join("xterm-pipe");
    let socket = UnixDatagram::bind(&path).map_err(|error| failed("no socket", &error))?;
    let mut command = Command::new(&wanted.emulator);
    command.args([&wanted.title_switch, &wanted.title, &wanted.exec_switch]).args(helper_command(&path));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| failed(&wanted.emulator, &error))?;
    let pidfd = |pid: u32| Pid::from_raw(pid.cast_signed()).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    // Not reaped yet, so the number is the emulator's.
    let Some(emulator) = pidfd(child.id()) else { return Err(failed("the emulator can't be watched", &Errno::ESRCH)) };
    let gone = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| failed("no event", &error))?;
    let told = gone.try_clone().map_err(|error| failed("no event", &error))?;
    let reaper = std::thread::Builder::new().name("host-window".into()).stack_size(128 * 1024);
    reaper
        .spawn(move || {
            // An emulator that only asks another process for a window ends well and at once.
            let failed = !child.wait().is_ok_and(|status| status.success());
            let _ = rustix::io::write(&told, &(1 + u64::from(failed)).to_ne_bytes());
        })
        .map_err(|error| failed("no thread", &error))?;
    let processes = Arc::new(Processes { emulator, helper: Mutex::new(None), socket });
    let handed = receive(&processes.socket, gone.as_fd());
    let (terminal, helper) = match handed {
        Ok(handed) => handed,
        Err(sentence) => {
            processes.end();
            return Err(failed(&wanted.emulator, &sentence));
        }
    };
    *processes.helper.lock().unwrap_or_else(PoisonError::into_inner) = pidfd(helper);
    make_raw(&terminal).map_err(|error| failed("the window's terminal", &error))?;
    let channel = Arc::new(Channel::owned(terminal, way).map_err(|error| failed("the window's terminal", &error))?);
    follow_size(&processes, &channel);
    let mut windows = WINDOWS.lock().unwrap_or_else(PoisonError::into_inner);
    windows.retain(|weak| weak.strong_count() > 0);
    windows.push(Arc::downgrade(&processes));
    Ok(WindowChannel { channel, processes })
}

/// The helper's program and arguments: `UML_PORT_HELPER`, or this program by another name.
fn helper_command(socket: &Path) -> Vec<std::ffi::OsString> {
    if let Some(program) = std::env::var_os("UML_PORT_HELPER").filter(|program| !program.is_empty()) {
        return vec![program, "-uml-socket".into(), socket.into()];
    }
    let own = std::env::current_exe().ok().filter(|path| path.exists());
    let own = own.unwrap_or_else(|| format!("/proc/{}/exe", std::process::id()).into());
    let pid = std::process::id().to_string().into();
    vec![own.into(), "port-helper".into(), "-uml-socket".into(), socket.into(), "-watch".into(), pid]
}

fn make_raw(terminal: &OwnedFd) -> Result<(), Errno> {
    let mut mode = rustix::termios::tcgetattr(terminal).map_err(errno)?;
    mode.make_raw();
    rustix::termios::tcsetattr(terminal, rustix::termios::OptionalActions::Now, &mode).map_err(errno)
}

/// Waits for the descriptor and the pid that the helper sends.
fn receive(socket: &UnixDatagram, gone: BorrowedFd<'_>) -> Result<(OwnedFd, u32), String> {
    let until = Instant::now() + PATIENCE;
    let mut emulator = Some(gone);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("no window within {} s", PATIENCE.as_secs()));
        }
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        let mut fds = vec![PollFd::new(socket, PollFlags::IN)];
        fds.extend(emulator.as_ref().map(|gone| PollFd::new(gone, PollFlags::IN)));
        let _ = poll(&mut fds, Some(&timeout));
        let ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        if ready(0) {
            return take_descriptor(socket).ok_or_else(|| "the helper sent no terminal".into());
        }
        if ready(1) {
            let mut count = [0; 8];
            let _ = rustix::io::read(gone, &mut count);
            if u64::from_ne_bytes(count) > 1 {
                return Err("it ended before it had a window".into());
            }
            emulator = None;
        }
    }
}

fn take_descriptor(socket: &UnixDatagram) -> Option<(OwnedFd, u32)> {
    let mut payload = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut payload)], &mut control, flags).ok()?;
    let mut terminal = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            terminal = terminal.or(descriptors.into_iter().next());
        }
    }
    let terminal = terminal.filter(|fd| rustix::termios::isatty(fd))?;
    Some((terminal, u32::from_ne_bytes(payload)))
}

/// Tells the channel's observers of each word from the helper: the window's size may have changed.
fn follow_size(processes: &Arc<Processes>, channel: &Arc<Channel>) {
    let Ok(socket) = processes.socket.try_clone() else { return };
    let channel = Arc::downgrade(channel);
    let follower = std::thread::Builder::new().name("host-window".into()).stack_size(128 * 1024);
    // Without the thread the size follows what is typed only.
    let _ = follower.spawn(move || {
        let mut word = [0; 16];
        while socket.recv(&mut word).is_ok_and(|n| n > 0) {
            let Some(channel) = channel.upgrade() else { return };
            channel.observers.notify(Events::PRI);
        }
    });
}

/// Says on the socket that the size changed.
struct SizeTold(UnixDatagram);

impl Observer for SizeTold {
    fn notify(&self, events: Events) {
        if events.contains(Events::PRI) {
            // The machine is gone, or is about to look anyway.
            let _ = self.0.send(b"size");
        }
    }
}

/// `port-helper`: hands standard input over and stays. Without arguments over descriptor 3, as `in.telnetd -L` runs it. The exit status.
pub fn helper(arguments: &[String]) -> u8 {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["-uml-socket", path] => help_window(path, None),
        ["-uml-socket", path, "-watch", pid] => help_window(path, pid.parse().ok()),
        [] => help_port(),
        _ => Err("usage: port-helper [-uml-socket PATH [-watch PID]]".into()),
    };
    match done {
        Ok(()) => 0,
        Err(sentence) => {
            eprintln!("port-helper: {sentence}");
            1
        }
    }
}

fn send_input(socket: BorrowedFd<'_>) -> Result<(), String> {
    let input = std::io::stdin();
    let descriptors = [input.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    let pid = std::process::id().to_ne_bytes();
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(&pid)], &mut control, SendFlags::empty());
    sent.map(drop).map_err(|error| format!("standard input can't be handed over: {error}"))
}

fn help_window(path: &str, machine: Option<i32>) -> Result<(), String> {
    let socket = UnixDatagram::unbound().and_then(|socket| socket.connect(path).map(|()| socket));
    let socket = socket.map_err(|error| format!("{path}: {error}"))?;
    let input = rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 3).map_err(|error| error.to_string())?;
    let channel = Channel::new(None, Some(input)).map_err(|errno| errno.to_string())?;
    send_input(socket.as_fd())?;
    channel.observe(Arc::new(SizeTold(socket)));
    let machine = machine.and_then(Pid::from_raw).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    match machine {
        Some(machine) => {
            // Each change of the size is a signal, and ends the wait too.
            while poll(&mut [PollFd::new(&machine, PollFlags::IN)], None) == Err(rustix::io::Errno::INTR) {}
        }
        None => stay(),
    }
    Ok(())
}

fn help_port() -> Result<(), String> {
    super::note_descriptors();
    let socket = super::lines::given(3).map_err(|errno| format!("descriptor 3: {errno}"))?;
    send_input(socket.as_fd())?;
    stay();
    Ok(())
}

/// Until a signal comes: the terminal's hangup, or the machine's.
fn stay() {
    loop {
        std::thread::park();
    }
}
