//! Which backing file a COW file is opened with, and whether it is the right one.
//!
//! Pure: names are looked up through [`BackingFiles`], and messages are handed to a log as UML's users and their scripts know them.
//!
//! What is not checked is the content of the backing file. Who edits it, or the header, by hand corrupts the file system.

use std::fmt;

use abi::Errno;

use crate::header::{Header, HeaderError};
use crate::storage::Storage;

/// What stat(2) says of a backing file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackingStat {
    /// Size in bytes; of a block device, its capacity.
    pub size: u64,
    /// Modification time, whole seconds since 1970.
    pub mtime: u32,
    /// Device and inode number: what tells whether two names are one file.
    pub identity: (u64, u64),
}

/// The host's names.
pub trait BackingFiles {
    /// stat(2), following symbolic links.
    fn stat(&self, path: &[u8]) -> Result<BackingStat, Errno>;
    /// An absolute path for the same file: its directory with every symbolic link resolved, its own name as it is.
    fn absolute(&self, path: &[u8]) -> Result<Vec<u8>, Errno>;
}

/// A backing file that is not the one a COW file was made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mismatch {
    /// Another size, in bytes.
    Size {
        /// In the header.
        header: u64,
        /// The file's.
        actual: u64,
    },
    /// Another modification time, in seconds since 1970.
    Mtime {
        /// In the header.
        header: u32,
        /// The file's.
        actual: u32,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::Size { header, actual } => write!(f, "Size mismatch ({header} vs {actual}) of COW header vs backing file"),
            Mismatch::Mtime { header, actual } => write!(f, "mtime mismatch ({header} vs {actual}) of COW header vs backing file"),
        }
    }
}

impl std::error::Error for Mismatch {}

/// Compares size, then mtime.
pub fn check(header: &Header, stat: &BackingStat) -> Result<(), Mismatch> {
    if stat.size != header.size {
        return Err(Mismatch::Size { header: header.size, actual: stat.size });
    }
    if stat.mtime != header.mtime {
        return Err(Mismatch::Mtime { header: header.mtime, actual: stat.mtime });
    }
    Ok(())
}

/// The log line for a COW file that is made because it did not exist; names as the user gave them.
#[must_use]
pub fn creating_message(cow: &str, backing: &str) -> String {
    format!("Creating \"{cow}\" as COW file for \"{backing}\"")
}

/// The log line for a file that was named as COW file and has no usable header.
#[must_use]
pub fn unreadable_header_message(cow: &str, error: &HeaderError) -> String {
    format!("Failed to read COW header from COW file \"{cow}\", errno = {}", error.errno().raw())
}

/// Creates the header of a new COW file for `backing`, named as the user named it.
pub fn new_header(backing: &[u8], files: &dyn BackingFiles) -> Result<Header, HeaderError> {
    let stat = files.stat(backing)?;
    Ok(Header::new(files.absolute(backing)?, stat.size, stat.mtime))
}

/// The backing file of an existing COW file. When the user names another path for the same content, the header is rewritten, in `cow` too.
///
/// `cow_name` and `requested` are as the user typed them; `requested` is `None` when only the COW file was named. On success the header's
/// path names a file with the header's size and mtime. EINVAL after a mismatch, which is logged; the number of stat(2) when the stored
/// path can't be used.
pub fn choose_backing(
    header: &mut Header,
    cow: &(impl Storage + ?Sized),
    cow_name: &str,
    requested: Option<&[u8]>,
    files: &dyn BackingFiles,
    log: &mut dyn FnMut(String),
) -> Result<(), HeaderError> {
    if let Some(requested) = requested
        && let Some(stat) = asks_for_switch(header, cow_name, requested, files, log)
    {
        match check(header, &stat) {
            Err(mismatch) => log(mismatch.to_string()),
            Ok(()) => {
                let switched = Header { backing_path: files.absolute(requested)?, mtime: stat.mtime, size: stat.size, ..header.clone() };
                log(format!("Switching backing file to '{}'", String::from_utf8_lossy(requested)));
                switched.rewrite(cow)?;
                *header = switched;
            }
        }
    }
    let stored = String::from_utf8_lossy(&header.backing_path).into_owned();
    let stat = files.stat(&header.backing_path).inspect_err(|errno| log(format!("Couldn't stat \"{stored}\" : err = {}", errno.raw())))?;
    check(header, &stat).map_err(|mismatch| {
        log(mismatch.to_string());
        HeaderError::Io(Errno::EINVAL)
    })
}

/// Whether `requested` is another file than the stored one; its stat if so.
fn asks_for_switch(
    header: &Header,
    cow_name: &str,
    requested: &[u8],
    files: &dyn BackingFiles,
    log: &mut dyn FnMut(String),
) -> Option<BackingStat> {
    if requested == header.backing_path {
        return None;
    }
    let name = String::from_utf8_lossy(requested);
    let asked = files.stat(requested).inspect_err(|errno| log(format!("Couldn't stat '{name}', err = {}", errno.raw()))).ok()?;
    if files.stat(&header.backing_path).is_ok_and(|stored| stored.identity == asked.identity) {
        return None;
    }
    let stored = String::from_utf8_lossy(&header.backing_path);
    log(format!("Backing file mismatch - \"{name}\" requested, \"{stored}\" specified in COW header of \"{cow_name}\""));
    Some(asked)
}
