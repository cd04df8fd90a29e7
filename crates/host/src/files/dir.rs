//! A directory of the host: [`HostDir`] over a node.

use super::file::File;
use super::node::{Access, Node, Tree};
use super::sys::{self, check_name, errno};
use abi::Errno;
use platform::{HostDir, HostDirEntry, HostFile, HostKind, HostMetadata, HostOpen, HostStatFs};
use rustix::fs::{self, AtFlags, Mode, RenameFlags};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// A directory of a tree that was given away.
pub(super) struct Dir {
    node: Arc<Node>,
}

impl Dir {
    /// The root of a tree.
    pub fn root(fd: OwnedFd, descriptors: Arc<super::descriptors::Descriptors>) -> Result<Dir, Errno> {
        Ok(Dir { node: Tree::open(fd, descriptors)? })
    }

    /// Runs a call that must give a new name exactly `mode`, whatever the process's umask.
    fn with_mode(
        &self,
        name: &[u8],
        mode: u32,
        make: impl FnOnce(&super::descriptors::Descriptor) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let open = self.node.descriptor()?;
        make(&open)?;
        let (_, made) = sys::stat_at(open.as_fd(), name)?;
        // The set-group-ID bit may have come from the parent; it stays.
        if made.mode & 0o777 != mode & 0o777 || mode & !made.mode & 0o7000 != 0 {
            sys::chmod_at(open.as_fd(), name, mode | made.mode & 0o2000)?;
        }
        Ok(())
    }
}

fn same_tree<'a>(dir: &Dir, other: &'a dyn HostDir) -> Result<&'a Dir, Errno> {
    let other = other.as_any().downcast_ref::<Dir>().ok_or(Errno::EXDEV)?;
    if Arc::ptr_eq(dir.node.tree(), other.node.tree()) { Ok(other) } else { Err(Errno::EXDEV) }
}

impl HostDir for Dir {
    fn metadata(&self) -> Result<HostMetadata, Errno> {
        let open = self.node.descriptor()?;
        Ok(sys::stat_fd(open.as_fd())?.1)
    }

    fn entry_metadata(&self, name: &[u8]) -> Result<HostMetadata, Errno> {
        check_name(name)?;
        let open = self.node.descriptor()?;
        Ok(sys::stat_at(open.as_fd(), name)?.1)
    }

    fn open_dir(&self, name: &[u8]) -> Result<Arc<dyn HostDir>, Errno> {
        check_name(name)?;
        let open = self.node.descriptor()?;
        let (fd, id) = sys::open_directory(open.as_fd(), name)?;
        Ok(Arc::new(Dir { node: self.node.tree().node(&self.node, name, fd, id, Access::Directory) }))
    }

    fn open_file(&self, name: &[u8], how: HostOpen) -> Result<Arc<dyn HostFile>, Errno> {
        check_name(name)?;
        let open = self.node.descriptor()?;
        let (fd, id) = match how.create_mode {
            Some(mode) => sys::create_regular(open.as_fd(), name, mode)?,
            None => sys::open_regular(open.as_fd(), name, how.write)?,
        };
        let access = if how.write || how.create_mode.is_some() { Access::Write } else { Access::Read };
        Ok(Arc::new(File::of_node(self.node.tree().node(&self.node, name, fd, id, access))))
    }

    fn read_link(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        check_name(name)?;
        let open = self.node.descriptor()?;
        Ok(fs::readlinkat(open.as_fd(), name, Vec::new()).map_err(errno)?.into_bytes())
    }

    fn entries(&self) -> Result<Vec<HostDirEntry>, Errno> {
        let open = self.node.descriptor()?;
        sys::entries(open.as_fd())
    }

    fn make_dir(&self, name: &[u8], mode: u32) -> Result<(), Errno> {
        check_name(name)?;
        let mode = mode & 0o7777;
        self.with_mode(name, mode, |open| fs::mkdirat(open, name, Mode::from_raw_mode(mode)).map_err(errno))
    }

    fn make_symlink(&self, name: &[u8], target: &[u8]) -> Result<(), Errno> {
        check_name(name)?;
        let open = self.node.descriptor()?;
        fs::symlinkat(target, open.as_fd(), name).map_err(errno)
    }

