//! SIGINT and SIGTERM to this process: the first asks the machine to end, so that it can clean up; the second ends the process at once. signal(7).

use crate::channel::restore_terminals;
use abi::Errno;
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::IntoRawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// Where the handler writes; -1 before it is installed.
static TOLD: AtomicI32 = AtomicI32::new(-1);
static ASKED: AtomicBool = AtomicBool::new(false);
static ONE: u64 = 1;

extern "C" fn on_signal(signal: libc::c_int) {
    if ASKED.swap(true, Ordering::SeqCst) {
        restore_terminals();
        // SAFETY: both calls are async-signal-safe; the default action is what ends the process.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
        return;
    }
    // SAFETY: write is async-signal-safe, eight bytes of a static are valid; errno is kept for the code that was interrupted.
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(TOLD.load(Ordering::SeqCst), (&raw const ONE).cast(), 8);
        *libc::__errno_location() = errno;
    }
}

/// Has `call` called, on a thread of its own, when SIGINT or SIGTERM comes; instead of what they did before. Once in a process.
pub fn on_termination(call: impl FnOnce() + Send + 'static) -> Result<(), Errno> {
    let event = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| Errno::from_raw(error.raw_os_error()).unwrap_or(Errno::EIO))?;
    let reader = event.try_clone().map_err(|_| Errno::EMFILE)?;
    crate::start::thread("host-signals", move || {
        while rustix::io::read(&reader, &mut [0; 8]) == Err(rustix::io::Errno::INTR) {}
        call();
    })?;
    TOLD.store(event.into_raw_fd(), Ordering::SeqCst);
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: an all-zero sigaction is valid, the pointers live for the call, and the handler is async-signal-safe.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as usize;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
    }
    Ok(())
}
