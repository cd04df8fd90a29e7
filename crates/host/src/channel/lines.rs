//! Ends of consoles and serial lines in the host, as `platform::HostChannels` has them.

use super::{Channel, errno, port, window};
use abi::Errno;
use platform::{ConsoleListener, HostChannel, HostChannels, NewPty, Way, Window};
use rustix::fs::{Access, OFlags};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Descriptors that the process was started with.
static GIVEN: OnceLock<Vec<u32>> = OnceLock::new();

/// Notes which descriptors the process was started with. Called before anything else is opened; without it there are the standard three.
pub fn note_descriptors() {
    GIVEN.get_or_init(|| {
        let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return vec![0, 1, 2] };
        let listed: Vec<u32> = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        // The listing's own descriptor is closed by now.
        listed.into_iter().filter(|fd| *fd < 3 || Path::new(&format!("/proc/self/fd/{fd}")).exists()).collect()
    });
}

/// Duplicates one of the descriptors that were given.
pub(super) fn given(number: u32) -> Result<OwnedFd, Errno> {
    let copy = |fd: std::os::fd::BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(errno);
    match number {
        0 => copy(std::io::stdin().as_fd()),
        1 => copy(std::io::stdout().as_fd()),
        2 => copy(std::io::stderr().as_fd()),
        n if GIVEN.get().is_some_and(|given| given.contains(&n)) => {
            let raw = i32::try_from(n).map_err(|_| Errno::EBADF)?;
            // SAFETY: the call takes a number and makes a new descriptor, which is ours.
            unsafe { crate::sys::check(libc::fcntl(raw, libc::F_DUPFD_CLOEXEC, 3)).map(|fd| OwnedFd::from_raw_fd(fd)) }
        }
        _ => Err(Errno::EBADF),
    }
}

/// [`HostChannels`] of this process.
pub struct HostLines;

impl HostChannels for HostLines {
    fn descriptor(&self, number: u32, way: Way) -> Result<Arc<dyn HostChannel>, Errno> {
        let fd = given(number)?;
        let access = rustix::fs::fcntl_getfl(&fd).map_err(errno)? & OFlags::ACCMODE;
        let channel = match way {
            Way::Both => Channel::both(fd)?,
            Way::In if access == OFlags::WRONLY => return Err(Errno::EBADF),
            Way::Out if access == OFlags::RDONLY => return Err(Errno::EBADF),
            Way::In => Channel::new(Some(fd), None)?,
            Way::Out => Channel::new(None, Some(fd))?,
        };
        Ok(Arc::new(channel))
    }

    fn pts(&self, way: Way) -> Result<NewPty, Errno> {
        let (channel, path) = Channel::open_pty(way)?;
        Ok(NewPty { channel: Arc::new(channel), path: String::from_utf8_lossy(&path).into_owned() })
    }

    fn pty(&self, way: Way) -> Result<NewPty, Errno> {
        let masters = || ('p'..='s').flat_map(|bank| "0123456789abcdef".chars().map(move |unit| format!("{bank}{unit}")));
        let mut any = false;
        for unit in masters() {
            let (master, slave) = (format!("/dev/pty{unit}"), format!("/dev/tty{unit}"));
            if !Path::new(&master).exists() {
                continue;
            }
            any = true;
            if rustix::fs::access(&slave, Access::READ_OK | Access::WRITE_OK).is_err() {
                continue;
            }
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            let Ok(fd) = rustix::fs::open(&master, flags, rustix::fs::Mode::empty()) else { continue };
            let mut mode = rustix::termios::tcgetattr(&fd).map_err(errno)?;
            mode.make_raw();
            rustix::termios::tcsetattr(&fd, rustix::termios::OptionalActions::Now, &mode).map_err(errno)?;
            return Ok(NewPty { channel: Arc::new(Channel::owned(fd, way)?), path: master });
        }
        if any { Err(Errno::ENOENT) } else { self.pts(way) }
    }

    fn terminal(&self, path: &str, way: Way) -> Result<Arc<dyn HostChannel>, Errno> {
        let path = PathBuf::from(path);
        // Opening may wait: for a modem, for a terminal of a machine that is not there any more.
        let channel = crate::files::may_block(move || Channel::open_terminal(&path, way))?;
        Ok(Arc::new(channel))
    }

    fn listen(&self, port: u16) -> Result<Arc<dyn ConsoleListener>, Errno> {
        Ok(Arc::new(port::Listener::new(port)?))
    }

    fn window(&self, wanted: &Window, way: Way, log: &dyn Fn(&str)) -> Result<Arc<dyn HostChannel>, Errno> {
        window::open(wanted, way, log)
    }
}
