//! The machine: names, memory and load, randomness, rebooting; and prctl(2).

use crate::args::{UserAddr, UserRef, read_string};
use abi::{Errno, Signal, SysResult};
use std::sync::atomic::Ordering;
use task::credentials::securebits;
use task::task::comm_of;
use task::{Current, system::Power};
use vfs::{Capability, UserMemory};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of each field of `struct new_utsname`.
const UTS_LEN: usize = 65;

/// uname(2).
pub fn uname(current: &mut Current, to: UserRef<[u8; 6 * UTS_LEN]>) -> SysResult<()> {
    let names = current.uts().names.lock().clone();
    let mut bytes = [0u8; 6 * UTS_LEN];
    let fields: [&[u8]; 6] = [b"Linux", &names.node, &names.release, &names.version, b"x86_64", &names.domain];
    for (field, value) in bytes.chunks_exact_mut(UTS_LEN).zip(fields) {
        for (to, from) in field.iter_mut().take(UTS_LEN - 1).zip(value) {
            *to = *from;
        }
    }
    Ok(to.write(current, &bytes)?)
}

fn read_name(current: &Current, from: UserAddr, len: i32) -> Result<Vec<u8>, Errno> {
    current.credentials().require(Capability::SYS_ADMIN)?;
    let len = usize::try_from(len).ok().filter(|len| *len < UTS_LEN).ok_or(Errno::EINVAL)?;
    let mut name = vec![0; len];
    current.memory().read_exact(from.0, &mut name)?;
    Ok(name)
}

/// sethostname(2).
pub fn sethostname(current: &mut Current, from: UserAddr, len: i32) -> SysResult<()> {
    let name = read_name(current, from, len)?;
    current.uts().names.lock().node = name;
    Ok(())
}
/// setdomainname(2).
pub fn setdomainname(current: &mut Current, from: UserAddr, len: i32) -> SysResult<()> {
    let name = read_name(current, from, len)?;
    current.uts().names.lock().domain = name;
    Ok(())
}

/// `struct sysinfo`.
#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Sysinfo {
    uptime_sec: i64,
    loads: [u64; 3],
    total_ram: u64,
    free_ram: u64,
    shared_ram: u64,
    buffer_ram: u64,
    total_swap: u64,
    free_swap: u64,
    processes: u16,
    padding: [u16; 3],
    total_high: u64,
    free_high: u64,
    unit: u32,
    padding_too: u32,
}

/// sysinfo(2).
pub fn sysinfo(current: &mut Current, to: UserRef<Sysinfo>) -> SysResult<()> {
    let system = current.system();
    let page = abi::PAGE_SIZE as u64;
    let info = Sysinfo {
        uptime_sec: (system.uptime_ns() / abi::NS_PER_SEC) as i64,
        loads: system.load.fixed_point(),
        total_ram: system.ram.frames() as u64 * page,
        free_ram: system.ram.available() as u64 * page,
        processes: system.table().tree.thread_count() as u16,
        unit: 1,
        ..Sysinfo::default()
    };
    Ok(to.write(current, &info)?)
}

/// getrandom(2). The pool is the host's and always full.
pub fn getrandom(current: &mut Current, to: UserAddr, len: usize, flags: u32) -> SysResult<usize> {
    const RANDOM: u32 = 2;
    const INSECURE: u32 = 4;
    if flags & !7 != 0 || flags & (RANDOM | INSECURE) == RANDOM | INSECURE {
        return Err(Errno::EINVAL.into());
    }
    let len = len.min(i32::MAX as usize);
    let mut done = 0;
    let mut chunk = [0u8; 1024];
    while done < len {
        let want = chunk.len().min(len - done);
        let part = chunk.get_mut(..want).unwrap_or_default();
        current.system().hooks.entropy(part);
        match current.memory().write(to.0.wrapping_add(done as u64), part) {
            Ok(n) => {
                done += n;
                if n < want {
                    break;
                }
            }
            Err(_) if done > 0 => break,
            Err(errno) => return Err(errno.into()),
        }
        if sync::current().is_interrupted() {
            break;
        }
    }
    Ok(done)
}

