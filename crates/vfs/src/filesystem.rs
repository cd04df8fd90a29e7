//! File systems: the kinds that mount(2) knows ([`FileSystemType`]), and one instance ([`FileSystem`]).

use crate::credentials::Credentials;
use crate::flags::MountFlags;
use crate::inode::Inode;
use crate::path::Path;
use crate::types::{DeviceNumber, StatFs};
use crate::vfs::Vfs;
use abi::Errno;
use std::sync::Arc;

/// What a mount of a new instance is given.
pub struct MountRequest<'a> {
    pub vfs: &'static Vfs,
    /// The device or whatever else the source names, as mount(2) was given it.
    pub source: &'a [u8],
    /// Where `source` leads, looked up as the caller; `None` if it leads nowhere.
    pub source_path: Option<Path>,
    pub flags: MountFlags,
    /// The options string.
    pub data: &'a [u8],
    pub credentials: &'a Credentials,
}

/// A kind of file system.
pub trait FileSystemType: Send + Sync {
    /// As in `/proc/filesystems`.
    fn name(&self) -> &'static str;
    /// Whether it needs a block device; `/proc/filesystems` marks the others `nodev`.
    fn needs_device(&self) -> bool {
        false
    }
    /// Makes an instance, or gives the one that the same source already has (then mount shares its superblock). EINVAL for bad options.
    fn mount(&self, request: &MountRequest<'_>) -> Result<Arc<dyn FileSystem>, Errno>;
}

/// An instance of a file system. Its inodes may hold it; it must not hold its inodes but for the root.
pub trait FileSystem: Send + Sync {
    /// The root directory.
    fn root(&self) -> Arc<dyn Inode>;
    /// Name of its type, as `/proc/mounts` shows it.
    fn type_name(&self) -> &'static str;
    /// statfs(2).
    fn statfs(&self) -> Result<StatFs, Errno>;
    /// Writes everything back (syncfs(2)).
    fn sync(&self) -> Result<(), Errno> {
        Ok(())
    }
    /// Writes everything back and leaves the device as after an unmount (ioctl_fs FIFREEZE), so that a copy of it needs no repair. Called while
    /// the machine is stopped: nothing changes until [`FileSystem::thaw`].
    fn freeze(&self) -> Result<(), Errno> {
        self.sync()
    }
    /// Changes may follow again.
    fn thaw(&self) -> Result<(), Errno> {
        Ok(())
    }
    /// The block device it lives on: `st_dev` of its files. `None`: an anonymous number (major 0) is made up.
    fn device(&self) -> Option<DeviceNumber> {
        None
    }
    /// Flags that the instance itself forces, whatever the mount says: [`MountFlags::RDONLY`], [`MountFlags::NOSUID`], ...
    fn flags(&self) -> MountFlags {
        MountFlags::empty()
    }
    /// Changes options (`MS_REMOUNT`). `flags` holds the new [`MountFlags::RDONLY`].
    fn remount(&self, _flags: MountFlags, _data: &[u8]) -> Result<(), Errno> {
        Ok(())
    }
    /// Tells the device of free room in `start..start + len` bytes, in pieces of at least `least` (FITRIM); how many bytes.
    fn trim(&self, _start: u64, _len: u64, _least: u64) -> Result<u64, Errno> {
        Err(Errno::ENOTTY)
    }
    /// Its own options for `/proc/mounts`, with a leading comma each: `,size=65536k,mode=755`.
    fn show_options(&self) -> String {
        String::new()
    }
    /// Called when the last mount and the last open file are gone, after a last [`FileSystem::sync`].
    fn unmount(&self) {}
}
