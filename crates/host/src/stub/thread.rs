//! One guest thread: letting it run, and understanding why it stopped.
//!
//! It stops in one of two ways. An ordinary system call arrives with number and arguments and nothing else ([`Pending::Call`]). Everything else
//! enters the handler, which leaves a signal frame in the thread's slot and notifies ([`Pending::Frame`]).
//!
//! The slot is memory that the thread and its siblings can write, and the handler's notification can be made by guest code that jumps there. So:
//! the frame must lie exactly where the host puts it (its place is learnt once, from the first stub); registers are copied out once; and what
//! they say concerns that guest process alone. A thread whose frame is elsewhere has moved its signal stack by a forged `rt_sigreturn`: its
//! process is killed.

use super::code;
use super::layout as l;
use super::listener::{HandOver, Listener};
use super::notify::{Answer, Notification};
use super::space::{Stub, Stubs};
use crate::holes::{self, Hole};
use crate::sys;
use abi::arch::Regs;
use abi::{Errno, Signal};
use platform::{Access, Exit, SpaceGone, Xstate};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use sync::sched;

/// Where the host puts the parts of a signal frame in a slot, and how long the vector state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLayout {
    /// Offset of `struct ucontext` in the slot.
    pub ucontext: usize,
    /// Offset of the vector state.
    pub xstate: usize,
    /// Its length, the trailing magic word included.
    pub xstate_len: usize,
}

impl FrameLayout {
    /// Offset of the first page that a frame touches: below it a slot is not mapped.
    pub fn first_page(&self) -> usize {
        // Below `struct ucontext` lies the return address; the red zone belongs to another stack.
        self.ucontext.saturating_sub(256) & !4095
    }
}

/// A frame as it was when nothing had run yet: what a fresh thread starts from.
pub struct Frame {
    ucontext: Vec<u8>,
    xstate: Vec<u8>,
}

/// `struct ucontext` up to and with the first word of its signal mask.
const UCONTEXT_LEN: usize = 304;
/// Offset of the general registers in it.
const UCONTEXT_REGS: usize = 40;
/// Offset of the pointer to the vector state, behind the registers.
const UCONTEXT_FPSTATE: usize = 224;
/// Offset of the signal mask.
const UCONTEXT_MASK: usize = 296;
/// Offset of `xstate_size` in the vector state's software-reserved bytes (`struct _fpx_sw_bytes`).
const XSTATE_SIZE: usize = 464 + 16;
const XSTATE_EXTENDED_SIZE: usize = 464 + 4;

/// A thread that is stopped in a pending notification.
pub struct Parked {
    pub slot: usize,
    pub tid: i32,
    pub listener: Listener,
    pub pending: Pending,
}

/// What the thread waits to be answered.
pub enum Pending {
    /// An ordinary call, or a newborn's first word.
    Call { id: u64, answer: Answer, number: i32 },
    /// The handler's notification; the registers as they were found, or as they shall be.
    Frame { id: u64, regs: Regs, dirty: bool },
    /// It runs, or it is lost.
    None,
}

/// A guest thread in use.
pub struct GuestThread {
    stub: Arc<Stub>,
    /// `None` once it is given back.
    parked: Option<Parked>,
}

/// Signal codes of siginfo that the handler's words carry for SIGSYS.
const SYS_ARCH_X86_64: u64 = 0xc000_003e;

impl GuestThread {
    /// A stopped thread with all registers zero.
    pub fn fresh(stub: Arc<Stub>, parked: Parked) -> Result<GuestThread, Errno> {
        let mut thread = GuestThread { stub, parked: Some(parked) };
        thread.make_pristine().map_err(|SpaceGone| Errno::EAGAIN)?;
        Ok(thread)
    }

    fn parked(&mut self) -> &mut Parked {
        self.parked.as_mut().unwrap_or_else(|| unreachable!("a thread has its parked state until it is dropped"))
    }

