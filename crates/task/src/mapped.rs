//! An open file as `/proc/PID/maps` and msync(2) know it when it is mapped.

use abi::{Errno, PAGE_SIZE, SysError};
use mm::MappedFile;
use std::sync::Arc;
use vfs::{OpenFile, SyncKind};

/// A file's path for `/proc`, from the root of its mount namespace, with ` (deleted)` if it has no name any more.
#[must_use]
pub fn path_name(path: &vfs::Path) -> Vec<u8> {
    let mut top = path.clone();
    while let Some(mountpoint) = top.mount.mountpoint() {
        top = mountpoint;
    }
    let mut name = vfs::name_below(path, &top.mount.root_path()).unwrap_or_else(|| path.dentry.name().as_ref().to_vec());
    if path.dentry.is_deleted() {
        name.extend(b" (deleted)");
    }
    name
}

/// The file behind a mapping.
pub struct FileMapping(Arc<OpenFile>);

impl FileMapping {
    /// The one that all mappings of this open file share.
    #[must_use]
    pub fn of(file: &Arc<OpenFile>) -> Arc<FileMapping> {
        file.mapped_as(|| FileMapping(file.clone()))
    }
}

impl MappedFile for FileMapping {
    fn path(&self) -> Vec<u8> {
        path_name(self.0.path())
    }
    fn device(&self) -> u64 {
        self.0.path().mount.superblock().dev().encode()
    }
    fn inode(&self) -> u64 {
        self.0.inode().ino()
    }
    fn sync_pages(&self, first: u64, end: u64) -> Result<(), Errno> {
        let page = PAGE_SIZE as u64;
        self.0.fsync(first * page, end.saturating_mul(page), SyncKind::All).map_err(SysError::errno)
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
