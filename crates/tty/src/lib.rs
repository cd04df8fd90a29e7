//! Terminals: the N_TTY line discipline, pty pairs, and job-control decisions.
//!
//! What it is: what the kernel does between the bytes of a terminal's hardware and the bytes that a program reads and writes. All of it is
//! pure: no tasks, no locks, no I/O, no clock. Bytes and the time come in as arguments; signals to raise, sleepers to wake and waits to
//! make come out as values ([`Effects`], [`Read`], [`job::Decision`]).
//!
//! * [`LineDiscipline`] is one terminal: [`receive`](LineDiscipline::receive) takes what the hardware got,
//!   [`read`](LineDiscipline::read) gives it to programs, [`write`](LineDiscipline::write) processes their output, and the driver drains it
//!   with [`take_output`](LineDiscipline::take_output).
//! * [`PtyPair`] is two of them back to back, with packet mode, the lock and what a close does to the other end.
//! * [`job::Control`] is which session and which process group own a terminal, and decides who may do what.
//! * [`Termios`] and [`ioctl`] are the settings, and the ioctl layouts that carry them.
//!
//! What it is not: devices, device numbers, files, sleeping or sending signals. `drivers` and `kernel` do those.
//!
//! Sources: termios(3), ioctl_tty(2), tty_ioctl(4), pty(7), credentials(7), POSIX.1-2017 chapter 11 "General Terminal Interface". Where
//! these leave the choice to the implementation, Linux's choice was found by running scripts on real ptys; `tests/traces` keeps the record.
#![forbid(unsafe_code)]

mod ctype;
mod discipline;
mod echo;
mod effects;
mod erase;
mod input;
pub mod ioctl;
pub mod job;
mod output;
mod pty;
mod read;
mod termios;

pub use discipline::LineDiscipline;
pub use effects::{Effects, Flow, Hold, LineEvent, Poll, Queue};
pub use pty::{PacketStatus, PtyEffects, PtyPair, PtyPoll, Side};
pub use read::{Read, ReadCall};
pub use termios::{ControlChar, InputFlags, LocalFlags, OutputFlags, Termios, WinSize, control};

/// Bytes that a terminal's input buffer holds; a line that is being edited can be one byte shorter, termios(3) "Canonical mode".
pub const INPUT_BUFFER_BYTES: usize = 4096;