/// reboot(2).
pub fn reboot(current: &mut Current, magic: u32, magic2: u32, command: u32, _argument: u64) -> SysResult<()> {
    current.credentials().require(Capability::SYS_BOOT)?;
    if magic != 0xfee1_dead || ![672_274_793, 85_072_278, 369_367_448, 537_993_216].contains(&magic2) {
        return Err(Errno::EINVAL.into());
    }
    let power = match command {
        0x0123_4567 => Power::Restart,
        0xa1b2_c3d4 => Power::Restart,
        0xcdef_0123 => Power::Halt,
        0x4321_fedc => Power::Off,
        // Ctrl-Alt-Del on, off.
        0x89ab_cdef | 0 => {
            current.system().ctrl_alt_del_restarts.store(command != 0, Ordering::Relaxed);
            return Ok(());
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    current.system().vfs.sync_all();
    current.system().hooks.power(power);
    // There is nothing to return to: an init that went on and ended would be told to have been killed.
    sync::WaitQueue::new().wait_until(|| None)
}

/// prctl(2): what a process may set about itself.
pub fn prctl(current: &mut Current, option: i32, a: u64, b: u64, c: u64, d: u64) -> SysResult<i64> {
    let process = current.process().clone();
    match option {
        // PR_SET_PDEATHSIG, PR_GET_PDEATHSIG
        1 => {
            let signal = i32::try_from(a).map_err(|_| Errno::EINVAL)?;
            if signal != 0 {
                Signal::new(signal).ok_or(Errno::EINVAL)?;
            }
            process.parent_death_signal.store(signal, Ordering::Relaxed);
            Ok(0)
        }
        2 => write_int(current, a, process.parent_death_signal.load(Ordering::Relaxed)),
        // PR_GET_DUMPABLE, PR_SET_DUMPABLE
        3 => Ok(i64::from(process.dumpable.load(Ordering::Relaxed))),
        4 if a <= 1 => {
            process.dumpable.store(a as u8, Ordering::Relaxed);
            Ok(0)
        }
        // PR_GET_KEEPCAPS, PR_SET_KEEPCAPS
        7 => Ok(i64::from(current.credentials().securebits & securebits::KEEP_CAPS != 0)),
        8 => set_keep_caps(current, a),
        // PR_GET_TIMING
        13 => Ok(0),
        // PR_SET_NAME, PR_GET_NAME
        15 => {
            let name = read_string(current, a, 16)?.map_or_else(|| read_name_cut(current, a), Ok)?;
            current.task().set_comm(comm_of(&name));
            Ok(0)
        }
        16 => Ok(UserRef::<[u8; 16]>::at(a).write(current, &current.task().comm()).map(|()| 0)?),
        // PR_GET_SECCOMP, PR_SET_SECCOMP
        21 => Ok(i64::from(current.seccomp().number())),
        22 => crate::seccomp::set_by_prctl(current, a, b),
        // PR_CAPBSET_READ, PR_CAPBSET_DROP
        23 if a <= 40 => Ok(i64::from(current.credentials().bounding.has(Capability(a as u32)))),
        24 if a <= 40 => {
            current.credentials().require(Capability::SETPCAP)?;
            let mut new = (**current.credentials()).clone();
            new.bounding.0 &= !(1 << a);
            current.set_credentials(new);
            Ok(0)
        }
        // PR_GET_SECUREBITS, PR_SET_SECUREBITS
        27 => Ok(i64::from(current.credentials().securebits)),
        28 => set_securebits(current, a),
        // PR_SET_TIMERSLACK, PR_GET_TIMERSLACK
        29 => {
            current.task().timer_slack_ns.store(if a == 0 { 50_000 } else { a }, Ordering::Relaxed);
            Ok(0)
        }
        30 => Ok(current.task().timer_slack_ns.load(Ordering::Relaxed) as i64),
        // PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER
        36 => {
            if let Some(node) = current.system().table().tree.get_mut(process.pid()) {
                node.subreaper = a != 0;
            }
            Ok(0)
        }
        37 => {
            let is = current.system().table().tree.get(process.pid()).is_some_and(|n| n.subreaper);
            write_int(current, a, i32::from(is))
        }
        // PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS
        38 if a == 1 && b == 0 && c == 0 && d == 0 => {
            let mut new = (**current.credentials()).clone();
            new.no_new_privs = true;
            current.set_credentials(new);
            Ok(0)
        }
        39 if a == 0 && b == 0 && c == 0 && d == 0 => Ok(i64::from(current.credentials().no_new_privs)),
        // PR_GET_TID_ADDRESS
        40 => Ok(UserRef::<u64>::at(a).write(current, &current.task().clear_child_tid.load(Ordering::Relaxed)).map(|()| 0)?),
        // PR_SET_THP_DISABLE, PR_GET_THP_DISABLE: there are no huge pages.
        41 | 42 => Ok(0),
        // PR_CAP_AMBIENT
        47 => ambient(current, a, b),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn write_int(current: &Current, addr: u64, value: i32) -> SysResult<i64> {
    Ok(UserRef::<i32>::at(addr).write(current, &value).map(|()| 0)?)
}

/// A name that does not end within 16 bytes is cut.
fn read_name_cut(current: &Current, addr: u64) -> Result<Vec<u8>, Errno> {
    let mut name = vec![0; 15];
    current.memory().read_exact(addr, &mut name)?;
    Ok(name)
}

fn set_keep_caps(current: &mut Current, keep: u64) -> SysResult<i64> {
    let mut new = (**current.credentials()).clone();
    // The lock of the bit is the next bit.
    if keep > 1 || new.securebits & (securebits::KEEP_CAPS << 1) != 0 {
        return Err(if keep > 1 { Errno::EINVAL } else { Errno::EPERM }.into());
    }
    new.securebits = (new.securebits & !securebits::KEEP_CAPS) | if keep == 1 { securebits::KEEP_CAPS } else { 0 };
    current.set_credentials(new);
    Ok(0)
}

fn set_securebits(current: &mut Current, bits: u64) -> SysResult<i64> {
    let old = current.credentials().securebits;
    let bits = u32::try_from(bits).map_err(|_| Errno::EPERM)?;
    let locked = (old & securebits::LOCKS) >> 1;
    let unlocks = old & securebits::LOCKS & !bits != 0;
    if bits & !securebits::ALL != 0 || unlocks || (old ^ bits) & locked != 0 || !current.credentials().has(Capability::SETPCAP) {
        return Err(Errno::EPERM.into());
    }
    let mut new = (**current.credentials()).clone();
    new.securebits = bits;
    current.set_credentials(new);
    Ok(0)
}

fn ambient(current: &mut Current, operation: u64, capability: u64) -> SysResult<i64> {
    const IS_SET: u64 = 1;
    const RAISE: u64 = 2;
    const LOWER: u64 = 3;
    const CLEAR_ALL: u64 = 4;
    let mut new = (**current.credentials()).clone();
    if operation == CLEAR_ALL && capability == 0 {
        new.ambient.0 = 0;
        current.set_credentials(new);
        return Ok(0);
    }
    if capability > 40 {
        return Err(Errno::EINVAL.into());
    }
    let bit = 1u64 << capability;
    match operation {
        IS_SET => return Ok(i64::from(new.ambient.0 & bit != 0)),
        RAISE => {
            let allowed = new.permitted.0 & new.inheritable.0 & bit != 0;
            if !allowed || new.securebits & securebits::NO_CAP_AMBIENT_RAISE != 0 {
                return Err(Errno::EPERM.into());
            }
            new.ambient.0 |= bit;
        }
        LOWER => new.ambient.0 &= !bit,
        _ => return Err(Errno::EINVAL.into()),
    }
    current.set_credentials(new);
    Ok(0)
}
