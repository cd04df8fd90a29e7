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
//! | `umlaut_ip_send`, `umlaut_ip_receive` | the handler in the hand-over by signals: its report, and the wait for the kernel's word |
//! | `umlaut_ip_command_send`, `umlaut_ip_command_receive` | the same of the command thread |
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
.globl umlaut_handler_socket, umlaut_ip_send, umlaut_ip_receive, umlaut_ip_command_send, umlaut_ip_command_receive
umlaut_stub_start:

umlaut_restorer:
    hlt

# A trapped call that the kernel has told the answer of, in words of the slot that name call and generation: it is written into the frame, and
# the thread goes on. Whoever forges the words or jumps here lies to itself: it could write and return to such a frame without us.
.macro umlaut_answer_alone
    cmp $31, %edi
    jne 9f
    cmpl ${arch}, 28(%rsi)
    jne 9f
    movabs ${generation}, %rax
    mov (%rax), %ecx
    shl $16, %rcx
    mov 24(%rsi), %eax
    or %rcx, %rax
    mov %rdx, %rbx
    and $-{slot_len}, %rbx
    add ${slot_answers}, %rbx
    mov ${answers}, %ecx
8:  cmp (%rbx), %rax
    je 7f
    add $16, %rbx
    dec %ecx
    jnz 8b
    jmp 9f
7:  mov 8(%rbx), %rax
    mov %rax, {frame_rax}(%rdx)
    mov %rdx, %rsp
    jmp go_back
9:
.endm

# A signal for a guest thread: an exception, a trapped call (SIGSYS) or a kick (SIGUSR1). On its signal stack, all signals blocked.
# edi signal, rsi siginfo, rdx ucontext. The answer says where the frame is: guest code can make this very call with any registers, and must
# not choose what the next user of this thread returns to.
umlaut_handler:
    umlaut_answer_alone
    mov 16(%rsi), %r8
    mov 24(%rsi), %r9
    mov %rdx, %rsi
    rdfsbase %rdx
    rdgsbase %r10
    mov ${nr_trap}, %eax
    syscall
umlaut_ip_trap:
    mov %rax, %rsp
go_on:
    mov %rsp, %rbx
    and $-{slot_len}, %rbx
    mov {slot_fs}(%rbx), %rax
    wrfsbase %rax
    mov {slot_gs}(%rbx), %rax
    wrgsbase %rax
go_back:
    mov $15, %eax
    syscall
umlaut_ip_sigreturn:
    hlt

# The same for the hand-over by signals: reports over the thread's socket, and waits there for the kernel's word. The filter knows descriptor and
# addresses of this very thread; r9, which the host ignores, is among them: it is where the frame is.
umlaut_handler_socket:
    umlaut_answer_alone
    mov %rdx, %r9
    mov %rdx, %rbx
    and $-{slot_len}, %rbx
    mov %rdi, {slot_report}+8(%rbx)
    mov %rdx, {slot_report}+16(%rbx)
    rdfsbase %rax
    mov %rax, {slot_report}+24(%rbx)
    rdgsbase %rax
    mov %rax, {slot_report}+32(%rbx)
    mov 16(%rsi), %rax
    mov %rax, {slot_report}+40(%rbx)
    mov 24(%rsi), %rax
    mov %rax, {slot_report}+48(%rbx)
    mov {slot_socket}(%rbx), %edi
    lea {slot_report}(%rbx), %rsi
    mov ${report_len}, %edx
    mov $0x4000, %r10d
    xor %r8d, %r8d
    mov $44, %eax
    syscall
umlaut_ip_send:
1:  mov ${word_len}, %edx
    xor %r10d, %r10d
    xor %r8d, %r8d
    mov $45, %eax
    syscall
umlaut_ip_receive:
    cmp ${word_len}, %rax
    je 2f
    cmp $-4, %rax
    je 1b
    hlt
2:  mov %r9, %rsp
    jmp go_on

# The command thread: tells what became of the last batch, runs the next.
command_loop:
    xor %ebx, %ebx
    xor %r13d, %r13d
    test ${with_socket}, %r15d
    jnz 4f
1:  mov ${nr_done}, %eax
    mov %rbx, %rdi
    mov %r13, %rsi
    syscall
umlaut_ip_done:
    jmp 5f
# Without notifications: two bytes if commands are left over, one if not; then one is awaited.
4:  mov ${fd_listener}, %edi
    movabs ${payload}, %rsi
    xor %edx, %edx
    test %r13, %r13
    setnz %dl
    inc %edx
    mov $0x4000, %r10d
    xor %r8d, %r8d
    xor %r9d, %r9d
    mov $44, %eax
    syscall
umlaut_ip_command_send:
6:  mov ${fd_listener}, %edi
    xor %esi, %esi
    xor %edx, %edx
    mov $0x20, %r10d
    xor %r8d, %r8d
    xor %r9d, %r9d
    mov $45, %eax
    syscall
umlaut_ip_command_receive:
    cmp $1, %rax
    je 5f
    cmp $-4, %rax
    je 6b
    hlt
5:  mov {command_count}(%r12), %r13
    lea {commands}(%r12), %r14
    xor %ebx, %ebx
2:  test %r13, %r13
    jz 7f
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
    jae 7f
    add $64, %r14
    dec %r13
    jmp 2b
