//! The page table of an address space: which frame is at which page, and what stands in the stub of it.
//!
//! Pages are numbered (`address >> 12`); entries lie in leaves of 512, the leaves in a tree by number.
//!
//! The table is the truth; what the stub has mapped is a cache of it. Always true, once the commands of the change under way are complete:
//! * an entry without [`Pte::MAPPED`] has nothing mapped at its page in the stub;
//! * one with it has its own frame there or nothing, never writable unless [`Pte::MAPPED_WRITE`] is set, which a [`Pte::GUARDED`] entry never has;
//! * each present entry holds one reference to its frame.
//!
//! What it is not: locking, or deciding anything (`fault`).

use platform::Protection;
use ram::Pfn;
use std::collections::BTreeMap;

/// Entries in a leaf: 2 MiB of addresses.
pub(crate) const LEAF: u64 = 512;
/// What a leaf is charged: itself and its place in the tree.
pub(crate) const LEAF_BYTES: usize = size_of::<Leaf>() + 64;

/// What is known of one page.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Pte(u64);

impl Pte {
    /// Nothing is here yet.
    pub const NONE: Pte = Pte(0);
    const PRESENT: u64 = 1;
    /// Bits 1 to 3 are the rights of the mapping, so that a user copy needs no look at the list of mappings.
    const RIGHTS: u32 = 1;
    /// A store must come to the kernel first: to copy the frame (private), or so that the page counts as dirty (shared).
    pub const GUARDED: u64 = 1 << 4;
    /// The stub may have it mapped.
    pub const MAPPED: u64 = 1 << 5;
    /// The stub may have it mapped writable.
    pub const MAPPED_WRITE: u64 = 1 << 6;
    /// Written through this mapping (as far as the kernel knows).
    pub const DIRTY: u64 = 1 << 7;
    /// Used since it was last cleared (as far as the kernel knows).
    pub const ACCESSED: u64 = 1 << 8;
    /// The frame belongs to the mapped object; without it, to this page alone and to the copies that forks made of it.
    pub const OBJECT: u64 = 1 << 9;
    /// With [`Pte::OBJECT`]: the object is shared memory rather than a file.
    pub const SHMEM: u64 = 1 << 10;
    /// The frame has just been replaced and the stub may still show the old one: nobody may use the page until the command is complete.
    pub const BUSY: u64 = 1 << 11;
    const PFN: u32 = 12;

    /// A present entry, mapped nowhere.
    pub fn new(pfn: Pfn, rights: Protection, bits: u64) -> Pte {
        Pte(u64::from(pfn) << Pte::PFN | u64::from(rights.bits()) << Pte::RIGHTS | Pte::PRESENT | bits)
    }
    pub fn is_present(self) -> bool {
        self.0 & Pte::PRESENT != 0
    }
    pub fn has(self, bit: u64) -> bool {
        self.0 & bit != 0
    }
    pub fn pfn(self) -> Pfn {
        (self.0 >> Pte::PFN) as Pfn
    }
    pub fn rights(self) -> Protection {
        Protection::from_bits_truncate((self.0 >> Pte::RIGHTS) as u8 & 7)
    }
    #[must_use]
    pub fn with(self, bits: u64) -> Pte {
        Pte(self.0 | bits)
    }
    #[must_use]
    pub fn without(self, bits: u64) -> Pte {
        Pte(self.0 & !bits)
    }
    #[must_use]
    pub fn with_rights(self, rights: Protection) -> Pte {
        Pte(self.0 & !(7 << Pte::RIGHTS) | u64::from(rights.bits()) << Pte::RIGHTS)
    }
    /// What the stub's mapping may allow. The processor can't tell reading from writing or executing: each implies it.
    pub fn host_protection(self) -> Protection {
        let mut rights = self.rights();
        if !rights.is_empty() {
            rights |= Protection::READ;
        }
        if self.has(Pte::GUARDED) {
            rights -= Protection::WRITE;
        }
        rights
    }
    /// Whether the stub's mapping is missing or allows less than it may.
    pub fn wants_mapping(self) -> bool {
        let protection = self.host_protection();
        self.is_present()
            && !protection.is_empty()
            && (!self.has(Pte::MAPPED) || (protection.contains(Protection::WRITE) && !self.has(Pte::MAPPED_WRITE)))
    }
    /// The entry once the stub has it mapped with [`Pte::host_protection`].
    #[must_use]
    pub fn mapped(self) -> Pte {
        let write = if self.host_protection().contains(Protection::WRITE) { Pte::MAPPED_WRITE } else { 0 };
        self.without(Pte::MAPPED_WRITE).with(Pte::MAPPED | write)
    }
    /// Whether the kernel may read the page for the guest just so.
    pub fn readable(self) -> bool {
        self.is_present() && !self.has(Pte::BUSY) && !self.rights().is_empty()
    }
    /// Whether it may write it just so.
    pub fn writable(self) -> bool {
        self.is_present() && !self.has(Pte::BUSY | Pte::GUARDED) && self.rights().contains(Protection::WRITE)
    }
    /// Whether a store that need not heed the rights may go to the frame.
    pub fn own(self) -> bool {
        self.is_present() && !self.has(Pte::BUSY | Pte::GUARDED) && (!self.has(Pte::OBJECT) || self.rights().contains(Protection::WRITE))
    }
    fn kind(self) -> usize {
        if !self.has(Pte::OBJECT) {
            0
        } else if !self.has(Pte::SHMEM) {
            1
        } else {
            2
        }
    }
}

