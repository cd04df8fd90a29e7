//! Reading: what a read(2) gets, and when it waits.
//!
//! A call is a value, [`ReadCall`], because a raw read with VMIN takes bytes as they come and goes on waiting. The caller loops:
//! [`LineDiscipline::read`], and on [`Read::Wait`] it sleeps until the terminal is readable or the deadline passes, then calls again with the
//! same `ReadCall` and buffer. When a signal interrupts the sleep, the call ends with [`ReadCall::filled`] bytes, or as interrupted if that
//! is 0. When the terminal hangs up, likewise with 0 as the end of file.
//!
//! Linux moves the bytes through 64 bytes of kernel memory, which shows: a VMIN above 64 acts as 64.
//!
//! Source: termios(3) "Noncanonical mode", POSIX.1-2017 11.1.7.

use crate::discipline::LineDiscipline;
use crate::termios::{ControlChar, LocalFlags};

/// The most bytes that one step of a read moves.
pub(crate) const CHUNK_BYTES: usize = 64;
/// VTIME's unit in nanoseconds.
const TENTH_NS: u64 = 100_000_000;

/// What a read does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Read {
    /// The call returns this many bytes; 0 is the end of file, or VTIME gone by.
    Done(usize),
    /// Sleep until readable or, if given, until this time, then call again.
    Wait {
        /// On the clock of `now_ns`.
        deadline_ns: Option<u64>,
    },
    /// The call would wait and was told not to: EAGAIN.
    WouldBlock,
}

/// One read(2) in progress.
#[derive(Clone, Debug, Default)]
pub struct ReadCall {
    filled: usize,
    started: bool,
    waited: bool,
    minimum: usize,
    between_bytes_ns: Option<u64>,
    deadline_ns: Option<u64>,
}

impl ReadCall {
    /// A call that has not begun.
    #[must_use]
    pub fn new() -> Self {
        ReadCall::default()
    }

    /// Bytes that are in the buffer already.
    #[must_use]
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// Whether the call has slept.
    #[must_use]
    pub fn has_waited(&self) -> bool {
        self.waited
    }

    fn start(&mut self, ld: &LineDiscipline, now_ns: u64) {
        if std::mem::replace(&mut self.started, true) || ld.has(LocalFlags::ICANON) {
            return;
        }
        let min = usize::from(ld.termios().raw_char(ControlChar::Min));
        let time_ns = u64::from(ld.termios().raw_char(ControlChar::Time)) * TENTH_NS;
        if min > 0 {
            self.minimum = min;
            self.between_bytes_ns = (time_ns > 0).then_some(time_ns);
        } else {
            self.minimum = 1;
            self.deadline_ns = Some(now_ns.saturating_add(time_ns));
        }
    }

    pub(crate) fn wait(&mut self, now_ns: u64, nonblocking: bool) -> Read {
        if self.deadline_ns.is_some_and(|deadline_ns| deadline_ns <= now_ns) {
            return Read::Done(self.filled);
        }
        if nonblocking {
            return if self.filled > 0 { Read::Done(self.filled) } else { Read::WouldBlock };
        }
        self.waited = true;
        Read::Wait { deadline_ns: self.deadline_ns }
    }

    pub(crate) fn count_status_byte(&mut self) {
        self.filled += 1;
    }

    pub(crate) fn begin(&mut self, ld: &LineDiscipline, now_ns: u64) {
        self.start(ld, now_ns);
    }
}

impl LineDiscipline {
    /// Whether a read would find something.
    pub(crate) fn has_input(&self) -> bool {
        if self.termios().reads_lines() { self.input.lines_len() > 0 } else { self.input.len() > 0 }
    }

    /// Goes on with a read of `buf`. `nonblocking` is O_NONBLOCK. Input that was refused may fit afterwards.
    pub fn read(&mut self, call: &mut ReadCall, buf: &mut [u8], now_ns: u64, nonblocking: bool) -> Read {
        call.start(self, now_ns);
        loop {
            if call.filled >= buf.len() {
                return Read::Done(call.filled);
            }
            if !self.has_input() {
                return call.wait(now_ns, nonblocking);
            }
            if let Some(done) = self.read_step(call, buf) {
                return done;
            }
            call.deadline_ns = call.between_bytes_ns.map(|time_ns| now_ns.saturating_add(time_ns)).or(call.deadline_ns);
        }
    }

    /// Moves what is there. Returns the end of the call, or `None` if VMIN wants more.
    pub(crate) fn read_step(&mut self, call: &mut ReadCall, buf: &mut [u8]) -> Option<Read> {
        if self.termios().reads_lines() {
            call.filled += self.input.take_line(buf.get_mut(call.filled..).unwrap_or_default());
            return Some(Read::Done(call.filled));
        }
        let end = buf.len().min(CHUNK_BYTES);
        let before = call.filled;
        call.filled += self.input.take_raw(buf.get_mut(call.filled..end).unwrap_or_default());
        if self.swallows_single_eof(before, call.filled, buf) {
            call.filled = before;
        }
        let more = self.input.len() > 0;
        if call.filled >= call.minimum && more {
            call.filled += self.input.take_raw(buf.get_mut(call.filled..).unwrap_or_default());
        }
        (call.filled >= call.minimum || call.filled >= end).then_some(Read::Done(call.filled))
    }

    /// EXTPROC in canonical mode: an EOF character that is all there is reads as an end of file.
    fn swallows_single_eof(&self, before: usize, after: usize, buf: &[u8]) -> bool {
        self.has(LocalFlags::EXTPROC)
            && self.has(LocalFlags::ICANON)
            && after == before + 1
            && self.input.len() == 0
            && buf.get(before).is_some_and(|&byte| byte == self.termios().raw_char(ControlChar::Eof))
    }
}
