//! Calls on a file's attributes: stat(2), chmod(2), chown(2), utimensat(2), truncate(2), access(2), statfs(2), xattr(7).

use crate::credentials::Capability;
use crate::flags::{Access, LookupFlags, MountFlags};
use crate::fscontext::Caller;
use crate::inode::{AccessPolicy, Inode, XattrMode};
use crate::path::Path;
use crate::types::{FileKind, Metadata, SetAttr, StatFs, Timestamp};
use crate::walk::PathAt;
use abi::raw::general::{STATX_ATTR_APPEND, STATX_ATTR_IMMUTABLE};
use abi::{Errno, SysResult};
use std::sync::Arc;

/// One of the two times of utimensat(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// `UTIME_NOW`.
    Now,
    /// `UTIME_OMIT`.
    Omit,
    At(Timestamp),
}

/// Bytes of an extended attribute's name, prefix included (`XATTR_NAME_MAX`).
const XATTR_NAME_MAX: usize = 255;
/// Bytes of its value (`XATTR_SIZE_MAX`).
const XATTR_SIZE_MAX: usize = 65536;

impl Path {
    /// stat(2) of what the path leads to, the device number filled in.
    pub fn metadata(&self) -> Result<Metadata, Errno> {
        let mut metadata = self.inode().metadata()?;
        if metadata.dev == crate::DeviceNumber::NONE {
            metadata.dev = self.mount.superblock().dev();
        }
        Ok(metadata)
    }
    /// statfs(2).
    pub fn statfs(&self) -> Result<StatFs, Errno> {
        match self.inode().statfs() {
            Some(statfs) => Ok(statfs),
            None => self.mount.superblock().file_system().statfs(),
        }
    }
    /// EROFS if nothing may be written here.
    pub fn require_writable(&self) -> Result<(), Errno> {
        if self.mount.is_read_only() { Err(Errno::EROFS) } else { Ok(()) }
    }
    /// Notes that the contents were read, as the mount's options say.
    pub fn touch_accessed(&self) {
        if let Some(policy) = AccessPolicy::of(&self.mount) {
            self.inode().touch_accessed(policy);
        }
    }
}

fn changeable(inode: &Arc<dyn Inode>) -> Result<(), Errno> {
    if inode.attributes() & u64::from(STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND) == 0 { Ok(()) } else { Err(Errno::EPERM) }
}

