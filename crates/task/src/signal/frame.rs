//! The frame that a signal handler runs on: `struct rt_sigframe` of x86-64, `arch/x86/include/asm/sigframe.h` and `uapi/asm/sigcontext.h`.
//!
//! From the top: the red zone of the interrupted function (128 bytes, not when the stack is switched); the vector state, 64-byte aligned, whose own
//! header says how long it is; below it the frame: return address, `ucontext`, `siginfo`, such that the stack is aligned as after a call.
//!
//! What it is not: memory. Bytes are built and taken apart; the caller copies them. Nothing that comes back from a guest is believed:
//! [`Frame::parse`] keeps only what a program may choose.

use abi::arch::Regs;
use abi::siginfo::SIGINFO_LEN;
use abi::{AltStack, SaFlags, SigAction, SigInfo, SigSet};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes below the stack pointer that a function may use without moving it.
const RED_ZONE: u64 = 128;
/// `UC_FP_XSTATE`: the vector state has an extended part.
const UC_FP_XSTATE: u64 = 1;
/// `UC_SIGCONTEXT_SS`: `ss` is saved, and `UC_STRICT_RESTORE_SS`: and is to be restored as it stands.
const UC_SS: u64 = 2 | 4;
/// Trap, direction, resume: cleared when a handler is entered.
const FLAGS_CLEARED: u64 = 0x100 | 0x400 | 0x1_0000;

/// `struct ucontext` of x86-64.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct UContext {
    flags: u64,
    link: u64,
    stack: AltStack,
    /// The first 23 words of `struct sigcontext`.
    regs: [u64; Regs::FRAME_WORDS],
    fpstate: u64,
    reserved: [u64; 8],
    mask: u64,
}

/// `struct rt_sigframe` of x86-64.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct RtSigframe {
    return_address: u64,
    context: UContext,
    info: [u8; SIGINFO_LEN],
}

/// Bytes of the frame without the vector state.
pub const FRAME_LEN: usize = size_of::<RtSigframe>();

/// A frame that is to be written, and the registers that the handler begins with.
pub struct Frame {
    /// Where [`Frame::bytes`] go; the stack pointer of the handler.
    pub addr: u64,
    pub bytes: Vec<u8>,
    /// Where the vector state goes.
    pub xstate_addr: u64,
    /// How much of the vector state says anything: the rest of its room need not be written.
    pub xstate_len: usize,
    pub regs: Regs,
}

/// Why no frame can be built: the thread gets SIGSEGV.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoRoom;

/// Whether and where a thread switches stacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stack {
    pub alt: AltStack,
    /// The thread runs on it now.
    pub on_it: bool,
}

impl Frame {
    /// Builds the frame for `info` in a thread that was interrupted with `regs` and `xstate`.
    ///
    /// # Errors
    /// [`NoRoom`] when a nested handler would run off the alternate stack, or the handler has no `SA_RESTORER` (x86-64 has no other way back).
    pub fn build(regs: &Regs, xstate: &[u8], info: &SigInfo, action: &SigAction, mask: SigSet, stack: Stack) -> Result<Frame, NoRoom> {
        let flags = action.flags();
        if !flags.contains(SaFlags::RESTORER) {
            return Err(NoRoom);
        }
        let mut sp = regs.rsp.wrapping_sub(RED_ZONE);
        let entering = flags.contains(SaFlags::ONSTACK) && !stack.on_it && stack.alt.size > 0;
        if entering {
            sp = stack.alt.sp.wrapping_add(stack.alt.size);
        }
        let xstate_addr = sp.wrapping_sub(xstate.len() as u64) & !63;
        let addr = (xstate_addr.wrapping_sub(FRAME_LEN as u64) & !15).wrapping_sub(8);
        let on_alt = entering || stack.on_it;
        if on_alt && stack.alt.size > 0 && addr.wrapping_sub(stack.alt.sp) > stack.alt.size {
            return Err(NoRoom);
        }
        let words = words_of(regs, mask);
        let context = UContext {
            flags: UC_SS | if has_extended(xstate) { UC_FP_XSTATE } else { 0 },
            link: 0,
            stack: AltStack { padding: 0, ..stack.alt },
            regs: words,
            // A thread in its initial vector state needs none.
            fpstate: if xstate.is_empty() { 0 } else { xstate_addr },
            reserved: [0; 8],
            mask: mask.0,
        };
        let frame = RtSigframe { return_address: action.restorer, context, info: info.to_bytes() };
        let mut to = *regs;
        to.rdi = info.signal.number() as u64;
        to.rax = 0;
        to.rsi = addr + core::mem::offset_of!(RtSigframe, info) as u64;
        to.rdx = addr + core::mem::offset_of!(RtSigframe, context) as u64;
        to.rip = action.handler;
        to.rsp = addr;
        to.flags &= !FLAGS_CLEARED;
        to.selectors = Regs::USER_SELECTORS;
        Ok(Frame { addr, bytes: frame.as_bytes().to_vec(), xstate_addr, xstate_len: meaningful_len(xstate), regs: to })
    }

