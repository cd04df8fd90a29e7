//! Small things that system calls ask of the running thread.

use crate::current::Current;
use crate::system::System;
use std::sync::Arc;
use vfs::Path;

impl Current {
    /// Whether no other thread runs in the address space, so that the host may run a mapping call of ours itself.
    #[must_use]
    pub fn is_alone_in_memory(&self) -> bool {
        // Counted: ours and the task's own record.
        Arc::strong_count(self.memory()) <= 2
    }

    /// Has the host run the system call that the thread is in; what must outlive that is dropped at the thread's next stop.
    pub fn let_host_run(&mut self, deferred: mm::Deferred) {
        self.thread.let_host_run();
        self.deferred = Some(deferred);
    }

    /// pivot_root(2): every process whose root or working directory is `old` has `new` instead.
    pub fn move_roots(&self, old: &Path, new: &Path) {
        let tasks: Vec<_> = self.system().table().all_tasks();
        for task in tasks {
            if let Some(fs) = task.resources().fs {
                fs.translate(|path| (path == old).then(|| new.clone()));
            }
        }
    }
}

impl System {
    /// Living threads.
    #[must_use]
    pub fn thread_count(&self) -> usize {
        self.table().tree.thread_count()
    }
}
