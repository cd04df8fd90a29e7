//! An open host file.

use super::inode::HostInode;
use abi::{Errno, PAGE_SIZE, SysResult};
use std::sync::Arc;
use vfs::{FileOps, MapRequest, OpenFile, OpenFlags, Pages, Sink, Source, SyncKind};

/// Bytes taken from a writer at a time.
const WRITE_CHUNK: usize = 128 * 1024;

pub(super) struct HostOpenFile {
    pub inode: Arc<HostInode>,
}

impl FileOps for HostOpenFile {
    fn read(&self, _: &OpenFile, position: &mut u64, sink: &mut dyn Sink) -> SysResult<usize> {
        self.inode.revalidate();
        let mut done = 0;
        while sink.room() > 0 {
            let size = self.inode.size_bytes();
            if *position >= size {
                break;
            }
            let inside = (*position % PAGE_SIZE as u64) as usize;
            let len = sink.room().min(PAGE_SIZE - inside).min(usize::try_from(size - *position).unwrap_or(PAGE_SIZE));
            let step = self.inode.page_at(*position / PAGE_SIZE as u64, false).and_then(|frame| sink.put_frame(&frame, inside, len));
            match step {
                Ok(n) => {
                    *position += n as u64;
                    done += n;
                    if n < len {
                        break;
                    }
                }
                // It was cut short between the two looks.
                Err(Errno::ENXIO) => break,
                Err(errno) if done == 0 => return Err(errno.into()),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn write(&self, file: &OpenFile, position: &mut u64, source: &mut dyn Source) -> SysResult<usize> {
        let mut buffer = vec![0; source.left().min(WRITE_CHUNK)];
        let mut done = 0;
        while source.left() > 0 {
            // Taken from the guest before any lock: that may fault.
            let len = source.left().min(WRITE_CHUNK);
            let step = match buffer.get_mut(..len) {
                Some(part) => source.take(part),
                None => Ok(0),
            };
            let n = match step {
                Ok(0) => break,
                Ok(n) => n,
                Err(errno) if done == 0 => return Err(errno.into()),
                Err(_) => break,
            };
            let append = file.flags().contains(OpenFlags::APPEND);
            match self.inode.write((!append).then_some(*position), buffer.get(..n).unwrap_or_default()) {
                Ok(end) => {
                    *position = end;
                    done += n;
                }
                Err(errno) if done == 0 => return Err(errno.into()),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn mmap(&self, _: &OpenFile, _: &MapRequest) -> SysResult<Arc<dyn Pages>> {
        self.inode.revalidate();
        Ok(self.inode.clone())
    }

    fn fsync(&self, _: &OpenFile, first: u64, end: u64, kind: SyncKind) -> SysResult<()> {
        self.inode.write_back_range(first / PAGE_SIZE as u64, end.div_ceil(PAGE_SIZE as u64))?;
        Ok(self.inode.sync_host(kind == SyncKind::DataOnly)?)
    }

    fn fallocate(&self, _: &OpenFile, mode: u32, offset: u64, len: u64) -> SysResult<()> {
        Ok(self.inode.allocate(mode, offset, len)?)
    }
}
