//! fork(2): a second address space with the same pages, each private one shared until somebody stores to it.
//!
//! The parent's private pages become guarded, and what its stub has mapped writable is write-protected with one command for each row of pages.
//! Pages that will surely be written at once (stack, thread-local storage, those copied since the last fork) are copied here and now, and
//! stay writable in the parent; so are those that earlier children stored to first (`lessons`). The child's copies, the text around its
//! instruction pointer and the rows of pages that earlier children touched first are shown to its stub in one batch.
//!
//! Both structure locks are held, the parent's first; nobody else has the child yet but the objects that it maps, which take only one.

use crate::lessons::{Lessons, Pupil, ROW};
use crate::space::{AddressSpace, Structure, TASK_PAGES, Tables};
use crate::table::{LEAF, LEAF_BYTES, Pte};
use crate::vma::{VMA_BYTES, Vma, VmaFlags};
use abi::{Errno, PAGE_SHIFT, PAGE_SIZE};
use platform::{GuestSpace, Protection};
use ram::{Pfn, Ram};
use std::ops::Range;
use std::sync::Arc;

/// Pages copied at once, at most.
const EAGER: usize = 40;

/// Pages to copy for the child: from the parent's frame to the child's.
struct Eager {
    pages: Vec<u64>,
    /// What earlier children did.
    lessons: Lessons,
    frames: Vec<Pfn>,
    copies: Vec<(u64, Pfn, Pfn)>,
}

impl AddressSpace {
    /// fork(2)'s half of memory: a copy of this address space in `space`, which is empty. `hot` are addresses that parent or child will use at
    /// once: instruction and stack pointer, thread-local storage. ENOMEM; the space is then still empty.
    pub fn fork(&self, space: Arc<dyn GuestSpace>, hot: &[u64]) -> Result<Arc<AddressSpace>, Errno> {
        loop {
            let (bytes, limits, layout, vmas) = {
                let structure = self.structure.lock();
                let tables = self.tables.lock();
                let bytes = tables.pages.leaves() * LEAF_BYTES + tables.vmas.len() * VMA_BYTES;
                let files: Vec<Vma> = tables.vmas.iter().filter(|vma| vma.backing.is_some()).cloned().collect();
                (bytes, structure.limits, structure.layout.clone(), files)
            };
            let child = AddressSpace::with(self.ram, space.clone(), limits, layout, bytes + 2 * (LEAF_BYTES + VMA_BYTES))?;
            // Before any page is shared, so that no truncation is missed.
            for vma in &vmas {
                child.register(vma);
            }
            drop(vmas);
            let mut eager = self.eager(hot);
            let done = self.fork_into(&child, hot, &mut eager);
            self.ram.release(&eager.frames);
            if done {
                return Ok(child);
            }
        }
    }

    /// The pages worth copying now, and frames for them, as far as memory allows.
    fn eager(&self, hot: &[u64]) -> Eager {
        let mut pages: Vec<u64> = hot.iter().map(|addr| addr >> PAGE_SHIFT).collect();
        let lessons = self.tables.lock().lessons.lock().for_a_child();
        if !self.ram.is_scarce() {
            pages.extend(self.tables.lock().hot.iter().filter(|page| **page != u64::MAX));
            pages.extend(lessons.stored());
        }
        pages.sort_unstable();
        pages.dedup();
        pages.truncate(EAGER);
        let mut frames = vec![0; pages.len()];
        if self.ram.is_scarce() || self.ram.alloc_pfns(false, &mut frames).is_err() {
            (pages, frames) = (Vec::new(), Vec::new());
        }
        Eager { pages, lessons, frames, copies: Vec::new() }
    }

