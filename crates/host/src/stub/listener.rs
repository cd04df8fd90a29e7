//! The kernel's end of a stub's thread: how it hears that the thread has stopped, and lets it go on. One type for both hand-overs.
//!
//! With notifications that is a filter's listener: one call of the thread tells and waits, and the host vouches for it. By signals it is a socket:
//! the thread sends a report and then waits on the socket, two calls, of which guest code can make the first by itself. So that a report stands
//! for exactly one wait, each word of the kernel's is a fresh random number, and a report is valid only if it carries the last one: a report
//! that was sent before the kernel's last word is forged. No memory that guest code can write is believed.
//!
//! Source: seccomp_unotify(2), unix(7). Sockets rather than futexes, because they wake the other side on the waker's processor as notifications
//! with `SYNC_WAKE_UP` do, and because they end when the stub ends.

use super::layout as l;
use super::notify::{self, Answer, Notification};
use abi::Errno;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

/// How guest code is stopped and goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandOver {
    /// Seccomp notifications; calls that need all registers come by SIGSYS, and are notified by its handler.
    Notify,
    /// Every call comes by SIGSYS; its handler reports over a socket.
    Trap,
}

impl HandOver {
    /// Its name in `UMLAUT_HANDOVER` and in `/proc/umlaut`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            HandOver::Notify => "notify",
            HandOver::Trap => "trap",
        }
    }
}

/// The kernel's end.
pub enum Listener {
    Notify(notify::Listener),
    Socket(Box<Socket>),
}

/// The socket of a thread in the hand-over by signals.
pub struct Socket {
    end: Arc<UnixDatagram>,
    /// Number of the thread, as the host's `/proc` lists it.
    tid: u32,
    kind: Kind,
    words: Words,
}

enum Kind {
    /// It says whether commands are left over.
    Commands,
    /// It reports stops; with the word that the next report must carry.
    Guest { word: u64 },
}

/// Random numbers of the host's, some at a time.
struct Words {
    bytes: [u8; 256],
    used: usize,
}

impl Words {
    fn next(&mut self) -> u64 {
        if self.used + 8 > self.bytes.len() {
            crate::checks::entropy(&mut self.bytes);
            self.used = 0;
        }
        let mut word = [0; 8];
        word.copy_from_slice(&self.bytes[self.used..self.used + 8]);
        self.used += 8;
        u64::from_ne_bytes(word)
    }
}

impl Socket {
    fn new(descriptor: OwnedFd, tid: u32, kind: Kind) -> Socket {
        Socket { end: Arc::new(UnixDatagram::from(descriptor)), tid, kind, words: Words { bytes: [0; 256], used: 256 } }
    }
    /// The socket of a command thread.
    pub fn of_commands(descriptor: OwnedFd, tid: u32) -> Socket {
        Socket::new(descriptor, tid, Kind::Commands)
    }
    /// The socket of a guest thread, whose slot is all zeroes.
    pub fn of_guest(descriptor: OwnedFd, tid: u32) -> Socket {
        Socket::new(descriptor, tid, Kind::Guest { word: 0 })
    }
    /// For whoever wants to know whether there is a report.
    pub fn end(&self) -> Arc<UnixDatagram> {
        self.end.clone()
    }

    /// The next report as a notification of the handler's. EPROTO when it is forged, ESRCH at the end of the stub, EINTR.
    fn receive(&self) -> Result<Notification, Errno> {
        let mut bytes = [0u8; 64];
        let len = self.end.recv(&mut bytes).map_err(errno)?;
        let mut words = [0u64; 8];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        }
        let mut notification = Notification { tid: self.tid, ..Notification::default() };
        match (&self.kind, len) {
            (_, 0) => return Err(Errno::ESRCH),
            (Kind::Commands, len @ 1..=2) => {
                notification.number = l::NR_COMMANDS_DONE as i32;
                notification.args[1] = len as u64 - 1;
            }
            (Kind::Guest { word }, l::REPORT_LEN) if *word == words[0] => {
                notification.number = l::NR_TRAP as i32;
                notification.ip = super::code::addresses().trap;
                // As the notifying handler's registers: signal, frame, FS base, GS base, siginfo's words.
                notification.args.copy_from_slice(&words[1..7]);
            }
            _ => return Err(Errno::EPROTO),
        }
        Ok(notification)
    }

    fn go_on(&mut self) -> Result<(), Errno> {
        let mut bytes = [0u8; l::WORD_LEN];
        let bytes = match &mut self.kind {
            Kind::Commands => &bytes[..1],
            Kind::Guest { word } => {
                *word = self.words.next();
                bytes = word.to_ne_bytes();
                &bytes[..]
            }
        };
        loop {
            match self.end.send(bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result.map(drop).map_err(errno),
            }
        }
    }
}

fn errno(error: std::io::Error) -> Errno {
    error.raw_os_error().and_then(Errno::from_raw).unwrap_or(Errno::EIO)
}

impl Listener {
    /// Waits until the thread stops next. EINTR when a host signal came; another error when it is gone, EPROTO when it cheats.
    pub fn receive(&self) -> Result<Notification, Errno> {
        match self {
            Listener::Notify(listener) => listener.receive(),
            Listener::Socket(socket) => socket.receive(),
        }
    }

    /// Lets the thread go on from the stop with number `id`. An error when it is gone.
    pub fn answer(&mut self, id: u64, answer: Answer) -> Result<(), Errno> {
        match self {
            Listener::Notify(listener) => listener.answer(id, answer),
            Listener::Socket(socket) => socket.go_on(),
        }
    }

    /// The socket, if it is one.
    pub fn socket(&self) -> Option<&Socket> {
        match self {
            Listener::Notify(_) => None,
            Listener::Socket(socket) => Some(socket),
        }
    }
}

/// Whether nothing has been sent to a socket that was not read yet.
pub fn is_silent(end: &UnixDatagram) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(end, PollFlags::IN)], Some(&now)) == Ok(0)
}
