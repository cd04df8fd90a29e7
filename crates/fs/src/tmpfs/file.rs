//! Open regular files of tmpfs, and the seals of memfd_create(2).

use super::inode::{Regular, TmpfsInode};
use abi::raw::general::{
    F_ADD_SEALS, F_GET_SEALS, F_SEAL_EXEC, F_SEAL_FUTURE_WRITE, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE,
};
use abi::{Errno, PAGE_SIZE, SysResult};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use vfs::{FileOps, MapAccess, MapRequest, OpenFile, OpenFlags, Pages, Sink, Source, SyncKind, Whence, default_seek};

/// `FALLOC_FL_KEEP_SIZE`.
const KEEP_SIZE: u32 = 1;
/// `FALLOC_FL_PUNCH_HOLE`.
const PUNCH_HOLE: u32 = 2;

impl Regular {
    fn sealed(&self, seals: u32) -> bool {
        self.seals.load(Ordering::Acquire) & seals != 0
    }
    /// EPERM if a seal forbids the size.
    pub fn check_resize(&self, size_bytes: u64) -> Result<(), Errno> {
        let old = self.cache.size_bytes();
        let forbidden = (size_bytes < old && self.sealed(F_SEAL_SHRINK)) || (size_bytes > old && self.sealed(F_SEAL_GROW));
        if forbidden { Err(Errno::EPERM) } else { Ok(()) }
    }
}

impl FileOps for TmpfsInode {
    fn read(&self, _: &OpenFile, position: &mut u64, sink: &mut dyn Sink) -> SysResult<usize> {
        let len = self.regular()?.cache.read(*position, sink, None)?;
        *position += len as u64;
        Ok(len)
    }

    fn write(&self, file: &OpenFile, position: &mut u64, source: &mut dyn Source) -> SysResult<usize> {
        let regular = self.regular()?;
        let _writers = regular.lock.lock();
        if file.flags().contains(OpenFlags::APPEND) {
            *position = regular.cache.size_bytes();
        }
        if regular.sealed(F_SEAL_WRITE | F_SEAL_FUTURE_WRITE) {
            return Err(Errno::EPERM.into());
        }
        let end = position.checked_add(source.left() as u64).filter(|end| i64::try_from(*end).is_ok()).ok_or(Errno::EFBIG)?;
        if end > regular.cache.size_bytes() && regular.sealed(F_SEAL_GROW) {
            return Err(Errno::EPERM.into());
        }
        let len = regular.cache.write(*position, source)?;
        *position += len as u64;
        if len > 0 {
            self.note_modified();
        }
        Ok(len)
    }

    fn seek(&self, file: &OpenFile, current: u64, offset: i64, whence: Whence) -> SysResult<u64> {
        if !matches!(whence, Whence::Data | Whence::Hole) {
            return Ok(default_seek(file, current, offset, whence)?);
        }
        let cache = &self.regular()?.cache;
        let size = cache.size_bytes();
        let at = u64::try_from(offset).ok().filter(|at| *at < size).ok_or(Errno::ENXIO)?;
        let page = PAGE_SIZE as u64;
        if whence == Whence::Data {
            let data = cache.next_cached(at / page).map(|index| (index * page).max(at)).filter(|data| *data < size);
            return Ok(data.ok_or(Errno::ENXIO)?);
        }
        let mut index = at / page;
        while cache.next_cached(index) == Some(index) {
            index += 1;
        }
        Ok((index * page).max(at).min(size))
    }

    fn mmap(&self, _: &OpenFile, request: &MapRequest) -> SysResult<Arc<dyn Pages>> {
        let regular = self.regular()?;
        if request.access.contains(MapAccess::SHARED | MapAccess::WRITE) && regular.sealed(F_SEAL_WRITE | F_SEAL_FUTURE_WRITE) {
            return Err(Errno::EPERM.into());
        }
        Ok(regular.cache.clone())
    }

    fn fsync(&self, _: &OpenFile, _: u64, _: u64, _: SyncKind) -> SysResult<()> {
        Ok(())
    }

    fn fallocate(&self, _: &OpenFile, mode: u32, offset: u64, len: u64) -> SysResult<()> {
        let regular = self.regular()?;
        let _writers = regular.lock.lock();
        let end = offset.checked_add(len).filter(|end| i64::try_from(*end).is_ok()).ok_or(Errno::EFBIG)?;
        match mode {
            m if m == PUNCH_HOLE | KEEP_SIZE => {
                if regular.sealed(F_SEAL_WRITE | F_SEAL_FUTURE_WRITE) {
                    return Err(Errno::EPERM.into());
                }
                regular.cache.punch(offset, end)?;
            }
            0 | KEEP_SIZE => {
                if end > regular.cache.size_bytes() && regular.sealed(F_SEAL_GROW) {
                    return Err(Errno::EPERM.into());
                }
                regular.cache.preallocate(offset, end)?;
                if mode == 0 && end > regular.cache.size_bytes() {
                    regular.cache.truncate(end)?;
                }
            }
            _ => return Err(Errno::EOPNOTSUPP.into()),
        }
        self.note_modified();
        Ok(())
    }

    fn fcntl(&self, file: &OpenFile, command: u32, argument: u64) -> SysResult<i64> {
        let regular = self.regular()?;
        match command {
            F_GET_SEALS => Ok(i64::from(regular.seals.load(Ordering::Acquire))),
            F_ADD_SEALS => {
                let all = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE | F_SEAL_EXEC;
                let seals = u32::try_from(argument).ok().filter(|s| s & !all == 0).ok_or(Errno::EINVAL)?;
                if !file.flags().can_write() || regular.sealed(F_SEAL_SEAL) {
                    return Err(Errno::EPERM.into());
                }
                regular.seals.fetch_or(seals, Ordering::AcqRel);
                Ok(0)
            }
            _ => Err(Errno::EINVAL.into()),
        }
    }
}
