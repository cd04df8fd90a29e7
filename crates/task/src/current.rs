//! The running thread as only it may touch itself: its guest registers, and what its system call left behind to be restarted.
//!
//! A `Current` is made with its thread and moves to its fiber; whatever takes `&mut Current` runs on that fiber. Others see the [`Task`].

use crate::process::Process;
use crate::system::System;
use crate::task::{Resources, Task};
use abi::{Restart, SysResult, WaitStatus};
use mm::AddressSpace;
use platform::GuestThread;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use vfs::{Caller, Credentials, FdTable, FsContext, MountNamespace};

/// What restart_syscall(2) does in place of an interrupted call.
pub type RestartBlock = Box<dyn FnOnce(&mut Current) -> SysResult<u64> + Send>;

/// The system call that the thread is in, until its result is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Call {
    pub number: u64,
    /// It was interrupted; the signal code decides.
    pub restart: Option<Restart>,
}

/// The running thread.
pub struct Current {
    task: Arc<Task>,
    pub(crate) thread: Box<dyn GuestThread>,
    memory: Arc<AddressSpace>,
    files: Arc<FdTable>,
    fs: Arc<FsContext>,
    namespace: Arc<MountNamespace>,
    credentials: Arc<Credentials>,
    pub(crate) restart_block: Option<RestartBlock>,
    pub(crate) call: Option<Call>,
    pub(crate) exiting: Option<WaitStatus>,
    /// How its tracer let it go on.
    pub(crate) trace_resume: crate::ptrace::Resume,
    /// The trap flag is set in its registers, by us.
    pub(crate) stepping: bool,
    /// The system call that a debugger sees it in, and whether it is only entering it.
    pub(crate) orig_rax: Option<u64>,
    pub(crate) at_entry: bool,
    /// The task's own record, at hand for every call.
    pub(crate) seccomp: crate::seccomp::Mode,
    /// Frames that the host's own run of a mapping call takes away, kept until the thread stops again.
    pub(crate) deferred: Option<mm::Deferred>,
}

impl Current {
    pub(crate) fn new(task: Arc<Task>, thread: Box<dyn GuestThread>, r: Shared) -> Current {
        let credentials = task.credentials();
        let seccomp = task.seccomp.lock().clone();
        Current {
            seccomp,
            trace_resume: crate::ptrace::Resume::default(),
            stepping: false,
            orig_rax: None,
            at_entry: false,
            task,
            thread,
            memory: r.memory,
            files: r.files,
            fs: r.fs,
            namespace: r.namespace,
            credentials,
            restart_block: None,
            call: None,
            exiting: None,
            deferred: None,
        }
    }

