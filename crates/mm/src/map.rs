//! mmap(2), munmap(2) and brk(2): making mappings and taking them away.

use crate::space::{AddressSpace, Structure, TASK_PAGES, Tables};
use crate::table::Pte;
use crate::vma::{Backing, Pattern, Vma, VmaFlags, counts_as_data};
use abi::arch::{MMAP_MIN_ADDR, TASK_SIZE};
use abi::{Errno, PAGE_SHIFT, PAGE_SIZE};
use platform::{GuestSpace, MapCommand, Protection, SpaceGone};
use ram::{Pfn, RUN_FRAMES, Ram};
use std::sync::Arc;

const PAGE_MASK: u64 = PAGE_SIZE as u64 - 1;
/// The lowest page that may be mapped without privilege.
pub(crate) const MIN_PAGE: u64 = MMAP_MIN_ADDR >> PAGE_SHIFT;

bitflags::bitflags! {
    /// `MAP_*` of mmap(2), with their values. [`MapFlags::SHARED`] with [`MapFlags::PRIVATE`] is `MAP_SHARED_VALIDATE`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct MapFlags: u32 {
        const SHARED = 0x1;
        const PRIVATE = 0x2;
        const FIXED = 0x10;
        const ANONYMOUS = 0x20;
        const GROWSDOWN = 0x100;
        const LOCKED = 0x2000;
        const NORESERVE = 0x4000;
        const POPULATE = 0x8000;
        const NONBLOCK = 0x1_0000;
        const FIXED_NOREPLACE = 0x10_0000;
    }
}

/// What mmap(2) asks for. The caller has looked at the descriptor: its access mode gave [`Mapping::max_rights`], and device files may have given
/// pages of their own.
#[derive(Clone)]
pub struct Mapping {
    /// Wish or order, by the flags.
    pub addr: u64,
    /// Bytes.
    pub len: u64,
    pub rights: Protection,
    /// Rights that mprotect(2) may give later.
    pub max_rights: Protection,
    pub flags: MapFlags,
    /// What is mapped; none for anonymous memory (shared anonymous memory gets an object here).
    pub backing: Option<Backing>,
    /// A name for `/proc/PID/maps` instead of a path.
    pub name: Option<&'static str>,
}

impl Mapping {
    /// Private anonymous memory.
    #[must_use]
    pub fn anonymous(addr: u64, len: u64, rights: Protection, flags: MapFlags) -> Mapping {
        let flags = flags | MapFlags::ANONYMOUS | MapFlags::PRIVATE;
        Mapping { addr, len, rights, max_rights: Protection::all(), flags, backing: None, name: None }
    }
    /// Pages of an object from page `backing.offset` on.
    #[must_use]
    pub fn of(backing: Backing, addr: u64, len: u64, rights: Protection, flags: MapFlags) -> Mapping {
        Mapping { addr, len, rights, max_rights: Protection::all(), flags, backing: Some(backing), name: None }
    }
}

/// Whether the caller can let the host run the very call that the guest made, instead of a command: only in an address space with one thread,
/// which runs nothing between this and the host's call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostRun {
    Allowed,
    Never,
}

/// How a change ended.
#[must_use]
pub enum Changed {
    /// It is complete.
    Done,
    /// The host must run the guest's own call when the thread goes on ([`platform::GuestThread::let_host_run`]).
    LetHostRun(Deferred),
}

/// What must happen in the stub, and the frames that must wait for it. Drop it at the thread's next stop; or, if the host will not run the call
/// after all, run it with [`Deferred::run_now`].
pub struct Deferred {
    space: Arc<dyn GuestSpace>,
    ram: &'static Ram,
    command: MapCommand,
    released: Vec<Pfn>,
}

impl Deferred {
    pub(crate) fn new(space: &AddressSpace, command: MapCommand, released: Vec<Pfn>) -> Deferred {
        Deferred { space: space.space.clone(), ram: space.ram, command, released }
    }
    /// Does what the host would have done.
    pub fn run_now(self) -> Result<(), SpaceGone> {
        self.space.map(&[self.command])
    }
}

impl Drop for Deferred {
    fn drop(&mut self) {
        self.ram.release(&self.released);
    }
}

/// The pages of `addr..addr+len`, `len` rounded up; `None` if that is not in the address space or `addr` is not at a page.
pub(crate) fn page_range(addr: u64, len: u64) -> Option<(u64, u64)> {
    let len = len.checked_add(PAGE_MASK)? & !PAGE_MASK;
    let end = addr.checked_add(len).filter(|end| *end <= TASK_SIZE)?;
    (addr & PAGE_MASK == 0).then_some((addr >> PAGE_SHIFT, end >> PAGE_SHIFT))
}

