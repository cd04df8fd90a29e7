//! Directories and files of the host.
//!
//! A [`HostDir`] is a subtree that the command line gave away. Names are relative to it and never lead outside: no `..`, no absolute path, no
//! symbolic link is followed in the host (the guest follows them itself, inside its own tree), whatever happens to the tree meanwhile.
//!
//! All calls may block in the host; the caller runs them on a helper thread where that matters (`sched` offers no preemption inside them).

use abi::Errno;
use std::sync::Arc;

/// What kind of file it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostKind {
    File,
    Directory,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
    Socket,
}

/// What stat(2) says. Times are nanoseconds since the epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostMetadata {
    pub dev: u64,
    pub ino: u64,
    pub kind: HostKind,
    /// Permission bits, with set-id and sticky: `mode & 0o7777`.
    pub mode: u32,
    pub links: u64,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u64,
    pub size_bytes: u64,
    /// 512-byte units.
    pub blocks: u64,
    pub block_size_bytes: u64,
    pub accessed_ns: i128,
    pub modified_ns: i128,
    pub changed_ns: i128,
}

/// One entry of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostDirEntry {
    pub name: Vec<u8>,
    pub ino: u64,
    pub kind: HostKind,
}

/// statfs(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HostStatFs {
    pub block_size_bytes: u64,
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub name_max: u64,
}

/// How to open a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HostOpen {
    pub write: bool,
    /// Create it with this mode; EEXIST if it is there.
    pub create_mode: Option<u32>,
}

/// A directory of the host. Names are single components: not empty, no `/`, not `.` or `..` (EINVAL).
pub trait HostDir: Send + Sync {
    /// This directory's own metadata.
    fn metadata(&self) -> Result<HostMetadata, Errno>;
    /// An entry's metadata, not following a symbolic link.
    fn entry_metadata(&self, name: &[u8]) -> Result<HostMetadata, Errno>;
    /// Opens a subdirectory. ENOTDIR for anything else, a symbolic link included.
    fn open_dir(&self, name: &[u8]) -> Result<Arc<dyn HostDir>, Errno>;
    /// Opens a regular file. ELOOP for a symbolic link, ENXIO for any other kind: devices, FIFOs and sockets of the host are never opened.
    fn open_file(&self, name: &[u8], how: HostOpen) -> Result<Arc<dyn HostFile>, Errno>;
    /// The target of a symbolic link.
    fn read_link(&self, name: &[u8]) -> Result<Vec<u8>, Errno>;
    /// All entries but `.` and `..`.
    fn entries(&self) -> Result<Vec<HostDirEntry>, Errno>;
    fn make_dir(&self, name: &[u8], mode: u32) -> Result<(), Errno>;
    fn make_symlink(&self, name: &[u8], target: &[u8]) -> Result<(), Errno>;
    /// A FIFO or socket node (`kind`); devices are EPERM.
    fn make_node(&self, name: &[u8], kind: HostKind, mode: u32) -> Result<(), Errno>;
    /// Another name `to` in `to_dir` for the entry `name`.
    fn link(&self, name: &[u8], to_dir: &dyn HostDir, to: &[u8]) -> Result<(), Errno>;
    fn unlink(&self, name: &[u8]) -> Result<(), Errno>;
    fn remove_dir(&self, name: &[u8]) -> Result<(), Errno>;
    /// renameat2(2) with `RENAME_NOREPLACE` if `no_replace`, `RENAME_EXCHANGE` if `exchange`.
    fn rename(&self, name: &[u8], to_dir: &dyn HostDir, to: &[u8], no_replace: bool, exchange: bool) -> Result<(), Errno>;
    fn set_mode(&self, name: &[u8], mode: u32) -> Result<(), Errno>;
    fn set_owner(&self, name: &[u8], uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno>;
    fn set_times(&self, name: &[u8], accessed_ns: Option<i128>, modified_ns: Option<i128>) -> Result<(), Errno>;
    fn statfs(&self) -> Result<HostStatFs, Errno>;
    /// For downcasting to the implementation in calls that take two directories.
    fn as_any(&self) -> &dyn std::any::Any;
}

/// An open regular file of the host. It may change underneath at any time.
pub trait HostFile: Send + Sync {
    fn metadata(&self) -> Result<HostMetadata, Errno>;
    /// Reads at a position; fewer bytes than asked at the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno>;
    /// Writes all of `data` at a position.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), Errno>;
    fn set_len(&self, len_bytes: u64) -> Result<(), Errno>;
    /// fdatasync(2) if `data_only`, else fsync(2).
    fn sync(&self, data_only: bool) -> Result<(), Errno>;
    /// Punches a hole. EOPNOTSUPP where the host's file system can't.
    fn punch(&self, offset: u64, len: u64) -> Result<(), Errno>;
    /// Makes a range read as zeroes, its room kept. EOPNOTSUPP where the host's file system can't do that but by writing.
    fn zero(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let _ = (offset, len);
        Err(Errno::EOPNOTSUPP)
    }
    /// Takes the fcntl lock on the whole file; with the holder's process number when somebody else has it.
    fn lock(&self, exclusive: bool) -> Result<(), (Errno, Option<i32>)>;
    fn set_mode(&self, mode: u32) -> Result<(), Errno>;
    fn set_times(&self, accessed_ns: Option<i128>, modified_ns: Option<i128>) -> Result<(), Errno>;
}
