//! mremap(2): mappings that change their length or their place, and take their pages with them.

use crate::map::{HostRun, MIN_PAGE, free_place, freed_addresses, page_range};
use crate::space::{AddressSpace, Structure, TASK_PAGES};
use crate::table::{LEAF, Pte};
use crate::vma::{MAX_MAP_COUNT, Vma, VmaFlags};
use abi::arch::TASK_SIZE;
use abi::{Errno, PAGE_SHIFT, PAGE_SIZE};

bitflags::bitflags! {
    /// `MREMAP_*` of mremap(2).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct RemapFlags: u32 {
        const MAYMOVE = 1;
        const FIXED = 2;
        const DONTUNMAP = 4;
    }
}

/// Moved areas up to this many pages are shown at their new place at once.
const SHOWN_AT_ONCE: u64 = 1024;

/// A move, in pages.
struct Move {
    from: u64,
    old_len: u64,
    new_len: u64,
    /// Where to, if the caller says so.
    to: Option<u64>,
    flags: RemapFlags,
}

/// What became of it.
enum Outcome {
    At(u64),
    /// The tail of so many pages must be taken away, and then the mapping is as wanted.
    Shrink,
}

impl AddressSpace {
    /// mremap(2): answers where the mapping is now. EINVAL, EFAULT (not one mapping), ENOMEM, EAGAIN (locked), EPERM (below `vm.mmap_min_addr`).
    pub fn remap(&self, old_addr: u64, old_len: u64, new_len: u64, flags: RemapFlags, new_addr: u64) -> Result<u64, Errno> {
        let page = PAGE_SIZE as u64;
        let moves = flags.contains(RemapFlags::MAYMOVE);
        let (from, old_end) = page_range(old_addr, old_len).ok_or(Errno::EINVAL)?;
        let old_len = old_end - from;
        let new_len = new_len.checked_add(page - 1).ok_or(Errno::EINVAL)? >> PAGE_SHIFT;
        if new_len == 0
            || new_len > TASK_PAGES
            || (!moves && flags.intersects(RemapFlags::FIXED | RemapFlags::DONTUNMAP))
            || (flags.contains(RemapFlags::DONTUNMAP) && old_len != new_len)
        {
            return Err(Errno::EINVAL);
        }
        let mut to = None;
        if flags.contains(RemapFlags::FIXED) {
            let first = new_addr >> PAGE_SHIFT;
            if !new_addr.is_multiple_of(page) || new_addr > TASK_SIZE || first + new_len > TASK_PAGES {
                return Err(Errno::EINVAL);
            }
            if first < from + old_len && from < first + new_len {
                return Err(Errno::EINVAL);
            }
            if first < MIN_PAGE {
                return Err(Errno::EPERM);
            }
            to = Some(first);
        }
        let leaves = self.tables.lock().pages.leaves().min(usize::try_from(old_len.div_ceil(LEAF)).unwrap_or(usize::MAX));
        self.afford(2 * leaves + 2, 4)?;
        let (outcome, removed) = self.remap_pages(&Move { from, old_len, new_len, to, flags })?;
        drop(removed);
        let at = match outcome {
            Outcome::At(at) => at,
            Outcome::Shrink => {
                let tail = (from + new_len) << PAGE_SHIFT;
                let _ = self.unmap(tail, (old_len - new_len) << PAGE_SHIFT, HostRun::Never)?;
                from
            }
        };
        let locked = self.tables.lock().vmas.find(at).is_some_and(|vma| vma.flags.contains(VmaFlags::LOCKED));
        if locked && new_len > old_len {
            // As on Linux, what can't be brought in now does not make the call fail.
            let _ = self.populate(at + old_len, at + new_len, None);
        }
        Ok(at << PAGE_SHIFT)
    }