    fn make_node(&self, name: &[u8], kind: HostKind, mode: u32) -> Result<(), Errno> {
        check_name(name)?;
        let file_type = match kind {
            HostKind::Fifo => fs::FileType::Fifo,
            HostKind::Socket => fs::FileType::Socket,
            HostKind::CharDevice | HostKind::BlockDevice => return Err(Errno::EPERM),
            _ => return Err(Errno::EINVAL),
        };
        let mode = mode & 0o7777;
        self.with_mode(name, mode, |open| fs::mknodat(open, name, file_type, Mode::from_raw_mode(mode), 0).map_err(errno))
    }

    fn link(&self, name: &[u8], to_dir: &dyn HostDir, to: &[u8]) -> Result<(), Errno> {
        check_name(name)?;
        check_name(to)?;
        let to_dir = same_tree(self, to_dir)?;
        let (from, into) = (self.node.descriptor()?, to_dir.node.descriptor()?);
        // Without AT_SYMLINK_FOLLOW a symbolic link is linked itself.
        fs::linkat(from.as_fd(), name, into.as_fd(), to, AtFlags::empty()).map_err(errno)
    }

    fn unlink(&self, name: &[u8]) -> Result<(), Errno> {
        check_name(name)?;
        let open = self.node.descriptor()?;
        let pinned = self.node.tree().pin_entry(open.as_fd(), name)?;
        fs::unlinkat(open.as_fd(), name, AtFlags::empty()).map_err(|error| {
            pinned.iter().for_each(|node| node.unpin());
            errno(error)
        })
    }

    fn remove_dir(&self, name: &[u8]) -> Result<(), Errno> {
        check_name(name)?;
        let open = self.node.descriptor()?;
        fs::unlinkat(open.as_fd(), name, AtFlags::REMOVEDIR).map_err(errno)
    }

    fn rename(&self, name: &[u8], to_dir: &dyn HostDir, to: &[u8], no_replace: bool, exchange: bool) -> Result<(), Errno> {
        check_name(name)?;
        check_name(to)?;
        let to_dir = same_tree(self, to_dir)?;
        let (from, into) = (self.node.descriptor()?, to_dir.node.descriptor()?);
        let tree = self.node.tree();
        let moved = tree.held(from.as_fd(), name);
        let other = if exchange { tree.held(into.as_fd(), to) } else { Vec::new() };
        let pinned = if exchange || no_replace { Vec::new() } else { tree.pin_entry(into.as_fd(), to)? };
        let mut flags = RenameFlags::empty();
        flags.set(RenameFlags::NOREPLACE, no_replace);
        flags.set(RenameFlags::EXCHANGE, exchange);
        let renamed = if flags.is_empty() {
            fs::renameat(from.as_fd(), name, into.as_fd(), to)
        } else {
            fs::renameat_with(from.as_fd(), name, into.as_fd(), to, flags)
        };
        if let Err(error) = renamed {
            pinned.iter().for_each(|node| node.unpin());
            return Err(errno(error));
        }
        moved.iter().for_each(|node| node.set_place(&to_dir.node, to));
        other.iter().for_each(|node| node.set_place(&self.node, name));
        Ok(())
    }

    fn set_mode(&self, name: &[u8], mode: u32) -> Result<(), Errno> {
        check_name(name)?;
        let open = self.node.descriptor()?;
        sys::chmod_at(open.as_fd(), name, mode)
    }

    fn set_owner(&self, name: &[u8], uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
        check_name(name)?;
        let open = self.node.descriptor()?;
        let (uid, gid) = (uid.map(fs::Uid::from_raw), gid.map(fs::Gid::from_raw));
        fs::chownat(open.as_fd(), name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(errno)
    }

    fn set_times(&self, name: &[u8], accessed_ns: Option<i128>, modified_ns: Option<i128>) -> Result<(), Errno> {
        check_name(name)?;
        let open = self.node.descriptor()?;
        fs::utimensat(open.as_fd(), name, &sys::timestamps(accessed_ns, modified_ns), AtFlags::SYMLINK_NOFOLLOW).map_err(errno)
    }

    fn statfs(&self) -> Result<HostStatFs, Errno> {
        let open = self.node.descriptor()?;
        sys::statfs(open.as_fd())
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