/// Pages present, by kind.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Resident {
    /// Anonymous, private copies included.
    pub anon: u64,
    /// Of files.
    pub file: u64,
    /// Of shared memory.
    pub shmem: u64,
}

impl Resident {
    /// All of them.
    #[must_use]
    pub fn total(self) -> u64 {
        self.anon + self.file + self.shmem
    }
}

struct Leaf {
    entries: [Pte; LEAF as usize],
    present: u16,
}

/// See the module.
#[derive(Default)]
pub(crate) struct PageTable {
    leaves: BTreeMap<u64, Box<Leaf>>,
    resident: [u64; 3],
}

impl PageTable {
    pub fn get(&self, page: u64) -> Pte {
        self.leaves.get(&(page / LEAF)).map_or(Pte::NONE, |leaf| leaf.entries[(page % LEAF) as usize])
    }

    /// Replaces an entry, making its leaf if need be; gives what was there.
    pub fn set(&mut self, page: u64, pte: Pte) -> Pte {
        let leaf = self.leaves.entry(page / LEAF).or_insert_with(|| Box::new(Leaf { entries: [Pte::NONE; LEAF as usize], present: 0 }));
        let entry = &mut leaf.entries[(page % LEAF) as usize];
        let old = std::mem::replace(entry, pte);
        count(&mut self.resident, &mut leaf.present, old, pte);
        old
    }

    /// Makes an entry where none is present.
    pub fn set_if_none(&mut self, page: u64, make: impl FnOnce() -> Pte) {
        let leaf = self.leaves.entry(page / LEAF).or_insert_with(|| Box::new(Leaf { entries: [Pte::NONE; LEAF as usize], present: 0 }));
        let entry = &mut leaf.entries[(page % LEAF) as usize];
        if !entry.is_present() {
            *entry = make();
            count(&mut self.resident, &mut leaf.present, Pte::NONE, *entry);
        }
    }

    /// Changes a present entry by `change`; an entry that is not present stays so.
    pub fn update(&mut self, page: u64, change: impl FnOnce(Pte) -> Pte) {
        if let Some(leaf) = self.leaves.get_mut(&(page / LEAF)) {
            let entry = &mut leaf.entries[(page % LEAF) as usize];
            if entry.is_present() {
                *entry = change(*entry);
            }
        }
    }

    /// Goes through the present entries of `first..end` in order; what `visit` leaves in the entry stays (it may take it out).
    pub fn for_each_mut(&mut self, first: u64, end: u64, mut visit: impl FnMut(u64, &mut Pte)) {
        if first >= end {
            return;
        }
        let mut emptied = false;
        for (number, leaf) in self.leaves.range_mut(first / LEAF..=(end - 1) / LEAF) {
            let base = number * LEAF;
            let (from, to) = (first.saturating_sub(base) as usize, (end - base).min(LEAF) as usize);
            for (i, entry) in leaf.entries.iter_mut().enumerate().take(to).skip(from) {
                if entry.is_present() {
                    let old = *entry;
                    visit(base + i as u64, entry);
                    count(&mut self.resident, &mut leaf.present, old, *entry);
                }
            }
            emptied |= leaf.present == 0;
        }
        if emptied {
            // Only the range's own leaves: a scan of them all would make an unmap cost what the whole space costs.
            let empty: Vec<u64> =
                self.leaves.range(first / LEAF..=(end - 1) / LEAF).filter(|(_, leaf)| leaf.present == 0).map(|(n, _)| *n).collect();
            for number in empty {
                self.leaves.remove(&number);
            }
        }
    }

    /// Goes through the present entries of `first..end` in order.
    pub fn for_each(&self, first: u64, end: u64, mut visit: impl FnMut(u64, Pte)) {
        if first >= end {
            return;
        }
        for (number, leaf) in self.leaves.range(first / LEAF..=(end - 1) / LEAF) {
            let base = number * LEAF;
            let (from, to) = (first.saturating_sub(base) as usize, (end - base).min(LEAF) as usize);
            for (i, entry) in leaf.entries.iter().enumerate().take(to).skip(from) {
                if entry.is_present() {
                    visit(base + i as u64, *entry);
                }
            }
        }
    }

    /// The first page of the first leaf at or above `page` that has entries.
    pub fn next_leaf(&self, page: u64) -> Option<u64> {
        self.leaves.range(page / LEAF..).next().map(|(number, _)| number * LEAF)
    }
    /// Leaves there are.
    pub fn leaves(&self) -> usize {
        self.leaves.len()
    }
    pub fn resident(&self) -> Resident {
        Resident { anon: self.resident[0], file: self.resident[1], shmem: self.resident[2] }
    }
}

fn count(resident: &mut [u64; 3], present: &mut u16, old: Pte, new: Pte) {
    if old.is_present() {
        resident[old.kind()] -= 1;
        *present -= 1;
    }
    if new.is_present() {
        resident[new.kind()] += 1;
        *present += 1;
    }
}
