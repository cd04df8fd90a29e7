//! ptrace(2). `task::ptrace` has the two sides; requests and structures are taken apart here.

use crate::args::UserRef;
use abi::siginfo::SIGINFO_LEN;
use abi::{Errno, SigInfo, SigSet, Signal, SysResult};
use std::sync::Arc;
use task::ptrace::{At, Options, Resume};
use task::task::Task;
use task::{Current, seccomp};
use vfs::UserMemory;

const TRACEME: i64 = 0;
const PEEKTEXT: i64 = 1;
const PEEKDATA: i64 = 2;
const PEEKUSER: i64 = 3;
const POKETEXT: i64 = 4;
const POKEDATA: i64 = 5;
const POKEUSER: i64 = 6;
const CONT: i64 = 7;
const KILL: i64 = 8;
const SINGLESTEP: i64 = 9;
const GETREGS: i64 = 12;
const SETREGS: i64 = 13;
const GETFPREGS: i64 = 14;
const SETFPREGS: i64 = 15;
const ATTACH: i64 = 16;
const DETACH: i64 = 17;
const SYSCALL: i64 = 24;
const SETOPTIONS: i64 = 0x4200;
const GETEVENTMSG: i64 = 0x4201;
const GETSIGINFO: i64 = 0x4202;
const SETSIGINFO: i64 = 0x4203;
const GETREGSET: i64 = 0x4204;
const SETREGSET: i64 = 0x4205;
const SEIZE: i64 = 0x4206;
const INTERRUPT: i64 = 0x4207;
const LISTEN: i64 = 0x4208;
const GETSIGMASK: i64 = 0x420a;
const SETSIGMASK: i64 = 0x420b;
const GET_SYSCALL_INFO: i64 = 0x420e;

/// Register sets of `GETREGSET`.
const NT_PRSTATUS: u64 = 1;
const NT_PRFPREG: u64 = 2;
const NT_X86_XSTATE: u64 = 0x202;
/// Bytes of `struct user_regs_struct` and `struct user_fpregs_struct`.
const REGS_LEN: u64 = 27 * 8;
const FPREGS_LEN: usize = 512;
/// Bytes of `struct user`, and where its debug registers are.
const USER_LEN: u64 = 912;
const DEBUG_REGISTERS: std::ops::Range<u64> = 848..912;

/// ptrace(2).
pub fn ptrace(current: &mut Current, request: i64, pid: i32, addr: u64, data: u64) -> SysResult<i64> {
    match request {
        TRACEME => return Ok(current.trace_me().map(|()| 0)?),
        ATTACH => return Ok(current.attach(pid, None).map(|()| 0)?),
        SEIZE => {
            if addr != 0 {
                return Err(Errno::EIO.into());
            }
            let options = Options::from_bits(data).ok_or(Errno::EIO)?;
            return Ok(current.attach(pid, Some(options)).map(|()| 0)?);
        }
        _ => {}
    }
    let task = current.tracee(pid)?;
    match request {
        KILL => {
            task.process().send(task::signal::To::Process, SigInfo::kernel(Signal::SIGKILL))?;
            return Ok(0);
        }
        INTERRUPT => return Ok(current.interrupt_tracee(&task).map(|()| 0)?),
        DETACH => return Ok(current.detach(&task, signal_of(data)?).map(|()| 0)?),
        _ => {}
    }
    // Everything else is for a thread that is stopped.
    let at = current.trace_at(&task)?;
    stopped(current, request, &task, at, addr, data)
}

fn signal_of(data: u64) -> Result<i32, Errno> {
    i32::try_from(data).map_err(|_| Errno::EIO)
}

fn stopped(current: &mut Current, request: i64, task: &Arc<Task>, at: At, addr: u64, data: u64) -> SysResult<i64> {
    match request {
        PEEKTEXT | PEEKDATA => {
            let mut word = [0; 8];
            if task.memory()?.read_forced(addr, &mut word).map_err(|_| Errno::EIO)? < word.len() {
                return Err(Errno::EIO.into());
            }
            UserRef::at(data).write(current, &word)?;
        }
        POKETEXT | POKEDATA => {
            if task.memory()?.write_forced(addr, &data.to_ne_bytes()).map_err(|_| Errno::EIO)? < 8 {
                return Err(Errno::EIO.into());
            }
        }
        PEEKUSER | POKEUSER => return user_word(current, request == POKEUSER, task, addr, data),
        CONT | SYSCALL | SINGLESTEP | LISTEN => {
            let how = match request {
                CONT => Resume::Continue,
                SYSCALL => Resume::Syscall,
                SINGLESTEP => Resume::Step,
                _ => Resume::Listen,
            };
            let signal = if request == LISTEN { 0 } else { signal_of(data)? };
            current.resume_tracee(task, how, signal)?;
        }
        GETREGS => {
            let regs = current.ask_tracee(task, Current::debug_regs)??;
            UserRef::at(data).write(current, &regs)?;
        }
        SETREGS => {
            let regs: [u64; 27] = UserRef::at(data).read(current)?;
            current.ask_tracee(task, move |tracee| tracee.set_debug_regs(regs))??;
        }
        GETFPREGS => {
            let state = current.ask_tracee(task, Current::debug_xstate)??;
            current.memory().write_all(data, state.get(..FPREGS_LEN).unwrap_or_default())?;
        }
        SETFPREGS => {
            let state: Vec<u8> = UserRef::at(data).read_many(current, FPREGS_LEN)?;
            current.ask_tracee(task, move |tracee| tracee.set_debug_xstate(&state))??;
        }
        GETREGSET | SETREGSET => return register_set(current, request == SETREGSET, task, addr, data),
        SETOPTIONS => current.set_trace_options(task, Options::from_bits(data).ok_or(Errno::EINVAL)?)?,
        GETEVENTMSG => {
            let message = current.trace_message(task)?;
            UserRef::at(data).write(current, &message)?;
        }
        GETSIGINFO => {
            let info = current.trace_siginfo(task)?;
            UserRef::at(data).write(current, &info.to_bytes())?;
        }
        SETSIGINFO => {
            let bytes: [u8; SIGINFO_LEN] = UserRef::at(data).read(current)?;
            let number = i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            let signal = Signal::new(number).ok_or(Errno::EINVAL)?;
            current.set_trace_siginfo(task, SigInfo::from_bytes(signal, &bytes))?;
        }
        GETSIGMASK | SETSIGMASK if addr != 8 => return Err(Errno::EINVAL.into()),
        GETSIGMASK => {
            let mask = task.process().signals().thread(task.tid()).map_or(SigSet::EMPTY, |t| t.blocked);
            UserRef::at(data).write(current, &mask.0)?;
        }
        SETSIGMASK => {
            let mask = SigSet(UserRef::at(data).read(current)?);
            current.ask_tracee(task, move |tracee| tracee.set_signal_mask(mask))?;
        }
        GET_SYSCALL_INFO => return syscall_info(current, task, at, addr, data),
        _ => return Err(Errno::EIO.into()),
    }
    Ok(0)
}

