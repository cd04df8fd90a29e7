//! User and group ids, supplementary groups, capabilities.

use crate::args::{UserAddr, UserRef};
use abi::{Errno, SysResult};
use task::Current;
use task::credentials as rules;
use vfs::{CapabilitySet, Credentials};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Most supplementary groups (`NGROUPS_MAX`).
const NGROUPS_MAX: usize = 65536;

fn id(raw: u32) -> Option<u32> {
    (raw != u32::MAX).then_some(raw)
}
fn valid(raw: u32) -> Result<u32, Errno> {
    id(raw).ok_or(Errno::EINVAL)
}
fn become_(current: &mut Current, new: Result<Credentials, Errno>) -> SysResult<()> {
    let old = current.credentials().clone();
    let new = new?;
    if new.euid != old.euid || new.egid != old.egid || new.fsuid != old.fsuid || new.fsgid != old.fsgid {
        // Who changes its rights is not to be looked into by who had the old ones.
        current.process().dumpable.store(0, std::sync::atomic::Ordering::Relaxed);
    }
    current.set_credentials(new);
    Ok(())
}

/// getuid(2).
pub fn getuid(current: &mut Current) -> SysResult<u32> {
    current.told(abi::raw::general::__NR_getuid, |current| current.credentials().uid)
}
/// geteuid(2).
pub fn geteuid(current: &mut Current) -> SysResult<u32> {
    current.told(abi::raw::general::__NR_geteuid, |current| current.credentials().euid)
}
/// getgid(2).
pub fn getgid(current: &mut Current) -> SysResult<u32> {
    current.told(abi::raw::general::__NR_getgid, |current| current.credentials().gid)
}
/// getegid(2).
pub fn getegid(current: &mut Current) -> SysResult<u32> {
    current.told(abi::raw::general::__NR_getegid, |current| current.credentials().egid)
}
/// setuid(2).
pub fn setuid(current: &mut Current, uid: u32) -> SysResult<()> {
    let new = rules::setuid(current.credentials(), valid(uid)?);
    become_(current, new)
}
/// setgid(2).
pub fn setgid(current: &mut Current, gid: u32) -> SysResult<()> {
    let new = rules::setgid(current.credentials(), valid(gid)?);
    become_(current, new)
}
/// setreuid(2).
pub fn setreuid(current: &mut Current, real: u32, effective: u32) -> SysResult<()> {
    let new = rules::setreuid(current.credentials(), id(real), id(effective));
    become_(current, new)
}
/// setregid(2).
pub fn setregid(current: &mut Current, real: u32, effective: u32) -> SysResult<()> {
    let new = rules::setregid(current.credentials(), id(real), id(effective));
    become_(current, new)
}
/// setresuid(2).
pub fn setresuid(current: &mut Current, real: u32, effective: u32, saved: u32) -> SysResult<()> {
    let new = rules::setresuid(current.credentials(), [id(real), id(effective), id(saved)]);
    become_(current, new)
}
/// setresgid(2).
pub fn setresgid(current: &mut Current, real: u32, effective: u32, saved: u32) -> SysResult<()> {
    let new = rules::setresgid(current.credentials(), [id(real), id(effective), id(saved)]);
    become_(current, new)
}
/// getresuid(2).
pub fn getresuid(current: &mut Current, real: UserRef<u32>, effective: UserRef<u32>, saved: UserRef<u32>) -> SysResult<()> {
    let c = current.credentials().clone();
    real.write(current, &c.uid)?;
    effective.write(current, &c.euid)?;
    Ok(saved.write(current, &c.suid)?)
}
/// getresgid(2).
pub fn getresgid(current: &mut Current, real: UserRef<u32>, effective: UserRef<u32>, saved: UserRef<u32>) -> SysResult<()> {
    let c = current.credentials().clone();
    real.write(current, &c.gid)?;
    effective.write(current, &c.egid)?;
    Ok(saved.write(current, &c.sgid)?)
}
/// setfsuid(2): gives the old id, whatever happens.
pub fn setfsuid(current: &mut Current, uid: u32) -> SysResult<u32> {
    let old = current.credentials().fsuid;
    let new = rules::setfsuid(current.credentials(), uid);
    if id(uid).is_some() {
        become_(current, Ok(new))?;
    }
    Ok(old)
}
/// setfsgid(2).
pub fn setfsgid(current: &mut Current, gid: u32) -> SysResult<u32> {
    let old = current.credentials().fsgid;
    let new = rules::setfsgid(current.credentials(), gid);
    if id(gid).is_some() {
        become_(current, Ok(new))?;
    }
    Ok(old)
}

