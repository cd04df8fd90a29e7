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
mod lines;
mod output;
mod port;
mod terminal;
#[cfg(test)]
mod tests;
mod window;

pub use lines::{HostLines, note_descriptors};
pub use window::{close_windows, helper};

pub use output::flush_all;
pub use terminal::restore_terminals;

use abi::Errno;
use input::Input;
use output::{Output, Target};
use platform::{Blocking, HostChannel, TerminalMode, Way, WindowSize};
use rustix::event::{EventfdFlags, eventfd};
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
    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
    fn notify(&self, events: Events) {
        let observers = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for observer in observers {
            observer.notify(events);
        }
    }
}

/// Lets every byte of the terminal that is our standard input through, until [`restore_terminals`]. ENOTTY where it is none.
pub fn make_standard_input_raw() -> Result<(), Errno> {
    Channel::standard(StandardStream::Input)?.set_mode(TerminalMode::Raw)
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
        let output = output.map(|fd| Output::target(fd, observers.clone(), None)).transpose()?;
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

    /// An open file that nobody else has: a new pty, a connection. It is set never to block, and can be given up.
    pub fn owned(fd: OwnedFd, way: Way) -> Result<Channel, Errno> {
        let flags = rustix::fs::fcntl_getfl(&fd).map_err(errno)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK).map_err(errno)?;
        let copy = || rustix::io::fcntl_dupfd_cloexec(&fd, 3).map_err(errno);
        let given_up = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(errno);
        let observers = Arc::new(Observers::default());
        let terminal = if rustix::termios::isatty(&fd) { Some(Terminal::new(fd.as_fd(), &observers)?) } else { None };
        let output = if way == Way::In { None } else { Some(Output::target(copy()?, observers.clone(), Some(given_up()?))?) };
        let input = if way == Way::Out { None } else { Some(Input::new(copy()?, observers.clone())?) };
        Ok(Channel { input, output, terminal, observers })
    }

    /// One descriptor for both directions: a socket, a pty, a terminal.
    pub fn both(fd: OwnedFd) -> Result<Channel, Errno> {
        let other = rustix::io::fcntl_dupfd_cloexec(&fd, 3).map_err(errno)?;
        Channel::new(Some(fd), Some(other))
    }

    /// A terminal of the host by its path (`con1=tty:/dev/tty3`). It does not become our controlling terminal. ENOTTY for anything else.
    pub fn open_terminal(path: &Path, way: Way) -> Result<Channel, Errno> {
        let access = match way {
            Way::Both => OFlags::RDWR,
            Way::In => OFlags::RDONLY,
            Way::Out => OFlags::WRONLY,
        };
        // Without a carrier an open may wait for ever.
        let flags = access | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        // A path that is no terminal is found out without opening it for good.
        let looked = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(errno)?;
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&looked).map_err(errno)?.st_mode);
        if kind != rustix::fs::FileType::CharacterDevice {
            return Err(Errno::ENOTTY);
        }
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(errno)?;
        if !rustix::termios::isatty(&fd) {
            return Err(Errno::ENOTTY);
        }
        Channel::owned(fd, way)
    }

    /// A new pty of the host, and the path of the end that others open (`con1=pts`). Until somebody does, what is written waits; when the last
    /// one has closed it, the channel is at its end.
    pub fn open_pty(way: Way) -> Result<(Channel, Vec<u8>), Errno> {
        use rustix::pty;
        let master = pty::openpt(pty::OpenptFlags::RDWR | pty::OpenptFlags::NOCTTY | pty::OpenptFlags::CLOEXEC).map_err(errno)?;
        pty::grantpt(&master).map_err(errno)?;
        pty::unlockpt(&master).map_err(errno)?;
        let path = pty::ptsname(&master, Vec::new()).map_err(errno)?.into_bytes();
        let mut mode = rustix::termios::tcgetattr(&master).map_err(errno)?;
        mode.make_raw();
        rustix::termios::tcsetattr(&master, rustix::termios::OptionalActions::Now, &mode).map_err(errno)?;
        Ok((Channel::owned(master, way)?, path))
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
    fn close(&self) {
        self.input.iter().for_each(Input::give_up);
        self.output.iter().for_each(|target| target.give_up());
        self.observers.clear();
    }
}