impl AddressSpace {
    /// mmap(2): makes a mapping, answers its address. Errors as there: EINVAL, ENOMEM, EEXIST, EPERM (below `vm.mmap_min_addr`), EAGAIN (locked).
    pub fn map(&self, mut mapping: Mapping) -> Result<u64, Errno> {
        let flags = mapping.flags;
        let shared = flags.contains(MapFlags::SHARED);
        if mapping.len == 0 || !flags.intersects(MapFlags::SHARED | MapFlags::PRIVATE) {
            return Err(Errno::EINVAL);
        }
        if flags.contains(MapFlags::GROWSDOWN) && (shared || mapping.backing.is_some()) {
            return Err(Errno::EINVAL);
        }
        let len = mapping.len.checked_add(PAGE_MASK).ok_or(Errno::ENOMEM)? >> PAGE_SHIFT;
        if len > TASK_PAGES {
            return Err(Errno::ENOMEM);
        }
        if mapping.backing.as_ref().is_some_and(|b| b.offset.checked_add(len).is_none_or(|end| end > u64::MAX >> PAGE_SHIFT)) {
            return Err(Errno::EOVERFLOW);
        }
        if shared && mapping.backing.is_none() {
            let pages = crate::shared::SharedMemory::new(self.ram, len)?;
            mapping.backing = Some(Backing { pages, file: None, offset: 0 });
        }
        let mut vma = Vma {
            first: 0,
            end: len,
            rights: mapping.rights,
            max_rights: mapping.max_rights,
            flags: vma_flags(flags),
            backing: mapping.backing.take(),
            name: mapping.name,
            pattern: Pattern::default(),
        };
        self.register(&vma);
        self.afford(0, 3)?;
        let replaced = self.place_and_insert(&mapping, &mut vma)?;
        let (first, locked) = (vma.first, vma.flags.contains(VmaFlags::LOCKED) && !vma.flags.contains(VmaFlags::ONFAULT));
        drop((replaced, vma));
        if locked || (flags.contains(MapFlags::POPULATE) && !flags.contains(MapFlags::NONBLOCK)) {
            // As on Linux, what can't be brought in now does not make the call fail.
            let _ = self.populate(first, first + len, None);
            let _ = self.show(&[(first, first + len)]);
        }
        Ok(first << PAGE_SHIFT)
    }

    /// The part of mmap that is done under the lock; gives what was replaced.
    fn place_and_insert(&self, mapping: &Mapping, vma: &mut Vma) -> Result<Vec<Vma>, Errno> {
        let len = vma.end;
        let mut structure = self.structure.lock();
        let structure = &mut *structure;
        let mut tables = self.tables.lock();
        vma.flags |= structure.lock_future;
        let first = find_place(structure, &tables, mapping, len)?;
        (vma.first, vma.end) = (first, first + len);
        let replaced_pages: u64 =
            tables.vmas.overlapping(vma.first, vma.end).map(|old| old.end.min(vma.end) - old.first.max(vma.first)).sum();
        let more = len - replaced_pages.min(len);
        if !AddressSpace::fits_limits(structure, &tables, more, counts_as_data(vma.rights, vma.flags)) {
            return Err(Errno::ENOMEM);
        }
        if vma.flags.contains(VmaFlags::LOCKED) && tables.vmas.locked + len > structure.limits.locked >> PAGE_SHIFT {
            return Err(Errno::EAGAIN);
        }
        // Linux's guess at obvious overcommitment (`vm.overcommit_memory` 0): more in one piece than there is RAM.
        if vma.is_data() && !vma.flags.contains(VmaFlags::NORESERVE) && more > self.ram.frames() as u64 {
            return Err(Errno::ENOMEM);
        }
        AddressSpace::check_map_count(&tables, 1 + tables.vmas.splits(vma.first, vma.end))?;
        if !tables.can_afford(0, 3) {
            return Err(Errno::ENOMEM);
        }
        tables.generation += 1;
        let replaced = tables.vmas.remove(vma.first, vma.end);
        if !replaced.is_empty() {
            AddressSpace::clear_pages(structure, &mut tables, vma.first, vma.end);
        }
        tables.vmas.insert(vma.clone());
        drop(tables);
        // A stub that is gone is found out when the thread goes on.
        let _ = self.carry_out(structure);
        Ok(replaced)
    }

    /// munmap(2). EINVAL, ENOMEM (too many mappings). Answers whether the host must still run the call.
    pub fn unmap(&self, addr: u64, len: u64, host: HostRun) -> Result<Changed, Errno> {
        let (first, end) = page_range(addr, len).filter(|(first, end)| first < end).ok_or(Errno::EINVAL)?;
        self.afford(0, 1)?;
        let (changed, removed) = self.unmap_pages(first, end, host)?;
        // With no lock held: this may let go of files.
        drop(removed);
        Ok(changed)
    }