/// getgroups(2). A size of 0 only asks how many.
pub fn getgroups(current: &mut Current, size: i32, list: UserRef<u32>) -> SysResult<usize> {
    let groups = current.credentials().groups.clone();
    let size = usize::try_from(size).map_err(|_| Errno::EINVAL)?;
    if size > 0 {
        if size < groups.len() {
            return Err(Errno::EINVAL.into());
        }
        list.write_many(current, &groups)?;
    }
    Ok(groups.len())
}
/// setgroups(2).
pub fn setgroups(current: &mut Current, size: usize, list: UserRef<u32>) -> SysResult<()> {
    current.credentials().require(vfs::Capability::SETGID)?;
    if size > NGROUPS_MAX {
        return Err(Errno::EINVAL.into());
    }
    let groups = list.read_many(current, size)?;
    let new = rules::setgroups(current.credentials(), groups);
    become_(current, new)
}

/// `struct __user_cap_header_struct`.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CapHeader {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`.
#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const VERSION_1: u32 = 0x1998_0330;
const VERSION_2: u32 = 0x2007_1026;
const VERSION_3: u32 = 0x2008_0522;

/// How many data words the version that a header asks for has. An unknown version is answered with the one to use.
fn words(current: &Current, header: UserRef<CapHeader>) -> Result<(usize, i32), Errno> {
    let asked = header.read(current)?;
    match asked.version {
        VERSION_1 => Ok((1, asked.pid)),
        VERSION_2 | VERSION_3 => Ok((2, asked.pid)),
        _ => {
            header.write(current, &CapHeader { version: VERSION_3, ..asked })?;
            Err(Errno::EINVAL)
        }
    }
}

/// capget(2).
pub fn capget(current: &mut Current, header: UserRef<CapHeader>, data: UserAddr) -> SysResult<()> {
    let (count, pid) = match words(current, header) {
        Ok(found) => found,
        // Without a place for data it was a question about the version.
        Err(Errno::EINVAL) if data.is_null() => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    if pid < 0 {
        return Err(Errno::EINVAL.into());
    }
    let credentials =
        if pid == 0 || pid == current.tid() { current.credentials().clone() } else { current.system().task(pid)?.credentials() };
    if data.is_null() {
        return Ok(());
    }
    let half = |set: CapabilitySet, index: usize| (set.0 >> (32 * index)) as u32;
    let list: Vec<CapData> = (0..count)
        .map(|i| CapData {
            effective: half(credentials.effective, i),
            permitted: half(credentials.permitted, i),
            inheritable: half(credentials.inheritable, i),
        })
        .collect();
    Ok(UserRef::<CapData>::at(data.0).write_many(current, &list)?)
}

/// capset(2).
pub fn capset(current: &mut Current, header: UserRef<CapHeader>, data: UserRef<CapData>) -> SysResult<()> {
    let (count, pid) = words(current, header)?;
    if pid != 0 && pid != current.tid() {
        return Err(Errno::EPERM.into());
    }
    let list = data.read_many(current, count)?;
    let join = |part: fn(&CapData) -> u32| {
        let bits = list.iter().enumerate().fold(0u64, |bits, (i, d)| bits | u64::from(part(d)) << (32 * i));
        CapabilitySet(bits & CapabilitySet::FULL.0)
    };
    let new = rules::capset(current.credentials(), join(|d| d.effective), join(|d| d.permitted), join(|d| d.inheritable));
    become_(current, new)
}