    fn make_pristine(&mut self) -> Result<(), SpaceGone> {
        self.take_frame()?;
        let stubs = self.stub.stubs();
        let (Some(layout), Some(pristine)) = (stubs.layout.get(), stubs.pristine.get()) else { return Err(SpaceGone) };
        let slot = self.slot()?;
        slot_write(slot, layout.ucontext, &pristine.ucontext);
        slot_write(slot, layout.xstate, &pristine.xstate);
        // Answers of whoever had the thread before.
        slot_write(slot, l::SLOT_ANSWERS, &[0; 16 * l::ANSWERED_ALONE.len()]);
        let fresh = Regs { flags: Regs::USER_FLAGS, selectors: Regs::USER_SELECTORS, ..Regs::default() };
        platform::GuestThread::set_regs(self, &fresh)
    }

    fn slot(&mut self) -> Result<*mut u8, SpaceGone> {
        let slot = self.parked().slot;
        self.stub.slot(slot).map_err(|_| SpaceGone)
    }

    /// Makes sure that the thread is stopped in the handler, with a full frame: a thread in an ordinary call is interrupted by the kick's signal,
    /// which waits for the answer.
    fn take_frame(&mut self) -> Result<&mut Regs, SpaceGone> {
        if let Pending::Call { id, answer, number } = self.parked().pending {
            let pid = self.stub.pid;
            let _ = sys::tgkill(pid, self.parked().tid, libc::SIGUSR1);
            // A call that the host was to run it runs, whatever comes: what waits for that relies on it.
            self.answer(id, answer)?;
            // The signal is there when the call returns, so the next stop is the handler's.
            let notification = self.receive()?;
            self.understand(&notification)?;
            let was_unanswered = matches!(answer, Answer::Value(NOT_ANSWERED));
            match &mut self.parked().pending {
                Pending::Frame { regs, dirty, .. } if was_unanswered => {
                    // As the kernel's own entry leaves it: rax still holds the number.
                    regs.rax = number as u64;
                    *dirty = true;
                }
                Pending::Frame { .. } => {}
                _ => return Err(self.forged()),
            }
        }
        match &mut self.parked().pending {
            Pending::Frame { regs, .. } => Ok(regs),
            _ => Err(SpaceGone),
        }
    }

    fn answer(&mut self, id: u64, answer: Answer) -> Result<(), SpaceGone> {
        let result = self.parked().listener.answer(id, answer);
        self.parked().pending = Pending::None;
        result.map_err(|_| {
            self.stub.kill();
            SpaceGone
        })
    }

    fn receive(&mut self) -> Result<Notification, SpaceGone> {
        let Some(parked) = &self.parked else { return Err(SpaceGone) };
        self.stub.receive(&parked.listener).map_err(|errno| if errno == Errno::EPROTO { self.forged() } else { SpaceGone })
    }

    /// Where the host puts this thread's frame.
    fn home(&mut self) -> Result<u64, SpaceGone> {
        let layout = self.stub.stubs().layout.get().copied().ok_or(SpaceGone)?;
        Ok(l::SLOTS + (self.parked().slot * l::SLOT_LEN + layout.ucontext) as u64)
    }

    /// The process broke the rules of the hand-over, which only forging does.
    fn forged(&mut self) -> SpaceGone {
        self.stub.stubs().counters.killed_forged.fetch_add(1, Ordering::Relaxed);
        self.stub.kill();
        SpaceGone
    }

