//! Directories and files of the host behind `platform`'s traits.
//!
//! * [`open_tree`] gives a directory away: everything below it is reachable by single names, nothing outside is.
//! * [`open_image`] opens one file that the command line names: a disk image, an initramfs.
//!
//! Confinement does not rest on looking at paths: no path of a guest ever reaches the host. Each call names one component below an open
//! directory, and no call follows a symbolic link, so whoever moves things about meanwhile can only make us find something else *inside*.
//! A directory that the user moves out of the tree while a guest holds it remains the guest's, as an open directory does on Linux.
//!
//! Only regular files are ever opened. Devices, FIFOs and sockets of the host are looked at (a path descriptor, statx) and nothing more.
//!
//! Calls may block in the host, but for reads of what the host must fetch from a disk and for syncs, which a helper thread does while the
//! calling fiber sleeps.

mod descriptors;
mod dir;
mod file;
mod helpers;
mod locks;
mod node;
mod sys;
#[cfg(test)]
mod tests;

pub(crate) use helpers::run as may_block;
pub use helpers::this_thread_may_block;

use abi::Errno;
use descriptors::{Descriptor, Descriptors};
use platform::{HostDir, HostFile, HostKind};
use rustix::fs::{self, Mode, OFlags};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

/// Gives away the directory at `path`, which the user named: symbolic links in it are followed. ENOTDIR, ENOENT, EACCES.
pub fn open_tree(path: &Path) -> Result<Arc<dyn HostDir>, Errno> {
    open_tree_with(path, Descriptors::shared())
}

fn open_tree_with(path: &Path, descriptors: Arc<Descriptors>) -> Result<Arc<dyn HostDir>, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = fs::open(path, flags, Mode::empty()).map_err(sys::errno)?;
    Ok(Arc::new(dir::Dir::root(fd, descriptors)?))
}

/// How to open a disk image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ImageOpen {
    /// For writing too.
    pub write: bool,
    /// Every write is on the host's disk before it returns (`O_DSYNC`).
    pub synchronous: bool,
    /// Create it with this mode; EEXIST if it is there.
    pub create_mode: Option<u32>,
}

/// Opens the image at `path`, which the user named: symbolic links are followed. A regular file or a block device; anything else is ENXIO,
/// since it has no size.
pub fn open_image(path: &Path, how: ImageOpen) -> Result<Arc<dyn HostFile>, Errno> {
    if how.create_mode.is_none() {
        // Looked at first: opening a FIFO or a device already does something to it.
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let looked = fs::open(path, flags, Mode::empty()).map_err(sys::errno)?;
        check_image(sys::stat_fd(looked.as_fd())?.1.kind)?;
    }
    let mut flags = if how.write { OFlags::RDWR } else { OFlags::RDONLY } | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    flags.set(OFlags::DSYNC, how.synchronous);
    flags.set(OFlags::CREATE | OFlags::EXCL, how.create_mode.is_some());
    let fd = fs::open(path, flags, Mode::from_raw_mode(how.create_mode.unwrap_or(0) & 0o7777)).map_err(sys::errno)?;
    let (id, metadata) = sys::stat_fd(fd.as_fd())?;
    check_image(metadata.kind)?;
    let fixed_len_bytes = match metadata.kind {
        HostKind::BlockDevice => Some(fs::seek(&fd, fs::SeekFrom::End(0)).map_err(sys::errno)?),
        _ => None,
    };
    Ok(Arc::new(file::File::of_descriptor(Descriptor::new(fd, (id.dev, id.ino)), fixed_len_bytes)))
}

fn check_image(kind: HostKind) -> Result<(), Errno> {
    match kind {
        HostKind::File | HostKind::BlockDevice => Ok(()),
        HostKind::Directory => Err(Errno::EISDIR),
        _ => Err(Errno::ENXIO),
    }
}
