//! Bringing lower files up: data, attributes, and the directories on the way.

use super::Overlay;
use super::inode::OverlayInode;
use abi::{Errno, PAGE_SIZE};
use std::sync::Arc;
use vfs::{FileKind, Inode, Metadata, Owner, Pages, RenameFlags, SetAttr, XattrMode};

/// Makes `upper`'s times those that are given.
pub(super) fn set_times(upper: &Arc<dyn Inode>, times: &Metadata) -> Result<(), Errno> {
    upper.set_attr(&SetAttr {
        accessed: Some(times.accessed),
        modified: Some(times.modified),
        changed: Some(times.changed),
        ..SetAttr::default()
    })
}

impl OverlayInode {
    /// The upper file; brought up first, with every directory above it, if there is none.
    pub fn copy_up(self: &Arc<OverlayInode>) -> Result<Arc<dyn Inode>, Errno> {
        self.copy_up_to(u64::MAX)
    }

    /// The same, with at most `keep_bytes` of a file's data: the rest is about to be cut off.
    pub fn copy_up_to(self: &Arc<OverlayInode>, keep_bytes: u64) -> Result<Arc<dyn Inode>, Errno> {
        if let Some(upper) = self.upper() {
            return Ok(upper.clone());
        }
        // Not by recursion: a guest decides how deep directories are.
        let mut chain = vec![self.clone()];
        while let Some(place) = chain.last().and_then(|node| node.place()) {
            if place.0.upper().is_some() {
                break;
            }
            chain.push(place.0);
        }
        while let Some(node) = chain.pop() {
            node.copy_this_up(if chain.is_empty() { keep_bytes } else { u64::MAX })?;
        }
        self.upper().cloned().ok_or(Errno::EIO)
    }

    fn copy_this_up(self: &Arc<OverlayInode>, keep_bytes: u64) -> Result<(), Errno> {
        let _copying = self.copying.lock();
        let (None, Some(lower)) = (self.upper(), self.lower()) else { return Ok(()) };
        let metadata = lower.metadata()?;
        let work = &self.fs.work;
        let temporary = self.fs.work_name();
        let owner = metadata.owner();
        let made = match self.kind() {
            FileKind::Regular => work.create(&temporary, owner)?,
            FileKind::Directory => work.mkdir(&temporary, owner)?,
            FileKind::Symlink => work.symlink(&temporary, &lower.readlink()?, owner)?,
            kind => work.mknod(&temporary, kind, lower.rdev(), owner)?,
        };
        let place = self.place();
        let complete = fill(lower, &made, &metadata, keep_bytes).and_then(|()| match &place {
            Some((parent, name)) => {
                let dir = parent.upper().ok_or(Errno::EIO)?;
                // Bringing something up is no change of the directory.
                let times = dir.metadata()?;
                work.rename(&temporary, &made, dir, name, None, RenameFlags::empty())?;
                set_times(dir, &times)
            }
            // Its name is gone; it lives on as long as it is open.
            None if self.kind() == FileKind::Directory => Err(Errno::ENOENT),
            None => work.unlink(&temporary, &made),
        });
        if let Err(errno) = complete {
            self.fs.discard(&temporary, &made);
            return Err(errno);
        }
        if place.is_some() {
            let shows_through = (self.kind() == FileKind::Directory).then(|| lower.clone());
            self.fs.remember_origin(&made, self.ino(), shows_through);
        }
        self.set_upper(made);
        Ok(())
    }
}

/// Gives `made` the data and attributes of `lower`.
fn fill(lower: &Arc<dyn Inode>, made: &Arc<dyn Inode>, metadata: &Metadata, keep_bytes: u64) -> Result<(), Errno> {
    if metadata.kind == FileKind::Regular {
        match copy_data(lower, made, metadata.size_bytes.min(keep_bytes)) {
            // Not ours to read: an empty file.
            Err(Errno::EACCES | Errno::EPERM) => made.truncate(0)?,
            other => other?,
        }
    }
    for name in lower.list_xattr().unwrap_or_default() {
        if let Ok(value) = lower.get_xattr(&name) {
            let copied = made.set_xattr(&name, &value, XattrMode::Set);
            if !matches!(copied, Ok(()) | Err(Errno::EOPNOTSUPP)) {
                return copied;
            }
        }
    }
    let Owner { mode, uid, gid } = metadata.owner();
    let mode = (metadata.kind != FileKind::Symlink).then_some(mode);
    made.set_attr(&SetAttr {
        mode,
        uid: Some(uid),
        gid: Some(gid),
        accessed: Some(metadata.accessed),
        modified: Some(metadata.modified),
        changed: Some(metadata.changed),
    })
}

/// Copies the first `len` bytes, page by page inside RAM; pages of zeroes stay holes.
fn copy_data(lower: &Arc<dyn Inode>, made: &Arc<dyn Inode>, len: u64) -> Result<(), Errno> {
    if len == 0 {
        return Ok(());
    }
    let (from, to): (Arc<dyn Pages>, Arc<dyn Pages>) = (lower.pages().ok_or(Errno::EIO)?, made.pages().ok_or(Errno::EIO)?);
    made.truncate(len)?;
    for index in 0..len.div_ceil(PAGE_SIZE as u64) {
        let source = match from.page(index, false) {
            Ok(frame) => frame,
            // It got shorter meanwhile.
            Err(Errno::ENXIO) => break,
            Err(errno) => return Err(errno),
        };
        let mut bytes = [0; PAGE_SIZE];
        source.read(0, &mut bytes);
        let inside = (len - index * PAGE_SIZE as u64).min(PAGE_SIZE as u64) as usize;
        let data = bytes.get(..inside).unwrap_or_default();
        if data.iter().any(|byte| *byte != 0) {
            to.page(index, true)?.write(0, data);
        }
    }
    Ok(())
}

impl Overlay {
    /// The names of an upper directory that are whiteouts.
    pub(super) fn whiteouts_in(&self, upper: &Arc<dyn Inode>) -> Result<Vec<Vec<u8>>, Errno> {
        let mut names = Vec::new();
        upper.readdir(0, &mut |entry| {
            if entry.kind.is_none_or(|kind| kind == FileKind::CharDevice) {
                names.push(entry.name.to_vec());
            }
            true
        })?;
        names.retain(|name| upper.lookup(name).is_ok_and(|found| super::is_whiteout(&found)));
        Ok(names)
    }
}