    fn unmap_pages(&self, first: u64, end: u64, host: HostRun) -> Result<(Changed, Vec<Vma>), Errno> {
        let mut structure = self.structure.lock();
        let structure = &mut *structure;
        let mut tables = self.tables.lock();
        // A hole in the middle makes one more; otherwise splitting makes no more than are taken away.
        if tables.vmas.find(first).is_some_and(|vma| vma.first < first && end < vma.end) {
            AddressSpace::check_map_count(&tables, 1)?;
        }
        tables.generation += 1;
        let removed = tables.vmas.remove(first, end);
        AddressSpace::clear_pages(structure, &mut tables, first, end);
        freed_addresses(structure, &tables, end);
        self.settle(&mut tables);
        drop(tables);
        if host == HostRun::Allowed && !structure.batch.is_empty() && !structure.nears_host_limit() {
            // The batch is one unmap of a part of the call's range; the rest has nothing mapped.
            structure.batch.clear();
            structure.host_maps += 2;
            let released = std::mem::take(&mut structure.released);
            let command = MapCommand::Unmap { addr: first << PAGE_SHIFT, len: (end - first) << PAGE_SHIFT };
            return Ok((Changed::LetHostRun(Deferred::new(self, command, released)), removed));
        }
        // A stub that is gone is found out when the thread goes on.
        let _ = self.carry_out(structure);
        Ok((Changed::Done, removed))
    }

    /// brk(2) as the kernel has it: moves the heap's end to `addr` if that can be, and answers where it is.
    pub fn brk(&self, addr: u64) -> u64 {
        let (old, start, data) = {
            let structure = self.structure.lock();
            let data = structure.layout.data.end.saturating_sub(structure.layout.data.start);
            (structure.brk, structure.layout.start_brk, data)
        };
        if start == 0 || addr < start || addr > TASK_SIZE {
            return old;
        }
        let page_up = |at: u64| at.div_ceil(PAGE_SIZE as u64);
        let (old_end, new_end) = (page_up(old), page_up(addr));
        if new_end < old_end {
            // Nobody lets the host run this: brk's arguments are not those of munmap.
            if self.unmap(new_end << PAGE_SHIFT, (old_end - new_end) << PAGE_SHIFT, HostRun::Never).is_err() {
                return old;
            }
        } else if new_end > old_end && self.grow_heap(old_end, new_end, (addr - start).saturating_add(data)).is_err() {
            return old;
        }
        let mut structure = self.structure.lock();
        if structure.brk != old {
            // Another thread moved it meanwhile: its word stands, and this call failed.
            return structure.brk;
        }
        structure.brk = addr;
        addr
    }

    fn grow_heap(&self, first: u64, end: u64, data_bytes: u64) -> Result<(), Errno> {
        let data = self.structure.lock().limits.data;
        // Linux counts the program's data here, too.
        let above = self.tables.lock().vmas.at_or_above(first).map(|vma| vma.first);
        if data_bytes > data || above.is_some_and(|above| above < end + 1) {
            return Err(Errno::ENOMEM);
        }
        let flags = MapFlags::FIXED_NOREPLACE;
        let rights = Protection::READ | Protection::WRITE;
        self.map(Mapping::anonymous(first << PAGE_SHIFT, (end - first) << PAGE_SHIFT, rights, flags)).map(|_| ())
    }
}

/// Addresses up to `end` have become free: the search for a place begins above them again.
pub(crate) fn freed_addresses(structure: &mut Structure, tables: &Tables, end: u64) {
    let (mark, hole) = structure.search;
    if end > mark {
        let base = structure.layout.mmap_base >> PAGE_SHIFT;
        let next = tables.vmas.at_or_above(end).map_or(base, |vma| vma.first.min(base));
        structure.search = (next, hole);
    }
}

fn vma_flags(flags: MapFlags) -> VmaFlags {
    let mut out = VmaFlags::empty();
    out.set(VmaFlags::SHARED, flags.contains(MapFlags::SHARED));
    out.set(VmaFlags::GROWSDOWN, flags.contains(MapFlags::GROWSDOWN));
    out.set(VmaFlags::LOCKED, flags.contains(MapFlags::LOCKED));
    out.set(VmaFlags::NORESERVE, flags.contains(MapFlags::NORESERVE));
    out
}

