//! A terminal's mode and size, and putting the mode back when the process ends.
//!
//! The mode found first is kept in a table that a signal handler may read at any moment: entries are filled once and stay. Terminals are told
//! apart by their device number, so two descriptors of one terminal share an entry.
//!
//! Source: termios(3), signal-safety(7) (tcsetattr and tcgetpgrp are safe), tty_ioctl(4).

use super::{Observers, errno};
use abi::Errno;
use platform::{TerminalMode, WindowSize};
use rustix::event::{EventfdFlags, eventfd};
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError, Weak};
use sync::Events;

/// Terminals whose mode was ever set.
const TERMINALS: usize = 16;

struct Entry {
    /// -1: not used yet.
    fd: AtomicI32,
    raw: AtomicBool,
    found: UnsafeCell<MaybeUninit<libc::termios>>,
}

// SAFETY: `found` is written once, under the lock of `TABLE_LOCK`, before `fd` is stored with Release; readers load `fd` with Acquire first.
unsafe impl Sync for Entry {}

static TABLE: [Entry; TERMINALS] =
    [const { Entry { fd: AtomicI32::new(-1), raw: AtomicBool::new(false), found: UnsafeCell::new(MaybeUninit::uninit()) } }; TERMINALS];

/// Device numbers of the entries in use, in order. Held while a mode is set.
static TABLE_LOCK: Mutex<Vec<u64>> = Mutex::new(Vec::new());

/// Who hears of SIGWINCH and SIGCONT.
static WATCHED: Mutex<Vec<Weak<Terminal>>> = Mutex::new(Vec::new());

/// Where the handler writes; -1 before it is installed.
static SIGNALLED: AtomicI32 = AtomicI32::new(-1);

/// A terminal of the host. Dropping it leaves the mode: another channel on the same terminal may rely on it, and the end of the process puts it back.
pub(super) struct Terminal {
    fd: OwnedFd,
    wanted: Mutex<TerminalMode>,
    observers: Arc<Observers>,
}

/// Puts every terminal's mode back as it was found. Called at exit and by the handlers of fatal signals; whoever ends the process in another way
/// (`_exit`, handlers of its own) calls it first. Async-signal-safe.
pub fn restore_terminals() {
    for entry in &TABLE {
        restore(entry);
    }
}

fn restore(entry: &Entry) {
    let fd = entry.fd.load(Ordering::Acquire);
    if fd < 0 || !entry.raw.swap(false, Ordering::AcqRel) {
        return;
    }
    // In the background the terminal is somebody else's, and touching it would stop us (SIGTTOU).
    if in_background(fd) {
        return;
    }
    // SAFETY: `fd` is open for ever, `found` was filled before `fd` was stored and is never written again.
    unsafe { libc::tcsetattr(fd, libc::TCSANOW, (*entry.found.get()).as_ptr()) };
}

/// Whether this is our controlling terminal and another group has its foreground.
fn in_background(fd: i32) -> bool {
    // SAFETY: plain calls on numbers.
    let (foreground, own) = unsafe { (libc::tcgetpgrp(fd), libc::getpgrp()) };
    foreground >= 0 && foreground != own
}

extern "C" fn at_exit() {
    restore_terminals();
}

extern "C" fn on_fatal(signal: i32) {
    restore_terminals();
    // The handler was reset on entry (SA_RESETHAND): this one ends the process, with the right status.
    // SAFETY: raise is async-signal-safe.
    unsafe { libc::raise(signal) };
}

extern "C" fn on_change(_: i32) {
    let fd = SIGNALLED.load(Ordering::Relaxed);
    // SAFETY: write is async-signal-safe, eight bytes of a static are valid; errno is kept for the code that was interrupted.
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(fd, (&raw const ONE).cast(), 8);
        *libc::__errno_location() = errno;
    }
}

static ONE: u64 = 1;

fn install(signal: i32, handler: extern "C" fn(i32), flags: i32, only_if_default: bool) {
    // SAFETY: an all-zero sigaction is valid, the pointers live for the calls, and the handlers above are async-signal-safe.
    unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut old);
        if only_if_default && old.sa_sigaction != libc::SIG_DFL {
            return;
        }
        let mut new: libc::sigaction = std::mem::zeroed();
        new.sa_sigaction = handler as *const () as usize;
        new.sa_flags = flags;
        libc::sigaction(signal, &raw const new, std::ptr::null_mut());
    }
}

/// Arranges for modes to be put back at exit and at fatal signals that have no handler yet.
fn install_restoration() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: the function is `extern "C"`, takes nothing and stays.
        unsafe { libc::atexit(at_exit) };
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGABRT, libc::SIGXCPU, libc::SIGALRM] {
            install(signal, on_fatal, libc::SA_RESETHAND | libc::SA_NODEFER, true);
        }
    });
}