/// A word of `struct user`: registers; debug registers are all zero and stay so.
fn user_word(current: &mut Current, poke: bool, task: &Arc<Task>, addr: u64, data: u64) -> SysResult<i64> {
    if !addr.is_multiple_of(8) || addr >= USER_LEN {
        return Err(Errno::EIO.into());
    }
    let index = (addr / 8) as usize;
    if addr >= REGS_LEN {
        if poke {
            return if DEBUG_REGISTERS.contains(&addr) && data == 0 { Ok(0) } else { Err(Errno::EIO.into()) };
        }
        UserRef::at(data).write(current, &0u64)?;
        return Ok(0);
    }
    let mut regs = current.ask_tracee(task, Current::debug_regs)??;
    let word = regs.get_mut(index).ok_or(Errno::EIO)?;
    if poke {
        *word = data;
        current.ask_tracee(task, move |tracee| tracee.set_debug_regs(regs))??;
    } else {
        let word = *word;
        UserRef::at(data).write(current, &word)?;
    }
    Ok(0)
}

fn register_set(current: &mut Current, set: bool, task: &Arc<Task>, kind: u64, iovec: u64) -> SysResult<i64> {
    let [base, len]: [u64; 2] = UserRef::at(iovec).read(current)?;
    let whole = match kind {
        NT_PRSTATUS => current.ask_tracee(task, Current::debug_regs)??.iter().flat_map(|word| word.to_ne_bytes()).collect(),
        NT_PRFPREG | NT_X86_XSTATE => {
            let mut state = current.ask_tracee(task, Current::debug_xstate)??;
            if kind == NT_PRFPREG {
                state.truncate(FPREGS_LEN);
            }
            state
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(whole.len());
    if !set {
        current.memory().write_all(base, whole.get(..len).unwrap_or_default())?;
        UserRef::at(iovec.wrapping_add(8)).write(current, &(len as u64))?;
        return Ok(0);
    }
    if kind == NT_PRSTATUS && !len.is_multiple_of(8) {
        return Err(Errno::EINVAL.into());
    }
    let mut bytes: Vec<u8> = UserRef::at(base).read_many(current, len)?;
    bytes.extend_from_slice(whole.get(len..).unwrap_or_default());
    if kind == NT_PRSTATUS {
        let mut regs = [0; 27];
        for (word, bytes) in regs.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        current.ask_tracee(task, move |tracee| tracee.set_debug_regs(regs))??;
    } else {
        current.ask_tracee(task, move |tracee| tracee.set_debug_xstate(&bytes))??;
    }
    UserRef::at(iovec.wrapping_add(8)).write(current, &(len as u64))?;
    Ok(0)
}

/// `struct ptrace_syscall_info`: as much as the caller has room for; the answer is how much there is.
fn syscall_info(current: &mut Current, task: &Arc<Task>, at: At, room: u64, to: u64) -> SysResult<i64> {
    let regs = current.ask_tracee(task, Current::debug_regs)??;
    let [rax, orig, ip, sp] = [10, 15, 16, 19].map(|n: usize| regs[n]);
    let operation: u8 = match at {
        At::Entry => 1,
        At::Exit => 2,
        _ => 0,
    };
    let mut bytes = vec![operation, 0, 0, 0];
    bytes.extend_from_slice(&seccomp::ARCH.to_ne_bytes());
    bytes.extend_from_slice(&ip.to_ne_bytes());
    bytes.extend_from_slice(&sp.to_ne_bytes());
    match at {
        At::Entry => {
            // rdi, rsi, rdx, r10, r8, r9
            for word in [orig].into_iter().chain([14, 13, 12, 7, 9, 8].map(|n: usize| regs[n])) {
                bytes.extend_from_slice(&word.to_ne_bytes());
            }
        }
        At::Exit => {
            bytes.extend_from_slice(&rax.to_ne_bytes());
            bytes.push(u8::from((-4095..0).contains(&(rax as i64))));
        }
        _ => {}
    }
    let len = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
    current.memory().write_all(to, bytes.get(..len).unwrap_or_default())?;
    Ok(bytes.len() as i64)
}
