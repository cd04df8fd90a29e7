//! The stub's code. It uses no stack but the signal stack that the host itself fills, and outside the signal handler no memory that guest code
//! can write.
//!
//! Everything runs at a fixed address in the stub, where the host's filters know each `syscall` instruction by the address behind it. What each
//! may do is in `filter`; here they are only named:
//!
//! | label | call |
//! |---|---|
//! | `umlaut_ip_trap` | the handler's notification |
//! | `umlaut_ip_sigreturn` | `rt_sigreturn` back to guest code |
//! | `umlaut_ip_mask` | a newborn, filtered already, unblocks the signals of the hand-over |
//! | `umlaut_ip_birth` | a newborn's first notification |
//! | `umlaut_ip_done` | the command thread's notification |
//! | `umlaut_ip_command` | one map command |
//!
//! Registers that hold their meaning throughout: r12 command pages (template: its page), r13 last spawn sequence, r15 what to spawn.

use super::layout as l;
use std::arch::global_asm;

global_asm!(
    r#"
.pushsection .text.umlaut_stub,"ax",@progbits
.balign 4096
.globl umlaut_stub_start, umlaut_stub_end, umlaut_handler, umlaut_restorer, umlaut_template_entry
.globl umlaut_ip_trap, umlaut_ip_sigreturn, umlaut_ip_mask, umlaut_ip_birth, umlaut_ip_done, umlaut_ip_command
umlaut_stub_start:

umlaut_restorer:
    hlt

# A signal for a guest thread: an exception, a trapped call (SIGSYS) or a kick (SIGUSR1). On its signal stack, all signals blocked.
# edi signal, rsi siginfo, rdx ucontext
umlaut_handler:
    mov %rdx, %rbx
    mov 16(%rsi), %r8
    mov 24(%rsi), %r9
    mov %rdx, %rsi
    rdfsbase %rdx
    rdgsbase %r10
    mov ${nr_trap}, %eax
    syscall
umlaut_ip_trap:
    mov %rbx, %rsp
    and $-{slot_len}, %rbx
    mov {slot_fs}(%rbx), %rax
    wrfsbase %rax
    mov {slot_gs}(%rbx), %rax
    wrgsbase %rax
    mov $15, %eax
    syscall
umlaut_ip_sigreturn:
    hlt

# The command thread: tells what became of the last batch, runs the next.
command_loop:
    xor %ebx, %ebx
    xor %r13d, %r13d
1:  mov ${nr_done}, %eax
    mov %rbx, %rdi
    mov %r13, %rsi
    syscall
umlaut_ip_done:
    mov {command_count}(%r12), %r13
    lea {commands}(%r12), %r14
    xor %ebx, %ebx
2:  test %r13, %r13
    jz 1b
    mov (%r14), %rax
    mov 8(%r14), %rdi
    mov 16(%r14), %rsi
    mov 24(%r14), %rdx
    mov 32(%r14), %r10
    mov 40(%r14), %r8
    mov 48(%r14), %r9
    syscall
umlaut_ip_command:
    mov %rax, %rbx
    cmp $-4095, %rax
    jae 1b
    add $64, %r14
    dec %r13
    jmp 2b

# The spawner: the stub's first thread, never filtered, never runs guest code, makes all other threads.
spawner:
    mov {spawn_sequence}(%r12), %eax
    cmp %r13d, %eax
    jne 1f
    lea {spawn_sequence}(%r12), %rdi
    xor %esi, %esi
    mov %r13d, %edx
    xor %r10d, %r10d
    mov $202, %eax
    syscall
    jmp spawner
1:  mov %eax, %r13d
    mov {spawn_kind}(%r12), %r15
    mov $0x50f00, %edi
    xor %esi, %esi
    xor %edx, %edx
    xor %r10d, %r10d
    xor %r8d, %r8d
    mov $56, %eax
    syscall
    test %rax, %rax
    jz newborn
    js spawn_failed
# The newborn's listener is the lowest free descriptor; until it is there, sending it fails with EBADF.
2:  mov ${fd_socket}, %edi
    movabs ${message}, %rsi
    mov $0x4000, %edx
    mov $46, %eax
    syscall
    cmp $-9, %rax
    jne 3f
    movabs ${spawn_wait}, %rdi
    xor %esi, %esi
    mov $35, %eax
    syscall
    jmp 2b
3:  mov ${fd_listener}, %edi
    mov $3, %eax
    syscall
    jmp spawner
spawn_failed:
    mov ${fd_socket}, %edi
    movabs ${failure}, %rsi
    mov $0x4000, %edx
    mov $46, %eax
    syscall
    jmp spawner

# A new thread, born while guest code may already run beside it: registers and read-only pages only until its filter is on.
newborn:
    test %r15, %r15
    jz newborn_command
    lea {spawn_stack}(%r12), %rdi
    xor %esi, %esi
    mov $131, %eax
    syscall
    mov $1, %edi
    mov $0x28, %esi
    movabs ${guest_filter}, %rdx
    mov $317, %eax
    syscall
    test %rax, %rax
    js newborn_failed
    mov $2, %edi
    movabs ${guest_mask}, %rsi
    xor %edx, %edx
    mov $8, %r10d
    mov $14, %eax
    syscall
umlaut_ip_mask:
1:  mov ${nr_birth}, %eax
    syscall
umlaut_ip_birth:
    jmp 1b
newborn_command:
    mov $1, %edi
    mov $8, %esi
    movabs ${command_filter}, %rdx
    mov $317, %eax
    syscall
    test %rax, %rax
    jns command_loop
newborn_failed:
    mov ${fd_socket}, %edi
    movabs ${failure}, %rsi
    mov $0x4000, %edx
    mov $46, %eax
    syscall
2:  mov $60, %eax
    xor %edi, %edi
    syscall
    jmp 2b

# The template, entered in the kernel's own image: r13 descriptor of the code, r12 its page. First to the stub's range, then all else goes.
umlaut_template_entry:
    movabs ${code}, %rdi
    mov ${code_len}, %esi
    mov $5, %edx
    mov $0x11, %r10d
    mov %r13, %r8
    xor %r9d, %r9d
    mov $9, %eax
    syscall
    cmp $-4095, %rax
    jae template_dies
    movabs ${constants}, %rdi
    mov ${const_len}, %esi
    mov $1, %edx
    mov $0x11, %r10d
    mov %r13, %r8
    mov ${code_len}, %r9d
    mov $9, %eax
    syscall
    cmp $-4095, %rax
    jae template_dies
    movabs ${template}, %rdi
    mov $4096, %esi
    mov $3, %edx
    mov $0x11, %r10d
    mov ${fd_control}, %r8d
    xor %r9d, %r9d
    mov $9, %eax
    syscall
    cmp $-4095, %rax
    jae template_dies
    mov %r13, %rdi
    mov $3, %eax
    syscall
    movabs ${code}, %rax
    add $(template_home - umlaut_stub_start), %rax
    jmp *%rax
template_home:
    movabs ${moves}, %r14
1:  mov 8(%r14), %rsi
    test %rsi, %rsi
    jz 2f
    mov (%r14), %rdi
    mov %rsi, %rdx
    mov $3, %r10d
    mov 16(%r14), %r8
    mov $25, %eax
    syscall
    add $24, %r14
    jmp 1b
2:  xor %edi, %edi
    movabs ${base}, %rsi
    mov $11, %eax
    syscall
    movabs ${end}, %rdi
    movabs $0x7ffffffff000, %rsi
    sub %rdi, %rsi
    mov $11, %eax
    syscall
    movabs ${template}, %r12
template_loop:
    mov {template_request}(%r12), %eax
    test %eax, %eax
    jnz 1f
    mov %r12, %rdi
    xor %esi, %esi
    xor %edx, %edx
    xor %r10d, %r10d
    mov $202, %eax
    syscall
    jmp template_loop
1:  mov %rax, %r15
    mov {template_parent}(%r12), %r14d
    movl $0, {template_request}(%r12)
    mov $0x8011, %edi
    xor %esi, %esi
    xor %edx, %edx
    xor %r10d, %r10d
    xor %r8d, %r8d
    mov $56, %eax
    syscall
    test %rax, %rax
    jz stub_begins
    mov %eax, {template_reply}(%r12)
    lea {template_reply}(%r12), %rdi
    mov $1, %esi
    mov $1, %edx
    mov $202, %eax
    syscall
    jmp template_loop

# A new stub. Its parent is the kernel; it dies with it, whichever of the two steps the kernel dies between.
stub_begins:
    mov $1, %edi
    mov $9, %esi
    mov $157, %eax
    syscall
    mov $110, %eax
    syscall
    cmp %r14d, %eax
    jne stub_dies
    movabs ${command}, %rdi
    mov ${command_len}, %esi
    mov $1, %edx
    mov $0x11, %r10d
    mov ${fd_control}, %r8d
    mov %r15, %r9
    shl ${stride_shift}, %r9
    mov $9, %eax
    syscall
    cmp $-4095, %rax
    jae stub_dies
    movabs ${slots}, %rdi
    mov ${slots_len}, %esi
    mov $3, %edx
    mov $0x11, %r10d
    mov ${fd_control}, %r8d
    mov %r15, %r9
    shl ${stride_shift}, %r9
    add ${slots_in_stride}, %r9
    mov $9, %eax
    syscall
    cmp $-4095, %rax
    jae stub_dies
    movabs ${template}, %rdi
    mov $4096, %esi
    mov $11, %eax
    syscall
    mov ${fd_control}, %edi
    mov $3, %eax
    syscall
    movabs ${command}, %r12
    xor %r13d, %r13d
    jmp spawner
stub_dies:
template_dies:
    mov $231, %eax
    mov $1, %edi
    syscall
    jmp stub_dies
umlaut_stub_end:
.popsection
"#,
    nr_trap = const l::NR_TRAP,
    nr_birth = const l::NR_BIRTH,
    nr_done = const l::NR_COMMANDS_DONE,
    slot_len = const l::SLOT_LEN,
    slot_fs = const l::SLOT_FS_BASE,
    slot_gs = const l::SLOT_GS_BASE,
    command_count = const l::COMMAND_COUNT,
    commands = const l::COMMANDS,
    spawn_sequence = const l::SPAWN_SEQUENCE,
    spawn_kind = const l::SPAWN_KIND,
    spawn_stack = const l::SPAWN_STACK,
    spawn_wait = const l::CONST + l::SPAWN_WAIT as u64,
    message = const l::CONST + l::MESSAGE as u64,
    failure = const l::CONST + l::FAILURE_MESSAGE as u64,
    guest_filter = const l::CONST + l::GUEST_FILTER as u64,
    command_filter = const l::CONST + l::COMMAND_FILTER as u64,
    guest_mask = const l::CONST + l::GUEST_MASK as u64,
    moves = const l::CONST + l::MOVES as u64,
    fd_socket = const l::FD_SOCKET,
    fd_listener = const l::FD_LISTENER,
    fd_control = const l::FD_CONTROL,
    code = const l::CODE,
    code_len = const l::CODE_LEN,
    constants = const l::CONST,
    const_len = const l::CONST_LEN,
    template = const l::TEMPLATE,
    template_request = const l::TEMPLATE_REQUEST,
    template_reply = const l::TEMPLATE_REPLY,
    template_parent = const l::TEMPLATE_PARENT,
    base = const l::BASE,
    end = const l::END,
    command = const l::COMMAND,
    command_len = const l::COMMAND_LEN,
    slots = const l::SLOTS,
    slots_len = const l::SLOT_COUNT * l::SLOT_LEN,
    slots_in_stride = const l::SLOTS_IN_STRIDE,
    stride_shift = const l::STRIDE_SHIFT,
    options(att_syntax)
);

