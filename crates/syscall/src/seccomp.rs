//! seccomp(2), and prctl(2)'s words for it.

use crate::args::UserRef;
use crate::socket::read_filter;
use abi::{Errno, SysResult};
use net::bpf::Instruction;
use task::Current;
use task::seccomp::action;

const SET_MODE_STRICT: u32 = 0;
const SET_MODE_FILTER: u32 = 1;
const GET_ACTION_AVAIL: u32 = 2;
/// `SECCOMP_FILTER_FLAG_TSYNC`, `LOG`, `SPEC_ALLOW` and `TSYNC_ESRCH`.
const TSYNC: u64 = 1;
const LOG: u64 = 2;
const SPEC_ALLOW: u64 = 4;
const TSYNC_ESRCH: u64 = 16;
/// `SECCOMP_MODE_STRICT`, `SECCOMP_MODE_FILTER` of prctl.
const MODE_STRICT: u64 = 1;
const MODE_FILTER: u64 = 2;

/// seccomp(2). Filters that ask a listener (`SECCOMP_FILTER_FLAG_NEW_LISTENER`) are not there: EINVAL.
pub fn seccomp(current: &mut Current, operation: u32, flags: u64, argument: u64) -> SysResult<i64> {
    match operation {
        SET_MODE_STRICT if flags == 0 && argument == 0 => Ok(current.seccomp_strict().map(|()| 0)?),
        SET_MODE_FILTER => set_filter(current, flags, argument),
        GET_ACTION_AVAIL if flags == 0 => {
            let wanted: u32 = UserRef::at(argument).read(current)?;
            let known = [action::KILL_PROCESS, action::KILL_THREAD, action::TRAP, action::ERRNO, action::TRACE, action::LOG, action::ALLOW];
            if known.contains(&wanted) { Ok(0) } else { Err(Errno::EOPNOTSUPP.into()) }
        }
        _ => Err(Errno::EINVAL.into()),
    }
}

fn set_filter(current: &mut Current, flags: u64, program: u64) -> SysResult<i64> {
    if flags & !(TSYNC | LOG | SPEC_ALLOW | TSYNC_ESRCH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let program: [u8; 16] = UserRef::at(program).read(current)?;
    let instructions = Instruction::parse_all(&read_filter(current, &program)?);
    match current.seccomp_filter(instructions, flags & TSYNC != 0)? {
        0 => Ok(0),
        _ if flags & TSYNC_ESRCH != 0 => Err(Errno::ESRCH.into()),
        // The thread that could not be brought into line.
        tid => Ok(i64::from(tid)),
    }
}

/// prctl(PR_SET_SECCOMP).
pub fn set_by_prctl(current: &mut Current, mode: u64, program: u64) -> SysResult<i64> {
    match mode {
        MODE_STRICT => Ok(current.seccomp_strict().map(|()| 0)?),
        MODE_FILTER => set_filter(current, 0, program),
        _ => Err(Errno::EINVAL.into()),
    }
}
