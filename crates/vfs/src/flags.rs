//! Flags of open(2), openat2(2), mount(2), renameat2(2) and of path lookup.

use abi::raw::general as raw;
use bitflags::bitflags;

bitflags! {
    /// Flags of open(2).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
    pub struct OpenFlags: u32 {
        const WRONLY = raw::O_WRONLY;
        const RDWR = raw::O_RDWR;
        const CREAT = raw::O_CREAT;
        const EXCL = raw::O_EXCL;
        const NOCTTY = raw::O_NOCTTY;
        const TRUNC = raw::O_TRUNC;
        const APPEND = raw::O_APPEND;
        const NONBLOCK = raw::O_NONBLOCK;
        const DSYNC = raw::O_DSYNC;
        /// O_ASYNC.
        const ASYNC = raw::FASYNC;
        const DIRECT = raw::O_DIRECT;
        const LARGEFILE = raw::O_LARGEFILE;
        const DIRECTORY = raw::O_DIRECTORY;
        const NOFOLLOW = raw::O_NOFOLLOW;
        const NOATIME = raw::O_NOATIME;
        const CLOEXEC = raw::O_CLOEXEC;
        /// The bit that makes O_SYNC out of O_DSYNC.
        const SYNC_BIT = raw::O_SYNC & !raw::O_DSYNC;
        const PATH = raw::O_PATH;
        /// The bit that makes O_TMPFILE out of O_DIRECTORY.
        const TMPFILE_BIT = raw::O_TMPFILE & !raw::O_DIRECTORY;
    }

    /// How a path is looked up.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct LookupFlags: u32 {
        /// A final symbolic link is followed.
        const FOLLOW = 1;
        /// The result must be a directory (ENOTDIR).
        const DIRECTORY = 2;
        /// An empty path names the starting point (`AT_EMPTY_PATH`).
        const EMPTY = 4;
        /// `RESOLVE_NO_XDEV`.
        const NO_XDEV = 0x100;
        /// `RESOLVE_NO_MAGICLINKS`.
        const NO_MAGICLINKS = 0x200;
        /// `RESOLVE_NO_SYMLINKS`.
        const NO_SYMLINKS = 0x400;
        /// `RESOLVE_BENEATH`.
        const BENEATH = 0x800;
        /// `RESOLVE_IN_ROOT`.
        const IN_ROOT = 0x1000;
        /// `RESOLVE_CACHED`.
        const CACHED = 0x2000;
    }

    /// Flags of renameat2(2).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct RenameFlags: u32 {
        const NOREPLACE = raw::RENAME_NOREPLACE;
        const EXCHANGE = raw::RENAME_EXCHANGE;
        const WHITEOUT = raw::RENAME_WHITEOUT;
    }

    /// Flags of mount(2), as a mount or a superblock keeps them.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct MountFlags: u32 {
        const RDONLY = raw::MS_RDONLY;
        const NOSUID = raw::MS_NOSUID;
        const NODEV = raw::MS_NODEV;
        const NOEXEC = raw::MS_NOEXEC;
        const SYNCHRONOUS = raw::MS_SYNCHRONOUS;
        const REMOUNT = raw::MS_REMOUNT;
        const DIRSYNC = raw::MS_DIRSYNC;
        const NOSYMFOLLOW = raw::MS_NOSYMFOLLOW;
        const NOATIME = raw::MS_NOATIME;
        const NODIRATIME = raw::MS_NODIRATIME;
        const BIND = raw::MS_BIND;
        const MOVE = raw::MS_MOVE;
        const REC = raw::MS_REC;
        const SILENT = raw::MS_SILENT;
        const POSIXACL = raw::MS_POSIXACL;
        const UNBINDABLE = raw::MS_UNBINDABLE;
        const PRIVATE = raw::MS_PRIVATE;
        const SLAVE = raw::MS_SLAVE;
        const SHARED = raw::MS_SHARED;
        const RELATIME = raw::MS_RELATIME;
        const STRICTATIME = raw::MS_STRICTATIME;
        const LAZYTIME = raw::MS_LAZYTIME;
        /// Mounted by the kernel for itself; not in any namespace.
        const KERNMOUNT = raw::MS_KERNMOUNT;
    }

    /// What access is wanted of a file: the bits of access(2) and of a mode's `rwx`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Access: u32 {
        const EXEC = 1;
        const WRITE = 2;
        const READ = 4;
    }
}

impl OpenFlags {
    /// O_SYNC.
    pub const SYNC: OpenFlags = OpenFlags::DSYNC.union(OpenFlags::SYNC_BIT);
    /// O_TMPFILE.
    pub const TMPFILE: OpenFlags = OpenFlags::DIRECTORY.union(OpenFlags::TMPFILE_BIT);
    /// Flags that fcntl(F_SETFL) may change.
    pub const SETTABLE: OpenFlags =
        OpenFlags::APPEND.union(OpenFlags::NONBLOCK).union(OpenFlags::ASYNC).union(OpenFlags::DIRECT).union(OpenFlags::NOATIME);
    /// Flags that act once, while opening, and are not kept.
    pub const TRANSIENT: OpenFlags =
        OpenFlags::CREAT.union(OpenFlags::EXCL).union(OpenFlags::NOCTTY).union(OpenFlags::TRUNC).union(OpenFlags::CLOEXEC);

    /// Whether reading is allowed. Mode 3 allows ioctl only.
    #[must_use]
    pub fn can_read(self) -> bool {
        !self.contains(OpenFlags::PATH) && self.bits() & raw::O_ACCMODE != raw::O_WRONLY && self.bits() & raw::O_ACCMODE != 3
    }
    /// Whether writing is allowed.
    #[must_use]
    pub fn can_write(self) -> bool {
        !self.contains(OpenFlags::PATH) && matches!(self.bits() & raw::O_ACCMODE, raw::O_WRONLY | raw::O_RDWR)
    }
    /// The access to be checked when a file is opened so. Mode 3 checks both, as Linux does.
    #[must_use]
    pub fn access(self) -> Access {
        match self.bits() & raw::O_ACCMODE {
            raw::O_RDONLY => Access::READ,
            raw::O_WRONLY => Access::WRITE,
            _ => Access::READ | Access::WRITE,
        }
    }
}

impl LookupFlags {
    /// The lookup restrictions that `resolve` of openat2(2) asks for; `None` when it has unknown bits.
    #[must_use]
    pub fn from_resolve(resolve: u64) -> Option<LookupFlags> {
        let known = u64::from(
            raw::RESOLVE_NO_XDEV
                | raw::RESOLVE_NO_MAGICLINKS
                | raw::RESOLVE_NO_SYMLINKS
                | raw::RESOLVE_BENEATH
                | raw::RESOLVE_IN_ROOT
                | raw::RESOLVE_CACHED,
        );
        (resolve & !known == 0).then(|| LookupFlags::from_bits_retain((resolve as u32) << 8))
    }
}
