//! The template: a small process without libc, forked from the kernel when it is still single-threaded, from which every stub is cloned.

use super::code::{self, Addresses};
use super::filter::{self, Around, Instruction};
use super::layout as l;
use super::listener::HandOver;
use crate::sys::{self, Mapping, check, last_errno};
use crate::vdso;
use abi::Errno;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The signals of the hand-over: what a guest thread leaves unblocked.
pub const HAND_OVER_SIGNALS: [libc::c_int; 7] =
    [libc::SIGSYS, libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGUSR1];

/// The kernel's side of the template.
pub struct Template {
    /// Its process number.
    pub pid: i32,
    pub control: OwnedFd,
    pub socket: OwnedFd,
    page: Mapping,
    /// The stub's code and constants.
    constants: Mapping,
    /// Where in every stub the host's `clock_gettime` is; 0 if nowhere.
    pub host_clock_gettime: u64,
}

/// Why a spawner made no thread that can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpawnError {
    /// The host had no room for another; nothing has changed.
    NoThread,
    /// Nothing is known of the thread: the stub can't be trusted any more.
    Broken,
}

/// What the messages without a descriptor say.
const FAILURE: u64 = 0;
const BROKEN: u64 = 2;

/// How long the host may take to make a process or thread before we give up on it.
pub const PATIENCE: Duration = Duration::from_secs(20);

impl Template {
    /// Makes the template, with `ram` as the memory file of its stubs. Call it before the process has a second thread: it forks.
    pub fn start(ram: &OwnedFd, hand_over: HandOver) -> Result<Template, Errno> {
        let control = sys::memory_file(c"umlaut-control", l::STRIDE * l::STUB_COUNT as u64)?;
        let code = sys::memory_file(c"umlaut-stub", (l::CODE_LEN + l::CONST_LEN) as u64)?;
        let addresses = code::addresses();
        let vdso = vdso::find_host().filter(|vdso| vdso.mappings.len() < l::MOVES_MAX && span(vdso) <= l::VDSO_LEN_MAX);
        let constants = Mapping::shared(code.as_fd(), 0, l::CODE_LEN + l::CONST_LEN)?;
        let image = code::image();
        assert!(image.len() <= l::CODE_LEN, "the stub's code fits its pages");
        put(&constants, 0, image);
        write_constants(&constants, &addresses, hand_over);
        if let Some(vdso) = &vdso {
            put_moves(&constants, vdso);
        }
        let page = Mapping::shared(control.as_fd(), 0, 4096)?;
        word(&page, l::TEMPLATE_PARENT).store(std::process::id(), Ordering::SeqCst);
        let (ours, theirs) = socket_pair()?;
        // SAFETY: the process has one thread, so the child finds everything in a usable state; it makes system calls only.
        match check(unsafe { libc::fork() })? {
            0 => {
                let handler = match hand_over {
                    HandOver::Notify => addresses.handler,
                    HandOver::Trap => addresses.handler_socket,
                };
                become_template(ram, &theirs, &control, &code, handler, addresses.restorer)
            }
            pid => {
                let host_clock_gettime = vdso.map_or(0, |vdso| l::VDSO + vdso.clock_gettime);
                let template = Template { pid, control, socket: ours, page, constants, host_clock_gettime };
                template.answers_generation().store(1, Ordering::SeqCst);
                Ok(template)
            }
        }
    }

    /// The generation of answers that handlers may give alone. All stubs read it.
    pub fn answers_generation(&self) -> &AtomicU32 {
        word(&self.constants, l::CODE_LEN + l::ANSWERS_GENERATION)
    }

    /// Clones stub `index` (from 1) from the template; gives its process number. The caller serialises calls.
    pub fn clone_stub(&self, index: usize) -> Result<i32, Errno> {
        let request = word(&self.page, l::TEMPLATE_REQUEST);
        let reply = word(&self.page, l::TEMPLATE_REPLY);
        reply.store(0, Ordering::SeqCst);
        request.store(index as u32, Ordering::SeqCst);
        sys::futex_wake(request.as_ptr());
        let begun = std::time::Instant::now();
        loop {
            let pid = reply.load(Ordering::SeqCst) as i32;
            if pid > 0 {
                return Ok(pid);
            }
            if pid < 0 {
                return Err(Errno::from_raw(-pid).unwrap_or(Errno::EAGAIN));
            }
            if begun.elapsed() > PATIENCE {
                return Err(Errno::EAGAIN);
            }
            // Whatever ends the wait, the word is looked at again.
            let _ = sys::futex_wait(reply.as_ptr(), 0, Some(Duration::from_millis(200)));
        }
    }

