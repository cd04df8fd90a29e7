//! The address space itself: its two locks, its limits, its account with `ram`, and how commands reach the stub.
//!
//! * `structure` (sleeping) is held for the whole of every change, until the stub has carried it out. Nothing is allocated, no file is asked and
//!   no reference to a file is dropped while it is held, because whoever reclaims memory or truncates a file comes back here
//!   ([`vfs::Mapper`]) and takes it, with page and journal locks held: it is the last of the sleeping locks.
//! * `tables` (short) guards the mappings and the page table. Whoever changes them holds both; whoever looks, this one only: user copies do not
//!   wait for the stub.
//!
//! Always true: a frame that left the page table is released only after the stub has carried out the command that takes it away.

use crate::batch::Batch;
use crate::lessons::{Lessons, Pupil};
use crate::reclaim::Handle;
use crate::table::{LEAF_BYTES, PageTable, Pte};
use crate::vma::{MAX_MAP_COUNT, VMA_BYTES, Vma, VmaFlags, VmaTree};
use abi::arch::TASK_SIZE;
use abi::{Errno, PAGE_SHIFT, PAGE_SIZE};
use platform::{GuestSpace, SpaceGone};
use ram::{Charge, Pfn, Ram};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use sync::{Mutex, Rank, SpinLock};
use vfs::Pages;

/// Pages below [`TASK_SIZE`].
pub(crate) const TASK_PAGES: u64 = TASK_SIZE >> PAGE_SHIFT;
/// Mappings in the stub at which it is emptied; the host allows 65,530 (`vm.max_map_count`).
const HOST_MAPS_FULL: usize = 60_000;
/// What an account is topped up by beyond what is needed, bytes.
const SPARE_BYTES: usize = 2 * LEAF_BYTES + 4 * VMA_BYTES;
/// What an address space is charged beyond its mappings and leaves.
const SPACE_BYTES: usize = size_of::<AddressSpace>() + size_of::<Lessons>();
/// Pages remembered as written soon after the last fork.
const HOT: usize = 24;

/// A number that is not that of any other address space.
pub type SpaceId = u64;
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Limits on an address space, getrlimit(2); bytes, `u64::MAX` for none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// `RLIMIT_AS`.
    pub address_space: u64,
    /// `RLIMIT_DATA`.
    pub data: u64,
    /// `RLIMIT_STACK`.
    pub stack: u64,
    /// `RLIMIT_MEMLOCK`; none with `CAP_IPC_LOCK`.
    pub locked: u64,
}

impl Default for Limits {
    /// What Linux gives the first process.
    fn default() -> Limits {
        Limits { address_space: u64::MAX, data: u64::MAX, stack: 8 << 20, locked: 8 << 20 }
    }
}

/// Where things are in an address space, as exec(2) laid them out and `PR_SET_MM` may say otherwise. Addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Mappings without a place of their own go below this.
    pub mmap_base: u64,
    /// The program's code and initialised data.
    pub code: Range<u64>,
    pub data: Range<u64>,
    /// Where the heap begins.
    pub start_brk: u64,
    /// In the stack's first page.
    pub start_stack: u64,
    /// The argument and environment strings.
    pub arg: Range<u64>,
    pub env: Range<u64>,
}

impl Default for Layout {
    fn default() -> Layout {
        Layout { mmap_base: TASK_SIZE - (1 << 30), code: 0..0, data: 0..0, start_brk: 0, start_stack: 0, arg: 0..0, env: 0..0 }
    }
}

/// What belongs to the sleeping lock alone.
pub(crate) struct Structure {
    pub batch: Batch,
    /// Frames that are released once the batch is carried out.
    pub released: Vec<Pfn>,
    pub limits: Limits,
    pub layout: Layout,
    /// Where the heap ends.
    pub brk: u64,
    /// Where the search for free addresses begins, in pages, and the longest hole above that.
    pub search: (u64, u64),
    /// mlockall(2) with `MCL_FUTURE`: flags that new mappings get.
    pub lock_future: VmaFlags,
    /// Objects that know of this space, by id. An object that is gone keeps its place in memory as long as it is here, so none is mistaken for it.
    pub known_to: BTreeMap<u64, Weak<dyn Pages>>,
    /// Page at which letting go goes on.
    pub hand: u64,
    /// An upper bound of the stub's mappings.
    pub host_maps: usize,
    /// Whether the stub was ever told anything.
    pub shown: bool,
}