    /// Takes a received notification in: what is pending now.
    fn understand(&mut self, n: &Notification) -> Result<(), SpaceGone> {
        if n.tid as i32 != self.parked().tid {
            return Err(self.forged());
        }
        if n.ip != self.stub.stubs().trap_address() {
            self.parked().pending = Pending::Call { id: n.id, answer: Answer::Value(NOT_ANSWERED), number: n.number };
            return Ok(());
        }
        let Some(layout) = self.stub.stubs().layout.get().copied() else { return Err(SpaceGone) };
        if n.args[1] != self.home()? {
            return Err(self.forged());
        }
        let mut words = [0u64; Regs::FRAME_WORDS];
        let base = self.slot()?;
        slot_read(base, layout.ucontext + UCONTEXT_REGS, &mut words);
        let regs = regs_from(&words, n.args[2], n.args[3]);
        self.parked().pending = Pending::Frame { id: n.id, regs, dirty: false };
        Ok(())
    }

    fn exit_from(&mut self, n: &Notification) -> Exit {
        if self.understand(n).is_err() {
            return Exit::Gone;
        }
        let from_stub = n.ip >= l::BASE && n.ip < l::END;
        match &self.parked().pending {
            Pending::Call { .. } if !from_stub => Exit::Syscall { number: n.number as u32 as u64, args: n.args, ip: n.ip },
            // Guest code jumped into the stub and made one of its notifications.
            Pending::Call { .. } => match self.take_frame() {
                Ok(_) => Exit::Exception { signal: Signal::SIGSEGV, code: SI_KERNEL, addr: 0 },
                Err(SpaceGone) => Exit::Gone,
            },
            Pending::Frame { regs, .. } => frame_exit(n, regs),
            Pending::None => Exit::Gone,
        }
    }

    /// Puts the registers of a full stop back where the handler finds them.
    fn write_back(&mut self) -> Result<(), SpaceGone> {
        let Some(layout) = self.stub.stubs().layout.get().copied() else { return Err(SpaceGone) };
        let base = self.slot()?;
        let Pending::Frame { regs, dirty, .. } = &mut self.parked().pending else { return Ok(()) };
        slot_write(base, l::SLOT_FS_BASE, &regs.fs_base.to_ne_bytes());
        slot_write(base, l::SLOT_GS_BASE, &regs.gs_base.to_ne_bytes());
        if *dirty {
            slot_write(base, layout.ucontext + UCONTEXT_REGS, bytes_of(&words_from(regs)));
        }
        Ok(())
    }
}

/// Marks a call that nobody has answered yet. No result: Linux returns nothing between -4095 and -1 but errors, and no error is 4094.
const NOT_ANSWERED: u64 = -4094i64 as u64;
const SI_KERNEL: i32 = 0x80;

fn regs_from(words: &[u64; Regs::FRAME_WORDS], fs_base: u64, gs_base: u64) -> Regs {
    let mut all = [0u64; Regs::FRAME_WORDS + 2];
    all[..Regs::FRAME_WORDS].copy_from_slice(words);
    all[Regs::FRAME_WORDS] = fs_base;
    all[Regs::FRAME_WORDS + 1] = gs_base;
    // SAFETY: `Regs` is exactly these words in this order, `repr(C)`, any bits valid.
    unsafe { std::mem::transmute(all) }
}

fn words_from(regs: &Regs) -> [u64; Regs::FRAME_WORDS] {
    // SAFETY: as above; the frame's words are its beginning.
    let all: [u64; Regs::FRAME_WORDS + 2] = unsafe { std::mem::transmute(*regs) };
    let mut words = [0; Regs::FRAME_WORDS];
    words.copy_from_slice(&all[..Regs::FRAME_WORDS]);
    // The host checks the rest; these two it takes from the frame as they are.
    words[18] = Regs::USER_SELECTORS;
    words[17] = (words[17] & Regs::FLAGS_FROM_GUEST) | 0x202;
    words
}

