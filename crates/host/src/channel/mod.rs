//! Byte streams of the host as consoles: standard streams, terminals, pipes, ptys, sockets.
//!
//! Input is read by a helper thread into a queue, output written by another out of one; the kernel never waits in the host. Both threads poll and
//! then make ordinary calls, because `O_NONBLOCK` belongs to the open file, which the user's shell and other programs share with us: it is
//! never set.
//!
//! Always true:
//! * no byte is taken from a pipe or file before somebody asked for it, and no more than asked for, so that what a program leaves unread on its
//!   standard input is there for the next program (terminals are read ahead, as their own line buffer is);
//! * what is written to one host file through several channels comes out in the order written (standard output and error of one terminal);
//! * a reader who vanished makes writes fail with EPIPE; one who does not read makes them answer EAGAIN; neither holds up anything else;
//! * a terminal's mode is put back when the process ends, see [`restore_terminals`].
//!
//! SIGPIPE must be ignored in this process, as the standard library arranges.

mod input;
mod output;
mod terminal;
#[cfg(test)]
mod tests;

pub use output::flush_all;
pub use terminal::restore_terminals;

use abi::Errno;
use input::Input;
use output::{Output, Target};
use platform::{Blocking, HostChannel, TerminalMode, WindowSize};
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use sync::{Events, Observer};
use terminal::Terminal;

/// Bytes that wait in either direction, at most.
const QUEUE_BYTES: usize = 64 * 1024;

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error()).unwrap_or(Errno::EIO)
}

/// Which standard stream of the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StandardStream {
    Input,
    Output,
    Error,
}

/// Who is told of events.
#[derive(Default)]
struct Observers(Mutex<Vec<Arc<dyn Observer>>>);

impl Observers {
    fn add(&self, observer: Arc<dyn Observer>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(observer);
    }
    fn notify(&self, events: Events) {
        let observers = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for observer in observers {
            observer.notify(events);
        }
    }
}

/// A byte stream of the host.
pub struct Channel {
    input: Option<Input>,
    output: Option<Arc<Target>>,
    terminal: Option<Arc<Terminal>>,
    observers: Arc<Observers>,
}

impl Channel {
    /// A channel that reads from one descriptor and writes to another. Reading from a channel without input is at its end; writing to one
    /// without output is EBADF.
    pub fn new(input: Option<OwnedFd>, output: Option<OwnedFd>) -> Result<Channel, Errno> {
        let observers = Arc::new(Observers::default());
        let terminal = match output.as_ref().or(input.as_ref()) {
            Some(fd) if rustix::termios::isatty(fd) => Some(Terminal::new(fd.as_fd(), &observers)?),
            _ => None,
        };
        // Where only the input is a terminal, its mode still is ours to set.
        let terminal = match (&terminal, &input) {
            (None, Some(fd)) if rustix::termios::isatty(fd) => Some(Terminal::new(fd.as_fd(), &observers)?),
            _ => terminal,
        };
        let output = output.map(|fd| Output::target(fd, observers.clone())).transpose()?;
        let input = input.map(|fd| Input::new(fd, observers.clone())).transpose()?;
        Ok(Channel { input, output, terminal, observers })
    }

    /// A standard stream. Its descriptor is duplicated: the caller's stays as it is.
    pub fn standard(stream: StandardStream) -> Result<Channel, Errno> {
        let copy = |fd: std::os::fd::BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(errno);
        match stream {
            StandardStream::Input => Channel::new(Some(copy(std::io::stdin().as_fd())?), None),
            StandardStream::Output => Channel::new(None, Some(copy(std::io::stdout().as_fd())?)),
            StandardStream::Error => Channel::new(None, Some(copy(std::io::stderr().as_fd())?)),
        }
    }

    /// Standard input and output as one console (`con0=fd:0,fd:1`).
    pub fn standard_console() -> Result<Channel, Errno> {
        let copy = |fd: std::os::fd::BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(errno);
        Channel::new(Some(copy(std::io::stdin().as_fd())?), Some(copy(std::io::stdout().as_fd())?))
    }

    /// One descriptor for both directions: a socket, a pty, a terminal.
    pub fn both(fd: OwnedFd) -> Result<Channel, Errno> {
        let other = rustix::io::fcntl_dupfd_cloexec(&fd, 3).map_err(errno)?;
        Channel::new(Some(fd), Some(other))
    }

    /// A terminal of the host by its path (`con1=tty:/dev/tty3`). It does not become our controlling terminal. ENOTTY for anything else.
    pub fn open_terminal(path: &Path) -> Result<Channel, Errno> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        // A terminal's open may wait for its carrier; a path that is no terminal is found out without opening it for good.
        let looked = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(errno)?;
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&looked).map_err(errno)?.st_mode);
        if kind != rustix::fs::FileType::CharacterDevice {
            return Err(Errno::ENOTTY);
        }
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(errno)?;
        if !rustix::termios::isatty(&fd) {
            return Err(Errno::ENOTTY);
        }
        Channel::both(fd)
    }

    /// A new pty of the host, and the path of the end that others open (`con1=pty`). Nothing is lost of the channel while nobody has that open.
    pub fn open_pty() -> Result<(Channel, Vec<u8>), Errno> {
        use rustix::pty;
        let master = pty::openpt(pty::OpenptFlags::RDWR | pty::OpenptFlags::NOCTTY | pty::OpenptFlags::CLOEXEC).map_err(errno)?;
        pty::grantpt(&master).map_err(errno)?;
        pty::unlockpt(&master).map_err(errno)?;
        let path = pty::ptsname(&master, Vec::new()).map_err(errno)?.into_bytes();
        let mut mode = rustix::termios::tcgetattr(&master).map_err(errno)?;
        mode.make_raw();
        rustix::termios::tcsetattr(&master, rustix::termios::OptionalActions::Now, &mode).map_err(errno)?;
        Ok((Channel::both(master)?, path))
    }

    /// Sleeps until everything written has left the process, at most until the monotonic clock reaches `deadline_ns`. ETIMEDOUT, EPIPE.
    pub fn flush(&self, deadline_ns: Option<u64>) -> Result<(), Errno> {
        self.output.as_ref().map_or(Ok(()), |target| target.flush(deadline_ns))
    }
}

impl HostChannel for Channel {
    fn read(&self, buffer: &mut [u8], blocking: Blocking) -> Result<usize, Errno> {
        match &self.input {
            Some(input) => input.read(buffer, blocking),
            None => Ok(0),
        }
    }
    fn write(&self, data: &[u8], blocking: Blocking) -> Result<usize, Errno> {
        match &self.output {
            Some(target) => target.write(data, blocking),
            None => Err(Errno::EBADF),
        }
    }
    fn is_terminal(&self) -> bool {
        self.terminal.is_some()
    }
    fn window_size(&self) -> Result<WindowSize, Errno> {
        self.terminal.as_ref().ok_or(Errno::ENOTTY)?.window_size()
    }
    fn set_mode(&self, mode: TerminalMode) -> Result<(), Errno> {
        self.terminal.as_ref().ok_or(Errno::ENOTTY)?.set_mode(mode)
    }
    fn observe(&self, observer: Arc<dyn Observer>) {
        self.observers.add(observer);
        if let Some(input) = &self.input {
            input.watch();
        }
    }
}
