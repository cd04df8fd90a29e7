//! mprotect(2): other rights for pages that are mapped.

use crate::map::{Changed, Deferred, HostRun, page_range};
use crate::space::{AddressSpace, Structure, Tables};
use crate::table::Pte;
use crate::vma::{VmaFlags, counts_as_data};
use abi::{Errno, PAGE_SHIFT};
use platform::{MapCommand, Protection};

impl AddressSpace {
    /// mprotect(2), without `PROT_GROWSDOWN`. EINVAL, ENOMEM (not all mapped, too many mappings, `RLIMIT_DATA`), EACCES (a shared mapping of a file
    /// that was not opened for writing). As on Linux, mappings before the one that failed are changed.
    pub fn protect(&self, addr: u64, len: u64, rights: Protection, host: HostRun) -> Result<Changed, Errno> {
        if !addr.is_multiple_of(abi::PAGE_SIZE as u64) {
            return Err(Errno::EINVAL);
        }
        if len == 0 {
            return Ok(Changed::Done);
        }
        let (first, end) = page_range(addr, len).filter(|(first, end)| first < end).ok_or(Errno::ENOMEM)?;
        self.afford(0, 2)?;
        let mut structure = self.structure.lock();
        let structure = &mut *structure;
        let mut tables = self.tables.lock();
        let (to, result) = how_far(structure, &tables, first, end, rights);
        if first == to {
            return result.map(|()| Changed::Done);
        }
        let splits = tables.vmas.splits(first, to);
        AddressSpace::check_map_count(&tables, splits)?;
        tables.generation += 1;
        let host_may = host == HostRun::Allowed && result.is_ok() && host_does_the_same(&tables, first, to, rights);
        tables.vmas.change(first, to, |vma| vma.rights = rights);
        let batch = &mut structure.batch;
        tables.pages.for_each_mut(first, to, |page, pte| {
            let old = pte.host_protection();
            *pte = pte.with_rights(rights);
            let new = pte.host_protection();
            if pte.has(Pte::MAPPED) && old != new {
                batch.protect(page, page + 1, new);
                *pte = pte.mapped();
            }
        });
        drop(tables);
        if host_may && !structure.batch.is_empty() && !structure.nears_host_limit() {
            structure.batch.clear();
            structure.host_maps += 2;
            let command = MapCommand::Protect { addr, len: (end - first) << PAGE_SHIFT, protection: rights };
            return Ok(Changed::LetHostRun(Deferred::new(self, command, Vec::new())));
        }
        // A stub that is gone is found out when the thread goes on.
        let _ = self.carry_out(structure);
        result.map(|()| Changed::Done)
    }
}

/// How many of the pages from `first` on may get the rights, and why not the rest.
fn how_far(structure: &Structure, tables: &Tables, first: u64, end: u64, rights: Protection) -> (u64, Result<(), Errno>) {
    let mut at = first;
    for vma in tables.vmas.overlapping(first, end) {
        if vma.first > at {
            return (at, Err(Errno::ENOMEM));
        }
        if !vma.max_rights.contains(rights) {
            return (at, Err(Errno::EACCES));
        }
        let more_data = counts_as_data(rights, vma.flags) && !vma.is_data();
        let pages = vma.end.min(end) - at;
        if more_data && tables.vmas.data + pages > structure.limits.data >> PAGE_SHIFT {
            return (at, Err(Errno::ENOMEM));
        }
        at = vma.end.min(end);
    }
    (at, if at < end { Err(Errno::ENOMEM) } else { Ok(()) })
}

/// Whether the host's own mprotect would do to the stub just what is wanted: every page is mapped there, and none that becomes writable is
/// guarded.
fn host_does_the_same(tables: &Tables, first: u64, end: u64, rights: Protection) -> bool {
    let write = rights.contains(Protection::WRITE);
    let mut at = first;
    tables.pages.for_each(first, end, |page, pte| {
        at += u64::from(page == at && pte.has(Pte::MAPPED) && !(write && pte.has(Pte::GUARDED)));
    });
    let stacks = tables.vmas.overlapping(first, end).any(|vma| vma.flags.contains(VmaFlags::GROWSDOWN));
    at == end && !stacks
}