unsafe extern "C" {
    static umlaut_stub_start: u8;
    static umlaut_stub_end: u8;
    static umlaut_handler: u8;
    static umlaut_restorer: u8;
    static umlaut_template_entry: u8;
    static umlaut_ip_trap: u8;
    static umlaut_ip_sigreturn: u8;
    static umlaut_ip_mask: u8;
    static umlaut_ip_birth: u8;
    static umlaut_ip_done: u8;
    static umlaut_ip_command: u8;
}

/// The stub's code as it stands in the kernel's image.
pub fn image() -> &'static [u8] {
    let (start, end) = (&raw const umlaut_stub_start, &raw const umlaut_stub_end);
    // SAFETY: both symbols delimit one run of bytes of this program's text, which is never written.
    unsafe { std::slice::from_raw_parts(start, end as usize - start as usize) }
}

/// Where the template begins, in the kernel's image.
pub fn template_entry() -> *const u8 {
    &raw const umlaut_template_entry
}

fn home(symbol: *const u8) -> u64 {
    l::CODE + (symbol as u64 - &raw const umlaut_stub_start as u64)
}

/// Addresses in the stub: of code, and behind each `syscall` instruction that a filter knows.
pub struct Addresses {
    pub handler: u64,
    pub restorer: u64,
    pub trap: u64,
    pub sigreturn: u64,
    pub mask: u64,
    pub birth: u64,
    pub done: u64,
    pub command: u64,
}

/// The addresses, in the stub's range.
pub fn addresses() -> Addresses {
    Addresses {
        handler: home(&raw const umlaut_handler),
        restorer: home(&raw const umlaut_restorer),
        trap: home(&raw const umlaut_ip_trap),
        sigreturn: home(&raw const umlaut_ip_sigreturn),
        mask: home(&raw const umlaut_ip_mask),
        birth: home(&raw const umlaut_ip_birth),
        done: home(&raw const umlaut_ip_done),
        command: home(&raw const umlaut_ip_command),
    }
}
