//! Guest code: spaces, threads, and why a thread stopped.

use abi::Errno;
use abi::arch::Regs;
use std::sync::Arc;

bitflags::bitflags! {
    /// What guest code may do with a page, with the values of `PROT_*`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
    pub struct Protection: u8 {
        /// `PROT_READ`.
        const READ = 1;
        /// `PROT_WRITE`.
        const WRITE = 2;
        /// `PROT_EXEC`.
        const EXEC = 4;
    }
}

/// One change to what a space sees. Addresses and lengths are multiples of the page size, below [`abi::arch::TASK_SIZE`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapCommand {
    /// Frames `pfn..` of RAM appear at `addr`, replacing what was there.
    Map { addr: u64, len: u64, pfn: u32, protection: Protection },
    /// Nothing is mapped in the range any more.
    Unmap { addr: u64, len: u64 },
    /// What is mapped in the range gets other rights.
    Protect { addr: u64, len: u64, protection: Protection },
}

/// What the thread tried to do at the address of a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    Read,
    Write,
    Execute,
}

/// Why a guest thread stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// A system call. Number and arguments are all that is known cheaply; answer with [`GuestThread::set_result`], or take everything with
    /// [`GuestThread::regs`]. `ip` is the address after the instruction.
    Syscall { number: u64, args: [u64; 6], ip: u64 },
    /// A page that is not mapped, or not mapped so. Resuming runs the instruction again.
    Fault { addr: u64, access: Access },
    /// Another exception: the signal that Linux would send, its `si_code`, and `si_addr`.
    Exception { signal: abi::Signal, code: i32, addr: u64 },
    /// It was asked to stop, or was about to be; nothing else happened.
    Kicked,
    /// The space is gone: killed from outside, or killed because a thread of it would not stop. The guest sees SIGKILL.
    Gone,
}

/// The host process behind a space has died.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpaceGone;

/// The vector and floating-point state of a thread, as the host's XSAVE area in the layout of a signal frame (`struct _fpstate` and what
/// follows it, with `sw_reserved` filled in). Its length is decided at run time.
pub type Xstate = Vec<u8>;

/// Where guest code runs.
pub trait Platform: Send + Sync {
    /// A new, empty space. EAGAIN when the host has no room for another process, ENOMEM, ENFILE.
    ///
    /// May take some 200 us when the pool of recycled stubs is empty.
    fn new_space(&self) -> Result<Arc<dyn GuestSpace>, Errno>;
    /// Generation of the answers that stubs may give alone, [`GuestThread::tell_answer`]. Read it before the answer is looked up.
    fn answers(&self) -> u32 {
        0
    }
    /// From now on no stub gives an answer alone that it was told before. To be called before anybody can notice that an answer has changed.
    fn forget_answers(&self) {}
    /// Length of [`Xstate`] here, bytes.
    fn xstate_len(&self) -> usize;
    /// Auxiliary vector words of the host's processor that a guest program gets as they are: `AT_HWCAP`, `AT_HWCAP2`, `AT_MINSIGSTKSZ`.
    fn processor_aux(&self) -> [(u64, u64); 3];
    /// Instruction and stack pointer of a stopped thread, by its [`GuestThread::host_number`], as the host knows them. `None`: it runs, or the
    /// host does not say.
    fn user_position(&self, _host_number: u64) -> Option<(u64, u64)> {
        None
    }
}

/// One address space on the host.
pub trait GuestSpace: Send + Sync {
    /// Runs the commands in order. When it returns they are complete: no thread of the space can use what they took away.
    fn map(&self, commands: &[MapCommand]) -> Result<(), SpaceGone>;
    /// A new thread, stopped, with all registers zero. EAGAIN when the host or the space has no room for another.
    fn new_thread(&self) -> Result<Box<dyn GuestThread>, Errno>;
    /// Ends all guest code in the space at once.
    fn kill(&self);
}

/// One thread of a space, stopped whenever the kernel holds it.
///
/// Dropping it gives the host thread back to the space for reuse.
pub trait GuestThread: Send {
    /// Lets it run until it needs the kernel. Blocks the virtual CPU's host thread; returns [`Exit::Kicked`] at once when the scheduler wants the CPU.
    fn resume(&mut self) -> Exit;
    /// After [`Exit::Syscall`]: what the call returns.
    fn set_result(&mut self, value: u64);
    /// After [`Exit::Syscall`] of a call without arguments: the thread may give itself this answer from now on, without the kernel, as long as
    /// [`Platform::answers`] is `generation`. Where that is not possible nothing happens.
    fn tell_answer(&mut self, number: u32, value: u64, generation: u32) {
        let _ = (number, value, generation);
    }
    /// After [`Exit::Syscall`] of `munmap`, `mprotect`: let the host run this very call with these very arguments when the thread is resumed.
    /// The caller has checked them. The host's result is the call's: [`GuestThread::set_result`] changes nothing any more.
    fn let_host_run(&mut self);
    /// All registers, to read. After [`Exit::Syscall`], `rax` is the call's number until [`GuestThread::set_result`]. May cost a round trip.
    fn regs(&mut self) -> Result<Regs, SpaceGone>;
    /// Sets all registers.
    fn set_regs(&mut self, regs: &Regs) -> Result<(), SpaceGone>;
    /// The vector state, to read.
    fn xstate(&mut self) -> Result<Xstate, SpaceGone>;
    /// A number by which the platform finds the thread from outside; 0: it can't.
    fn host_number(&self) -> u64 {
        0
    }
    /// Sets the vector state; bytes that came from a guest are sanitised by the host's own checks. An empty state is the initial one.
    fn set_xstate(&mut self, state: &[u8]) -> Result<(), SpaceGone>;
}
