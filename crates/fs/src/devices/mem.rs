//! `/dev/null`, `/dev/zero`, `/dev/full`. null(4), full(4).

use abi::{Errno, PAGE_SIZE, SysResult};
use std::sync::Arc;
use vfs::{FileOps, MapRequest, OpenFile, Pages, Sink, Source, Vfs, Whence};

/// Bytes of zeroes given at a time, so that one read can be interrupted by a fault or a signal's preemption.
const PIECE: usize = 1 << 20;

fn zeroes(position: &mut u64, sink: &mut dyn Sink) -> SysResult<usize> {
    let mut done = 0;
    while sink.room() > 0 {
        let want = sink.room().min(PIECE);
        match sink.put_zeroes(want) {
            Ok(n) => {
                done += n;
                if n < want {
                    break;
                }
            }
            Err(errno) if done == 0 => return Err(errno.into()),
            Err(_) => break,
        }
    }
    *position = position.wrapping_add(done as u64) & i64::MAX as u64;
    Ok(done)
}

/// Positions mean nothing here: any seek succeeds and leads to 0, as Linux's `null_lseek` does.
fn seek_nowhere() -> SysResult<u64> {
    Ok(0)
}

pub struct Null;

impl FileOps for Null {
    fn read(&self, _: &OpenFile, _: &mut u64, _: &mut dyn Sink) -> SysResult<usize> {
        Ok(0)
    }
    fn write(&self, _: &OpenFile, _: &mut u64, source: &mut dyn Source) -> SysResult<usize> {
        Ok(source.left())
    }
    fn seek(&self, _: &OpenFile, _: u64, _: i64, _: Whence) -> SysResult<u64> {
        seek_nowhere()
    }
}

pub struct Zero {
    pub vfs: &'static Vfs,
}

impl FileOps for Zero {
    fn read(&self, _: &OpenFile, position: &mut u64, sink: &mut dyn Sink) -> SysResult<usize> {
        zeroes(position, sink)
    }
    fn write(&self, _: &OpenFile, _: &mut u64, source: &mut dyn Source) -> SysResult<usize> {
        Ok(source.left())
    }
    fn seek(&self, _: &OpenFile, _: u64, _: i64, _: Whence) -> SysResult<u64> {
        seek_nowhere()
    }
    fn mmap(&self, _: &OpenFile, request: &MapRequest) -> SysResult<Arc<dyn Pages>> {
        // Every mapping has zeroes of its own. Their offset in the file only moves them.
        let len = request.offset.checked_add(request.len.next_multiple_of(PAGE_SIZE as u64)).ok_or(Errno::EOVERFLOW)?;
        Ok(crate::tmpfs::shared_memory(self.vfs, len)?)
    }
}

pub struct Full;

impl FileOps for Full {
    fn read(&self, _: &OpenFile, position: &mut u64, sink: &mut dyn Sink) -> SysResult<usize> {
        zeroes(position, sink)
    }
    fn write(&self, _: &OpenFile, _: &mut u64, _: &mut dyn Source) -> SysResult<usize> {
        Err(Errno::ENOSPC.into())
    }
    fn seek(&self, _: &OpenFile, _: u64, _: i64, _: Whence) -> SysResult<u64> {
        seek_nowhere()
    }
}
