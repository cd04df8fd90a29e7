//! What `/proc` and the out-of-memory killer want to know.

use crate::space::AddressSpace;
use crate::table::{Pte, Resident};
use crate::vma::{MappedFile, VmaFlags};
use abi::{PAGE_SHIFT, PAGE_SIZE};
use platform::Protection;
use ram::Pfn;
use std::sync::Arc;

/// Sums over an address space, in pages.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Usage {
    /// All mappings (`VmSize`).
    pub total: u64,
    /// Private writable ones but for stacks (`VmData`).
    pub data: u64,
    /// Locked ones (`VmLck`).
    pub locked: u64,
    /// Stacks (`VmStk`).
    pub stack: u64,
    /// Executable ones (`VmExe` and `VmLib`).
    pub code: u64,
    /// Present ones (`VmRSS`).
    pub resident: Resident,
    /// Bytes of page tables (`VmPTE`).
    pub table_bytes: u64,
    /// Number of mappings.
    pub mappings: usize,
}

/// A mapping as `/proc/PID/maps` and `smaps` show it.
#[derive(Clone)]
pub struct VmaInfo {
    /// Addresses.
    pub start: u64,
    pub end: u64,
    pub rights: Protection,
    pub flags: VmaFlags,
    /// Byte offset in the object.
    pub offset: u64,
    pub file: Option<Arc<dyn MappedFile>>,
    /// The object's id, for mappings of objects.
    pub object: Option<u64>,
    /// `[heap]`, `[stack]`, `[vdso]`.
    pub name: Option<&'static str>,
}

/// What `smaps` says of a mapping's pages; bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Smaps {
    pub resident: u64,
    /// Resident bytes divided by how many have each page.
    pub proportional: u64,
    pub shared_clean: u64,
    pub shared_dirty: u64,
    pub private_clean: u64,
    pub private_dirty: u64,
    pub referenced: u64,
    pub anonymous: u64,
}

impl AddressSpace {
    /// Sums for `/proc/PID/status` and `statm`.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let tables = self.tables.lock();
        let sum = |counts: &dyn Fn(&crate::vma::Vma) -> bool| -> u64 {
            tables.vmas.iter().filter(|vma| counts(vma)).map(crate::vma::Vma::pages).sum()
        };
        Usage {
            total: tables.vmas.total,
            data: tables.vmas.data,
            locked: tables.vmas.locked,
            stack: sum(&|vma| vma.flags.contains(VmaFlags::GROWSDOWN)),
            code: sum(&|vma| vma.rights.contains(Protection::EXEC) && !vma.rights.contains(Protection::WRITE)),
            resident: tables.pages.resident(),
            table_bytes: (tables.pages.leaves() * PAGE_SIZE) as u64,
            mappings: tables.vmas.len(),
        }
    }

    /// How bad a process with this address space is for memory: pages that its end would free (`oom_badness` before adjustment, in pages).
    #[must_use]
    pub fn badness(&self) -> u64 {
        let tables = self.tables.lock();
        tables.pages.resident().total() + tables.pages.leaves() as u64
    }

    /// Goes through the mappings in order. `visit` is called with no lock held; what changes meanwhile may be seen or not.
    pub fn for_each_vma(&self, mut visit: impl FnMut(&VmaInfo)) {
        let mut next = 0;
        while let Some(info) = self.vma_at_or_above(next) {
            visit(&info);
            next = info.end;
        }
    }

    /// The mapping that has `addr`, or else the next one above.
    #[must_use]
    pub fn vma_at_or_above(&self, addr: u64) -> Option<VmaInfo> {
        let structure = self.structure.lock();
        let tables = self.tables.lock();
        let vma = tables.vmas.at_or_above(addr >> PAGE_SHIFT)?;
        let (start, end) = (vma.first << PAGE_SHIFT, vma.end << PAGE_SHIFT);
        let is_heap = vma.backing.is_none() && start < structure.brk && end > structure.layout.start_brk;
        let is_stack = start <= structure.layout.start_stack && structure.layout.start_stack < end;
        let name = if is_heap {
            Some("[heap]")
        } else if is_stack {
            Some("[stack]")
        } else {
            None
        };
        Some(VmaInfo {
            start,
            end,
            rights: vma.rights,
            flags: vma.flags,
            offset: vma.backing.as_ref().map_or(0, |b| b.offset << PAGE_SHIFT),
            file: vma.backing.as_ref().and_then(|b| b.file.clone()),
            object: vma.backing.as_ref().map(|b| b.pages.id()),
            name: vma.name.or(name),
        })
    }

    /// What `smaps` says of the pages at `start..end`.
    #[must_use]
    pub fn smaps(&self, start: u64, end: u64) -> Smaps {
        let tables = self.tables.lock();
        let mut sums = Smaps::default();
        tables.pages.for_each(start >> PAGE_SHIFT, end >> PAGE_SHIFT, |_, pte| {
            let page = PAGE_SIZE as u64;
            // The object's own reference does not count as a user of the page.
            let users = u64::from(self.ram.count(pte.pfn())).saturating_sub(u64::from(pte.has(Pte::OBJECT))).max(1);
            sums.resident += page;
            sums.proportional += page / users;
            let sum = match (users > 1, pte.has(Pte::DIRTY)) {
                (true, false) => &mut sums.shared_clean,
                (true, true) => &mut sums.shared_dirty,
                (false, false) => &mut sums.private_clean,
                (false, true) => &mut sums.private_dirty,
            };
            *sum += page;
            sums.referenced += if pte.has(Pte::ACCESSED) { page } else { 0 };
            sums.anonymous += if pte.has(Pte::OBJECT) { 0 } else { page };
        });
        sums
    }

    /// The entry of `/proc/PID/pagemap` for the page of `addr`: bit 63 present, bit 61 of a file or shared, bit 56 mapped once, bits 0 to 54 the frame.
    #[must_use]
    pub fn pagemap(&self, addr: u64) -> u64 {
        let pte = self.tables.lock().pages.get(addr >> PAGE_SHIFT);
        if !pte.is_present() {
            return 0;
        }
        let once = self.ram.count(pte.pfn()) == 1 + u32::from(pte.has(Pte::OBJECT));
        1 << 63 | u64::from(pte.has(Pte::OBJECT)) << 61 | u64::from(once) << 56 | u64::from(pte.pfn())
    }

    /// The frame at the page of `addr` and what a stub may allow there, for tests that compare the two.
    #[must_use]
    pub fn page_state(&self, addr: u64) -> Option<(Pfn, Protection)> {
        let pte = self.tables.lock().pages.get(addr >> PAGE_SHIFT);
        pte.is_present().then(|| (pte.pfn(), pte.host_protection()))
    }
}
