//! mount(2), umount2(2), pivot_root(2).

use crate::args::UserAddr;
use crate::data::{read_path, read_string};
use abi::{Errno, SysResult};
use task::Current;
use vfs::{Capability, LookupFlags, MountFlags, PathAt, Unmount, UserMemory};

/// The magic number that very old programs put in the upper half of the flags.
const MS_MGC_VAL: u64 = 0xc0ed_0000;
const MS_MGC_MSK: u64 = 0xffff_0000;

fn optional_string(current: &Current, addr: UserAddr) -> Result<Vec<u8>, Errno> {
    if addr.0 == 0 {
        return Ok(Vec::new());
    }
    read_string(current, addr.0, abi::PAGE_SIZE, Errno::EINVAL)
}

/// Options: one page at most, which need not end with NUL.
fn options(current: &Current, addr: UserAddr) -> Result<Vec<u8>, Errno> {
    if addr.0 == 0 {
        return Ok(Vec::new());
    }
    let mut page = vec![0; abi::PAGE_SIZE];
    let n = current.memory().read(addr.0, &mut page)?;
    page.truncate(n);
    page.truncate(page.iter().position(|byte| *byte == 0).unwrap_or(n));
    Ok(page)
}

/// mount(2).
pub fn mount(current: &mut Current, source: UserAddr, target: UserAddr, kind: UserAddr, flags: u64, data: UserAddr) -> SysResult<()> {
    let kind = optional_string(current, kind)?;
    let source = optional_string(current, source)?;
    let target = read_path(current, target)?;
    let data = options(current, data)?;
    let flags = if flags & MS_MGC_MSK == MS_MGC_VAL { flags & !MS_MGC_MSK } else { flags };
    let flags = MountFlags::from_bits_truncate(flags as u32);
    let caller = current.caller();
    caller.credentials.require(Capability::SYS_ADMIN)?;
    caller.mount(&source, PathAt::cwd(&target), &kind, flags, &data)
}

/// umount2(2).
pub fn umount2(current: &mut Current, target: UserAddr, flags: u32) -> SysResult<()> {
    const FORCE: u32 = 1;
    const DETACH: u32 = 2;
    const EXPIRE: u32 = 4;
    const NOFOLLOW: u32 = 8;
    if flags & !(FORCE | DETACH | EXPIRE | NOFOLLOW) != 0 || (flags & EXPIRE != 0 && flags & (FORCE | DETACH) != 0) {
        return Err(Errno::EINVAL.into());
    }
    let target = read_path(current, target)?;
    let caller = current.caller();
    caller.credentials.require(Capability::SYS_ADMIN)?;
    let lookup = if flags & NOFOLLOW != 0 { LookupFlags::empty() } else { LookupFlags::FOLLOW };
    let path = caller.lookup(PathAt::cwd(&target), lookup)?;
    let how = if flags & DETACH != 0 { Unmount::Detach } else { Unmount::IfUnused };
    Ok(caller.unmount(path, how)?)
}

/// pivot_root(2). Every process whose root or working directory was the old root moves along.
pub fn pivot_root(current: &mut Current, new: UserAddr, put_old: UserAddr) -> SysResult<()> {
    let (new, put_old) = (read_path(current, new)?, read_path(current, put_old)?);
    let (old_root, new_root) = {
        let caller = current.caller();
        caller.credentials.require(Capability::SYS_ADMIN)?;
        caller.pivot_root(PathAt::cwd(&new), PathAt::cwd(&put_old))?
    };
    current.move_roots(&old_root, &new_root);
    Ok(())
}