impl Caller<'_> {
    /// stat(2) and its relatives.
    pub fn stat(&self, path: PathAt<'_>, flags: LookupFlags) -> SysResult<Metadata> {
        Ok(self.lookup(path, flags)?.metadata()?)
    }

    /// access(2), faccessat2(2): with the real identity, or with the effective one if `effective`.
    pub fn access(&self, path: PathAt<'_>, want: Access, effective: bool, flags: LookupFlags) -> SysResult<()> {
        if effective {
            return Ok(self.check_access(&self.lookup(path, flags)?, want)?);
        }
        let real = Arc::new(self.credentials.for_access());
        let caller = Caller { credentials: &real, ..self.clone() };
        Ok(caller.check_access(&caller.lookup(path, flags)?, want)?)
    }

    fn check_access(&self, path: &Path, want: Access) -> Result<(), Errno> {
        let inode = path.inode();
        let flags = path.mount.all_flags();
        let kind = inode.kind();
        if want.contains(Access::EXEC) && kind == FileKind::Regular && flags.contains(MountFlags::NOEXEC) {
            return Err(Errno::EACCES);
        }
        let stored = matches!(kind, FileKind::Regular | FileKind::Directory | FileKind::Symlink);
        if want.contains(Access::WRITE) && stored {
            path.require_writable()?;
            if inode.attributes() & u64::from(STATX_ATTR_IMMUTABLE) != 0 {
                return Err(Errno::EPERM);
            }
        }
        if want.is_empty() { Ok(()) } else { inode.permission(self.credentials, want) }
    }

    /// readlink(2). EINVAL for what is not a symbolic link.
    pub fn readlink(&self, path: PathAt<'_>) -> SysResult<Arc<[u8]>> {
        let empty = path.path.is_empty();
        let found = self.lookup(path, LookupFlags::EMPTY)?;
        if found.inode().kind() != FileKind::Symlink {
            return Err(if empty { Errno::ENOENT } else { Errno::EINVAL }.into());
        }
        found.touch_accessed();
        Ok(found.inode().readlink()?)
    }

    /// chmod(2). EPERM unless owner.
    pub fn chmod(&self, path: &Path, mode: u32) -> Result<(), Errno> {
        path.require_writable()?;
        let inode = path.inode();
        changeable(inode)?;
        let owner = inode.owner();
        if !self.credentials.owns(&owner) {
            return Err(Errno::EPERM);
        }
        if inode.kind() == FileKind::Symlink {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut mode = mode & 0o7777;
        if !self.credentials.in_group(owner.gid) && !self.credentials.has(Capability::FSETID) {
            mode &= !0o2000;
        }
        self.set_attr(path, SetAttr { mode: Some(mode), ..SetAttr::default() })
    }

    /// chown(2); `None` leaves an owner as it is. Set-id bits and file capabilities of files go.
    pub fn chown(&self, path: &Path, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
        path.require_writable()?;
        let inode = path.inode();
        changeable(inode)?;
        let owner = inode.owner();
        let credentials = self.credentials;
        let is_owner = credentials.fsuid == owner.uid;
        let uid_allowed = uid.is_none_or(|uid| is_owner && uid == owner.uid);
        let gid_allowed = gid.is_none_or(|gid| is_owner && (gid == owner.gid || credentials.in_group(gid)));
        if !(uid_allowed && gid_allowed) {
            credentials.require(Capability::CHOWN)?;
        }
        let mut change = SetAttr { uid, gid, ..SetAttr::default() };
        if inode.kind() != FileKind::Directory {
            change.mode = without_privileges(owner.mode);
            self.drop_file_capabilities(inode);
        }
        self.set_attr(path, change)
    }

    /// utimensat(2). EACCES for "now" without write permission, EPERM for any other time unless owner.
    pub fn utimens(&self, path: &Path, accessed: SetTime, modified: SetTime) -> Result<(), Errno> {
        if (accessed, modified) == (SetTime::Omit, SetTime::Omit) {
            return Ok(());
        }
        path.require_writable()?;
        let inode = path.inode();
        let attributes = inode.attributes();
        if (accessed, modified) == (SetTime::Now, SetTime::Now) {
            if attributes & u64::from(STATX_ATTR_IMMUTABLE) != 0 {
                return Err(Errno::EPERM);
            }
            if !self.credentials.owns(&inode.owner()) {
                inode.permission(self.credentials, Access::WRITE)?;
            }
        } else {
            changeable(inode)?;
            if !self.credentials.owns(&inode.owner()) {
                return Err(Errno::EPERM);
            }
        }
        let now = Timestamp::now();
        let value = |time| match time {
            SetTime::Now => Some(now),
            SetTime::Omit => None,
            SetTime::At(at) => Some(at),
        };
        self.set_attr(path, SetAttr { accessed: value(accessed), modified: value(modified), changed: Some(now), ..SetAttr::default() })
    }

    fn set_attr(&self, path: &Path, mut change: SetAttr) -> Result<(), Errno> {
        change.changed.get_or_insert_with(Timestamp::now);
        path.inode().set_attr(&change)?;
        crate::notify::attributes(path);
        Ok(())
    }

    /// truncate(2).
    pub fn truncate(&self, path: &Path, size_bytes: u64) -> Result<(), Errno> {
        let inode = path.inode();
        match inode.kind() {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
        path.require_writable()?;
        inode.permission(self.credentials, Access::WRITE)?;
        changeable(inode)?;
        inode.attachments().begin_write()?;
        let result = self.truncate_open(path, size_bytes);
        inode.attachments().end_write();
        result
    }

    /// ftruncate(2), once the descriptor was found writable.
    pub fn truncate_open(&self, path: &Path, size_bytes: u64) -> Result<(), Errno> {
        let inode = path.inode();
        if inode.kind() != FileKind::Regular {
            return Err(Errno::EINVAL);
        }
        if size_bytes > self.file_size_limit || i64::try_from(size_bytes).is_err() {
            return Err(Errno::EFBIG);
        }
        inode.truncate(size_bytes)?;
        self.drop_privileges(inode)?;
        crate::notify::modified(path);
        Ok(())
    }

    /// Takes set-id bits and capabilities from a file that is written to, unless the writer may keep them.
    pub(crate) fn drop_privileges(&self, inode: &Arc<dyn Inode>) -> Result<(), Errno> {
        drop_privileges(self.credentials, inode)
    }

    fn drop_file_capabilities(&self, inode: &Arc<dyn Inode>) {
        // Not there, or not supported: nothing to drop.
        let _ = inode.remove_xattr(b"security.capability");
    }
}

/// The mode without set-id bits, if that is a change. Set-group-ID without group execution is not a privilege (it once meant locking).
fn without_privileges(mode: u32) -> Option<u32> {
    let mut new = mode & !0o4000;
    if mode & 0o2010 == 0o2010 {
        new &= !0o2000;
    }
    (new != mode).then_some(new)
}

/// Takes set-id bits from a file that `credentials` write to.
pub(crate) fn drop_privileges(credentials: &crate::Credentials, inode: &Arc<dyn Inode>) -> Result<(), Errno> {
    let owner = inode.owner();
    if owner.mode & 0o6000 == 0 || credentials.has(Capability::FSETID) || inode.kind() != FileKind::Regular {
        return Ok(());
    }
    match without_privileges(owner.mode) {
        Some(mode) => inode.set_attr(&SetAttr { mode: Some(mode), changed: Some(Timestamp::now()), ..SetAttr::default() }),
        None => Ok(()),
    }
}

/// Which rules an extended attribute's name is under.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Namespace {
    User,
    Trusted,
    Security,
    System,
}

