//! Consoles' and network interfaces' ends in the host.

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
    /// Whether it is a terminal of the host.
    fn is_terminal(&self) -> bool;
    /// A terminal's size; ENOTTY for anything else.
    fn window_size(&self) -> Result<WindowSize, Errno>;
    /// Sets a terminal's mode; ENOTTY for anything else. The mode found at the start is restored when the machine ends, however it ends.
    fn set_mode(&self, mode: TerminalMode) -> Result<(), Errno>;
    /// Has `observer` told when there is something to read, when room appears after a short write, and when the window's size changes.
    fn observe(&self, observer: Arc<dyn Observer>);
}

/// A way for Ethernet frames to leave the machine.
pub trait HostLink: Send + Sync {
    /// Sends one frame; EAGAIN when the queue is full (the frame is dropped, as on a wire).
    fn send(&self, frame: &[u8]) -> Result<(), Errno>;
    /// Receives one frame, EAGAIN when none is there.
    fn receive(&self, buffer: &mut [u8]) -> Result<usize, Errno>;
    /// Has `observer` told when frames arrive.
    fn observe(&self, observer: Arc<dyn Observer>);
}
