//! The inode: a file whatever its names are. A file system implements [`Inode`]; whoever reaches files by path goes through this crate's
//! operations, which check permissions, mounts and names first.
//!
//! What it is not: permission checking (but for [`Inode::permission`], which a file system overrides only where modes are not the whole truth),
//! locking of directories (below), notification, or path walk.
//!
//! Always true: of the calls on one directory that look up or change names, one runs at a time ([`Inode::lookup`] to [`Inode::rename`]); the
//! directory's dentry lock sees to that. Reading a directory, and everything on files, may run beside anything. A name is 1 to 255 bytes without
//! NUL and `/`, and neither `.` nor `..`. Before `create`, `mkdir`, `mknod`, `symlink` and `link`, the name was looked up and absent.

use crate::attachments::Attachments;
use crate::credentials::Credentials;
use crate::file::FileOps;
use crate::filesystem::FileSystem;
use crate::flags::{Access, MountFlags, OpenFlags, RenameFlags};
use crate::mount::Mount;
use crate::pages::Pages;
use crate::path::Path;
use crate::types::{DeviceNumber, DirEntry, FileKind, Metadata, Owner, SetAttr, StatFs, Timestamp};
use abi::{Errno, SysResult};
use std::any::Any;
use std::sync::Arc;

/// How long a directory's lookups may be remembered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CachePolicy {
    /// Names change through this machine only.
    #[default]
    Cached,
    /// A remembered entry must answer [`Inode::is_current`]; absence is not remembered. For `/proc` and host directories.
    Revalidate,
}

/// Where a symbolic link leads.
pub enum Link {
    /// To a path, resolved from the link's own directory.
    Text(Arc<[u8]>),
    /// Straight to a file, as `/proc/PID/fd/N` and its like do.
    Magic(Path),
}

/// What an open asks of an inode.
pub struct Open<'a> {
    /// All flags that open(2) was given.
    pub flags: OpenFlags,
    pub credentials: &'a Credentials,
    /// What was looked up.
    pub path: &'a Path,
}

/// How [`Inode::set_xattr`] treats what is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XattrMode {
    /// Create or replace.
    Set,
    /// `XATTR_CREATE`: EEXIST if it is there.
    Create,
    /// `XATTR_REPLACE`: ENODATA if it is not.
    Replace,
}

/// When a read changes the access time: the mount's option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessPolicy {
    /// `strictatime`.
    Always,
    /// `relatime`: if it is not later than the modification or change time, or a day old.
    Relative,
}

impl AccessPolicy {
    /// The policy of a mount; `None` if reads leave no trace.
    #[must_use]
    pub fn of(mount: &Mount) -> Option<AccessPolicy> {
        let flags = mount.all_flags();
        if flags.intersects(MountFlags::NOATIME | MountFlags::RDONLY) {
            None
        } else if flags.contains(MountFlags::STRICTATIME) {
            Some(AccessPolicy::Always)
        } else {
            Some(AccessPolicy::Relative)
        }
    }
    /// Whether a file with these times is to get a new access time `now`.
    #[must_use]
    pub fn applies(self, accessed: Timestamp, modified: Timestamp, changed: Timestamp, now: Timestamp) -> bool {
        const DAY: i64 = 24 * 60 * 60;
        self == AccessPolicy::Always || accessed <= modified || accessed <= changed || now.sec - accessed.sec >= DAY
    }
}