fn xattr_namespace(name: &[u8]) -> Result<Namespace, Errno> {
    if name.is_empty() || name.len() > XATTR_NAME_MAX {
        return Err(Errno::ERANGE);
    }
    let prefixes: [(&[u8], Namespace); 4] = [
        (b"user.", Namespace::User),
        (b"trusted.", Namespace::Trusted),
        (b"security.", Namespace::Security),
        (b"system.", Namespace::System),
    ];
    let found = prefixes.into_iter().find(|(prefix, _)| name.starts_with(prefix)).ok_or(Errno::EOPNOTSUPP)?;
    if found.0.len() == name.len() { Err(Errno::EINVAL) } else { Ok(found.1) }
}

impl Caller<'_> {
    /// getxattr(2). ENODATA, EOPNOTSUPP.
    pub fn get_xattr(&self, path: &Path, name: &[u8]) -> Result<Vec<u8>, Errno> {
        self.xattr_allowed(path, name, Access::READ)?;
        path.inode().get_xattr(name)
    }
    /// setxattr(2).
    pub fn set_xattr(&self, path: &Path, name: &[u8], value: &[u8], mode: XattrMode) -> Result<(), Errno> {
        if value.len() > XATTR_SIZE_MAX {
            return Err(Errno::E2BIG);
        }
        self.xattr_allowed(path, name, Access::WRITE)?;
        path.inode().set_xattr(name, value, mode)?;
        crate::notify::attributes(path);
        Ok(())
    }
    /// removexattr(2).
    pub fn remove_xattr(&self, path: &Path, name: &[u8]) -> Result<(), Errno> {
        self.xattr_allowed(path, name, Access::WRITE)?;
        path.inode().remove_xattr(name)?;
        crate::notify::attributes(path);
        Ok(())
    }
    /// listxattr(2): names that the caller may know of.
    pub fn list_xattr(&self, path: &Path) -> Result<Vec<Vec<u8>>, Errno> {
        let trusted = self.credentials.has(Capability::SYS_ADMIN);
        let mut names = path.inode().list_xattr()?;
        names.retain(|name| trusted || !name.starts_with(b"trusted."));
        Ok(names)
    }

    fn xattr_allowed(&self, path: &Path, name: &[u8], want: Access) -> Result<(), Errno> {
        let namespace = xattr_namespace(name)?;
        let inode = path.inode();
        let writes = want.contains(Access::WRITE);
        if writes {
            path.require_writable()?;
            changeable(inode)?;
        }
        let owner = inode.owner();
        match namespace {
            Namespace::System => {
                // Access-control lists: the owner sets them, anybody reads them.
                if writes && !self.credentials.owns(&owner) { Err(Errno::EPERM) } else { Ok(()) }
            }
            Namespace::Security if !writes => Ok(()),
            Namespace::Security if name == b"security.capability" => self.credentials.require(Capability::SETFCAP),
            Namespace::Security => self.credentials.require(Capability::SYS_ADMIN),
            Namespace::Trusted => {
                let denied = if writes { Errno::EPERM } else { Errno::ENODATA };
                self.credentials.require(Capability::SYS_ADMIN).map_err(|_| denied)
            }
            Namespace::User => {
                let denied = if writes { Errno::EPERM } else { Errno::ENODATA };
                match inode.kind() {
                    FileKind::Regular => {}
                    FileKind::Directory => {
                        if writes && owner.mode & 0o1000 != 0 && !self.credentials.owns(&owner) {
                            return Err(Errno::EPERM);
                        }
                    }
                    _ => return Err(denied),
                }
                inode.permission(self.credentials, want)
            }
        }
    }
}
