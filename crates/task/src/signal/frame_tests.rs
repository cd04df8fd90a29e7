//! Frames against those that a real Linux built: `tests/record_frames.c` recorded `tests/frames.txt`.

use super::*;
use abi::SigFields;
use abi::Signal;
use abi::siginfo::code;

struct Recorded {
    name: &'static str,
    /// Interrupted stack pointer, frame, vector state, its length, alternate stack, its size, flags, handler, restorer.
    n: [u64; 9],
    frame: [u8; FRAME_LEN],
    /// The first 576 bytes of the vector state, then zeroes.
    xstate: Vec<u8>,
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}

fn number(text: &str) -> u64 {
    text.strip_prefix("0x").map_or_else(|| text.parse().unwrap(), |hex| u64::from_str_radix(hex, 16).unwrap())
}

fn recorded() -> Vec<Recorded> {
    include_str!("../../tests/frames.txt")
        .lines()
        .map(|line| {
            let fields: Vec<&'static str> = line.split(' ').collect();
            let n: Vec<u64> = fields[1..10].iter().map(|f| number(f)).collect();
            let n: [u64; 9] = n.try_into().unwrap();
            let mut xstate = unhex(fields[11]);
            xstate.resize(n[3] as usize, 0);
            Recorded { name: fields[0], n, frame: unhex(fields[10]).try_into().unwrap(), xstate }
        })
        .collect()
}

fn info_of(bytes: &[u8; FRAME_LEN]) -> SigInfo {
    let info: &[u8; SIGINFO_LEN] = bytes[FRAME_LEN - SIGINFO_LEN..].try_into().unwrap();
    SigInfo::from_bytes(Signal::new(i32::from(info[0])).unwrap(), info)
}

/// The interrupted registers as the frame has them.
fn interrupted(bytes: &[u8; FRAME_LEN]) -> (Regs, u64) {
    let context = RtSigframe::read_from_bytes(bytes).unwrap().context;
    let mut regs = Frame::parse(bytes, &Regs::default()).regs;
    (regs.flags, regs.selectors, regs.error, regs.trap, regs.fault_address) =
        (context.regs[17], context.regs[18], context.regs[19], context.regs[20], context.regs[22]);
    (regs, context.mask)
}

fn build(r: &Recorded) -> Frame {
    let [_, _, _, _, sp, size, flags, handler, restorer] = r.n;
    let action = SigAction { handler, flags, restorer, mask: 0 };
    let alt = AltStack { sp, flags: 0, padding: 0, size };
    let (regs, mask) = interrupted(&r.frame);
    Frame::build(&regs, &r.xstate, &info_of(&r.frame), &action, SigSet(mask), Stack { alt, on_it: false }).unwrap()
}

#[test]
fn a_frame_has_the_bytes_and_the_place_that_linux_gives_it() {
    for r in recorded() {
        let frame = build(&r);
        assert_eq!((frame.addr, frame.xstate_addr), (r.n[1], r.n[2]), "{}", r.name);
        for (at, (ours, theirs)) in frame.bytes.chunks(8).zip(r.frame.chunks(8)).enumerate() {
            assert_eq!(ours, theirs, "{} at byte {}", r.name, at * 8);
        }
    }
}

#[test]
fn a_handler_gets_its_three_arguments_and_an_aligned_stack() {
    for r in recorded() {
        let frame = build(&r);
        assert_eq!((frame.regs.rdi, frame.regs.rax), (info_of(&r.frame).signal.number() as u64, 0));
        assert_eq!((frame.regs.rsi, frame.regs.rdx), (frame.addr + 312, frame.addr + 8));
        assert_eq!((frame.regs.rsp, frame.regs.rip), (frame.addr, r.n[7]));
        assert_eq!((frame.addr % 16, frame.xstate_addr % 64), (8, 0));
    }
}

#[test]
fn sigreturn_brings_back_what_was_interrupted() {
    for r in recorded() {
        let (regs, mask) = interrupted(&r.frame);
        let now = Regs { flags: regs.flags, selectors: Regs::USER_SELECTORS, fs_base: 7, gs_base: 8, ..Regs::default() };
        let back = Frame::parse(&r.frame, &now);
        let expected =
            Regs { selectors: Regs::USER_SELECTORS, error: 0, trap: 0, old_mask: 0, fault_address: 0, fs_base: 7, gs_base: 8, ..regs };
        assert_eq!((back.regs, back.mask, back.xstate_addr), (expected, SigSet(mask), r.n[2]));
        assert_eq!((back.alt_stack.sp, back.alt_stack.size), (r.n[4], r.n[5]));
    }
}

