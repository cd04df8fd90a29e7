//! madvise(2), msync(2), mincore(2), mlock(2) and their like: what is done to the pages of mappings that stay.

use crate::fault::FaultError;
use crate::map::page_range;
use crate::space::{AddressSpace, Structure, Tables};
use crate::vma::{MappedFile, Vma, VmaFlags};
use abi::raw::general as linux;
use abi::{Errno, PAGE_SHIFT, PAGE_SIZE};
use platform::Access;
use std::sync::Arc;

/// What madvise(2) is told, `MADV_*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Advice {
    /// Nothing that we act on: how pages will be used, huge pages, what to reclaim first.
    Hint,
    /// As [`Advice::Hint`], but not for locked pages (`MADV_COLD`, `MADV_PAGEOUT`).
    Cold,
    DontNeed,
    /// As [`Advice::DontNeed`], locked pages too.
    DontNeedLocked,
    Free,
    /// Flags of the mapping to set or clear.
    Set(VmaFlags),
    Clear(VmaFlags),
    PopulateRead,
    PopulateWrite,
    /// What our file systems do not do (`MADV_REMOVE`).
    Remove,
}

impl Advice {
    /// By number; `None` for one that a Linux without huge-page merging and memory failure handling refuses (EINVAL).
    #[must_use]
    pub fn from_raw(advice: i32) -> Option<Advice> {
        Some(match u32::try_from(advice).ok()? {
            linux::MADV_NORMAL | linux::MADV_RANDOM | linux::MADV_SEQUENTIAL | linux::MADV_WILLNEED => Advice::Hint,
            linux::MADV_HUGEPAGE | linux::MADV_NOHUGEPAGE => Advice::Hint,
            linux::MADV_COLD | linux::MADV_PAGEOUT => Advice::Cold,
            linux::MADV_DONTNEED => Advice::DontNeed,
            linux::MADV_DONTNEED_LOCKED => Advice::DontNeedLocked,
            linux::MADV_FREE => Advice::Free,
            linux::MADV_REMOVE => Advice::Remove,
            linux::MADV_DONTFORK => Advice::Set(VmaFlags::DONTFORK),
            linux::MADV_DOFORK => Advice::Clear(VmaFlags::DONTFORK),
            linux::MADV_WIPEONFORK => Advice::Set(VmaFlags::WIPEONFORK),
            linux::MADV_KEEPONFORK => Advice::Clear(VmaFlags::WIPEONFORK),
            linux::MADV_DONTDUMP => Advice::Set(VmaFlags::DONTDUMP),
            linux::MADV_DODUMP => Advice::Clear(VmaFlags::DONTDUMP),
            linux::MADV_POPULATE_READ => Advice::PopulateRead,
            linux::MADV_POPULATE_WRITE => Advice::PopulateWrite,
            _ => return None,
        })
    }

    /// Why it can't be given to this mapping.
    fn refused(self, vma: &Vma) -> Result<(), Errno> {
        let locked = vma.flags.contains(VmaFlags::LOCKED);
        let refused = match self {
            Advice::DontNeed | Advice::Cold => locked,
            Advice::Free => vma.backing.is_some() || vma.is_shared(),
            Advice::Set(flags) if flags.contains(VmaFlags::WIPEONFORK) => vma.backing.is_some() || vma.is_shared(),
            Advice::Remove => return Err(Errno::EOPNOTSUPP),
            _ => false,
        };
        if refused { Err(Errno::EINVAL) } else { Ok(()) }
    }
}

/// How msync(2) is to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Msync {
    /// `MS_SYNC`: wait until it is done.
    pub wait: bool,
    /// `MS_INVALIDATE`.
    pub invalidate: bool,
}