/// What readdir hands each entry to. `false` means: no room, stop before this entry.
pub type Emit<'a> = &'a mut dyn FnMut(DirEntry<'_>) -> bool;

/// A file. Default bodies answer what Linux answers where a file system lacks the operation.
pub trait Inode: Any + Send + Sync {
    /// What stat(2) tells. May read the disk.
    fn metadata(&self) -> Result<Metadata, Errno>;
    /// What kind of file it is; never changes.
    fn kind(&self) -> FileKind;
    /// Number of the inode in its file system.
    fn ino(&self) -> u64;
    /// Owner, group and mode, from memory: asked for every directory of every path.
    fn owner(&self) -> Owner;
    /// The file system it belongs to.
    fn file_system(&self) -> Arc<dyn FileSystem>;
    /// Where bytes `start..start + len` lie on the device, `most` extents of them (FIEMAP). Dirty pages are written first.
    fn extents(&self, _start: u64, _len: u64, _most: usize) -> Result<Vec<crate::FileExtent>, Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Where locks, watches, a FIFO's pipe and a bound socket hang: one field of every inode.
    fn attachments(&self) -> &Attachments;

    /// EACCES unless `want` is allowed. By default owner, group, mode and capabilities decide; file systems with access-control lists override.
    fn permission(&self, credentials: &Credentials, want: Access) -> Result<(), Errno> {
        credentials.check(&self.owner(), self.kind(), want)
    }
    /// `STATX_ATTR_IMMUTABLE` and `STATX_ATTR_APPEND`, if the inode has them: nothing else may be done to such files.
    fn attributes(&self) -> u64 {
        0
    }

    // Directories.

    /// The file called `name`. ENOENT. Two lookups of one file give the same `Arc`, or inodes that answer alike.
    fn lookup(&self, _name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        Err(Errno::ENOTDIR)
    }
    /// How long lookups in this directory may be remembered.
    fn cache_policy(&self) -> CachePolicy {
        CachePolicy::Cached
    }
    /// Whether a remembered inode still is what its name stands for; asked for entries of [`CachePolicy::Revalidate`] directories.
    fn is_current(&self) -> bool {
        true
    }
    /// Gives entries from the cookie `from` on (0 is the beginning) to `emit`, `.` and `..` left out: [`DirEntry::next`] starts at 3 or above, cookies 0 to 2 are theirs.
    fn readdir(&self, _from: u64, _emit: Emit<'_>) -> Result<(), Errno> {
        Err(Errno::ENOTDIR)
    }
    /// Makes a regular file.
    fn create(&self, _name: &[u8], _owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        Err(Errno::EACCES)
    }
    /// Makes a directory.
    fn mkdir(&self, _name: &[u8], _owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        Err(Errno::EPERM)
    }
    /// Makes a device node, FIFO or socket.
    fn mknod(&self, _name: &[u8], _kind: FileKind, _rdev: DeviceNumber, _owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        Err(Errno::EPERM)
    }
    /// Makes a symbolic link.
    fn symlink(&self, _name: &[u8], _target: &[u8], _owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        Err(Errno::EPERM)
    }
    /// Makes a regular file without a name (O_TMPFILE); a later [`Inode::link`] may give it one.
    fn tmpfile(&self, _owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Gives `inode`, which is of this file system, another name.
    fn link(&self, _inode: &Arc<dyn Inode>, _name: &[u8]) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }
    /// Takes the name of `inode`, not a directory, away.
    fn unlink(&self, _name: &[u8], _inode: &Arc<dyn Inode>) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }
    /// Removes the directory `inode`. ENOTEMPTY.
    fn rmdir(&self, _name: &[u8], _inode: &Arc<dyn Inode>) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }
    /// Moves `name` to `to` in `to_dir` of the same file system (perhaps this very directory). Loops, kinds, stickiness and mounts are checked.
    ///
    /// `replaced` is what `to` names now: it goes away (ENOTEMPTY for a directory with entries), or takes the place of `inode` with
    /// [`RenameFlags::EXCHANGE`]. With [`RenameFlags::WHITEOUT`] a character device 0:0 is left behind.
    fn rename(
        &self,
        _name: &[u8],
        _inode: &Arc<dyn Inode>,
        _to_dir: &Arc<dyn Inode>,
        _to: &[u8],
        _replaced: Option<&Arc<dyn Inode>>,
        _flags: RenameFlags,
    ) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }

    /// Whether the directory has a default access-control list. Then names are made with their whole mode, no umask, and the file system
    /// applies the list.
    fn has_default_acl(&self) -> bool {
        false
    }

    // Symbolic links.

    /// The target. EINVAL for other kinds.
    fn readlink(&self) -> Result<Arc<[u8]>, Errno> {
        Err(Errno::EINVAL)
    }
    /// Where path walk goes on.
    fn follow_link(&self, _credentials: &Credentials) -> SysResult<Link> {
        Ok(Link::Text(self.readlink()?))
    }

    // Attributes.

    /// Changes attributes.
    fn set_attr(&self, _change: &SetAttr) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }
    /// Sets the size of a regular file; pages beyond are unmapped first, what is added reads as zeroes. The modification time changes.
    fn truncate(&self, _size_bytes: u64) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }
    /// Notes an access: sets the access time if `policy` asks for it. By default nothing is kept.
    fn touch_accessed(&self, _policy: AccessPolicy) {}
    /// Value of an extended attribute, xattr(7); `name` with its prefix. ENODATA.
    fn get_xattr(&self, _name: &[u8]) -> Result<Vec<u8>, Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Sets one. ENOSPC, ERANGE.
    fn set_xattr(&self, _name: &[u8], _value: &[u8], _mode: XattrMode) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Removes one. ENODATA.
    fn remove_xattr(&self, _name: &[u8]) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// All names.
    fn list_xattr(&self) -> Result<Vec<Vec<u8>>, Errno> {
        Ok(Vec::new())
    }

    // Contents.

    /// Opens a regular file (any other kind only if [`Inode::opens_itself`]).
    fn open(self: Arc<Self>, _open: &Open<'_>) -> SysResult<Arc<dyn FileOps>> {
        Err(Errno::ENXIO.into())
    }
    /// Whether [`Inode::open`] opens whatever kind this is, instead of [`Inode::readdir`], the device registry and pipes.
    fn opens_itself(&self) -> bool {
        false
    }
    /// Which device a node stands for.
    fn rdev(&self) -> DeviceNumber {
        DeviceNumber::NONE
    }
    /// The page cache of a regular file, if it has one.
    fn pages(&self) -> Option<Arc<dyn Pages>> {
        None
    }
    /// Makes the inode durable: fsync(2) of a directory; files do it in [`FileOps::fsync`].
    fn fsync(&self) -> Result<(), Errno> {
        Ok(())
    }
    /// statfs(2) of this very file, where it differs from its file system's.
    fn statfs(&self) -> Option<StatFs> {
        None
    }
}

impl dyn Inode {
    /// The inode as the file system's own type, to be used by that file system.
    #[must_use]
    pub fn downcast<T: Inode>(&self) -> Option<&T> {
        let any: &dyn Any = self;
        any.downcast_ref()
    }
    /// The same for a counted reference.
    pub fn downcast_arc<T: Inode>(self: Arc<Self>) -> Option<Arc<T>> {
        let any: Arc<dyn Any + Send + Sync> = self;
        any.downcast().ok()
    }
}