    fn remap_pages(&self, m: &Move) -> Result<(Outcome, Vec<Vma>), Errno> {
        let mut structure = self.structure.lock();
        let structure = &mut *structure;
        let mut tables = self.tables.lock();
        let vma = tables.vmas.find(m.from).ok_or(Errno::EFAULT)?;
        let (shared, locked, vma_end) = (vma.is_shared(), vma.flags.contains(VmaFlags::LOCKED), vma.end);
        if m.old_len == 0 && (!shared || !m.flags.contains(RemapFlags::MAYMOVE)) {
            // Length 0 makes a second mapping of the same pages: only where they are shared.
            return Err(Errno::EINVAL);
        }
        let stays = m.to.is_none() && !m.flags.contains(RemapFlags::DONTUNMAP);
        if stays && m.new_len <= m.old_len {
            return Ok((if m.new_len == m.old_len { Outcome::At(m.from) } else { Outcome::Shrink }, Vec::new()));
        }
        let kept = m.old_len.min(m.new_len);
        if m.from + kept > vma_end {
            return Err(Errno::EFAULT);
        }
        let more = if m.flags.contains(RemapFlags::DONTUNMAP) { m.new_len } else { m.new_len.saturating_sub(m.old_len) };
        if locked && tables.vmas.locked + more > structure.limits.locked >> PAGE_SHIFT {
            return Err(Errno::EAGAIN);
        }
        if !AddressSpace::fits_limits(structure, &tables, more, vma.is_data()) {
            return Err(Errno::ENOMEM);
        }
        let grown = m.from + m.new_len;
        if stays && m.old_len > 0 && m.from + m.old_len == vma_end && grown <= TASK_PAGES && tables.vmas.is_free(vma_end, grown) {
            let mut tail = vma.clone();
            (tail.first, tail.end) = (vma_end, grown);
            if let Some(backing) = &mut tail.backing {
                backing.offset += vma_end - vma.first;
            }
            tables.generation += 1;
            tables.vmas.insert(tail);
            return Ok((Outcome::At(m.from), Vec::new()));
        }
        if !m.flags.contains(RemapFlags::MAYMOVE) || tables.vmas.len() + 3 >= MAX_MAP_COUNT {
            return Err(Errno::ENOMEM);
        }
        let to = match m.to {
            Some(to) => to,
            None => free_place(structure, &tables, m.new_len)?,
        };
        drop(tables);
        let removed = self.move_pages(structure, m, to, kept);
        let _ = self.carry_out(structure);
        Ok((Outcome::At(to), removed))
    }

    /// Moves mapping and pages; gives the mappings that are gone. Entries go leaf by leaf, so that user copies of other threads get in between.
    fn move_pages(&self, structure: &mut Structure, m: &Move, to: u64, kept: u64) -> Vec<Vma> {
        let mut removed = self.move_vmas(structure, m, to);
        let mut buffer: Vec<(u64, Pte)> = Vec::new();
        let (mut lowest, mut highest) = (u64::MAX, 0);
        let mut at = m.from;
        while at < m.from + kept {
            let end = (at / LEAF * LEAF + LEAF).min(m.from + kept);
            let mut tables = self.tables.lock();
            tables.pages.for_each_mut(at, end, |page, pte| {
                if pte.has(Pte::MAPPED) {
                    (lowest, highest) = (lowest.min(page), page + 1);
                }
                buffer.push((page - m.from + to, pte.without(Pte::MAPPED | Pte::MAPPED_WRITE)));
                *pte = Pte::NONE;
            });
            for (page, pte) in buffer.drain(..) {
                tables.pages.set(page, pte);
            }
            at = tables.pages.next_leaf(end).map_or(u64::MAX, |next| next.max(end));
        }
        if lowest < highest {
            structure.batch.unmap(lowest, highest);
        }
        let mut tables = self.tables.lock();
        if m.old_len > kept {
            AddressSpace::clear_pages(structure, &mut tables, m.from + kept, m.from + m.old_len);
            removed.extend(tables.vmas.remove(m.from + kept, m.from + m.old_len));
        }
        if !m.flags.contains(RemapFlags::DONTUNMAP) {
            freed_addresses(structure, &tables, m.from + m.old_len);
        }
        if lowest < highest && kept <= SHOWN_AT_ONCE {
            tables.emit_maps(to, to + kept, &mut structure.batch);
        }
        self.settle(&mut tables);
        removed
    }

    /// Makes the mapping at its new place, where nothing is left, and takes the old one away.
    fn move_vmas(&self, structure: &mut Structure, m: &Move, to: u64) -> Vec<Vma> {
        let mut tables = self.tables.lock();
        tables.generation += 1;
        let mut removed = tables.vmas.remove(to, to + m.new_len);
        AddressSpace::clear_pages(structure, &mut tables, to, to + m.new_len);
        let Some(mut moved) = tables.vmas.find(m.from).cloned() else { return removed };
        if let Some(backing) = &mut moved.backing {
            backing.offset += m.from - moved.first;
        }
        (moved.first, moved.end) = (to, to + m.new_len);
        moved.pattern = Default::default();
        let kept = m.old_len.min(m.new_len);
        if m.flags.contains(RemapFlags::DONTUNMAP) {
            tables.vmas.change(m.from, m.from + kept, |vma| vma.flags -= VmaFlags::LOCKED | VmaFlags::ONFAULT);
        } else if kept > 0 {
            removed.extend(tables.vmas.remove(m.from, m.from + kept));
        }
        tables.vmas.insert(moved);
        removed
    }
}
