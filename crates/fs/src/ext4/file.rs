//! Contents of regular files: between the page cache and the image.
//!
//! Always true: a dirty page over a hole holds a promise of blocks ([`Filesystem::reserve`]), so write-back finds room; the promise is given back
//! when the page is written or cut off. The size that callers see is the cache's; the image's follows with write-back.

use super::inode::ExtInode;
use super::stamp;
use ::ext4::{Claim, Error, Fallocate, Filesystem, MappingState};
use abi::{Errno, PAGE_SIZE, SysResult};
use ram::Frame;
use std::collections::BTreeMap;
use std::sync::Arc;
use sync::{Mutex, SpinLock};
use vfs::{
    FileOps, MapRequest, OpenFile, OpenFlags, PageCache, PageSource, Pages, ReadAhead, Sink, Source, SyncKind, Timestamp, Whence,
    default_seek,
};

const PAGE: u64 = PAGE_SIZE as u64;
/// `FALLOC_FL_KEEP_SIZE`.
const KEEP_SIZE: u32 = 1;
/// `FALLOC_FL_PUNCH_HOLE`.
const PUNCH_HOLE: u32 = 2;
/// `FALLOC_FL_ZERO_RANGE`.
const ZERO_RANGE: u32 = 0x10;

/// What a regular file has beyond its inode.
pub(super) struct Contents {
    pub cache: Arc<PageCache>,
    /// Keeps writers and truncation apart.
    pub writers: Mutex<()>,
    /// Blocks promised to dirty pages, by page.
    pub promised: SpinLock<BTreeMap<u64, u64>>,
    /// What write-back failed with last, for the next fsync.
    pub failed: SpinLock<Option<Errno>>,
    /// Largest size in bytes.
    pub max_size: u64,
}

impl Contents {
    /// Takes the promises of pages `first..end` out, and tells how many blocks they are.
    fn take_promises(&self, first: u64, end: u64) -> u64 {
        let mut promised = self.promised.lock();
        let pages: Vec<u64> = promised.range(first..end).map(|(page, _)| *page).collect();
        pages.iter().filter_map(|page| promised.remove(page)).sum()
    }

    /// Gives promises of pages `first..end` back.
    fn release(&self, image: &Filesystem, first: u64, end: u64) {
        let blocks = self.take_promises(first, end);
        if blocks > 0 {
            image.release(blocks);
        }
    }
}

impl ExtInode {
    /// Blocks of the bytes `start..end` that nothing is allocated for.
    fn holes(&self, start: u64, end: u64) -> Result<u64, Errno> {
        let image = self.image();
        let block = image.block_size() as u64;
        let (mut at, end, mut holes) = (start / block, end.div_ceil(block), 0);
        while at < end {
            let mapping = image.map_blocks(self.number(), at, end - at)?;
            if mapping.state == MappingState::Hole {
                holes += mapping.len;
            }
            at += mapping.len.max(1);
        }
        Ok(holes)
    }

    /// Sets the size, zeroing or freeing what is beyond.
    pub(super) fn resize(&self, size_bytes: u64) -> Result<(), Errno> {
        let contents = self.contents()?;
        let _writers = contents.writers.lock();
        self.file_system_of().writable()?;
        if size_bytes > contents.max_size {
            return Err(Errno::EFBIG);
        }
        let now = Timestamp::now();
        contents.cache.truncate(size_bytes)?;
        contents.release(self.image(), size_bytes.div_ceil(PAGE), u64::MAX);
        self.image().truncate(self.number(), size_bytes, stamp(now))?;
        self.note_written(now);
        self.refresh()
    }

    /// Forgets contents that nobody will read again.
    pub(super) fn discard_contents(&self) {
        if let Ok(contents) = self.contents() {
            contents.cache.invalidate(0, u64::MAX);
            contents.release(self.image(), 0, u64::MAX);
        }
    }

    fn write_frames(&self, contents: &Contents, first: u64, frames: &[Frame]) -> Result<(), Errno> {
        let start = first * PAGE;
        let len = contents.cache.size_bytes().saturating_sub(start).min(frames.len() as u64 * PAGE);
        let mut bytes = vec![0; frames.len() * PAGE_SIZE];
        for (frame, part) in frames.iter().zip(bytes.chunks_exact_mut(PAGE_SIZE)) {
            frame.read(0, part);
        }
        let promised = contents.take_promises(first, first + frames.len() as u64);
        let image = self.image();
        // What the write will take of the promise; the rest was for blocks behind the end, or that somebody allocated meanwhile.
        let needed = self.holes(start, start + len)?;
        image.release(promised.saturating_sub(needed));
        let mut left = bytes.get(..len as usize).unwrap_or_default();
        let mut at = start;
        while !left.is_empty() {
            let n = image.write(self.number(), at, left, stamp(self.modified()), Claim::Promised)?;
            if n == 0 {
                return Err(Errno::ENOSPC);
            }
            left = left.get(n..).unwrap_or_default();
            at += n as u64;
        }
        Ok(())
    }

    fn check_end(&self, position: u64, len: usize) -> Result<(), Errno> {
        let end = position.checked_add(len as u64).ok_or(Errno::EFBIG)?;
        if end > self.contents()?.max_size { Err(Errno::EFBIG) } else { Ok(()) }
    }
}

