//! Mapping memory: mmap(2), munmap(2), mprotect(2), brk(2) and their kin. The address space does the work.

use crate::data::file;
use abi::raw::general as raw;
use abi::{Errno, SysResult};
use mm::{Backing, Changed, HostRun, MapFlags, Mapping};
use platform::Protection;
use std::sync::Arc;
use task::Current;
use task::mapped::FileMapping;
use vfs::{Fd, MapAccess, MapRequest, MountFlags, OpenFile};

fn rights(prot: u32) -> Protection {
    // PROT_GROWSDOWN and the like are for mprotect alone; other bits mmap ignores.
    Protection::from_bits_truncate((prot & 7) as u8)
}

/// Flags of mmap(2) that change nothing here: hints, and what old binaries say.
const HINTS: u32 = raw::MAP_DENYWRITE | raw::MAP_EXECUTABLE | raw::MAP_STACK | raw::MAP_UNINITIALIZED;

/// mmap(2).
pub fn mmap(current: &mut Current, addr: u64, len: u64, prot: u32, flags: u32, fd: Fd, offset: u64) -> SysResult<u64> {
    let page = abi::PAGE_SIZE as u64;
    if !offset.is_multiple_of(page) {
        return Err(Errno::EINVAL.into());
    }
    let is_anonymous = flags & raw::MAP_ANONYMOUS != 0;
    if flags & raw::MAP_HUGETLB != 0 {
        // No pages of that size are set aside.
        return Err(if is_anonymous { Errno::ENOMEM } else { Errno::EINVAL }.into());
    }
    let kind = flags & raw::MAP_TYPE;
    let shared = match kind {
        raw::MAP_SHARED | raw::MAP_SHARED_VALIDATE => true,
        raw::MAP_PRIVATE => false,
        _ => return Err(Errno::EINVAL.into()),
    };
    let known = MapFlags::all().bits() | HINTS | raw::MAP_TYPE;
    if kind == raw::MAP_SHARED_VALIDATE && flags & !known != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let mut wanted = MapFlags::from_bits_truncate(flags & !raw::MAP_TYPE);
    wanted |= if shared { MapFlags::SHARED } else { MapFlags::PRIVATE };
    let rights = rights(prot);
    let mapping = if is_anonymous {
        Mapping { addr, len, rights, max_rights: Protection::all(), flags: wanted, backing: None, name: None }
    } else {
        let file = file(current, fd)?;
        file_mapping(&file, addr, len, rights, wanted, offset)?
    };
    Ok(current.memory().map(mapping)?)
}

fn file_mapping(file: &Arc<OpenFile>, addr: u64, len: u64, rights: Protection, flags: MapFlags, offset: u64) -> SysResult<Mapping> {
    let shared = flags.contains(MapFlags::SHARED);
    let mut access = MapAccess::from_bits_truncate(u32::from(rights.bits()));
    access.set(MapAccess::SHARED, shared);
    if len == 0 {
        return Err(Errno::EINVAL.into());
    }
    if offset.checked_add(len).is_none() {
        return Err(Errno::EOVERFLOW.into());
    }
    let no_exec = file.path().mount.all_flags().contains(MountFlags::NOEXEC);
    if no_exec && rights.contains(Protection::EXEC) {
        return Err(Errno::EPERM.into());
    }
    let pages = file.mmap(&MapRequest { offset, len, access })?;
    let mut max_rights = Protection::all();
    if shared && !file.flags().can_write() {
        max_rights.remove(Protection::WRITE);
    }
    if no_exec {
        max_rights.remove(Protection::EXEC);
    }
    let backing = Backing { pages, file: Some(FileMapping::of(file)), offset: offset / abi::PAGE_SIZE as u64 };
    Ok(Mapping { addr, len, rights, max_rights, flags, backing: Some(backing), name: None })
}

/// Whether the host may run the guest's own call: with one thread nothing runs in between.
fn host_run(current: &Current) -> HostRun {
    if current.is_alone_in_memory() { HostRun::Allowed } else { HostRun::Never }
}

fn changed(current: &mut Current, change: Changed) -> SysResult<()> {
    match change {
        Changed::Done => Ok(()),
        Changed::LetHostRun(deferred) => {
            current.let_host_run(deferred);
            Ok(())
        }
    }
}

/// munmap(2).
pub fn munmap(current: &mut Current, addr: u64, len: u64) -> SysResult<()> {
    let change = current.memory().unmap(addr, len, host_run(current))?;
    changed(current, change)
}