impl Structure {
    /// Whether the object knows of this space.
    pub fn is_known_to(&self, pages: &Arc<dyn Pages>) -> bool {
        self.known_to.get(&pages.id()).is_some_and(|known| std::ptr::addr_eq(known.as_ptr(), Arc::as_ptr(pages)))
    }
    /// Whether the batch could bring the stub near the host's limit of mappings.
    pub fn nears_host_limit(&self) -> bool {
        self.host_maps + 2 * self.batch.commands().len() >= HOST_MAPS_FULL
    }
}

/// What the short lock guards.
pub(crate) struct Tables {
    pub vmas: VmaTree,
    pub pages: PageTable,
    /// Changes whenever mappings or entries do (but for `DIRTY` and `ACCESSED`).
    pub generation: u64,
    /// Changes whenever an object took its pages back or write-protected them.
    pub epoch: u64,
    pub hot: [u64; HOT],
    pub next_hot: usize,
    /// What its children did first.
    pub lessons: Arc<SpinLock<Lessons>>,
    /// It was forked a moment ago, and its parent wants to know what it does first.
    pub pupil: Option<Pupil>,
    charge: Charge,
}

/// A guest address space. It is dropped with the last task that uses it, and then empties its stub.
pub struct AddressSpace {
    pub(crate) id: SpaceId,
    pub(crate) ram: &'static Ram,
    pub(crate) space: Arc<dyn GuestSpace>,
    /// What objects and `ram` know this space by.
    pub(crate) handle: Arc<Handle>,
    pub(crate) structure: Mutex<Structure>,
    pub(crate) tables: SpinLock<Tables>,
}

impl Tables {
    fn used_bytes(&self) -> usize {
        self.pages.leaves() * LEAF_BYTES + self.vmas.len() * VMA_BYTES
    }
    /// Whether so many leaves and mappings more are paid for.
    pub fn can_afford(&self, leaves: usize, vmas: usize) -> bool {
        self.used_bytes() + leaves * LEAF_BYTES + vmas * VMA_BYTES <= self.charge.len_bytes()
    }
    /// Notes that `page` is written often.
    pub fn note_hot(&mut self, page: u64) {
        if !self.hot.contains(&page) {
            self.hot[self.next_hot] = page;
            self.next_hot = (self.next_hot + 1) % HOT;
        }
    }
    /// Tells the parent of a space that was forked a moment ago what it faulted on, but for pages that the parent never had.
    pub fn learn(&mut self, page: u64, stores: bool, new: bool) {
        if !new && self.pupil.as_mut().is_some_and(|pupil| !pupil.note(page, stores)) {
            self.pupil = None;
        }
    }
    /// Puts whatever in `first..end` the stub should have and has not into the batch.
    pub fn emit_maps(&mut self, first: u64, end: u64, batch: &mut Batch) {
        self.pages.for_each_mut(first, end, |page, pte| {
            if pte.wants_mapping() {
                batch.map(page, pte.pfn(), pte.host_protection());
                *pte = pte.mapped();
            }
        });
    }
}

impl AddressSpace {
    /// An empty address space shown in `space`, which is empty too. ENOMEM.
    pub fn new(ram: &'static Ram, space: Arc<dyn GuestSpace>, limits: Limits) -> Result<Arc<AddressSpace>, Errno> {
        AddressSpace::with(ram, space, limits, Layout::default(), SPARE_BYTES)
    }

