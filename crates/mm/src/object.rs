//! What objects ask of the address spaces that map them: to let go of pages, and to write-protect them.
//!
//! Called from truncation, write-back and reclaim, with page and inode locks held and possibly while memory is being allocated for this very
//! space: only the last of the sleeping locks is taken here, and nothing is allocated.

use crate::space::{AddressSpace, Structure};
use crate::table::Pte;
use crate::vma::VmaTree;
use vfs::Mapper;

/// The pages at which object `id` has its pages `first..end`.
fn ranges(vmas: &VmaTree, id: u64, first: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
    vmas.iter().filter_map(move |vma| {
        let backing = vma.backing.as_ref().filter(|backing| backing.pages.id() == id)?;
        let from = first.max(backing.offset);
        let to = end.min(backing.offset + vma.pages());
        (from < to).then(|| (vma.first + (from - backing.offset), vma.first + (to - backing.offset)))
    })
}

impl Mapper for AddressSpace {
    fn unmap_object(&self, id: u64, first: u64, end: u64, private_too: bool) {
        self.change_object(id, first, end, |page, pte, structure| {
            if pte.has(Pte::OBJECT) || private_too {
                if pte.has(Pte::MAPPED) {
                    structure.batch.unmap(page, page + 1);
                }
                structure.released.push(pte.pfn());
                *pte = Pte::NONE;
            }
        });
    }

    fn write_protect_object(&self, id: u64, first: u64, end: u64) {
        self.change_object(id, first, end, |page, pte, structure| {
            if pte.has(Pte::OBJECT) && !pte.has(Pte::GUARDED) {
                *pte = pte.with(Pte::GUARDED).without(Pte::DIRTY);
                if pte.has(Pte::MAPPED_WRITE) {
                    *pte = pte.without(Pte::MAPPED_WRITE);
                    structure.batch.protect(page, page + 1, pte.host_protection());
                }
            }
        });
    }
}

impl AddressSpace {
    /// Changes every entry where object `id` is mapped with its pages `first..end`, and has the stub follow.
    fn change_object(&self, id: u64, first: u64, end: u64, mut change: impl FnMut(u64, &mut Pte, &mut Structure)) {
        let mut structure = self.structure.lock();
        let structure = &mut *structure;
        {
            let mut tables = self.tables.lock();
            let tables = &mut *tables;
            tables.epoch += 1;
            tables.generation += 1;
            for (first, end) in ranges(&tables.vmas, id, first, end) {
                tables.pages.for_each_mut(first, end, |page, pte| change(page, pte, structure));
            }
        }
        let _ = self.carry_out(structure);
    }
}
