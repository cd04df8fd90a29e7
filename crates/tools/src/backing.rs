//! Names, sizes, times and locks of backing files on the host.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use abi::Errno;
use cow::Storage;
use cow::open::{BackingFiles, BackingStat};
use rustix::fs::FlockOperation;
use rustix::process::{Flock, FlockType};

use crate::host_file::{HostFile, errno_of};

/// The host's file names.
pub struct HostNames;

/// A path as the header holds it.
#[must_use]
pub fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// Size, mtime and identity of an open file.
pub fn stat(file: &File) -> io::Result<BackingStat> {
    let metadata = file.metadata()?;
    let size = match metadata.file_type().is_block_device() {
        true => HostFile(file.try_clone()?).len_bytes().map_err(|errno| io::Error::from_raw_os_error(errno.raw()))?,
        false => metadata.size(),
    };
    // The field has 32 bits.
    Ok(BackingStat { size, mtime: metadata.mtime() as u32, identity: (metadata.dev(), metadata.ino()) })
}

impl BackingFiles for HostNames {
    fn stat(&self, name: &[u8]) -> Result<BackingStat, Errno> {
        let metadata = std::fs::metadata(path(name)).map_err(|error| errno_of(&error))?;
        if metadata.file_type().is_block_device() {
            return File::open(path(name)).and_then(|file| stat(&file)).map_err(|error| errno_of(&error));
        }
        Ok(BackingStat { size: metadata.size(), mtime: metadata.mtime() as u32, identity: (metadata.dev(), metadata.ino()) })
    }

    fn absolute(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        absolute(path(name)).map(|path| path.into_os_string().into_vec()).map_err(|error| errno_of(&error))
    }
}

/// The same file with an absolute path: its directory resolved, its own name kept, so that a link that is renewed stays a link.
pub fn absolute(path: &Path) -> io::Result<std::path::PathBuf> {
    let (Some(name), parent) = (path.file_name(), path.parent().unwrap_or(Path::new(""))) else {
        return path.canonicalize();
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    Ok(parent.canonicalize()?.join(name))
}

/// Takes the lock that a machine holds on a disk it uses: `Err` with the process that has it (0 if that can't be told).
pub fn lock(file: &File, exclusive: bool) -> Result<(), i32> {
    let (operation, kind) = match exclusive {
        true => (FlockOperation::NonBlockingLockExclusive, FlockType::WriteLock),
        false => (FlockOperation::NonBlockingLockShared, FlockType::ReadLock),
    };
    match rustix::fs::fcntl_lock(file, operation) {
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => {
            let holder = rustix::process::fcntl_getlk(file, &Flock::from(kind)).ok().flatten().and_then(|flock| flock.pid);
            Err(holder.map_or(0, |pid| pid.as_raw_nonzero().get()))
        }
        // A file system without locks protects nobody, and stops nobody.
        _ => Ok(()),
    }
}