/// Where a mapping of `len` pages goes.
fn find_place(structure: &mut Structure, tables: &Tables, mapping: &Mapping, len: u64) -> Result<u64, Errno> {
    if mapping.flags.intersects(MapFlags::FIXED | MapFlags::FIXED_NOREPLACE) {
        if mapping.addr & PAGE_MASK != 0 {
            return Err(Errno::EINVAL);
        }
        let first = mapping.addr >> PAGE_SHIFT;
        if first + len > TASK_PAGES {
            return Err(Errno::ENOMEM);
        }
        if first < MIN_PAGE {
            return Err(Errno::EPERM);
        }
        let taken = tables.vmas.overlapping(first, first + len).next().is_some();
        if mapping.flags.contains(MapFlags::FIXED_NOREPLACE) && taken {
            return Err(Errno::EEXIST);
        }
        return Ok(first);
    }
    let hint = mapping.addr.checked_add(PAGE_MASK).unwrap_or(0) >> PAGE_SHIFT;
    if hint != 0 {
        let hint = hint.max(MIN_PAGE);
        if hint + len <= TASK_PAGES && tables.vmas.is_free(hint, hint + len) {
            return Ok(hint);
        }
    }
    free_place(structure, tables, len)
}

/// The highest free place below the mapping base, or else anywhere. Larger areas are aligned to a run of frames, so that the host merges what is
/// mapped there.
pub(crate) fn free_place(structure: &mut Structure, tables: &Tables, len: u64) -> Result<u64, Errno> {
    let base = (structure.layout.mmap_base >> PAGE_SHIFT).min(TASK_PAGES);
    let align = if len >= RUN_FRAMES as u64 { RUN_FRAMES as u64 } else { 1 };
    // Every hole above the mark is too small for anything as long as this, so the search need not begin at the top.
    let (mark, hole) = structure.search;
    let from = if len.saturating_add(align) > hole { mark.min(base) } else { base };
    let (found, passed) = tables.vmas.gap_below(len, MIN_PAGE, from, align);
    if let Some(at) = found {
        structure.search = (at, if from == base { passed } else { passed.max(hole) });
        return Ok(at);
    }
    let anywhere =
        |align| tables.vmas.gap_below(len, MIN_PAGE, base, align).0.or_else(|| tables.vmas.gap_below(len, base, TASK_PAGES, align).0);
    structure.search = (base, 0);
    anywhere(align).or_else(|| anywhere(1)).ok_or(Errno::ENOMEM)
}

impl AddressSpace {
    /// Brings in the pages of `first..end` that are mapped, for `access` or for what each mapping allows. Stops at the first that can't be had.
    pub(crate) fn populate(&self, first: u64, end: u64, access: Option<platform::Access>) -> Result<(), crate::FaultError> {
        let mut page = first;
        while page < end {
            let (missing, next, how) = {
                let tables = self.tables.lock();
                let Some(vma) = tables.vmas.at_or_above(page).filter(|vma| vma.first < end) else { return Ok(()) };
                let from = page.max(vma.first);
                let to = vma.end.min(end).min(from + crate::table::LEAF);
                // A private writable page is copied at once, as Linux does, so that nothing is left to do on the first store.
                let write = vma.rights.contains(Protection::WRITE) && !vma.is_shared();
                let how = access.unwrap_or(if write { platform::Access::Write } else { platform::Access::Read });
                let done = |pte: Pte| if how == platform::Access::Write { pte.writable() } else { pte.readable() };
                let mut at = from;
                tables.pages.for_each(from, to, |page, pte| at += u64::from(page == at && done(pte)));
                (at, to, how)
            };
            if missing >= next {
                page = next;
                continue;
            }
            match self.bring_in(missing, how, crate::fault::Who::Kernel) {
                Ok(()) => page = missing + 1,
                Err(crate::FaultError::NO_RIGHT) if access.is_none() => page = next,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Brings in the pages of these ranges of addresses, each for its access, and shows them all to the stub in one batch: what exec(2) does with
    /// the first pages of text, data, bss and stack. Pages that can't be had are left to fault.
    pub fn premap(&self, ranges: &[(std::ops::Range<u64>, platform::Access)]) -> Result<(), crate::FaultError> {
        let pages: Vec<(u64, u64)> =
            ranges.iter().map(|(r, _)| (r.start >> PAGE_SHIFT, r.end.div_ceil(PAGE_SIZE as u64).min(TASK_PAGES))).collect();
        for ((first, end), (_, access)) in pages.iter().zip(ranges) {
            if let Err(error @ (crate::FaultError::Gone | crate::FaultError::Oom)) = self.populate(*first, *end, Some(*access)) {
                return Err(error);
            }
        }
        self.show(&pages).map_err(|_| crate::FaultError::Gone)
    }

    /// Shows the stub whatever is present in these ranges of pages.
    fn show(&self, ranges: &[(u64, u64)]) -> Result<(), SpaceGone> {
        let mut structure = self.structure.lock();
        let structure = &mut *structure;
        let mut tables = self.tables.lock();
        tables.generation += 1;
        for (first, end) in ranges {
            tables.emit_maps(*first, *end, &mut structure.batch);
        }
        drop(tables);
        self.carry_out(structure)
    }
}