impl PageSource for ExtInode {
    fn is_backed(&self) -> bool {
        true
    }
    fn read_pages(&self, first: u64, frames: &[Frame]) -> Result<(), Errno> {
        let mut bytes = vec![0; frames.len() * PAGE_SIZE];
        // What lies beyond the image's end of the file stays zero.
        self.image().read(self.number(), first * PAGE, &mut bytes)?;
        for (frame, part) in frames.iter().zip(bytes.chunks_exact(PAGE_SIZE)) {
            frame.write(0, part);
        }
        Ok(())
    }
    fn write_pages(&self, first: u64, frames: &[Frame]) -> Result<(), Errno> {
        let contents = self.contents()?;
        let result = self.write_frames(contents, first, frames);
        if let Err(errno) = result {
            *contents.failed.lock() = Some(errno);
        }
        result
    }
    fn reserve(&self, first: u64, end: u64) -> Result<(), Errno> {
        self.file_system_of().writable()?;
        let contents = self.contents()?;
        for page in first..end {
            let holes = self.holes(page * PAGE, (page + 1) * PAGE)?;
            if holes == 0 || contents.promised.lock().contains_key(&page) {
                continue;
            }
            match self.image().reserve(holes, Claim::Ordinary) {
                Ok(()) => {}
                Err(Error::NoSpace) => {
                    // Blocks may only be waiting for a commit to be free.
                    self.image().commit()?;
                    self.image().reserve(holes, Claim::Ordinary)?;
                }
                Err(error) => return Err(error.into()),
            }
            let twice = contents.promised.lock().insert(page, holes);
            self.image().release(twice.unwrap_or(0));
        }
        self.mark_dirty();
        Ok(())
    }
    fn written_by_mapping(&self) {
        self.note_written(Timestamp::now());
    }
}

/// An open regular file.
pub(super) struct ExtOpenFile {
    pub inode: Arc<ExtInode>,
    pub ahead: ReadAhead,
}

impl FileOps for ExtOpenFile {
    fn read(&self, _: &OpenFile, position: &mut u64, sink: &mut dyn Sink) -> SysResult<usize> {
        let len = self.inode.contents()?.cache.read(*position, sink, Some(&self.ahead))?;
        *position += len as u64;
        Ok(len)
    }

    fn write(&self, file: &OpenFile, position: &mut u64, source: &mut dyn Source) -> SysResult<usize> {
        let contents = self.inode.contents()?;
        let len = {
            let _writers = contents.writers.lock();
            self.inode.file_system_of().writable()?;
            if file.flags().contains(OpenFlags::APPEND) {
                *position = contents.cache.size_bytes();
            }
            self.inode.check_end(*position, source.left())?;
            let len = contents.cache.write(*position, source)?;
            *position += len as u64;
            if len > 0 {
                self.inode.note_written(Timestamp::now());
            }
            len
        };
        contents.cache.balance();
        if file.flags().intersects(OpenFlags::SYNC | OpenFlags::DSYNC) {
            self.inode.sync_all()?;
        }
        Ok(len)
    }

    fn seek(&self, file: &OpenFile, current: u64, offset: i64, whence: Whence) -> SysResult<u64> {
        let is_data = match whence {
            Whence::Data => true,
            Whence::Hole => false,
            _ => return Ok(default_seek(file, current, offset, whence)?),
        };
        let contents = self.inode.contents()?;
        let size = contents.cache.size_bytes();
        let at = u64::try_from(offset).ok().filter(|at| *at < size).ok_or(Errno::ENXIO)?;
        // What is only in memory has no place on the image yet.
        contents.cache.sync()?;
        let found = self.inode.image().seek(self.inode.number(), at, is_data).map_err(Errno::from)?;
        match (found, is_data) {
            (Some(found), _) if found < size => Ok(found),
            (_, true) => Err(Errno::ENXIO.into()),
            (_, false) => Ok(size),
        }
    }

    fn mmap(&self, _: &OpenFile, _: &MapRequest) -> SysResult<Arc<dyn Pages>> {
        Ok(self.inode.contents()?.cache.clone())
    }

    fn fsync(&self, _: &OpenFile, _: u64, _: u64, _: SyncKind) -> SysResult<()> {
        Ok(self.inode.sync_all()?)
    }

    fn fallocate(&self, _: &OpenFile, mode: u32, offset: u64, len: u64) -> SysResult<()> {
        let inode = &self.inode;
        let contents = inode.contents()?;
        let _writers = contents.writers.lock();
        inode.file_system_of().writable()?;
        let end = offset.checked_add(len).filter(|end| *end <= contents.max_size).ok_or(Errno::EFBIG)?;
        let wanted = match mode {
            0 => Fallocate::Extend,
            KEEP_SIZE => Fallocate::KeepSize,
            m if m == PUNCH_HOLE | KEEP_SIZE => Fallocate::PunchHole,
            ZERO_RANGE => Fallocate::ZeroRange,
            m if m == ZERO_RANGE | KEEP_SIZE => Fallocate::ZeroRangeKeepSize,
            _ => return Err(Errno::EOPNOTSUPP.into()),
        };
        // The image has to know what memory holds, and memory must not hold what the image zeroes.
        contents.cache.sync()?;
        if matches!(wanted, Fallocate::PunchHole | Fallocate::ZeroRange | Fallocate::ZeroRangeKeepSize) {
            contents.cache.punch(offset, end)?;
            contents.cache.sync()?;
        }
        let now = Timestamp::now();
        inode.image().fallocate(inode.number(), offset, len, wanted, stamp(now), Claim::Ordinary).map_err(Errno::from)?;
        if matches!(wanted, Fallocate::Extend | Fallocate::ZeroRange) && end > contents.cache.size_bytes() {
            contents.cache.truncate(end)?;
        }
        inode.note_written(now);
        Ok(inode.refresh()?)
    }
}
