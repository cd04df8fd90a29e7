//! `/proc/PID/mem`: the memory of a process, for its debugger. Rights of mappings do not count, ptrace(2) has been asked for instead.

use abi::{Errno, SysResult};
use mm::AddressSpace;
use std::sync::{Arc, Weak};
use vfs::{FileOps, OpenFile, Positioning, Sink, Source, Whence};

/// Bytes moved at once.
const CHUNK: usize = 16 << 10;

/// Open: the address space as it was then; what comes after an exec is not in it.
struct Memory(Weak<AddressSpace>);

/// What opening the file gives.
#[must_use]
pub fn open(memory: &Arc<AddressSpace>) -> Arc<dyn FileOps> {
    Arc::new(Memory(Arc::downgrade(memory)))
}

impl FileOps for Memory {
    fn positioning(&self) -> Positioning {
        Positioning::Seekable
    }
    fn seek(&self, _: &OpenFile, current: u64, offset: i64, whence: Whence) -> SysResult<u64> {
        match whence {
            Whence::Set => Ok(offset as u64),
            Whence::Current => Ok(current.wrapping_add_signed(offset)),
            _ => Err(Errno::EINVAL.into()),
        }
    }
    fn read(&self, _: &OpenFile, position: &mut u64, sink: &mut dyn Sink) -> SysResult<usize> {
        let Some(memory) = self.0.upgrade() else { return Ok(0) };
        let mut buffer = vec![0; sink.room().min(CHUNK)];
        let mut done = 0;
        while sink.room() > 0 {
            let len = sink.room().min(CHUNK);
            let part = buffer.get_mut(..len).unwrap_or_default();
            let got = match memory.read_forced(*position, part) {
                Ok(got) => sink.put(part.get(..got).unwrap_or_default())?,
                Err(_) if done > 0 => break,
                Err(_) => return Err(Errno::EIO.into()),
            };
            *position += got as u64;
            done += got;
            if got < len {
                break;
            }
        }
        Ok(done)
    }
    fn write(&self, _: &OpenFile, position: &mut u64, source: &mut dyn Source) -> SysResult<usize> {
        let Some(memory) = self.0.upgrade() else { return Ok(0) };
        let mut buffer = vec![0; source.left().min(CHUNK)];
        let mut done = 0;
        while source.left() > 0 {
            let len = source.left().min(CHUNK);
            let part = buffer.get_mut(..len).unwrap_or_default();
            let taken = source.take(part)?;
            let put = match memory.write_forced(*position, part.get(..taken).unwrap_or_default()) {
                Ok(put) => put,
                Err(_) if done > 0 => break,
                Err(_) => return Err(Errno::EIO.into()),
            };
            *position += put as u64;
            done += put;
            if put < len {
                break;
            }
        }
        Ok(done)
    }
}