fn bytes_of(words: &[u64; Regs::FRAME_WORDS]) -> &[u8] {
    // SAFETY: integers are bytes.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}

fn slot_write(slot: *mut u8, offset: usize, bytes: &[u8]) {
    assert!(offset + bytes.len() <= l::SLOT_LEN);
    // SAFETY: inside the slot, which is mapped; guest threads may write it at the same time, which changes bytes and nothing else.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), slot.add(offset), bytes.len()) };
}

fn slot_read_bytes(slot: *mut u8, offset: usize, buffer: &mut [u8]) {
    assert!(offset + buffer.len() <= l::SLOT_LEN);
    // SAFETY: as in `slot_write`.
    unsafe { std::ptr::copy_nonoverlapping(slot.add(offset), buffer.as_mut_ptr(), buffer.len()) };
}

fn slot_read(slot: *mut u8, offset: usize, words: &mut [u64]) {
    assert!(offset + size_of_val(words) <= l::SLOT_LEN);
    // SAFETY: as in `slot_write`; the words are plain integers.
    unsafe { std::ptr::copy_nonoverlapping(slot.add(offset), words.as_mut_ptr().cast(), size_of_val(words)) };
}

/// Why the handler was entered.
fn frame_exit(n: &Notification, regs: &Regs) -> Exit {
    let (signal, address) = (n.args[0] as i32, n.args[4]);
    let exception = |signal: Signal, code| Exit::Exception { signal, code, addr: address };
    match signal {
        libc::SIGUSR1 => Exit::Kicked,
        libc::SIGSYS => {
            let (number, arch) = (n.args[5] & 0xffff_ffff, n.args[5] >> 32);
            // The host's vDSO may have to make a call, and our guest's code goes through it.
            let from_vdso = (l::VDSO..l::VDSO + l::VDSO_LEN_MAX).contains(&address);
            if arch != SYS_ARCH_X86_64 || (address >= l::BASE && !from_vdso) {
                // int 0x80, vsyscall, or a jump into the stub: a Linux without them has nothing there.
                return Exit::Exception { signal: Signal::SIGSEGV, code: SI_KERNEL, addr: 0 };
            }
            Exit::Syscall { number, args: regs.syscall_args(), ip: regs.rip }
        }
        libc::SIGSEGV if regs.trap == 14 && regs.fault_address < l::BASE => {
            let access = match regs.error {
                e if e & 16 != 0 => Access::Execute,
                e if e & 2 != 0 => Access::Write,
                _ => Access::Read,
            };
            Exit::Fault { addr: regs.fault_address, access }
        }
        libc::SIGSEGV if regs.trap == 14 => Exit::Exception { signal: Signal::SIGSEGV, code: 1, addr: regs.fault_address },
        libc::SIGSEGV => Exit::Exception { signal: Signal::SIGSEGV, code: SI_KERNEL, addr: 0 },
        libc::SIGFPE => exception(Signal::SIGFPE, fpe_code(regs.trap)),
        libc::SIGILL => exception(Signal::SIGILL, 2),
        libc::SIGTRAP => exception(Signal::SIGTRAP, if regs.trap == 1 { 2 } else { SI_KERNEL }),
        // The memory file could not be filled: the host is out of memory.
        libc::SIGBUS if regs.trap == 14 => Exit::Exception { signal: Signal::SIGBUS, code: 2, addr: regs.fault_address },
        libc::SIGBUS => exception(Signal::SIGBUS, 1),
        _ => Exit::Exception { signal: Signal::SIGSEGV, code: SI_KERNEL, addr: 0 },
    }
}

/// `si_code` of SIGFPE: the processor's trap 0 is a division by zero, others are looked up by the guest in the status words.
fn fpe_code(trap: u64) -> i32 {
    const FPE_INTDIV: i32 = 1;
    const FPE_FLTINV: i32 = 7;
    if trap == 0 { FPE_INTDIV } else { FPE_FLTINV }
}

impl platform::GuestThread for GuestThread {
    fn host_number(&self) -> u64 {
        let tid = self.parked.as_ref().map_or(0, |parked| parked.tid);
        (self.stub.pid as u64) << 32 | u64::from(tid as u32)
    }
    fn resume(&mut self) -> Exit {
        let (id, answer) = match &self.parked().pending {
            Pending::Call { id, answer, .. } => (*id, *answer),
            Pending::Frame { id, .. } => {
                let id = *id;
                // The handler returns through the frame that the answer names.
                let (Ok(home), Ok(())) = (self.home(), self.write_back()) else { return Exit::Gone };
                (id, Answer::Value(home))
            }
            Pending::None => return Exit::Gone,
        };
        let token = platform::GuestThread::host_number(self);
        if !sched::enter_guest(token) {
            return Exit::Kicked;
        }
        let stopped = self.answer(id, answer).and_then(|()| self.receive());
        sched::leave_guest();
        match stopped {
            Ok(notification) => self.exit_from(&notification),
            Err(SpaceGone) => Exit::Gone,
        }
    }

    fn set_result(&mut self, value: u64) {
        match &mut self.parked().pending {
            // The host's own result is the call's.
            Pending::Call { answer: Answer::HostRuns, .. } => {}
            Pending::Call { answer, .. } => *answer = Answer::Value(value),
            Pending::Frame { regs, dirty, .. } => {
                regs.set_result(value);
                *dirty = true;
            }
            Pending::None => {}
        }
    }

    fn tell_answer(&mut self, number: u32, value: u64, generation: u32) {
        let Some(place) = l::ANSWERED_ALONE.iter().position(|known| *known == number) else { return };
        if matches!(self.parked().pending, Pending::Frame { .. })
            && let Ok(slot) = self.slot()
        {
            let at = l::SLOT_ANSWERS + 16 * place;
            slot_write(slot, at + 8, &value.to_ne_bytes());
            slot_write(slot, at, &(u64::from(generation) << 16 | u64::from(number)).to_ne_bytes());
        }
    }

    fn let_host_run(&mut self) {
        let words = match &mut self.parked().pending {
            Pending::Call { answer, .. } => {
                *answer = Answer::HostRuns;
                return;
            }
            // It came by SIGSYS, so it is over for the host: the command thread makes it, at once.
            Pending::Frame { regs, .. } => {
                let [a, b, c, ..] = regs.syscall_args();
                [regs.syscall_number(), a, b, c, 0, 0, 0, 0]
            }
            Pending::None => return,
        };
        // When it fails the stub is gone, which the next resumption tells.
        let _ = self.stub.run(&[words]);
    }

    fn regs(&mut self) -> Result<Regs, SpaceGone> {
        self.take_frame().map(|regs| *regs)
    }

    fn set_regs(&mut self, new: &Regs) -> Result<(), SpaceGone> {
        self.take_frame()?;
        if let Pending::Frame { regs, dirty, .. } = &mut self.parked().pending {
            *regs = *new;
            *dirty = true;
        }
        Ok(())
    }

    fn xstate(&mut self) -> Result<Xstate, SpaceGone> {
        self.take_frame()?;
        let Some(layout) = self.stub.stubs().layout.get().copied() else { return Err(SpaceGone) };
        let mut state = vec![0; layout.xstate_len];
        slot_read_bytes(self.slot()?, layout.xstate, &mut state);
        Ok(state)
    }

    fn set_xstate(&mut self, state: &[u8]) -> Result<(), SpaceGone> {
        self.take_frame()?;
        let stubs = self.stub.stubs();
        let (Some(layout), Some(pristine)) = (stubs.layout.get().copied(), stubs.pristine.get()) else { return Err(SpaceGone) };
        let slot = self.slot()?;
        if state.is_empty() {
            slot_write(slot, layout.xstate, &pristine.xstate);
        } else {
            slot_write(slot, layout.xstate, state.get(..layout.xstate_len).unwrap_or(state));
        }
        Ok(())
    }
}

impl Drop for GuestThread {
    fn drop(&mut self) {
        if holes::open(Hole::LiveThread)
            && let Pending::Frame { id, .. } = self.parked().pending
            && let Ok(home) = self.home()
        {
            let _ = self.parked().listener.answer(id, Answer::Value(home));
        }
        if let Some(parked) = self.parked.take() {
            if matches!(parked.pending, Pending::None) {
                // Not stopped, so not proved harmless.
                self.stub.kill();
            }
            self.stub.park(parked);
        }
    }
}

/// Tells the handler of a newborn which descriptor is its own.
pub fn write_socket(slot: *mut u8, descriptor: i32) {
    slot_write(slot, l::SLOT_SOCKET, &descriptor.to_ne_bytes());
}

/// Overwrites what the last guest left in a slot: all of it that is mapped in the stub.
pub fn scrub(stub: &Stub, slot: usize) -> Result<(), Errno> {
    let base = stub.slot(slot)?;
    let Some(layout) = stub.stubs().layout.get() else { return Ok(()) };
    let zeroes = [0u8; 4096];
    for at in (layout.first_page()..l::SLOT_LEN).step_by(4096) {
        slot_write(base, at, &zeroes);
    }
    Ok(())
}

/// Looks where the host put the frame of the very first thread: at its birth, or when it is kicked out of that.
pub fn learn_frame(stubs: &'static Stubs, stub: &Arc<Stub>, mut parked: Parked) -> Result<(), Errno> {
    let (id, frame, from_handler) = match (stubs.hand_over(), &parked.pending) {
        (HandOver::Notify, Pending::Call { id, .. }) => {
            sys::tgkill(stub.pid, parked.tid, libc::SIGUSR1)?;
            parked.listener.answer(*id, Answer::Value(0))?;
            let n = stub.receive(&parked.listener)?;
            (n.id, n.args[1], n.ip == stubs.trap_address())
        }
        (HandOver::Trap, Pending::Frame { id, .. }) => (*id, stub.birth_frame.load(Ordering::Relaxed), true),
        _ => return Err(Errno::EIO),
    };
    let slot_home = l::SLOTS + (parked.slot * l::SLOT_LEN) as u64;
    let ucontext = frame.wrapping_sub(slot_home) as usize;
    let fits = |offset: usize, len: usize| offset >= l::SLOT_STACK && offset.checked_add(len).is_some_and(|end| end <= l::SLOT_WORDS);
    if !from_handler || !fits(ucontext, UCONTEXT_LEN) {
        return Err(Errno::EIO);
    }
    let base = stub.slot(parked.slot)?;
    let mut fpstate = [0u64];
    slot_read(base, ucontext + UCONTEXT_FPSTATE, &mut fpstate);
    let xstate = fpstate[0].wrapping_sub(slot_home) as usize;
    if !fits(xstate, 512) {
        return Err(Errno::EIO);
    }
    let mut size = [0u8; 4];
    slot_read_bytes(base, xstate + XSTATE_EXTENDED_SIZE, &mut size);
    let xstate_len = (u32::from_ne_bytes(size) as usize).max(512);
    if !fits(xstate, xstate_len) {
        return Err(Errno::EIO);
    }
    let mut frame = Frame { ucontext: vec![0; UCONTEXT_LEN], xstate: vec![0; xstate_len] };
    slot_read_bytes(base, ucontext, &mut frame.ucontext);
    slot_read_bytes(base, xstate, &mut frame.xstate);
    let layout = FrameLayout { ucontext, xstate, xstate_len };
    let _ = (stubs.layout.set(layout), stubs.pristine.set(frame));
    parked.pending = Pending::Frame { id, regs: Regs::default(), dirty: true };
    stub.park(parked);
    Ok(())
}

impl Stubs {
    /// Address behind the handler's notification.
    pub(super) fn trap_address(&self) -> u64 {
        static TRAP: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
        *TRAP.get_or_init(|| code::addresses().trap)
    }
}

const _: () = assert!(UCONTEXT_MASK + 8 == UCONTEXT_LEN && XSTATE_SIZE > XSTATE_EXTENDED_SIZE);
