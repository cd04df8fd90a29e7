//! Where everything lies in a stub, and in the control file that the kernel shares with all stubs.
//!
//! The stub's own range is the top of the address space, from [`abi::arch::TASK_SIZE`] up, where no guest may map. In the high half of every
//! address in it stands [`HIGH_WORD`], and in no guest address: filters use that.
//!
//! | at | what | the stub may | the kernel may |
//! |---|---|---|---|
//! | [`CODE`] | the stub's code | execute | - |
//! | [`CONST`] | filters, masks, message headers, the generation of answers | read | write |
//! | [`TEMPLATE`] | requests to the template; not mapped in stubs | write (template only) | write |
//! | [`COMMAND`] | map commands and spawn requests | read | write |
//! | [`VDSO`] | the host's vDSO and the pages it reads | read, execute | - |
//! | [`SLOTS`] | one slot for each thread: signal stack, words for the handler | write | write |
//!
//! What a stub can write decides nothing: see `thread`. Of a slot only what a frame and the words need is mapped, and only when its thread is
//! made: what a stub can write is memory of the host that no account of the guest's bounds.

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
/// The signal stack of a slot begins here, and ends at [`SLOT_WORDS`]. The host puts a frame at its top; nothing below that is ever mapped.
pub const SLOT_STACK: usize = 0x1000;
/// What the kernel and the handler tell each other, behind the signal stack.
pub const SLOT_WORDS: usize = SLOT_LEN - 0x100;
/// Segment bases to load before going back to guest code.
pub const SLOT_FS_BASE: usize = SLOT_WORDS;
pub const SLOT_GS_BASE: usize = SLOT_WORDS + 0x08;
/// The descriptor of the thread's socket, and where a spawner has the host write a new pair of them.
pub const SLOT_SOCKET: usize = SLOT_WORDS + 0x10;
pub const SLOT_PAIR: usize = SLOT_WORDS + 0x18;
/// What the handler sends: the kernel's last word (which it got here), then six words as of [`NR_TRAP`].
pub const SLOT_REPORT: usize = SLOT_WORDS + 0x20;
pub const REPORT_LEN: usize = 56;
/// Length of the kernel's word.
pub const WORD_LEN: usize = 8;
/// Answers that the handler may give alone, two words each: `generation << 16 | number` of the call, and what it returns. See [`ANSWERED_ALONE`].
pub const SLOT_ANSWERS: usize = SLOT_WORDS + 0x60;
/// Calls that the handler answers alone once the kernel has told it what they return: getpid, getuid, getgid, geteuid, getegid, getppid, gettid.
pub const ANSWERED_ALONE: [u32; 7] = [39, 102, 104, 107, 108, 110, 186];

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
/// u64: what to spawn, [`SPAWN_COMMAND_THREAD`] or [`SPAWN_GUEST_THREAD`], with [`SPAWN_WITH_SOCKET`] in the hand-over by signals.
pub const SPAWN_KIND: usize = 0x28;
/// `stack_t` of the guest thread to spawn.
pub const SPAWN_STACK: usize = 0x30;
/// u64 each: flags and `struct sock_fprog` of the filter; `struct msghdr` with the kernel's descriptor, which is then closed; where the host
/// writes a pair of descriptors; what of the slot to map, from where in the control file.
pub const SPAWN_FILTER_FLAGS: usize = 0x48;
pub const SPAWN_FILTER: usize = 0x50;
pub const SPAWN_MESSAGE: usize = 0x58;
pub const SPAWN_CLOSE: usize = 0x60;
pub const SPAWN_PAIR: usize = 0x08;
pub const SPAWN_MAP_AT: usize = 0x68;
pub const SPAWN_MAP_LEN: usize = 0x70;
pub const SPAWN_MAP_OFFSET: usize = 0x78;
/// The commands, eight words each: number, six arguments, nothing.
pub const COMMANDS: usize = 0x80;
/// Commands that fit.
pub const COMMANDS_MAX: usize = 1000;
/// In the hand-over by signals each thread has a filter and a message of its own, behind the commands: `struct sock_fprog`, `struct cmsghdr`,
/// `struct msghdr`, instructions.
pub const THREAD_FILTER: usize = COMMANDS + 64 * COMMANDS_MAX;
pub const THREAD_CONTROL: usize = THREAD_FILTER + 0x10;
pub const THREAD_MESSAGE: usize = THREAD_CONTROL + 0x20;
pub const THREAD_PROGRAM: usize = THREAD_MESSAGE + 0x38;
pub const SPAWN_COMMAND_THREAD: u64 = 0;
pub const SPAWN_GUEST_THREAD: u64 = 1;
pub const SPAWN_WITH_SOCKET: u64 = 2;

// Offsets in the constant pages.
/// `struct sock_fprog` of the command thread, and of guest threads where all have the same.
pub const COMMAND_FILTER: usize = 0x000;
pub const GUEST_FILTER: usize = 0x010;
/// The signal mask of a running guest thread, and of a spawner.
pub const GUEST_MASK: usize = 0x020;
/// u32: generation of the answers that are still true. The kernel raises it whenever any of them may change anywhere.
pub const ANSWERS_GENERATION: usize = 0x240;
/// `struct timespec` between two looks for a newborn's listener.
pub const SPAWN_WAIT: usize = 0x030;
/// `struct msghdr` with the listener; that no thread could be made; that one was made and is of no use.
pub const MESSAGE: usize = 0x040;
pub const FAILURE_MESSAGE: usize = 0x080;
pub const BROKEN_MESSAGE: usize = 0x1e0;
/// `struct cmsghdr` and descriptor; `struct iovec`; the byte sent.
pub const CONTROL: usize = 0x0c0;
pub const IOVEC: usize = 0x0e0;
pub const PAYLOAD: usize = 0x0f0;
pub const FAILURE_IOVEC: usize = 0x100;
pub const FAILURE_PAYLOAD: usize = 0x110;
pub const BROKEN_IOVEC: usize = 0x218;
pub const BROKEN_PAYLOAD: usize = 0x228;
/// What to move in the template: from, length, to; three words each, ended by a zero length.
pub const MOVES: usize = 0x120;
pub const MOVES_MAX: usize = 8;
/// Filter programs.
pub const COMMAND_PROGRAM: usize = 0x280;
pub const GUEST_PROGRAM: usize = 0x800;

// Offsets in the template's page.
/// u32 futex word: number of the stub to make, 0 when there is nothing to do.
pub const TEMPLATE_REQUEST: usize = 0x00;
/// u32 futex word: process number of the stub made, or a negative errno.
pub const TEMPLATE_REPLY: usize = 0x04;
/// u32: the kernel's process number.
pub const TEMPLATE_PARENT: usize = 0x08;

// Descriptors in a stub. A new listener gets the lowest free number, and is closed once it is sent. In the hand-over by signals each thread
// keeps one end of a pair of sockets: the command thread the first number, guest threads those behind it.
pub const FD_RAM: i32 = 0;
pub const FD_SOCKET: i32 = 1;
pub const FD_CONTROL: i32 = 2;
pub const FD_LISTENER: i32 = 3;

// Numbers of the stub's own notifications; no Linux call has them.
/// A signal handler reports: rdi signal, rsi ucontext, rdx FS base, r10 GS base, r8 and r9 words of the siginfo.
pub const NR_TRAP: u64 = 0xf01;
/// A newborn thread is ready.
pub const NR_BIRTH: u64 = 0xf02;
/// The command thread has run its commands: rdi last result, rsi commands left over.
pub const NR_COMMANDS_DONE: u64 = 0xf03;