    /// What rt_sigreturn(2) found on the stack: `bytes` are the [`FRAME_LEN`] bytes at [`Frame::addr_on_return`].
    ///
    /// `now` gives what a program can't choose (segment bases, segments).
    #[must_use]
    pub fn parse(bytes: &[u8; FRAME_LEN], now: &Regs) -> Restored {
        let frame = RtSigframe::read_from_bytes(bytes).unwrap_or_else(|_| unreachable!("the length is the type's"));
        let context = frame.context;
        let mut full = [0u64; Regs::FRAME_WORDS + 2];
        full[..Regs::FRAME_WORDS].copy_from_slice(&context.regs);
        let mut regs = Regs::read_from_bytes(full.as_bytes()).unwrap_or_else(|_| unreachable!("the length is the type's"));
        regs.flags = (now.flags & !Regs::FLAGS_FROM_GUEST) | (regs.flags & Regs::FLAGS_FROM_GUEST);
        regs.selectors = now.selectors;
        (regs.error, regs.trap, regs.old_mask, regs.fault_address) = (now.error, now.trap, now.old_mask, now.fault_address);
        (regs.fs_base, regs.gs_base) = (now.fs_base, now.gs_base);
        Restored { regs, mask: SigSet(context.mask).without(SigSet::UNBLOCKABLE), xstate_addr: context.fpstate, alt_stack: context.stack }
    }

    /// Where the frame lies when rt_sigreturn(2) is called with this stack pointer: the handler's `ret` has taken the return address.
    #[must_use]
    pub fn addr_on_return(sp: u64) -> u64 {
        sp.wrapping_sub(8)
    }
}

/// What a frame says is to be restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Restored {
    pub regs: Regs,
    pub mask: SigSet,
    /// 0: the vector state is to be the initial one.
    pub xstate_addr: u64,
    pub alt_stack: AltStack,
}

/// The registers as `struct sigcontext` has them: with the old mask's low word where `oldmask` is.
fn words_of(regs: &Regs, mask: SigSet) -> [u64; Regs::FRAME_WORDS] {
    let mut regs = *regs;
    regs.old_mask = mask.0;
    let mut words = [0; Regs::FRAME_WORDS];
    for (word, bytes) in words.iter_mut().zip(regs.as_bytes().chunks_exact(8)) {
        *word = u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
    }
    words
}

/// Offset of `sw_reserved` in the legacy area: magic, extended size, feature mask (64 bits), size.
const SW_RESERVED: usize = 464;
const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
const FP_XSTATE_MAGIC2: u32 = 0x4650_5845;
/// Bytes of the legacy area (`struct _fpstate_64`).
pub const FXSAVE_LEN: usize = 512;
/// Legacy area and XSAVE header.
const XSAVE_MIN_LEN: usize = FXSAVE_LEN + 64;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn has_extended(xstate: &[u8]) -> bool {
    xstate.len() > XSAVE_MIN_LEN && u32_at(xstate, SW_RESERVED) == FP_XSTATE_MAGIC1
}

/// How far a saved state has to be copied. Components that `XSTATE_BV` does not name are in their initial state and their room is not read by
/// anybody; the offsets of all but the first ones are the processor's secret, so the answer is coarse. The closing magic number is apart: see
/// [`closing_magic`].
fn meaningful_len(xstate: &[u8]) -> usize {
    if !has_extended(xstate) {
        return xstate.len().min(FXSAVE_LEN);
    }
    let features = u64::from(u32_at(xstate, FXSAVE_LEN)) | (u64::from(u32_at(xstate, FXSAVE_LEN + 4)) << 32);
    match features {
        f if f & !3 == 0 => XSAVE_MIN_LEN,
        f if f & !7 == 0 => (XSAVE_MIN_LEN + 256).min(xstate.len()),
        _ => xstate.len(),
    }
}

/// Where the closing magic number lies in a state that is not copied in full, and the number.
#[must_use]
pub fn closing_magic(xstate: &[u8]) -> Option<(usize, [u8; 4])> {
    let at = u32_at(xstate, SW_RESERVED + 16) as usize;
    (has_extended(xstate) && u32_at(xstate, at) == FP_XSTATE_MAGIC2).then(|| (at, FP_XSTATE_MAGIC2.to_ne_bytes()))
}

/// How many bytes of vector state rt_sigreturn(2) is to read, by the legacy area that it has read already: the extended state only if its magic
/// numbers and sizes agree with what this machine would have written, else the legacy area alone (`check_xstate_in_sigframe`).
#[must_use]
pub fn len_to_restore(legacy: &[u8; FXSAVE_LEN], machine_len: usize) -> usize {
    let extended = u32_at(legacy, SW_RESERVED + 4) as usize;
    let size = u32_at(legacy, SW_RESERVED + 16) as usize;
    let plausible = u32_at(legacy, SW_RESERVED) == FP_XSTATE_MAGIC1
        && size >= XSAVE_MIN_LEN
        && size.checked_add(4).is_some_and(|with_magic| with_magic <= machine_len)
        && size <= extended;
    if plausible { size + 4 } else { FXSAVE_LEN }
}

/// Whether extended state of this length ends with its magic number.
#[must_use]
pub fn is_closed(xstate: &[u8]) -> bool {
    xstate.len() > XSAVE_MIN_LEN && u32_at(xstate, xstate.len() - 4) == FP_XSTATE_MAGIC2
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