    /// Waits for what a spawner sends: the descriptor of the thread it made.
    pub fn receive_listener(&self) -> Result<OwnedFd, SpawnError> {
        let mut payload = 0u64;
        let mut iov = libc::iovec { iov_base: (&raw mut payload).cast(), iov_len: 8 };
        let mut control = [0u64; 4];
        // SAFETY: all zeroes is a valid header; every pointer set below outlives the call.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = &raw mut iov;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control);
        loop {
            // SAFETY: the header describes buffers of this frame.
            let n = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
            if n < 0 {
                match last_errno() {
                    Errno::EINTR => continue,
                    _ => return Err(SpawnError::Broken),
                }
            }
            break;
        }
        // SAFETY: recvmsg filled the header in; the macros stay inside the control buffer.
        let first = unsafe { libc::CMSG_FIRSTHDR(&raw const header).as_ref() };
        match first {
            Some(c) if c.cmsg_level == libc::SOL_SOCKET && c.cmsg_type == libc::SCM_RIGHTS => {
                // SAFETY: an SCM_RIGHTS message carries at least one descriptor, which is ours now.
                Ok(unsafe { OwnedFd::from_raw_fd(libc::CMSG_DATA(c).cast::<i32>().read_unaligned()) })
            }
            _ if payload == FAILURE => Err(SpawnError::NoThread),
            _ => Err(SpawnError::Broken),
        }
    }
}

/// An atomic word of a shared page.
pub fn word(mapping: &Mapping, offset: usize) -> &AtomicU32 {
    let pointer = mapping.at(offset).cast::<u32>();
    assert!(pointer.is_aligned());
    // SAFETY: aligned, inside the mapping, which outlives the reference; all sides use it atomically.
    unsafe { AtomicU32::from_ptr(pointer) }
}

/// Copies bytes into a mapping.
pub fn put(mapping: &Mapping, offset: usize, bytes: &[u8]) {
    if let Some(last) = bytes.len().checked_sub(1) {
        mapping.at(offset + last);
        // SAFETY: both ends were checked to lie inside the mapping.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), mapping.at(offset), bytes.len()) };
    }
}

pub fn put_words(mapping: &Mapping, offset: usize, words: &[u64]) {
    for (i, value) in words.iter().enumerate() {
        put(mapping, offset + 8 * i, &value.to_ne_bytes());
    }
}

/// Writes a filter: its header, which is for address `home`, and its instructions.
pub fn put_program(mapping: &Mapping, header: usize, program: usize, home: u64, code: &[Instruction]) {
    put_words(mapping, header, &[code.len() as u64, home]);
    for (i, instruction) in code.iter().enumerate() {
        let mut bytes = [0u8; 8];
        bytes[..2].copy_from_slice(&instruction.code.to_ne_bytes());
        bytes[2] = instruction.if_true;
        bytes[3] = instruction.if_false;
        bytes[4..].copy_from_slice(&instruction.k.to_ne_bytes());
        put(mapping, program + 8 * i, &bytes);
    }
}

/// Writes a message that carries one descriptor, `struct cmsghdr` and `struct msghdr`, which are for address `home_control`.
pub fn put_message(mapping: &Mapping, message: usize, control: usize, home_control: u64, descriptor: i32) {
    // Name, name length, iovec, its count, control, its length, flags.
    put_words(mapping, message, &[0, 0, l::CONST + l::IOVEC as u64, 1, home_control, 20, 0]);
    // Length, level and type, then the descriptor.
    let level_and_type = u64::from(libc::SOL_SOCKET as u32) | u64::from(libc::SCM_RIGHTS as u32) << 32;
    put_words(mapping, control, &[20, level_and_type, descriptor as u64]);
}

