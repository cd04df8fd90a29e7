//! Where everything lies in a stub, and in the control file that the kernel shares with all stubs.
//!
//! The stub's own range is the top of the address space, from [`abi::arch::TASK_SIZE`] up, where no guest may map. In the high half of every
//! address in it stands [`HIGH_WORD`], and in no guest address: filters use that.
//!
//! | at | what | the stub may | the kernel may |
//! |---|---|---|---|
//! | [`CODE`] | the stub's code | execute | - |
//! | [`CONST`] | filters, masks, message headers | read | written once |
//! | [`TEMPLATE`] | requests to the template; not mapped in stubs | write (template only) | write |
//! | [`COMMAND`] | map commands and spawn requests | read | write |
//! | [`VDSO`] | the host's vDSO and the pages it reads | read, execute | - |
//! | [`SLOTS`] | one slot for each thread: signal stack, segment bases | write | write |
//!
//! What a stub can write decides nothing: see `thread`.

use abi::arch::TASK_SIZE;

/// First address of the stub's range.
pub const BASE: u64 = TASK_SIZE;
/// The upper 32 bits of every address in the stub's range.
pub const HIGH_WORD: u32 = (BASE >> 32) as u32;
pub const CODE: u64 = BASE + 0x1_0000;
pub const CODE_LEN: usize = 0x2000;
pub const CONST: u64 = BASE + 0x2_0000;
pub const CONST_LEN: usize = 0x2000;
pub const TEMPLATE: u64 = BASE + 0x3_0000;
pub const COMMAND: u64 = BASE + 0x4_0000;
pub const COMMAND_LEN: usize = 0x1_0000;
/// The host's own vDSO, moved here with the pages it reads: see `vdso`.
pub const VDSO: u64 = BASE + 0x8_0000;
pub const VDSO_LEN_MAX: u64 = 0x4_0000;
pub const SLOTS: u64 = BASE + 0x1000_0000;
/// One past the stub's range.
pub const END: u64 = BASE + 0x2000_0000;

/// A thread's slot. The handler finds its base by masking the stack pointer, so it is a power of two.
pub const SLOT_LEN: usize = 0x1_0000;
/// Threads that one stub can have.
pub const SLOT_COUNT: usize = 2048;
/// The signal stack of a slot begins here; below it lie the words that the kernel hands to the handler.
pub const SLOT_STACK: usize = 0x1000;
/// Offsets in a slot: segment bases to load before going back to guest code.
pub const SLOT_FS_BASE: usize = 0x00;
pub const SLOT_GS_BASE: usize = 0x08;

/// A stub's part of the control file: commands first, slots behind.
pub const STRIDE_SHIFT: u32 = 28;
pub const STRIDE: u64 = 1 << STRIDE_SHIFT;
/// Stubs that there can be at once.
pub const STUB_COUNT: usize = 16384;
/// Offset of the slots in a stub's part.
pub const SLOTS_IN_STRIDE: u64 = COMMAND_LEN as u64;

// Offsets in the command pages.
/// u64: commands to run.
pub const COMMAND_COUNT: usize = 0x00;
/// u32 futex word: a spawn request was made when it changes.
pub const SPAWN_SEQUENCE: usize = 0x20;
/// u64: what to spawn, [`SPAWN_COMMAND_THREAD`] or [`SPAWN_GUEST_THREAD`].
pub const SPAWN_KIND: usize = 0x28;
/// `stack_t` of the guest thread to spawn.
pub const SPAWN_STACK: usize = 0x30;
/// The commands, eight words each: number, six arguments, nothing.
pub const COMMANDS: usize = 0x80;
/// Commands that fit.
pub const COMMANDS_MAX: usize = 1000;
pub const SPAWN_COMMAND_THREAD: u64 = 0;
pub const SPAWN_GUEST_THREAD: u64 = 1;

// Offsets in the constant pages.
/// `struct sock_fprog` of the command thread, and of guest threads.
pub const COMMAND_FILTER: usize = 0x000;
pub const GUEST_FILTER: usize = 0x010;
/// The signal mask of a running guest thread, and of a spawner.
pub const GUEST_MASK: usize = 0x020;
/// `struct timespec` between two looks for a newborn's listener.
pub const SPAWN_WAIT: usize = 0x030;
/// `struct msghdr` with the listener, and without (failure).
pub const MESSAGE: usize = 0x040;
pub const FAILURE_MESSAGE: usize = 0x080;
/// `struct cmsghdr` and descriptor; `struct iovec`; the byte sent.
pub const CONTROL: usize = 0x0c0;
pub const IOVEC: usize = 0x0e0;
pub const PAYLOAD: usize = 0x0f0;
pub const FAILURE_IOVEC: usize = 0x100;
pub const FAILURE_PAYLOAD: usize = 0x110;
/// What to move in the template: from, length, to; three words each, ended by a zero length.
pub const MOVES: usize = 0x120;
pub const MOVES_MAX: usize = 8;
/// Filter programs.
pub const COMMAND_PROGRAM: usize = 0x200;
pub const GUEST_PROGRAM: usize = 0x800;

// Offsets in the template's page.
/// u32 futex word: number of the stub to make, 0 when there is nothing to do.
pub const TEMPLATE_REQUEST: usize = 0x00;
/// u32 futex word: process number of the stub made, or a negative errno.
pub const TEMPLATE_REPLY: usize = 0x04;
/// u32: the kernel's process number.
pub const TEMPLATE_PARENT: usize = 0x08;

// Descriptors in a stub. The control file is closed once it is mapped, so each new listener gets its number.
pub const FD_RAM: i32 = 0;
pub const FD_SOCKET: i32 = 1;
pub const FD_CONTROL: i32 = 2;
pub const FD_LISTENER: i32 = 2;

// Numbers of the stub's own notifications; no Linux call has them.
/// A signal handler reports: rdi signal, rsi ucontext, rdx FS base, r10 GS base, r8 and r9 words of the siginfo.
pub const NR_TRAP: u64 = 0xf01;
/// A newborn thread is ready.
pub const NR_BIRTH: u64 = 0xf02;
/// The command thread has run its commands: rdi last result, rsi commands left over.
pub const NR_COMMANDS_DONE: u64 = 0xf03;
