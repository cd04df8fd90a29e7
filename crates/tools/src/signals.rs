//! Signals as something to poll for.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

pub use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// A signal that is taken from the process: it makes a descriptor readable instead of killing.
pub struct Caught {
    signal: i32,
    end: UnixStream,
}

impl Caught {
    /// Takes the signal.
    pub fn new(signal: i32) -> io::Result<Caught> {
        let (end, other) = UnixStream::pair()?;
        end.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(signal, other)?;
        Ok(Caught { signal, end })
    }

    /// Its number, if it came.
    #[must_use]
    pub fn came(&self) -> Option<i32> {
        matches!((&self.end).read(&mut [0; 16]), Ok(1..)).then_some(self.signal)
    }
}

impl AsFd for Caught {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}

/// Ends the process as the signal would have done, so that who waits for it sees why.
pub fn die_of(signal: i32) -> ! {
    let _ = signal_hook::low_level::emulate_default_handler(signal);
    std::process::exit(128 + signal)
}