/// Whether a sandbox around us filters our calls too.
fn around() -> Around {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let filtered = status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() != "0"));
    if filtered { Around::Sandbox } else { Around::Nothing }
}

/// Bytes from the beginning of the first mapping to the end of the last.
fn span(vdso: &vdso::HostVdso) -> u64 {
    vdso.mappings.iter().map(|(_, len)| len).sum()
}

fn put_moves(mapping: &Mapping, vdso: &vdso::HostVdso) {
    let first = vdso.mappings.first().map_or(0, |(begin, _)| *begin);
    for (i, (begin, len)) in vdso.mappings.iter().enumerate() {
        put_words(mapping, l::CODE_LEN + l::MOVES + 24 * i, &[*begin, *len, l::VDSO + (begin - first)]);
    }
}

fn write_constants(mapping: &Mapping, addresses: &Addresses, hand_over: HandOver) {
    let at = l::CODE_LEN;
    let command = match hand_over {
        HandOver::Notify => filter::command(addresses),
        HandOver::Trap => filter::command_with_socket(addresses),
    };
    // By signals, guest threads have filters of their own.
    let guest = filter::guest(addresses, around());
    assert!(l::COMMAND_PROGRAM + command.len() * 8 <= l::GUEST_PROGRAM && l::GUEST_PROGRAM + guest.len() * 8 <= l::CONST_LEN);
    for (header, program, code) in [(l::COMMAND_FILTER, l::COMMAND_PROGRAM, &command), (l::GUEST_FILTER, l::GUEST_PROGRAM, &guest)] {
        put_program(mapping, at + header, at + program, l::CONST + program as u64, code);
    }
    let unblocked = HAND_OVER_SIGNALS.iter().fold(0u64, |set, signal| set | 1 << (signal - 1));
    put_words(mapping, at + l::GUEST_MASK, &[!unblocked]);
    put_words(mapping, at + l::SPAWN_WAIT, &[0, 20_000]);
    put_message(mapping, at + l::MESSAGE, at + l::CONTROL, l::CONST + l::CONTROL as u64, l::FD_LISTENER);
    put_words(mapping, at + l::IOVEC, &[l::CONST + l::PAYLOAD as u64, 1]);
    put_words(mapping, at + l::PAYLOAD, &[1]);
    for (message, iovec, payload, value) in [
        (l::FAILURE_MESSAGE, l::FAILURE_IOVEC, l::FAILURE_PAYLOAD, FAILURE),
        (l::BROKEN_MESSAGE, l::BROKEN_IOVEC, l::BROKEN_PAYLOAD, BROKEN),
    ] {
        put_words(mapping, at + message, &[0, 0, l::CONST + iovec as u64, 1, 0, 0, 0]);
        put_words(mapping, at + iovec, &[l::CONST + payload as u64, 1]);
        put_words(mapping, at + payload, &[value]);
    }
}

fn socket_pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let mut pair = [0; 2];
    // SAFETY: the array has room for two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, pair.as_mut_ptr()) })?;
    // SAFETY: both are new and ours.
    let (ours, theirs) = unsafe { (OwnedFd::from_raw_fd(pair[0]), OwnedFd::from_raw_fd(pair[1])) };
    let timeout = libc::timeval { tv_sec: PATIENCE.as_secs() as i64, tv_usec: 0 };
    // SAFETY: the option's value is a timeval.
    check(unsafe {
        libc::setsockopt(
            ours.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const timeout).cast(),
            size_of::<libc::timeval>() as u32,
        )
    })?;
    Ok((ours, theirs))
}

/// `struct kernel_sigaction`: what rt_sigaction itself takes.
#[repr(C)]
struct KernelSigaction {
    handler: u64,
    flags: u64,
    restorer: u64,
    mask: u64,
}