    pub(crate) fn with(
        ram: &'static Ram,
        space: Arc<dyn GuestSpace>,
        limits: Limits,
        layout: Layout,
        bytes: usize,
    ) -> Result<Arc<AddressSpace>, Errno> {
        let charge = ram.charge(SPACE_BYTES + bytes)?;
        let structure = Structure {
            batch: Batch::default(),
            released: Vec::new(),
            limits,
            search: (layout.mmap_base >> PAGE_SHIFT, 0),
            brk: layout.start_brk,
            layout,
            lock_future: VmaFlags::empty(),
            known_to: BTreeMap::new(),
            hand: 0,
            host_maps: 0,
            shown: false,
        };
        let tables = Tables {
            vmas: VmaTree::default(),
            pages: PageTable::default(),
            generation: 0,
            epoch: 0,
            hot: [u64::MAX; HOT],
            next_hot: 0,
            lessons: Arc::default(),
            pupil: None,
            charge,
        };
        crate::reclaim::bury_the_dead();
        let space = Arc::new_cyclic(|me| AddressSpace {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            ram,
            space,
            handle: Handle::new(me.clone()),
            structure: Mutex::ranked(Rank::SleepingLeaf, structure),
            tables: SpinLock::ranked(Rank::PageTable, tables),
        });
        let handle: Weak<Handle> = Arc::downgrade(&space.handle);
        ram.register_reclaim(handle);
        Ok(space)
    }