#[test]
fn a_forged_frame_can_not_set_privileged_flags_segments_or_block_sigkill() {
    let now = Regs { flags: Regs::USER_FLAGS, selectors: Regs::USER_SELECTORS, fs_base: 1, ..Regs::default() };
    let back = Frame::parse(&[0xff; FRAME_LEN], &now);
    assert_eq!(back.regs.flags, Regs::USER_FLAGS | Regs::FLAGS_FROM_GUEST);
    assert_eq!((back.regs.selectors, back.regs.fs_base), (Regs::USER_SELECTORS, 1));
    assert_eq!(back.mask, SigSet::ALL.without(SigSet::UNBLOCKABLE));
}

#[test]
fn a_nested_handler_that_would_leave_the_alternate_stack_gets_no_frame() {
    let action = SigAction { handler: 1, flags: (SaFlags::RESTORER | SaFlags::ONSTACK).bits(), restorer: 2, mask: 0 };
    let alt = AltStack { sp: 0x10000, flags: 0, padding: 0, size: 0x2000 };
    let info = SigInfo::kernel(Signal::SIGUSR1);
    let build = |rsp, on_it| Frame::build(&Regs { rsp, ..Regs::default() }, &[0; 512], &info, &action, SigSet::EMPTY, Stack { alt, on_it });
    assert!(build(0x7000_0000, false).is_ok_and(|f| f.addr > 0x10000 && f.addr < 0x12000));
    assert!(build(0x11f00, true).is_ok());
    assert!(build(0x10200, true).is_err());
    let tiny = Stack { alt: AltStack { size: 512, ..alt }, on_it: false };
    assert!(Frame::build(&Regs::default(), &[0; 512], &info, &action, SigSet::EMPTY, tiny).is_err());
}

#[test]
fn a_handler_without_a_restorer_gets_no_frame() {
    let action = SigAction { handler: 1, flags: 0, restorer: 0, mask: 0 };
    let stack = Stack { alt: AltStack::default(), on_it: false };
    let regs = Regs { rsp: 0x7000_0000, ..Regs::default() };
    assert!(Frame::build(&regs, &[0; 512], &SigInfo::kernel(Signal::SIGUSR1), &action, SigSet::EMPTY, stack).is_err());
}

#[test]
fn a_stack_pointer_of_nonsense_gives_an_address_and_no_panic() {
    let action = SigAction { handler: 1, flags: SaFlags::RESTORER.bits(), restorer: 0, mask: 0 };
    let info = SigInfo { signal: Signal::SIGSEGV, errno: 0, code: code::SEGV_MAPERR, fields: SigFields::Fault { addr: 0 } };
    for rsp in [0, 1, 200, u64::MAX, 1 << 63] {
        for size in [0, 1, u64::MAX] {
            let stack = Stack { alt: AltStack { sp: u64::MAX - 5, flags: 0, padding: 0, size }, on_it: rsp == 1 };
            let _ = Frame::build(&Regs { rsp, ..Regs::default() }, &[0; 512], &info, &action, SigSet::EMPTY, stack);
        }
    }
}

#[test]
fn extended_state_is_read_only_if_its_header_is_one_that_we_write() {
    let r = &recorded()[0];
    let machine = r.xstate.len();
    let header = |magic: u32, extended: u32, size: u32| {
        let mut legacy = [0u8; FXSAVE_LEN];
        legacy[464..468].copy_from_slice(&magic.to_ne_bytes());
        legacy[468..472].copy_from_slice(&extended.to_ne_bytes());
        legacy[480..484].copy_from_slice(&size.to_ne_bytes());
        len_to_restore(&legacy, machine)
    };
    let legacy: [u8; FXSAVE_LEN] = r.xstate[..FXSAVE_LEN].try_into().unwrap();
    assert_eq!(len_to_restore(&legacy, machine), machine);
    assert_eq!(header(FP_XSTATE_MAGIC1, 1000, 832), 836);
    for (magic, extended, size) in
        [(0, 1000, 832), (FP_XSTATE_MAGIC1, 800, 832), (FP_XSTATE_MAGIC1, u32::MAX, u32::MAX), (FP_XSTATE_MAGIC1, 1000, 500)]
    {
        assert_eq!(header(magic, extended, size), FXSAVE_LEN);
    }
}