/// In the child: everything that the stubs inherit, then out of libc for good.
fn become_template(ram: &OwnedFd, socket: &OwnedFd, control: &OwnedFd, code: &OwnedFd, handler: u64, restorer: u64) -> ! {
    const SA_RESTORER: u64 = 0x0400_0000;
    /// Where the four descriptors are parked while the low numbers are filled.
    const PARKED: i32 = 500;
    let sources = [ram.as_raw_fd(), socket.as_raw_fd(), control.as_raw_fd(), code.as_raw_fd()];
    let parent = std::process::id();
    // SAFETY: plain system calls in a single-threaded child; no memory of the parent's is relied on beyond this frame.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if libc::getppid() == 1 || parent == 0 {
            libc::_exit(1);
        }
        // A group of its own keeps the terminal's signals away. Not a session of its own: the host's scheduler would put the stubs into another
        // task group than the kernel's threads (sched(7), autogroup), and each hand-over would cost a fifth more.
        libc::setpgid(0, 0);
        unregister_rseq();
        for (i, source) in sources.iter().enumerate() {
            if libc::dup2(*source, PARKED + i as i32) < 0 {
                libc::_exit(1);
            }
        }
        for (i, target) in [l::FD_RAM, l::FD_SOCKET, l::FD_CONTROL, 3].iter().enumerate() {
            if libc::dup2(PARKED + i as i32, *target) < 0 {
                libc::_exit(1);
            }
        }
        if libc::syscall(libc::SYS_close_range, 4, u32::MAX, 0) != 0 {
            // A sandbox that does not know the call.
            let mut limit = libc::rlimit { rlim_cur: 65536, rlim_max: 0 };
            libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
            for descriptor in 4..limit.rlim_cur.min(1 << 20) as i32 {
                libc::close(descriptor);
            }
        }
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        libc::prctl(libc::PR_SET_NAME, c"umlaut-stub".as_ptr());
        libc::prctl(libc::PR_SET_TIMERSLACK, 1);
        ask_for_short_slices();
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            libc::_exit(1);
        }
        let action = KernelSigaction {
            handler,
            // SA_RESTART: a kick that comes before its notification is received must not turn into EINTR.
            flags: (libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART) as u64 | SA_RESTORER,
            restorer,
            mask: !0,
        };
        for signal in HAND_OVER_SIGNALS {
            if libc::syscall(libc::SYS_rt_sigaction, signal, &raw const action, 0usize, 8usize) != 0 {
                libc::_exit(1);
            }
        }
        let all = !0u64;
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const all, 0usize, 8usize);
        std::arch::asm!(
            "mov r13d, 3",
            "jmp {entry}",
            entry = in(reg) code::template_entry(),
            options(noreturn)
        );
    }
}

/// Asks the host for short slices, sched_setattr(2): a thread with a shorter slice runs as soon as it is woken (Linux 6.12), so the answer to a
/// notification is the switch to the guest, and the thread that answers need not sleep and be woken for the next one. Other hosts ignore it.
fn ask_for_short_slices() {
    const SLICE_NS: u64 = 100_000;
    // SAFETY: no memory is involved but the attributes, which are ours: size and policy, flags, nice value and priority, slice, two unused.
    unsafe {
        let nice = libc::getpriority(libc::PRIO_PROCESS, 0);
        let attributes: [u64; 6] = [48, 0, u64::from(nice as u32), SLICE_NS, 0, 0];
        libc::syscall(libc::SYS_sched_setattr, 0, attributes.as_ptr(), 0);
    }
}

/// Takes back the calling thread's restartable-sequence area, which glibc registers in its own memory. A stub must: that memory is about to be
/// unmapped, and the host would kill it when it writes there. A virtual CPU's thread does because the host would write the area each time that a
/// guest preempts the thread, which is at nearly every hand-over.
///
/// The thread uses no restartable sequence from here on: glibc's `sched_getcpu` falls back to the system call.
pub fn unregister_rseq() {
    const UNREGISTER: i32 = 1;
    const SIGNATURE: u32 = 0x5305_3053;
    // SAFETY: the symbol, where libc has it, is a ptrdiff_t; the call only looks at addresses.
    unsafe {
        let offset = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()).cast::<isize>();
        if offset.is_null() {
            return;
        }
        let thread_pointer: usize;
        std::arch::asm!("mov {}, fs:0", out(reg) thread_pointer);
        let area = thread_pointer.wrapping_add_signed(*offset);
        for len in [32usize, 20, 28, 64, 96, 128] {
            if libc::syscall(libc::SYS_rseq, area, len, UNREGISTER, SIGNATURE) == 0 {
                return;
            }
        }
    }
}