impl AddressSpace {
    /// madvise(2). EINVAL; ENOMEM where nothing is mapped, though what is mapped has been advised; EFAULT (populate).
    pub fn advise(&self, addr: u64, len: u64, advice: Advice) -> Result<(), Errno> {
        let (first, end) = page_range(addr, len).ok_or(Errno::EINVAL)?;
        if first == end {
            return Ok(());
        }
        let populate = match advice {
            Advice::PopulateRead => Some(Access::Read),
            Advice::PopulateWrite => Some(Access::Write),
            _ => None,
        };
        if let Some(access) = populate {
            if !self.tables.lock().vmas.covers(first, end) {
                return Err(Errno::ENOMEM);
            }
            return self.populate(first, end, Some(access)).map_err(|error| match error {
                FaultError::Oom => Errno::ENOMEM,
                FaultError::NO_RIGHT => Errno::EINVAL,
                _ => Errno::EFAULT,
            });
        }
        self.afford(0, 2)?;
        let mut structure = self.structure.lock();
        let structure = &mut *structure;
        let mut tables = self.tables.lock();
        // As far as the first mapping that refuses; holes are told of in the end.
        let mut to = end;
        let mut result = if tables.vmas.covers(first, end) { Ok(()) } else { Err(Errno::ENOMEM) };
        if let Some((at, errno)) = tables.vmas.overlapping(first, end).find_map(|vma| Some((vma.first, advice.refused(vma).err()?))) {
            (to, result) = (at.max(first), Err(errno));
        }
        if first < to {
            apply(advice, structure, &mut tables, first, to, self.ram.is_scarce())?;
        }
        self.settle(&mut tables);
        drop(tables);
        let _ = self.carry_out(structure);
        result
    }