7:  test ${with_socket}, %r15d
    jnz 4b
    jmp 1b

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
    mov {spawn_map_at}(%r12), %rdi
    mov {spawn_map_len}(%r12), %rsi
    mov $3, %edx
    mov $0x11, %r10d
    mov ${fd_control}, %r8d
    mov {spawn_map_offset}(%r12), %r9
    mov $9, %eax
    syscall
    cmp $-4095, %rax
    jae spawn_failed
    test ${with_socket}, %r15d
    jz 4f
# Both ends get the lowest free numbers, which the kernel knows; where they are written guest code can write too, and nobody looks.
    mov $1, %edi
    mov $5, %esi
    xor %edx, %edx
    mov {spawn_pair}(%r12), %r10
    mov $53, %eax
    syscall
    test %rax, %rax
    js spawn_failed
4:  mov $0x50f00, %edi
    xor %esi, %esi
    xor %edx, %edx
    xor %r10d, %r10d
    xor %r8d, %r8d
    mov $56, %eax
    syscall
    test %rax, %rax
    jz newborn
    js spawn_failed
# The newborn's listener is the lowest free descriptor; until it is there, sending it fails with EBADF. As soon as it is sent the kernel may write
# the next request.
    mov {spawn_close}(%r12), %r14d
2:  mov ${fd_socket}, %edi
    mov {spawn_message}(%r12), %rsi
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
3:  mov %r14d, %edi
    mov $3, %eax
    syscall
    jmp spawner
spawn_failed:
    test ${with_socket}, %r15d
    jz 1f
    mov {spawn_close}(%r12), %edi
    mov $3, %eax
    syscall
    mov {spawn_close}(%r12), %edi
    dec %edi
    mov $3, %eax
    syscall
1:  mov ${fd_socket}, %edi
    movabs ${failure}, %rsi
    mov $0x4000, %edx
    mov $46, %eax
    syscall
    jmp spawner

# A new thread, born while guest code may already run beside it: registers and read-only pages only until its filter is on.
newborn:
    test ${guest_thread}, %r15d
    jz newborn_command
    lea {spawn_stack}(%r12), %rdi
    xor %esi, %esi
    mov $131, %eax
    syscall
    mov $1, %edi
    mov {spawn_filter_flags}(%r12), %rsi
    mov {spawn_filter}(%r12), %rdx
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
    mov {spawn_filter_flags}(%r12), %rsi
    mov {spawn_filter}(%r12), %rdx
    mov $317, %eax
    syscall
    test %rax, %rax
    jns command_loop
# It is of no use, and neither is the stub. With a socket the kernel sees the end of the stub there.
newborn_failed:
    test ${with_socket}, %r15d
    jnz stub_dies
    mov ${fd_socket}, %edi
    movabs ${broken}, %rsi
    mov $0x4000, %edx
    mov $46, %eax
    syscall
    jmp stub_dies

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
    movabs ${template}, %rdi
    mov $4096, %esi
    mov $11, %eax
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
    slot_answers = const l::SLOT_ANSWERS,
    answers = const l::ANSWERED_ALONE.len(),
    generation = const l::CONST + l::ANSWERS_GENERATION as u64,
    arch = const 0xc000_003e_u32,
    // `struct ucontext`: the general registers begin at 40, rax is the fourteenth.
    frame_rax = const 40 + 13 * 8,
    slot_gs = const l::SLOT_GS_BASE,
    command_count = const l::COMMAND_COUNT,
    commands = const l::COMMANDS,
    spawn_sequence = const l::SPAWN_SEQUENCE,
    spawn_kind = const l::SPAWN_KIND,
    spawn_stack = const l::SPAWN_STACK,
    spawn_wait = const l::CONST + l::SPAWN_WAIT as u64,
    spawn_filter_flags = const l::SPAWN_FILTER_FLAGS,
    spawn_filter = const l::SPAWN_FILTER,
    spawn_message = const l::SPAWN_MESSAGE,
    spawn_close = const l::SPAWN_CLOSE,
    spawn_pair = const l::SPAWN_PAIR,
    spawn_map_at = const l::SPAWN_MAP_AT,
    spawn_map_len = const l::SPAWN_MAP_LEN,
    spawn_map_offset = const l::SPAWN_MAP_OFFSET,
    with_socket = const l::SPAWN_WITH_SOCKET,
    guest_thread = const l::SPAWN_GUEST_THREAD,
    slot_socket = const l::SLOT_SOCKET,
    slot_report = const l::SLOT_REPORT,
    report_len = const l::REPORT_LEN,
    word_len = const l::WORD_LEN,
    payload = const l::CONST + l::PAYLOAD as u64,
    failure = const l::CONST + l::FAILURE_MESSAGE as u64,
    broken = const l::CONST + l::BROKEN_MESSAGE as u64,
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
    static umlaut_handler_socket: u8;
    static umlaut_ip_send: u8;
    static umlaut_ip_receive: u8;
    static umlaut_ip_command_send: u8;
    static umlaut_ip_command_receive: u8;
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
    /// Of the hand-over by signals.
    pub handler_socket: u64,
    pub send: u64,
    pub receive: u64,
    pub command_send: u64,
    pub command_receive: u64,
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
        handler_socket: home(&raw const umlaut_handler_socket),
        send: home(&raw const umlaut_ip_send),
        receive: home(&raw const umlaut_ip_receive),
        command_send: home(&raw const umlaut_ip_command_send),
        command_receive: home(&raw const umlaut_ip_command_receive),
    }
}
