//! What inotify(7) hears: the places where path operations and open files say what happened, and the watches that hang on inodes.
//!
//! Costs one load while nobody watches anything.

use crate::dentry::Dentry;
use crate::inode::Inode;
use crate::names::Renamed;
use crate::path::Path;
use crate::types::FileKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

bitflags::bitflags! {
    /// `IN_*` of inotify(7).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct NotifyMask: u32 {
        const ACCESS = 0x1;
        const MODIFY = 0x2;
        const ATTRIB = 0x4;
        const CLOSE_WRITE = 0x8;
        const CLOSE_NOWRITE = 0x10;
        const OPEN = 0x20;
        const MOVED_FROM = 0x40;
        const MOVED_TO = 0x80;
        const CREATE = 0x100;
        const DELETE = 0x200;
        const DELETE_SELF = 0x400;
        const MOVE_SELF = 0x800;
        const UNMOUNT = 0x2000;
        const Q_OVERFLOW = 0x4000;
        const IGNORED = 0x8000;
        const ONLYDIR = 0x0100_0000;
        const DONT_FOLLOW = 0x0200_0000;
        const EXCL_UNLINK = 0x0400_0000;
        const MASK_CREATE = 0x1000_0000;
        const MASK_ADD = 0x2000_0000;
        const ISDIR = 0x4000_0000;
        const ONESHOT = 0x8000_0000;
    }
}

/// Somebody who watches an inode. Called without locks; must not sleep.
pub trait Watch: Send + Sync {
    /// `mask` happened: to the inode itself, or to what is called `name` in it. `cookie` joins the two halves of a rename.
    fn event(&self, mask: NotifyMask, cookie: u32, name: Option<&[u8]>);
}

/// Watches of the whole machine.
pub(crate) static WATCHES: AtomicUsize = AtomicUsize::new(0);
static NEXT_COOKIE: AtomicU32 = AtomicU32::new(1);

fn quiet() -> bool {
    WATCHES.load(Ordering::Relaxed) == 0
}

fn tell(inode: &Arc<dyn Inode>, mask: NotifyMask, cookie: u32, name: Option<&[u8]>) {
    for watch in inode.attachments().watches() {
        watch.event(mask, cookie, name);
    }
}

fn kind_bit(inode: &Arc<dyn Inode>) -> NotifyMask {
    if inode.kind() == FileKind::Directory { NotifyMask::ISDIR } else { NotifyMask::empty() }
}

/// Something happened to a file: told to its watches, and to those of its directory.
fn happened(path: &Path, mask: NotifyMask) {
    if quiet() {
        return;
    }
    let inode = path.inode();
    let mask = mask | kind_bit(inode);
    if let (Some(parent), name) = path.dentry.place()
        && !path.dentry.is_deleted()
        && let Some(dir) = parent.inode()
    {
        tell(dir, mask, 0, Some(&name));
    }
    tell(inode, mask, 0, None);
}

/// Attributes changed.
pub(crate) fn attributes(path: &Path) {
    happened(path, NotifyMask::ATTRIB);
}
/// Contents changed.
pub(crate) fn modified(path: &Path) {
    happened(path, NotifyMask::MODIFY);
}
/// Contents changed that nobody wrote: a file of the kernel's own.
pub fn changed_by_itself(inode: &Arc<dyn Inode>) {
    if !quiet() {
        tell(inode, NotifyMask::MODIFY, 0, None);
    }
}
/// Contents were read.
pub(crate) fn accessed(path: &Path) {
    happened(path, NotifyMask::ACCESS);
}
/// It was opened.
pub(crate) fn opened(path: &Path) {
    happened(path, NotifyMask::OPEN);
}
/// An open file went away.
pub(crate) fn closed(path: &Path, writable: bool) {
    happened(path, if writable { NotifyMask::CLOSE_WRITE } else { NotifyMask::CLOSE_NOWRITE });
}
/// A name was made in `dir`.
pub(crate) fn created(dir: &Path, dentry: &Arc<Dentry>) {
    if quiet() {
        return;
    }
    let bit = dentry.inode().map_or(NotifyMask::empty(), kind_bit);
    tell(dir.inode(), NotifyMask::CREATE | bit, 0, Some(&dentry.name()));
}

/// A name of `inode` is gone; the last one took the inode with it.
fn name_gone(inode: &Arc<dyn Inode>) {
    let directory = inode.kind() == FileKind::Directory;
    if !directory {
        tell(inode, NotifyMask::ATTRIB, 0, None);
        if inode.metadata().is_ok_and(|m| m.links > 0) {
            return;
        }
    }
    tell(inode, NotifyMask::DELETE_SELF, 0, None);
    tell(inode, NotifyMask::IGNORED, 0, None);
}

/// A name was taken out of `dir`.
pub(crate) fn removed(dir: &Path, dentry: &Arc<Dentry>) {
    if quiet() {
        return;
    }
    let Some(inode) = dentry.inode() else { return };
    name_gone(inode);
    tell(dir.inode(), NotifyMask::DELETE | kind_bit(inode), 0, Some(&dentry.name()));
}

/// A name moved, or two changed places.
pub(crate) fn renamed(from: &Path, to: &Path, renamed: &Renamed, old_name: &[u8]) {
    if quiet() {
        return;
    }
    let new_name = renamed.source.name();
    let moved = |dentry: &Arc<Dentry>, from: &Path, old_name: &[u8], to: &Path, new_name: &[u8]| {
        let Some(inode) = dentry.inode() else { return };
        let cookie = NEXT_COOKIE.fetch_add(1, Ordering::Relaxed);
        tell(from.inode(), NotifyMask::MOVED_FROM | kind_bit(inode), cookie, Some(old_name));
        tell(to.inode(), NotifyMask::MOVED_TO | kind_bit(inode), cookie, Some(new_name));
        tell(inode, NotifyMask::MOVE_SELF, 0, None);
    };
    moved(&renamed.source, from, old_name, to, &new_name);
    match &renamed.target {
        Some(other) if renamed.exchanged => moved(other, to, &new_name, from, old_name),
        Some(replaced) => {
            if let Some(inode) = replaced.inode() {
                name_gone(inode);
            }
        }
        None => {}
    }
}