    /// The thread as others see it.
    #[must_use]
    pub fn task(&self) -> &Arc<Task> {
        &self.task
    }
    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Arc<Process> {
        self.task.process()
    }
    /// The machine.
    #[must_use]
    pub fn system(&self) -> &'static System {
        self.task.system()
    }
    /// Its number.
    #[must_use]
    pub fn tid(&self) -> i32 {
        self.task.tid()
    }
    /// Its process's number.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process().pid()
    }
    /// Its registers and vector state.
    pub fn thread(&mut self) -> &mut dyn GuestThread {
        &mut *self.thread
    }
    /// Its address space.
    #[must_use]
    pub fn memory(&self) -> &Arc<AddressSpace> {
        &self.memory
    }
    /// Its descriptors.
    #[must_use]
    pub fn files(&self) -> &Arc<FdTable> {
        &self.files
    }
    /// Its root, working directory and umask.
    #[must_use]
    pub fn fs(&self) -> &Arc<FsContext> {
        &self.fs
    }
    /// Its mounts.
    #[must_use]
    pub fn namespace(&self) -> &Arc<MountNamespace> {
        &self.namespace
    }
    /// Its identity.
    #[must_use]
    pub fn credentials(&self) -> &Arc<Credentials> {
        &self.credentials
    }
    /// What path operations have to know of it.
    #[must_use]
    pub fn caller(&self) -> Caller<'_> {
        Caller {
            vfs: self.system().vfs,
            credentials: &self.credentials,
            fs: &self.fs,
            namespace: &self.namespace,
            file_size_limit: self.process().rlimit(abi::Resource::Fsize).soft,
        }
    }
    /// What it shares, each part present.
    #[must_use]
    pub fn shared(&self) -> Shared {
        Shared { memory: self.memory.clone(), files: self.files.clone(), fs: self.fs.clone(), namespace: self.namespace.clone() }
    }

    /// The answer of a call without arguments that only changes where [`platform::Platform::forget_answers`] is called: the thread's stub is
    /// told, so that it gives it alone next time, unless a filter or a tracer of the guest's wants to see the call.
    pub fn told<T: Copy + Into<i64>>(&mut self, number: u32, answer: impl FnOnce(&Current) -> T) -> SysResult<T> {
        let generation = self.system().platform.answers();
        let value = answer(self);
        if matches!(self.seccomp, crate::seccomp::Mode::Off) && !self.is_traced() {
            self.thread.tell_answer(number, value.into() as u64, generation);
        }
        Ok(value)
    }

    /// A new identity.
    pub fn set_credentials(&mut self, credentials: Credentials) {
        let credentials = Arc::new(credentials);
        self.task.set_credentials(credentials.clone());
        let ids = |c: &Credentials| (c.uid, c.euid, c.gid, c.egid);
        if ids(&credentials) != ids(&self.credentials) {
            self.system().platform.forget_answers();
        }
        self.process().exit_uid.store(credentials.uid, std::sync::atomic::Ordering::Relaxed);
        self.credentials = credentials;
    }
    /// Other descriptors (unshare, exec).
    pub fn set_files(&mut self, files: Arc<FdTable>) {
        let old = self.task.resources.lock().files.replace(files.clone());
        drop(old);
        self.files = files;
    }
    /// Another root, working directory and umask (unshare).
    pub fn set_fs(&mut self, fs: Arc<FsContext>) {
        let old = self.task.resources.lock().fs.replace(fs.clone());
        drop(old);
        self.fs = fs;
    }
    /// Other mounts (unshare, setns).
    pub fn set_namespace(&mut self, namespace: Arc<MountNamespace>) {
        let old = self.task.resources.lock().namespace.replace(namespace.clone());
        drop(old);
        self.namespace = namespace;
    }
    /// What the machine is called, as this task sees it.
    #[must_use]
    pub fn uts(&self) -> Arc<crate::uts::Uts> {
        self.task.uts.lock().clone()
    }
    /// Another address space, and a thread in it (exec). The old ones go.
    pub(crate) fn set_memory(&mut self, memory: Arc<AddressSpace>, thread: Box<dyn GuestThread>) {
        self.task.host_thread.store(thread.host_number(), Ordering::Relaxed);
        // The old thread first: nothing may run in an address space that goes away.
        let old_thread = std::mem::replace(&mut self.thread, thread);
        drop(old_thread);
        let old = self.task.resources.lock().memory.replace(memory.clone());
        drop(old);
        self.memory = memory;
    }
    /// Says how restart_syscall(2) goes on if no handler runs; the call then ends with [`Restart::Block`].
    pub fn set_restart(&mut self, block: RestartBlock) {
        self.restart_block = Some(block);
    }
    /// Takes what restart_syscall(2) has to run.
    pub fn take_restart(&mut self) -> Option<RestartBlock> {
        self.restart_block.take()
    }
}

/// What a living thread shares with others or not.
#[derive(Clone)]
pub struct Shared {
    pub memory: Arc<AddressSpace>,
    pub files: Arc<FdTable>,
    pub fs: Arc<FsContext>,
    pub namespace: Arc<MountNamespace>,
}

impl Shared {
    pub(crate) fn resources(&self) -> Resources {
        Resources {
            memory: Some(self.memory.clone()),
            files: Some(self.files.clone()),
            fs: Some(self.fs.clone()),
            namespace: Some(self.namespace.clone()),
        }
    }
}
