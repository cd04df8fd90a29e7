//! Making an archive's entries through path operations.

use super::{Error, Header, Target, Unpacked, unpack};
use abi::Errno;
use std::io::Read;
use std::sync::Arc;
use vfs::{Caller, DeviceNumber, FileKind, LookupFlags, OpenFile, OpenFlags, OpenHow, Path, PathAt, SetTime, SliceSource, Timestamp};

/// Unpacks every archive in `source` below `root`, as `caller`: owners, modes and modification times are the archive's.
pub fn unpack_into(caller: &Caller<'_>, root: &Path, source: &mut dyn Read) -> Result<Unpacked, (Error, Unpacked)> {
    let mut tree = Tree { caller, root, file: None, directories: Vec::new() };
    let result = unpack(source, &mut tree);
    // Last, since making things inside changes them.
    for (name, modified_s) in tree.directories.split_off(0) {
        let _ = tree.set_time(&name, modified_s);
    }
    result
}

struct Tree<'a, 'c> {
    caller: &'a Caller<'c>,
    root: &'a Path,
    /// The file whose data comes.
    file: Option<Arc<OpenFile>>,
    /// Directories whose time is still to be set.
    directories: Vec<(Vec<u8>, u32)>,
}

impl Tree<'_, '_> {
    fn at<'b>(&'b self, name: &'b [u8]) -> PathAt<'b> {
        if name.is_empty() { PathAt::itself(self.root) } else { PathAt::at(self.root, name) }
    }

    fn lookup(&self, name: &[u8]) -> Result<Path, Errno> {
        self.caller.lookup(self.at(name), LookupFlags::EMPTY).map_err(|e| e.errno())
    }

    /// Makes room for something called `name`.
    fn clear(&self, name: &[u8]) -> Result<(), Errno> {
        let removed = match self.lookup(name) {
            Ok(there) if there.inode().kind() == FileKind::Directory => self.caller.rmdir(self.at(name)),
            Ok(_) => self.caller.unlink(self.at(name)),
            Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        };
        removed.map_err(|e| e.errno())
    }

    fn set_owner(&self, path: &Path, header: &Header) -> Result<(), Errno> {
        self.caller.chown(path, Some(header.uid), Some(header.gid))?;
        if path.inode().kind() == FileKind::Symlink {
            return Ok(());
        }
        // After the owner: changing that takes set-id bits away.
        self.caller.chmod(path, header.mode & 0o7777)
    }

    fn set_time(&self, name: &[u8], modified_s: u32) -> Result<(), Errno> {
        let at = SetTime::At(Timestamp { sec: i64::from(modified_s), nsec: 0 });
        self.caller.utimens(&self.lookup(name)?, at, at)
    }
}

impl Target for Tree<'_, '_> {
    fn directory(&mut self, name: &[u8], header: &Header) -> Result<(), Errno> {
        let path = match self.lookup(name) {
            Ok(there) if there.inode().kind() == FileKind::Directory => there,
            _ => {
                self.clear(name)?;
                self.caller.mkdir(self.at(name), 0o700).map_err(|e| e.errno())?
            }
        };
        self.set_owner(&path, header)?;
        self.directories.push((name.to_vec(), header.modified_s));
        Ok(())
    }

    fn symlink(&mut self, name: &[u8], target: &[u8], header: &Header) -> Result<(), Errno> {
        self.clear(name)?;
        let path = self.caller.symlink(target, self.at(name)).map_err(|e| e.errno())?;
        self.set_owner(&path, header)?;
        self.set_time(name, header.modified_s)
    }

    fn node(&mut self, name: &[u8], header: &Header) -> Result<(), Errno> {
        let kind = FileKind::from_mode(header.mode).ok_or(Errno::EINVAL)?;
        self.clear(name)?;
        let rdev = DeviceNumber::new(header.rdev.0, header.rdev.1);
        let path = self.caller.mknod(self.at(name), kind, 0o600, rdev).map_err(|e| e.errno())?;
        self.set_owner(&path, header)?;
        self.set_time(name, header.modified_s)
    }

    fn file(&mut self, name: &[u8], header: &Header) -> Result<(), Errno> {
        self.clear(name)?;
        let flags = OpenFlags::WRONLY | OpenFlags::CREAT | OpenFlags::EXCL;
        let file = self.caller.open(self.at(name), OpenHow::new(flags, 0o600)).map_err(|e| e.errno())?;
        self.set_owner(file.path(), header)?;
        self.file = Some(file);
        Ok(())
    }

    fn link(&mut self, name: &[u8], first: &[u8]) -> Result<(), Errno> {
        self.clear(name)?;
        let first = self.lookup(first)?;
        self.caller.link(&first, self.at(name)).map_err(|e| e.errno())?;
        let flags = OpenFlags::WRONLY;
        self.file = Some(self.caller.open(self.at(name), OpenHow::new(flags, 0)).map_err(|e| e.errno())?);
        Ok(())
    }

    fn data(&mut self, _: &[u8], offset: u64, data: &[u8]) -> Result<(), Errno> {
        let file = self.file.as_ref().ok_or(Errno::EBADF)?;
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            match file.write_at(offset + done as u64, &mut SliceSource::new(rest)) {
                Ok(0) => return Err(Errno::ENOSPC),
                Ok(n) => done += n,
                Err(error) => return Err(error.errno()),
            }
        }
        Ok(())
    }

    fn end_file(&mut self, name: &[u8], header: &Header) -> Result<(), Errno> {
        if let Some(file) = self.file.take() {
            // Writing takes set-id bits away from files of others.
            self.caller.chmod(file.path(), header.mode & 0o7777)?;
        }
        self.set_time(name, header.modified_s)
    }
}
