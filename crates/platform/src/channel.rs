//! Consoles' ends in the host.

use abi::Errno;
use std::sync::Arc;
use sync::Observer;

/// Rows and columns, and pixels where the host knows them (`struct winsize`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WindowSize {
    pub rows: u16,
    pub columns: u16,
    pub width_pixels: u16,
    pub height_pixels: u16,
}

/// How the host's terminal is set while the machine uses it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TerminalMode {
    /// As it was found.
    Restored,
    /// Every byte passes through; the guest's line discipline does the rest.
    Raw,
}

/// Whether a call may wait in the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blocking {
    /// Wait; only on helper threads.
    Yes,
    /// EAGAIN instead of waiting.
    No,
}

/// A byte stream of the host: the terminal that the machine was started in, a pipe, a pty, a socket.
pub trait HostChannel: Send + Sync {
    /// Reads what is there; 0 at the end of the stream. EAGAIN, EIO.
    fn read(&self, buffer: &mut [u8], blocking: Blocking) -> Result<usize, Errno>;
    /// Writes what fits. EAGAIN, EPIPE when nobody reads any more.
    fn write(&self, data: &[u8], blocking: Blocking) -> Result<usize, Errno>;
    /// Whether somebody sits at the other end: a terminal of the host, a telnet. Its end is a hangup; the end of a file or a pipe is not.
    fn is_terminal(&self) -> bool;
    /// A terminal's size; ENOTTY for anything else.
    fn window_size(&self) -> Result<WindowSize, Errno>;
    /// Sets a terminal's mode; ENOTTY for anything else. The mode found at the start is restored when the machine ends, however it ends.
    fn set_mode(&self, mode: TerminalMode) -> Result<(), Errno>;
    /// Has `observer` told when there is something to read, when room appears after a short write, and when the window's size changes.
    fn observe(&self, observer: Arc<dyn Observer>);
    /// Gives it up: what was written and not taken by the host is dropped, a connection or a window closes. Reads are at their end from now on.
    fn close(&self) {}
}

/// Which directions of a host object a line uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    Both,
    /// Only what comes from the host.
    In,
    /// Only what goes to the host.
    Out,
}

/// A new pty of the host.
pub struct NewPty {
    pub channel: Arc<dyn HostChannel>,
    /// The end that others open: `/dev/pts/3`.
    pub path: String,
}

/// A window of the host with a terminal emulator in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Window {
    /// The emulator: a program, looked for along `PATH`.
    pub emulator: String,
    /// What makes the next word its title: `-T`.
    pub title_switch: String,
    /// What makes all that follows its command: `-e`.
    pub exec_switch: String,
    pub title: String,
}

/// Where consoles and serial lines get their ends in the host. Only the machine's user names descriptors, paths and ports, never a guest.
/// Calls may sleep.
pub trait HostChannels: Send + Sync {
    /// Descriptor `number` of this process, one of those it was started with. EBADF for any other.
    fn descriptor(&self, number: u32, way: Way) -> Result<Arc<dyn HostChannel>, Errno>;
    /// A new Unix 98 pty. Its channel ends when the other end was opened and is closed again.
    fn pts(&self, way: Way) -> Result<NewPty, Errno>;
    /// The first free BSD pty, `/dev/ptyp0` and on; a Unix 98 one on a host that has none of those. ENOENT: none is free.
    fn pty(&self, way: Way) -> Result<NewPty, Errno>;
    /// A terminal of the host by its path. ENOTTY for anything else.
    fn terminal(&self, path: &str, way: Way) -> Result<Arc<dyn HostChannel>, Errno>;
    /// Connections to a TCP port, on all addresses. EADDRINUSE, EACCES.
    fn listen(&self, port: u16) -> Result<Arc<dyn ConsoleListener>, Errno>;
    /// A window. ENODEV without a display, and when the emulator does not start; the reason is logged with `log`.
    fn window(&self, window: &Window, way: Way, log: &dyn Fn(&str)) -> Result<Arc<dyn HostChannel>, Errno>;
}

/// A port that listens until it is dropped.
pub trait ConsoleListener: Send + Sync {
    /// A connection that came in. EAGAIN when there is none.
    fn accept(&self) -> Result<Arc<dyn HostChannel>, Errno>;
    /// Has `observer` told when connections come in.
    fn observe(&self, observer: Arc<dyn Observer>);
}
