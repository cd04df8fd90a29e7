//! An open file of an overlay. It starts on the lower file if it was opened for reading only, and goes over to the upper one once that is there.

use super::inode::OverlayInode;
use abi::{Errno, SysResult};
use std::sync::{Arc, OnceLock};
use sync::Events;
use vfs::{Credentials, FileOps, IoctlCaller, MapRequest, Open, OpenFile, OpenFlags, Pages, PollTable, Sink, Source, SyncKind, Whence};

pub(super) struct OverlayFile {
    pub inode: Arc<OverlayInode>,
    /// Opened with; the other file is opened the same way.
    pub flags: OpenFlags,
    pub credentials: Credentials,
    pub lower: Option<Arc<dyn FileOps>>,
    pub upper: OnceLock<Arc<dyn FileOps>>,
}

impl OverlayFile {
    fn real(&self, file: &OpenFile) -> Result<&Arc<dyn FileOps>, Errno> {
        if let Some(upper) = self.upper.get() {
            return Ok(upper);
        }
        match (self.inode.upper(), &self.lower) {
            (None, Some(lower)) => Ok(lower),
            (Some(upper), _) => {
                let open = Open { flags: self.flags, credentials: &self.credentials, path: file.path() };
                let opened = upper.clone().open(&open).map_err(|error| error.errno())?;
                Ok(self.upper.get_or_init(|| opened))
            }
            (None, None) => Err(Errno::EIO),
        }
    }
}

impl FileOps for OverlayFile {
    fn read(&self, file: &OpenFile, position: &mut u64, sink: &mut dyn Sink) -> SysResult<usize> {
        self.real(file)?.read(file, position, sink)
    }
    fn write(&self, file: &OpenFile, position: &mut u64, source: &mut dyn Source) -> SysResult<usize> {
        self.real(file)?.write(file, position, source)
    }
    fn seek(&self, file: &OpenFile, current: u64, offset: i64, whence: Whence) -> SysResult<u64> {
        self.real(file)?.seek(file, current, offset, whence)
    }
    fn ioctl(&self, file: &OpenFile, caller: &IoctlCaller<'_>, command: u32, argument: u64) -> SysResult<i64> {
        self.real(file)?.ioctl(file, caller, command, argument)
    }
    fn poll(&self, file: &OpenFile, table: Option<&mut PollTable>) -> Events {
        self.real(file).map_or(Events::ERR, |real| real.poll(file, table))
    }
    fn mmap(&self, file: &OpenFile, request: &MapRequest) -> SysResult<Arc<dyn Pages>> {
        self.real(file)?.mmap(file, request)
    }
    fn fsync(&self, file: &OpenFile, first: u64, end: u64, kind: SyncKind) -> SysResult<()> {
        self.real(file)?.fsync(file, first, end, kind)
    }
    fn fallocate(&self, file: &OpenFile, mode: u32, offset: u64, len: u64) -> SysResult<()> {
        self.real(file)?.fallocate(file, mode, offset, len)
    }
    fn fcntl(&self, file: &OpenFile, command: u32, argument: u64) -> SysResult<i64> {
        self.real(file)?.fcntl(file, command, argument)
    }
    fn set_flags(&self, file: &OpenFile, flags: OpenFlags) -> Result<(), Errno> {
        self.real(file)?.set_flags(file, flags)
    }
    fn flush(&self, file: &OpenFile) -> Result<(), Errno> {
        self.real(file)?.flush(file)
    }
    fn release(&self, file: &OpenFile) {
        for real in self.lower.iter().chain(self.upper.get()) {
            real.release(file);
        }
    }
}