/// Has SIGWINCH and SIGCONT told to terminals.
fn install_watch() -> Result<(), Errno> {
    static INSTALLED: Mutex<bool> = Mutex::new(false);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if *installed {
        return Ok(());
    }
    let event = eventfd(0, EventfdFlags::CLOEXEC).map_err(errno)?;
    let reader = event.try_clone().map_err(|_| Errno::EMFILE)?;
    let spawned = std::thread::Builder::new().name("host-terminals".into()).stack_size(128 * 1024).spawn(move || {
        while rustix::io::read(&reader, &mut [0; 8]).is_ok_and(|n| n == 8) {
            let terminals: Vec<_> = WATCHED.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect();
            for terminal in terminals {
                // Continued in the foreground, perhaps, after the shell set a mode of its own.
                let _ = terminal.apply();
                terminal.observers.notify(Events::PRI);
            }
        }
    });
    spawned.map_err(|_| Errno::EAGAIN)?;
    SIGNALLED.store(event.into_raw_fd(), Ordering::Relaxed);
    for signal in [libc::SIGWINCH, libc::SIGCONT] {
        install(signal, on_change, libc::SA_RESTART, true);
    }
    *installed = true;
    Ok(())
}

impl Terminal {
    pub fn new(fd: BorrowedFd<'_>, observers: &Arc<Observers>) -> Result<Arc<Terminal>, Errno> {
        install_watch()?;
        let fd = rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(errno)?;
        let terminal = Arc::new(Terminal { fd, wanted: Mutex::new(TerminalMode::Restored), observers: observers.clone() });
        let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|weak| weak.strong_count() > 0);
        watched.push(Arc::downgrade(&terminal));
        Ok(terminal)
    }

    pub fn window_size(&self) -> Result<WindowSize, Errno> {
        let size = rustix::termios::tcgetwinsize(&self.fd).map_err(errno)?;
        Ok(WindowSize { rows: size.ws_row, columns: size.ws_col, width_pixels: size.ws_xpixel, height_pixels: size.ws_ypixel })
    }

    /// Sets the mode now, or when we are continued in the foreground.
    pub fn set_mode(&self, mode: TerminalMode) -> Result<(), Errno> {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = mode;
        self.apply()
    }

    fn apply(&self) -> Result<(), Errno> {
        let wanted = *self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let fd = self.fd.as_raw_fd();
        if in_background(fd) {
            return Ok(());
        }
        let mut used = TABLE_LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        let device = rustix::fs::fstat(&self.fd).map_err(errno)?.st_rdev;
        let known = used.iter().position(|known| *known == device);
        match (wanted, known) {
            (TerminalMode::Restored, None) => Ok(()),
            (TerminalMode::Restored, Some(at)) => {
                TABLE.get(at).into_iter().for_each(restore);
                Ok(())
            }
            (TerminalMode::Raw, known) => {
                let at = match known {
                    Some(at) => at,
                    None => remember(&mut used, device, self.fd.as_fd())?,
                };
                make_raw(TABLE.get(at).ok_or(Errno::ENFILE)?, fd)
            }
        }
    }
}

/// Keeps the mode that a terminal has now, for ever. ENFILE when too many terminals were used.
fn remember(used: &mut Vec<u64>, device: u64, fd: BorrowedFd<'_>) -> Result<usize, Errno> {
    let entry = TABLE.get(used.len()).ok_or(Errno::ENFILE)?;
    let kept = rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(errno)?;
    // SAFETY: nobody reads `found` before `fd` is stored, and nobody else writes: the table's lock is held. tcgetattr fills it or fails.
    if unsafe { libc::tcgetattr(kept.as_raw_fd(), (*entry.found.get()).as_mut_ptr()) } != 0 {
        return Err(Errno::ENOTTY);
    }
    entry.fd.store(kept.into_raw_fd(), Ordering::Release);
    used.push(device);
    Ok(used.len() - 1)
}

fn make_raw(entry: &Entry, fd: i32) -> Result<(), Errno> {
    install_restoration();
    // Before it is done: dying in between puts back what is there already.
    entry.raw.store(true, Ordering::Release);
    // SAFETY: `found` is filled (the entry is in use); the copy is ours, and `fd` is open.
    let done = unsafe {
        let mut raw = (*entry.found.get()).assume_init();
        libc::cfmakeraw(&raw mut raw);
        libc::tcsetattr(fd, libc::TCSANOW, &raw const raw)
    };
    if done == 0 { Ok(()) } else { Err(Errno::EIO) }
}
