//! Tap devices of the host (Linux's tuntap.rst): attaching to one, and what `tunctl` sets.

use crate::sys::check;
use abi::Errno;
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// The device that makes them.
pub const CLONE_DEVICE: &str = "/dev/net/tun";
/// Bytes of the virtio network header in front of each frame.
pub const VIRTIO_HEADER_LEN: usize = 10;
/// Longest name.
const NAME_MAX: usize = libc::IFNAMSIZ - 1;

/// What stands in front of each frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameHeader {
    /// Nothing.
    None,
    /// A virtio network header.
    Virtio,
}

/// An attached tap device: one frame for each read and write.
#[derive(Debug)]
pub struct Tap {
    file: OwnedFd,
    name: String,
}

/// `struct ifreq` with a name and flags.
fn request(name: &str, flags: libc::c_int) -> Result<libc::ifreq, Errno> {
    if name.is_empty() || name.len() > NAME_MAX || name.contains(['/', '\0']) {
        return Err(Errno::EINVAL);
    }
    // SAFETY: all zeroes is a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    Ok(request)
}

fn control(file: BorrowedFd<'_>, command: u64, value: libc::c_ulong) -> Result<(), Errno> {
    // SAFETY: the commands that come here take a number, no pointer.
    check(unsafe { libc::ioctl(file.as_raw_fd(), command, value) }).map(drop)
}

impl Tap {
    /// Attaches to the tap `name` (which may end in `%d`), or makes it where we may. `clone` is [`CLONE_DEVICE`] or another name of it.
    pub fn attach(clone: &Path, name: &str, header: FrameHeader) -> Result<Tap, Errno> {
        let number = |error: rustix::io::Errno| Errno::from_raw(error.raw_os_error()).unwrap_or(Errno::EIO);
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::open(clone, flags, Mode::empty()).map_err(number)?;
        let header = if header == FrameHeader::Virtio { libc::IFF_VNET_HDR } else { 0 };
        let mut request = request(name, libc::IFF_TAP | libc::IFF_NO_PI | header)?;
        // SAFETY: the request lives across the call, which changes its name at most.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
        let bytes: Vec<u8> = request.ifr_name.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
        Ok(Tap { file, name: String::from_utf8_lossy(&bytes).into_owned() })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Has the host leave checksums and large TCP packets to us. Needs [`FrameHeader::Virtio`].
    pub fn set_offload(&self) -> Result<(), Errno> {
        let offload = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
        control(self.file.as_fd(), libc::TUNSETOFFLOAD, offload.into())
    }

    /// It stays when nobody is attached, or not.
    pub fn set_persistent(&self, persistent: bool) -> Result<(), Errno> {
        control(self.file.as_fd(), libc::TUNSETPERSIST, persistent.into())
    }

    /// Who may attach to it.
    pub fn set_owner(&self, uid: u32) -> Result<(), Errno> {
        control(self.file.as_fd(), libc::TUNSETOWNER, uid.into())
    }

    /// Which group may attach to it.
    pub fn set_group(&self, gid: u32) -> Result<(), Errno> {
        control(self.file.as_fd(), libc::TUNSETGROUP, gid.into())
    }

    /// The descriptor, which never waits.
    #[must_use]
    pub fn into_descriptor(self) -> OwnedFd {
        self.file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_interface_has_are_refused_before_the_host_sees_them() {
        for name in ["", "0123456789abcdef", "a/b", "a\0b"] {
            assert_eq!(Tap::attach(Path::new("/dev/null"), name, FrameHeader::None).unwrap_err(), Errno::EINVAL, "{name:?}");
        }
        assert_eq!(Tap::attach(Path::new("/dev/null"), "tap0", FrameHeader::None).unwrap_err(), Errno::ENOTTY);
    }
}
