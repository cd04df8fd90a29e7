//! Descriptors that stand for a process, pidfd_open(2): they name this very process, even after its number means another one.

use crate::current::Current;
use crate::process::Process;
use abi::{Errno, SysResult};
use std::sync::Arc;
use sync::Events;
use vfs::{Fd, FileOps, OnExec, OpenFile, OpenFlags, PollTable, Positioning};

/// What a pidfd can do: be polled until the process is dead.
pub struct PidFd(Arc<Process>);

impl PidFd {
    /// The process, dead or alive.
    #[must_use]
    pub fn process(&self) -> &Arc<Process> {
        &self.0
    }
}

impl FileOps for PidFd {
    fn positioning(&self) -> Positioning {
        Positioning::Stream
    }
    fn can_poll(&self) -> bool {
        true
    }
    fn poll(&self, _: &OpenFile, table: Option<&mut PollTable>) -> Events {
        if let Some(table) = table {
            table.listen(&self.0.exited);
        }
        if self.0.is_dead() { Events::IN | Events::RDNORM } else { Events::empty() }
    }
    fn fdinfo(&self, _: &OpenFile) -> String {
        let is_there = self.0.system.process(self.0.pid()).is_ok_and(|p| Arc::ptr_eq(&p, &self.0));
        // As Linux tells it: -1 for a process that has been waited for.
        format!("Pid:\t{}\nNSpid:\t{0}\n", if is_there { self.0.pid() } else { -1 })
    }
}

impl Current {
    /// A new descriptor for `process`, closed by exec.
    ///
    /// # Errors
    /// EMFILE, ENOMEM.
    pub fn open_pidfd(&self, process: Arc<Process>, flags: OpenFlags) -> SysResult<Fd> {
        let ops = Arc::new(PidFd(process));
        let file = self.caller().open_anon("anon_inode:[pidfd]", ops, OpenFlags::RDWR | flags.intersection(OpenFlags::NONBLOCK))?;
        let limit = self.process().rlimit(abi::Resource::Nofile).soft;
        Ok(self.files().add(file, limit, OnExec::Close)?)
    }

    /// The process behind a pidfd.
    ///
    /// # Errors
    /// EBADF when the descriptor is none.
    pub fn pidfd(&self, fd: Fd) -> Result<Arc<Process>, Errno> {
        let file = self.files().get(fd)?;
        Ok(file.ops().downcast::<PidFd>().ok_or(Errno::EBADF)?.process().clone())
    }
}