/// mprotect(2).
pub fn mprotect(current: &mut Current, addr: u64, len: u64, prot: u32) -> SysResult<()> {
    if prot & (raw::PROT_GROWSDOWN | raw::PROT_GROWSUP) != 0 || prot & !7 & !(raw::PROT_GROWSDOWN | raw::PROT_GROWSUP | raw::PROT_SEM) != 0
    {
        return Err(Errno::EINVAL.into());
    }
    let change = current.memory().protect(addr, len, rights(prot), host_run(current))?;
    changed(current, change)
}

/// brk(2), as the kernel has it: answers where the heap ends.
pub fn brk(current: &mut Current, addr: u64) -> SysResult<u64> {
    let memory = current.memory();
    if addr == 0 {
        return Ok(memory.brk(0));
    }
    let old = memory.brk(0);
    let end = memory.brk(addr);
    let page = abi::PAGE_SIZE as u64;
    // The page that the old end lies in was there before.
    let new = old.next_multiple_of(page)..end;
    if end == addr && !new.is_empty() {
        // A program that asks for heap stores at its beginning at once. What can't be had now is left to fault.
        let at_once = new.start..end.min(new.start.saturating_add(HEAP_AT_ONCE_PAGES * page));
        let _ = memory.premap(&[(at_once, platform::Access::Write)]);
    }
    Ok(end)
}

/// Pages of new heap that are there as soon as it grows.
const HEAP_AT_ONCE_PAGES: u64 = 8;

/// mremap(2).
pub fn mremap(current: &mut Current, old: u64, old_len: u64, new_len: u64, flags: u32, new: u64) -> SysResult<u64> {
    let flags = mm::RemapFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    Ok(current.memory().remap(old, old_len, new_len, flags, new)?)
}

/// madvise(2).
pub fn madvise(current: &mut Current, addr: u64, len: u64, advice: i32) -> SysResult<()> {
    let advice = mm::Advice::from_raw(advice).ok_or(Errno::EINVAL)?;
    Ok(current.memory().advise(addr, len, advice)?)
}

/// msync(2).
pub fn msync(current: &mut Current, addr: u64, len: u64, flags: u32) -> SysResult<()> {
    const SYNC_AND_ASYNC: u32 = raw::MS_SYNC | raw::MS_ASYNC;
    if flags & !(SYNC_AND_ASYNC | raw::MS_INVALIDATE) != 0 || flags & SYNC_AND_ASYNC == SYNC_AND_ASYNC {
        return Err(Errno::EINVAL.into());
    }
    let how = mm::Msync { wait: flags & raw::MS_SYNC != 0, invalidate: flags & raw::MS_INVALIDATE != 0 };
    Ok(current.memory().sync(addr, len, how)?)
}

/// mincore(2).
pub fn mincore(current: &mut Current, addr: u64, len: u64, out: u64) -> SysResult<()> {
    let resident = current.memory().in_core(addr, len)?;
    Ok(vfs::UserMemory::write_all(&**current.memory(), out, &resident)?)
}

/// mlock(2).
pub fn mlock(current: &mut Current, addr: u64, len: u64) -> SysResult<()> {
    Ok(current.memory().lock_pages(addr, len, false)?)
}

/// mlock2(2).
pub fn mlock2(current: &mut Current, addr: u64, len: u64, flags: u32) -> SysResult<()> {
    if flags & !raw::MLOCK_ONFAULT != 0 {
        return Err(Errno::EINVAL.into());
    }
    Ok(current.memory().lock_pages(addr, len, flags != 0)?)
}

/// munlock(2).
pub fn munlock(current: &mut Current, addr: u64, len: u64) -> SysResult<()> {
    Ok(current.memory().unlock_pages(addr, len)?)
}

/// mlockall(2).
pub fn mlockall(current: &mut Current, flags: u32) -> SysResult<()> {
    let (now, future, on_fault) = (raw::MCL_CURRENT, raw::MCL_FUTURE, raw::MCL_ONFAULT);
    if flags == 0 || flags & !(now | future | on_fault) != 0 || flags == on_fault {
        return Err(Errno::EINVAL.into());
    }
    Ok(current.memory().lock_all(flags & now != 0, flags & future != 0, flags & on_fault != 0)?)
}

/// munlockall(2).
pub fn munlockall(current: &mut Current) -> SysResult<()> {
    Ok(current.memory().lock_all(false, false, false)?)
}