    /// A number that no other address space ever has.
    #[must_use]
    pub fn id(&self) -> SpaceId {
        self.id
    }
    /// The stub that shows it.
    #[must_use]
    pub fn guest_space(&self) -> &Arc<dyn GuestSpace> {
        &self.space
    }
    /// The RAM that its pages are in.
    #[must_use]
    pub fn ram(&self) -> &'static Ram {
        self.ram
    }
    /// Sets the limits that hold from now on.
    pub fn set_limits(&self, limits: Limits) {
        self.structure.lock().limits = limits;
    }
    /// Where things are.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.structure.lock().layout.clone()
    }
    /// Says where things are; the heap is empty from then on if its beginning changes.
    pub fn set_layout(&self, layout: Layout) {
        let mut structure = self.structure.lock();
        if layout.start_brk != structure.layout.start_brk {
            structure.brk = layout.start_brk;
        }
        structure.search = (layout.mmap_base >> PAGE_SHIFT, 0);
        structure.layout = layout;
    }

    /// Sees to it that `leaves` and `vmas` more are paid for. Before any lock, since it may have to reclaim. ENOMEM.
    pub(crate) fn afford(&self, leaves: usize, vmas: usize) -> Result<(), Errno> {
        if self.tables.lock().can_afford(leaves, vmas) {
            return Ok(());
        }
        let charge = self.ram.charge(leaves * LEAF_BYTES + vmas * VMA_BYTES + SPARE_BYTES)?;
        self.tables.lock().charge.absorb(charge);
        Ok(())
    }

    /// Gives back what is paid for and not used, after mappings went.
    pub(crate) fn settle(&self, tables: &mut Tables) {
        let keep = tables.used_bytes() + SPACE_BYTES + 4 * SPARE_BYTES;
        if tables.charge.len_bytes() > keep + SPARE_BYTES {
            tables.charge.shrink_to(keep);
        }
    }

    /// Carries out the batch, then releases what waited for that. The structure lock is held, the short one is not.
    ///
    /// A batch that would bring the stub near the host's limit of mappings is replaced by one that empties it: pages fault in again.
    pub(crate) fn carry_out(&self, structure: &mut Structure) -> Result<(), SpaceGone> {
        let mut result = Ok(());
        if !structure.batch.is_empty() {
            if structure.nears_host_limit() {
                let mut tables = self.tables.lock();
                structure.host_maps = host_maps(&tables);
                if structure.host_maps > HOST_MAPS_FULL / 2 {
                    structure.batch.clear();
                    forget_host_maps(structure, &mut tables);
                }
            }
            // Each command can split a mapping of the host's in three.
            structure.host_maps += 2 * structure.batch.commands().len();
            structure.shown = true;
            result = self.space.map(structure.batch.commands());
            structure.batch.clear();
        }
        // In a space that is gone no guest code can reach them either.
        self.ram.release(&structure.released);
        structure.released.clear();
        structure.released.shrink_to(4096);
        result
    }

    /// Takes everything out of the stub, to be faulted in again. For whoever sets up a snapshot, and for tests: any present page may vanish
    /// from a stub at any time.
    pub fn drop_host_mappings(&self) -> Result<(), SpaceGone> {
        let mut structure = self.structure.lock();
        forget_host_maps(&mut structure, &mut self.tables.lock());
        self.carry_out(&mut structure)
    }

    /// Takes every mapping away: the end of the last task that uses the space, though others may still look at it.
    pub fn clear(&self) {
        // Can't fail: no mapping is split.
        let _ = self.unmap(0, TASK_SIZE, crate::HostRun::Never);
    }

    /// Whether `pages` more fit `RLIMIT_AS` (and `RLIMIT_DATA` if they are data).
    pub(crate) fn fits_limits(structure: &Structure, tables: &Tables, pages: u64, data: bool) -> bool {
        let below = |used: u64, limit: u64| used + pages <= limit >> PAGE_SHIFT;
        below(tables.vmas.total, structure.limits.address_space) && (!data || below(tables.vmas.data, structure.limits.data))
    }

    /// Takes the entries of `first..end` out: their frames go to `released`, and the batch takes them away from the stub.
    pub(crate) fn clear_pages(structure: &mut Structure, tables: &mut Tables, first: u64, end: u64) {
        let (mut lowest, mut highest) = (u64::MAX, 0);
        let released = &mut structure.released;
        tables.pages.for_each_mut(first, end, |page, pte| {
            if pte.has(Pte::MAPPED) {
                lowest = lowest.min(page);
                highest = page + 1;
            }
            released.push(pte.pfn());
            *pte = Pte::NONE;
        });
        if lowest < highest {
            structure.batch.unmap(lowest, highest);
        }
    }

    /// ENOMEM when `more` mappings would be too many.
    pub(crate) fn check_map_count(tables: &Tables, more: usize) -> Result<(), Errno> {
        if tables.vmas.len() + more > MAX_MAP_COUNT { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// Tells `vma`'s object of this space, once. Before the mapping is made, with no lock held.
    pub(crate) fn register(&self, vma: &Vma) {
        let Some(backing) = &vma.backing else { return };
        let mut structure = self.structure.lock();
        if structure.is_known_to(&backing.pages) {
            return;
        }
        // Those that are gone are taken out when there are many.
        if structure.known_to.len() >= 64 && structure.known_to.len().is_power_of_two() {
            structure.known_to.retain(|_, pages| pages.strong_count() > 0);
        }
        structure.known_to.insert(backing.pages.id(), Arc::downgrade(&backing.pages));
        drop(structure);
        let handle: Weak<Handle> = Arc::downgrade(&self.handle);
        backing.pages.register_mapper(handle);
    }
}

/// How many mappings of the host show what is mapped.
fn host_maps(tables: &Tables) -> usize {
    let mut count = 0;
    let mut next = None;
    tables.pages.for_each(0, TASK_PAGES, |page, pte| {
        if pte.has(Pte::MAPPED) {
            let this = (page, pte.pfn(), pte.host_protection());
            count += usize::from(next != Some(this));
            next = Some((page + 1, pte.pfn() + 1, this.2));
        }
    });
    count
}

fn forget_host_maps(structure: &mut Structure, tables: &mut Tables) {
    tables.generation += 1;
    tables.pages.for_each_mut(0, TASK_PAGES, |_, pte| *pte = pte.without(Pte::MAPPED | Pte::MAPPED_WRITE));
    structure.batch.unmap(1, TASK_PAGES);
    structure.host_maps = 0;
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        let mut released = Vec::new();
        self.tables.get_mut().pages.for_each_mut(0, TASK_PAGES, |_, pte| {
            released.push(pte.pfn());
            *pte = Pte::NONE;
        });
        // Even if nothing counts as mapped: a call that the host was to run may never have been run.
        if self.structure.lock().shown {
            let all = platform::MapCommand::Unmap { addr: PAGE_SIZE as u64, len: TASK_SIZE - PAGE_SIZE as u64 };
            // Gone is as good as empty.
            let _ = self.space.map(&[all]);
        }
        self.ram.release(&released);
    }
}