    /// msync(2). EINVAL (alignment), ENOMEM (not all mapped), EBUSY (to invalidate locked pages), EIO and whatever the file says.
    pub fn sync(&self, addr: u64, len: u64, how: Msync) -> Result<(), Errno> {
        let aligned = addr.is_multiple_of(PAGE_SIZE as u64);
        let (first, end) = page_range(addr, len).ok_or(if aligned { Errno::ENOMEM } else { Errno::EINVAL })?;
        let mut files: Vec<(Arc<dyn MappedFile>, u64, u64)> = Vec::new();
        let covered = {
            let tables = self.tables.lock();
            for vma in tables.vmas.overlapping(first, end) {
                if how.invalidate && vma.flags.contains(VmaFlags::LOCKED) {
                    return Err(Errno::EBUSY);
                }
                if let Some(file) = vma.backing.as_ref().and_then(|b| b.file.clone()).filter(|_| how.wait && vma.is_shared()) {
                    files.push((file, vma.index(first.max(vma.first)), vma.index(vma.first) + (end.min(vma.end) - vma.first)));
                }
            }
            first == end || tables.vmas.covers(first, end)
        };
        for (file, first, end) in files {
            file.sync_pages(first, end)?;
        }
        if covered { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// mincore(2): a byte for each page, 1 if it is in memory. EINVAL (alignment), ENOMEM (not all mapped). The caller asks for a few pages at a time.
    pub fn in_core(&self, addr: u64, len: u64) -> Result<Vec<u8>, Errno> {
        let aligned = addr.is_multiple_of(PAGE_SIZE as u64);
        let (first, end) = page_range(addr, len).ok_or(if aligned { Errno::ENOMEM } else { Errno::EINVAL })?;
        let tables = self.tables.lock();
        if first < end && !tables.vmas.covers(first, end) {
            return Err(Errno::ENOMEM);
        }
        let mut bytes = Vec::new();
        for vma in tables.vmas.overlapping(first, end) {
            for page in first.max(vma.first)..end.min(vma.end) {
                let cached = || vma.backing.as_ref().is_some_and(|b| b.pages.page_if_cached(vma.index(page)).is_some());
                bytes.push(u8::from(tables.pages.get(page).is_present() || cached()));
            }
        }
        Ok(bytes)
    }

    /// mlock(2), mlock2(2) with `on_fault`. ENOMEM (not all mapped, over the limit), EPERM (the limit is 0), EINVAL.
    pub fn lock_pages(&self, addr: u64, len: u64, on_fault: bool) -> Result<(), Errno> {
        let (first, end) = lock_range(addr, len)?;
        let flags = VmaFlags::LOCKED | if on_fault { VmaFlags::ONFAULT } else { VmaFlags::empty() };
        {
            let structure = self.structure.lock();
            let tables = self.tables.lock();
            let limit = structure.limits.locked >> PAGE_SHIFT;
            if limit == 0 {
                return Err(Errno::EPERM);
            }
            let already: u64 = tables
                .vmas
                .overlapping(first, end)
                .filter(|vma| vma.flags.contains(VmaFlags::LOCKED))
                .map(|vma| vma.end.min(end) - vma.first.max(first))
                .sum();
            if tables.vmas.locked + (end - first) - already > limit {
                return Err(Errno::ENOMEM);
            }
        }
        self.change_locked(first, end, flags)?;
        if on_fault {
            return Ok(());
        }
        self.populate(first, end, None).map_err(|error| if error == FaultError::Oom { Errno::EAGAIN } else { Errno::ENOMEM })
    }

    /// munlock(2). ENOMEM (not all mapped), EINVAL.
    pub fn unlock_pages(&self, addr: u64, len: u64) -> Result<(), Errno> {
        let (first, end) = lock_range(addr, len)?;
        self.change_locked(first, end, VmaFlags::empty())
    }

    /// mlockall(2): now, from now on, or both; munlockall(2) if neither. ENOMEM (over the limit), EPERM.
    pub fn lock_all(&self, current: bool, future: bool, on_fault: bool) -> Result<(), Errno> {
        let flags = VmaFlags::LOCKED | if on_fault { VmaFlags::ONFAULT } else { VmaFlags::empty() };
        let all = crate::space::TASK_PAGES;
        {
            let mut structure = self.structure.lock();
            let limit = structure.limits.locked >> PAGE_SHIFT;
            if (current || future) && limit == 0 {
                return Err(Errno::EPERM);
            }
            if current && self.tables.lock().vmas.total > limit {
                return Err(Errno::ENOMEM);
            }
            structure.lock_future = if future { flags } else { VmaFlags::empty() };
        }
        if current || !future {
            // What is mapped is what is meant: holes are no error here.
            let _ = self.change_locked(0, all, if current { flags } else { VmaFlags::empty() });
        }
        if current && !on_fault {
            let _ = self.populate(0, all, None);
        }
        Ok(())
    }

    fn change_locked(&self, first: u64, end: u64, flags: VmaFlags) -> Result<(), Errno> {
        self.afford(0, 2)?;
        let _structure = self.structure.lock();
        let mut tables = self.tables.lock();
        AddressSpace::check_map_count(&tables, tables.vmas.splits(first, end))?;
        let covered = first == end || tables.vmas.covers(first, end);
        tables.generation += 1;
        tables.vmas.change(first, end, |vma| vma.flags = vma.flags.difference(VmaFlags::LOCKED | VmaFlags::ONFAULT) | flags);
        if covered { Ok(()) } else { Err(Errno::ENOMEM) }
    }
}

/// mlock's range: every page with a byte of it.
fn lock_range(addr: u64, len: u64) -> Result<(u64, u64), Errno> {
    let page = PAGE_SIZE as u64;
    let end = addr.checked_add(len).ok_or(Errno::EINVAL)?;
    page_range(addr / page * page, end - addr / page * page).ok_or(Errno::ENOMEM)
}

fn apply(advice: Advice, structure: &mut Structure, tables: &mut Tables, first: u64, end: u64, scarce: bool) -> Result<(), Errno> {
    match advice {
        Advice::DontNeed | Advice::DontNeedLocked => {
            tables.generation += 1;
            AddressSpace::clear_pages(structure, tables, first, end);
        }
        // The pages may go at any time, and do when somebody needs them.
        Advice::Free if scarce => {
            tables.generation += 1;
            AddressSpace::clear_pages(structure, tables, first, end);
        }
        Advice::Set(flags) | Advice::Clear(flags) => {
            AddressSpace::check_map_count(tables, tables.vmas.splits(first, end))?;
            tables.generation += 1;
            tables.vmas.change(first, end, |vma| vma.flags.set(flags, matches!(advice, Advice::Set(_))));
        }
        _ => {}
    }
    Ok(())
}