    /// Copies mappings and pages; `false` when what was counted before the locks were taken no longer holds.
    fn fork_into(&self, child: &AddressSpace, hot: &[u64], eager: &mut Eager) -> bool {
        let mut ours = self.structure.lock();
        let ours = &mut *ours;
        let mut theirs = child.structure.lock();
        let theirs = &mut *theirs;
        {
            let tables = self.tables.lock();
            let unknown = |vma: &Vma| vma.backing.as_ref().is_some_and(|b| !theirs.is_known_to(&b.pages));
            let mut copy = child.tables.lock();
            if tables.vmas.iter().any(unknown) || !copy.can_afford(tables.pages.leaves(), tables.vmas.len()) {
                return false;
            }
            for vma in tables.vmas.iter().filter(|vma| !vma.flags.contains(VmaFlags::DONTFORK)) {
                let mut vma = vma.clone();
                // Locks are not inherited, mlock(2).
                vma.flags -= VmaFlags::LOCKED | VmaFlags::ONFAULT;
                copy.vmas.insert(vma);
            }
        }
        (theirs.brk, theirs.search) = (ours.brk, ours.search);
        // Leaf by leaf, so that user copies of other threads get in between; entries stay as they are, since we hold the structure lock.
        let mut next = 0;
        loop {
            let mut tables = self.tables.lock();
            let Some(first) = tables.pages.next_leaf(next) else { break };
            share_leaf(self.ram, &mut tables, &mut child.tables.lock(), first, ours, eager);
            next = first + LEAF;
        }
        let _ = self.carry_out(ours);
        for (page, from, to) in &eager.copies {
            self.ram.copy(*from, 0, *to, 0, PAGE_SIZE);
            let mut copy = child.tables.lock();
            let rights = copy.vmas.find(*page).map_or(Protection::empty(), |vma| vma.rights);
            copy.pages.set(*page, Pte::new(*to, rights, Pte::DIRTY | Pte::ACCESSED));
        }
        {
            let mut tables = self.tables.lock();
            tables.generation += 1;
            tables.hot.fill(u64::MAX);
        }
        let mut copy = child.tables.lock();
        for (page, _, _) in &eager.copies {
            copy.emit_maps(*page, page + 1, &mut theirs.batch);
        }
        let hot = hot.iter().map(|addr| addr >> PAGE_SHIFT).filter(|page| copy.pages.get(*page).rights().contains(Protection::EXEC));
        let mut rows: Vec<u64> = hot.map(|page| page / ROW * ROW).chain(eager.lessons.rows()).collect();
        rows.sort_unstable();
        rows.dedup();
        for first in rows {
            copy.emit_maps(first, (first + ROW).min(TASK_PAGES), &mut theirs.batch);
        }
        copy.pupil = Some(Pupil::new(self.tables.lock().lessons.clone()));
        drop(copy);
        let _ = child.carry_out(theirs);
        true
    }
}

/// What a mapping's pages become in the child.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inherit {
    Shared,
    Private,
    Nothing,
}

/// Shares the pages of one leaf with the child, guards the private ones, and puts the write protection that this takes into the batch.
fn share_leaf(ram: &Ram, tables: &mut Tables, copy: &mut Tables, first: u64, ours: &mut Structure, eager: &mut Eager) {
    let Tables { vmas, pages, .. } = tables;
    // The mapping that the entries are going through: pages `.0`, and what becomes of them.
    let mut at = (0..0, Inherit::Nothing);
    // Pages that were mapped read-only already may lie inside a row to protect, but not at its ends.
    let mut row: Option<(Range<u64>, Protection)> = None;
    let batch = &mut ours.batch;
    let mut flush = |row: Option<(Range<u64>, Protection)>| {
        if let Some((pages, protection)) = row {
            batch.protect(pages.start, pages.end, protection);
        }
    };
    let mut row_seen = 0;
    pages.for_each_mut(first, first + LEAF, |page, pte| {
        if !at.0.contains(&page) {
            at = vmas.find(page).map_or((page..page + 1, Inherit::Nothing), |vma| (vma.first..vma.end, inherit(vma)));
        }
        if at.1 == Inherit::Nothing {
            return;
        }
        let bare = pte.without(Pte::MAPPED | Pte::MAPPED_WRITE | Pte::ACCESSED);
        if at.1 == Inherit::Private {
            // A page that is guarded already would only become the child's by a fault of its own: worth it where children are known to store.
            let eager_here = eager.pages.binary_search(&page).is_ok()
                && (!pte.has(Pte::GUARDED | Pte::OBJECT) || eager.lessons.stored().any(|stored| stored == page));
            if let Some(to) = eager_here.then(|| eager.frames.pop()).flatten() {
                eager.copies.push((page, pte.pfn(), to));
                return;
            }
            let was_writable = pte.has(Pte::MAPPED_WRITE);
            *pte = pte.with(Pte::GUARDED).without(Pte::MAPPED_WRITE);
            if pte.has(Pte::MAPPED) {
                let protection = pte.host_protection();
                match &mut row {
                    Some((pages, same)) if row_seen == page && *same == protection => {
                        if was_writable {
                            pages.end = page + 1;
                        }
                    }
                    _ => {
                        flush(row.take());
                        row = was_writable.then(|| (page..page + 1, protection));
                    }
                }
                row_seen = page + 1;
            }
        }
        ram.share(pte.pfn());
        copy.pages.set(page, if at.1 == Inherit::Private { bare.with(Pte::GUARDED) } else { bare });
    });
    flush(row);
}

fn inherit(vma: &Vma) -> Inherit {
    if vma.flags.intersects(VmaFlags::DONTFORK | VmaFlags::WIPEONFORK) {
        Inherit::Nothing
    } else if vma.is_shared() {
        Inherit::Shared
    } else {
        Inherit::Private
    }
}
