//! x86-64: `linux-raw-sys` supplies the numbers; here are the register file and the layout of a signal frame's machine context.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// General registers in the order of `struct sigcontext` (`REG_R8` first), `arch/x86/include/uapi/asm/sigcontext.h`, plus both segment bases.
///
/// `error`, `trap` and `fault_address` are what the processor reported for the exception that stopped the thread.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Regs {
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rsp: u64,
    pub rip: u64,
    pub flags: u64,
    /// `cs`, `gs`, `fs`, `ss`, 16 bits each, lowest first.
    pub selectors: u64,
    pub error: u64,
    pub trap: u64,
    pub old_mask: u64,
    pub fault_address: u64,
    pub fs_base: u64,
    pub gs_base: u64,
}

impl Regs {
    /// Words that `struct sigcontext` holds before its floating-point pointer.
    pub const FRAME_WORDS: usize = 23;
    /// `cs` 0x33, `ss` 0x2b: 64-bit user mode.
    pub const USER_SELECTORS: u64 = 0x002b_0000_0000_0033;
    /// Flags of a fresh thread: interrupts on, the always-set bit.
    pub const USER_FLAGS: u64 = 0x202;
    /// Flag bits that a guest may set by `rt_sigreturn` (`FIX_EFLAGS` of the kernel).
    pub const FLAGS_FROM_GUEST: u64 = 0x0005_0dd5;

    /// The system-call number that the thread put in rax.
    #[must_use]
    pub fn syscall_number(&self) -> u64 {
        self.rax
    }
    /// The six system-call arguments.
    #[must_use]
    pub fn syscall_args(&self) -> [u64; 6] {
        [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9]
    }
    /// Sets what a system call returns.
    pub fn set_result(&mut self, value: u64) {
        self.rax = value;
    }
    /// Moves the instruction pointer back onto the two-byte `syscall` instruction, to run it again with this number.
    pub fn rewind_syscall(&mut self, number: u64) {
        self.rip = self.rip.wrapping_sub(2);
        self.rax = number;
    }
}

/// One past the highest address that a guest may map. Above it, up to the host's own limit, lies the stub.
pub const TASK_SIZE: u64 = 0x7fff_0000_0000;
/// The lowest address that a guest may map without privilege (`vm.mmap_min_addr`).
pub const MMAP_MIN_ADDR: u64 = 0x1_0000;
