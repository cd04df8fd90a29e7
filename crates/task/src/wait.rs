//! Waiting for children, wait4(2) and waitid(2).

use crate::current::Current;
use crate::tree::Waited;
use abi::{SysResult, WaitFor, WaitOptions, WaitStatus};

impl Current {
    /// Waits until a child that `which` names does what `options` ask about. None with NOHANG when none has yet. A child that is dead is gone after
    /// this, unless `options` say NOWAIT.
    ///
    /// # Errors
    /// ECHILD when there is no such child; a restart when interrupted.
    pub fn wait(&self, which: WaitFor, options: WaitOptions) -> SysResult<Option<Waited>> {
        let process = self.process();
        let look = || match self.look_for_child(which, options) {
            Ok(None) if !options.contains(WaitOptions::NOHANG) => None,
            result => Some(result),
        };
        if let Some(result) = look() {
            return Ok(result?);
        }
        Ok(process.child_changed.wait_interruptible(look)??)
    }

    fn look_for_child(&self, which: WaitFor, options: WaitOptions) -> Result<Option<Waited>, abi::Errno> {
        let keep = options.contains(WaitOptions::NOWAIT);
        let (traces, traced) = self.process().look_for_tracee(which, keep);
        if traced.is_some() {
            return Ok(traced);
        }
        let mut table = self.system().table();
        let found = match table.tree.find_waitable(self.pid(), self.tid(), which, options) {
            Err(abi::Errno::ECHILD) if traces => None,
            found => found?,
        };
        if let Some(waited) = &found
            && matches!(waited.status, WaitStatus::Exited(_) | WaitStatus::Killed(..))
            && !options.contains(WaitOptions::NOWAIT)
        {
            table.reap(waited.pid);
            drop(table);
            self.process().add_children_usage(&waited.usage);
        }
        Ok(found)
    }
}
