//! Letting go of file pages when memory runs out, and how others hold on to an address space.
//!
//! Page caches never free a page that somebody maps; address spaces let go of clean ones first. A page that the stub shows gets a second chance:
//! it is only taken out of the stub, and goes if it has not been faulted in again when the hand comes round.
//!
//! Objects and `ram` know an address space by its [`Handle`], which does not keep it alive for longer than a call. Should that call turn out to be
//! the last to hold it, it is not dropped there and then, since that lets go of files and the caller may hold any lock: it is buried later, by a task
//! that holds none.

use crate::space::{AddressSpace, Structure, TASK_PAGES, Tables};
use crate::table::Pte;
use crate::vma::VmaFlags;
use ram::Reclaim;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use sync::SpinLock;
use vfs::Mapper;

/// Pages that get a second chance for each that is wanted.
const CHANCES: usize = 4;

/// Address spaces that wait for somebody without locks to drop them.
static DEAD: SpinLock<Vec<AddressSpace>> = SpinLock::new(Vec::new());
static DEAD_COUNT: AtomicUsize = AtomicUsize::new(0);

/// What others know an address space by.
pub(crate) struct Handle(Weak<AddressSpace>);

impl Handle {
    pub fn new(space: Weak<AddressSpace>) -> Arc<Handle> {
        Arc::new(Handle(space))
    }

    fn with<R: Default>(&self, act: impl FnOnce(&AddressSpace) -> R) -> R {
        let Some(space) = self.0.upgrade() else { return R::default() };
        let result = act(&space);
        if let Some(space) = Arc::into_inner(space) {
            DEAD.lock().push(space);
            DEAD_COUNT.fetch_add(1, Ordering::Release);
        }
        result
    }
}

/// Drops the address spaces that somebody with locks was the last to hold. Called with no lock held.
pub(crate) fn bury_the_dead() {
    if DEAD_COUNT.load(Ordering::Acquire) > 0 {
        let dead = std::mem::take(&mut *DEAD.lock());
        DEAD_COUNT.fetch_sub(dead.len(), Ordering::Release);
    }
}

impl Mapper for Handle {
    fn unmap_object(&self, id: u64, first: u64, end: u64, private_too: bool) {
        self.with(|space| space.unmap_object(id, first, end, private_too));
    }
    fn write_protect_object(&self, id: u64, first: u64, end: u64) {
        self.with(|space| space.write_protect_object(id, first, end));
    }
}

impl Reclaim for Handle {
    fn reclaim(&self, _: usize) -> usize {
        0
    }
    fn let_go(&self, frames: usize) -> usize {
        self.with(|space| space.let_go(frames))
    }
}

impl AddressSpace {
    /// Lets go of about `want` clean pages of files that are not locked; answers how many.
    fn let_go(&self, want: usize) -> usize {
        let mut structure = self.structure.lock();
        let structure = &mut *structure;
        let mut let_go = 0;
        {
            let mut tables = self.tables.lock();
            if tables.pages.resident().file == 0 {
                return 0;
            }
            tables.generation += 1;
            // Each stretch twice: the second time, what had its second chance has had it.
            for first in [structure.hand, structure.hand, 0, 0] {
                let_go += sweep(structure, &mut tables, first, want - let_go);
                if let_go >= want {
                    break;
                }
            }
        }
        let _ = self.carry_out(structure);
        let_go
    }
}

/// Goes through file pages from `first` on until `want` have been let go, or many more have had their second chance; leaves the hand where it
/// stopped.
fn sweep(structure: &mut Structure, tables: &mut Tables, first: u64, want: usize) -> usize {
    let (mut let_go, mut chances) = (0, 0);
    let Tables { vmas, pages, .. } = tables;
    for vma in vmas.overlapping(first, TASK_PAGES) {
        let file = vma.backing.as_ref().and_then(|backing| backing.file.as_ref());
        if vma.flags.contains(VmaFlags::LOCKED) || file.is_none() {
            continue;
        }
        let (batch, released, hand) = (&mut structure.batch, &mut structure.released, &mut structure.hand);
        pages.for_each_mut(first.max(vma.first), vma.end, |page, pte| {
            if let_go >= want || chances >= CHANCES * want || !pte.has(Pte::OBJECT) || pte.has(Pte::SHMEM | Pte::DIRTY) {
                return;
            }
            *hand = page + 1;
            if pte.has(Pte::MAPPED | Pte::ACCESSED) {
                if pte.has(Pte::MAPPED) {
                    batch.unmap(page, page + 1);
                }
                chances += 1;
                *pte = pte.without(Pte::MAPPED | Pte::MAPPED_WRITE | Pte::ACCESSED);
            } else {
                released.push(pte.pfn());
                *pte = Pte::NONE;
                let_go += 1;
            }
        });
        if let_go >= want || chances >= CHANCES * want {
            return let_go;
        }
    }
    structure.hand = 0;
    let_go
}
