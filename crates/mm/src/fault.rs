//! Faults: from an address and an access to frames and one batch of commands.
//!
//! [`Tables::decide`] decides and changes nothing; [`AddressSpace::fault`] then fetches what is missing (frames, file pages, credit) with no lock
//! held, and [`AddressSpace::commit`] looks again whether the decision still holds before it changes anything. So a fault never waits for memory
//! or a disk while it holds what others need, and losing a race costs another look.
//!
//! How much comes with one fault was measured: 16 pages aligned around it, doubling to 128 only while each fault begins where the last ended
//! (growing on equal strides made sparse touches dear), and to 512 for pages of files that are in memory; copies in clusters from the page
//! upward that double from 4 to 128. When memory is scarce, one page at a time.

use crate::space::{AddressSpace, Structure, Tables};
use crate::table::Pte;
use crate::vma::{STACK_GUARD_GAP, Vma, VmaFlags};
use abi::arch::MMAP_MIN_ADDR;
use abi::{Errno, PAGE_SHIFT, Signal, raw};
use platform::{Access, Protection};
use ram::{Frame, Pfn, Ram};
use std::sync::Arc;
use vfs::Pages;

/// Pages that a fault brings at least, aligned, and at most.
const AROUND: u64 = 16;
const AROUND_MAX: u64 = 128;
/// The most where nothing has to be allocated: pages that are in memory and only have to be shown.
const SHOWN_MAX: u64 = 512;
/// Pages that a first store copies, and at most.
const COPIED: u64 = 4;

/// Why a fault could not be resolved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultError {
    /// The guest gets this signal with this `si_code` and the address, sigaction(2).
    Signal { signal: Signal, code: i32 },
    /// No memory: somebody must be killed, then the instruction may run again.
    Oom,
    /// The stub is gone.
    Gone,
}

impl FaultError {
    /// No mapping there.
    pub const NO_MAPPING: FaultError = FaultError::Signal { signal: Signal::SIGSEGV, code: raw::general::SEGV_MAPERR as i32 };
    /// The mapping does not allow it.
    pub const NO_RIGHT: FaultError = FaultError::Signal { signal: Signal::SIGSEGV, code: raw::general::SEGV_ACCERR as i32 };
    /// No page of the object there, or it can't be read.
    pub const NO_PAGE: FaultError = FaultError::Signal { signal: Signal::SIGBUS, code: raw::general::BUS_ADRERR as i32 };
}

/// On whose behalf a page is needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Who {
    /// Guest code faulted: the stub must show the page.
    Guest,
    /// The kernel copies: the page table must have it, and the stub must not show anything else.
    Kernel,
    /// The same for a debugger, whom the rights of private pages do not stop.
    Debugger,
}

/// What kind of change resolves the fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Everything is there; the stub must show it.
    Map,
    /// Fresh zeroes.
    Zero,
    /// Frames of the object.
    FromObject,
    /// Frames of the object, and a private copy at once for the page that is stored to.
    CopyIn,
    /// Private copies of what is present.
    Break,
    /// The page is dirty now: stores need not come to the kernel any more.
    Unguard,
}

/// A decision: what to do to pages `first..end`, of which `page` is the one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Plan {
    kind: Kind,
    page: u64,
    first: u64,
    end: u64,
    /// New frames it takes.
    frames: usize,
    generation: u64,
}

/// What [`Tables::decide`] found.
enum Step {
    /// Nothing to do.
    Done,
    /// The page is being replaced: wait for that.
    Busy,
    /// A stack must grow down to the page first.
    Grow,
    /// Page-table pages must be paid for first.
    Afford,
    /// The object must be asked for a page first; it may sleep.
    Fetch {
        pages: Arc<dyn Pages>,
        index: u64,
        write: bool,
        epoch: u64,
    },
    /// Do it.
    Fill(Plan),
    Fail(FaultError),
}

/// A page that the object gave, to be used if nothing was taken back since.
struct Fetched {
    frame: Frame,
    object: u64,
    index: u64,
    write: bool,
    epoch: u64,
}

impl Fetched {
    fn serves(&self, object: u64, index: u64, write: bool, epoch: u64) -> bool {
        self.object == object && self.index == index && self.epoch == epoch && (self.write || !write)
    }
}

/// New frames on their way into the page table.
struct Fresh {
    ram: &'static Ram,
    pfns: [Pfn; AROUND_MAX as usize],
    /// Those not used yet.
    next: usize,
    end: usize,
    zeroed: bool,
}

impl Fresh {
    fn left(&self) -> usize {
        self.end - self.next
    }
    fn take(&mut self) -> Option<Pfn> {
        let pfn = *self.pfns[..self.end].get(self.next)?;
        self.next += 1;
        Some(pfn)
    }
    /// Has at least `count` frames afterwards, zeroed ones if they have to be.
    fn want(&mut self, count: usize, zeroed: bool) -> Result<(), Errno> {
        if self.left() >= count && (self.zeroed || !zeroed) {
            return Ok(());
        }
        self.give_back();
        self.ram.alloc_pfns(zeroed, &mut self.pfns[..count])?;
        (self.end, self.zeroed) = (count, zeroed);
        Ok(())
    }
    fn give_back(&mut self) {
        self.ram.release(&self.pfns[self.next..self.end]);
        (self.next, self.end) = (0, 0);
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Whether a mapping with these rights allows the access. The processor can't refuse reading alone.
fn allows(rights: Protection, access: Access) -> bool {
    match access {
        Access::Read => !rights.is_empty(),
        Access::Write => rights.contains(Protection::WRITE),
        Access::Execute => rights.contains(Protection::EXEC),
    }
}

impl Tables {
    /// What resolves `access` to `page`. Looks only.
    fn decide(&self, page: u64, access: Access, who: Who, fetched: Option<&Fetched>, ram: &'static Ram, scarce: bool) -> Step {
        let Some(vma) = self.vmas.find(page) else {
            let grows = self.vmas.at_or_above(page).is_some_and(|above| above.flags.contains(VmaFlags::GROWSDOWN));
            return if grows { Step::Grow } else { Step::Fail(FaultError::NO_MAPPING) };
        };
        let forced = who == Who::Debugger && (access != Access::Write || !vma.is_shared());
        if !allows(vma.rights, access) && !forced {
            return Step::Fail(FaultError::NO_RIGHT);
        }
        let write = access == Access::Write;
        let pte = self.pages.get(page);
        if pte.is_present() {
            if pte.has(Pte::BUSY) {
                return Step::Busy;
            }
            if !write || !pte.has(Pte::GUARDED) {
                return match who {
                    Who::Kernel | Who::Debugger => Step::Done,
                    Who::Guest => Step::Fill(self.plan(Kind::Map, vma, page, scarce)),
                };
            }
            return match &vma.backing {
                Some(backing) if vma.is_shared() => {
                    let index = vma.index(page);
                    if fetched.is_some_and(|f| f.serves(backing.pages.id(), index, true, self.epoch)) {
                        Step::Fill(Plan { first: page, end: page + 1, ..self.plan(Kind::Unguard, vma, page, true) })
                    } else {
                        self.fetch(&backing.pages, index, true)
                    }
                }
                _ => Step::Fill(self.plan_break(vma, page, ram, scarce)),
            };
        }
        if !self.can_afford(2, 0) {
            return Step::Afford;
        }
        let Some(backing) = &vma.backing else {
            let mut plan = self.plan(Kind::Zero, vma, page, scarce);
            plan.frames = (plan.end - plan.first) as usize;
            self.pages.for_each(plan.first, plan.end, |_, _| plan.frames -= 1);
            return Step::Fill(plan);
        };
        let (index, dirties) = (vma.index(page), write && vma.is_shared());
        let have = fetched.is_some_and(|f| f.serves(backing.pages.id(), index, dirties, self.epoch));
        if !have && (dirties || backing.pages.page_if_cached(index).is_none()) {
            return self.fetch(&backing.pages, index, dirties);
        }
        let kind = if write && !dirties { Kind::CopyIn } else { Kind::FromObject };
        Step::Fill(Plan { frames: usize::from(kind == Kind::CopyIn), ..self.plan(kind, vma, page, scarce) })
    }

    fn fetch(&self, pages: &Arc<dyn Pages>, index: u64, write: bool) -> Step {
        Step::Fetch { pages: pages.clone(), index, write, epoch: self.epoch }
    }

    /// A plan for the pages around `page`, in the mapping.
    fn plan(&self, kind: Kind, vma: &Vma, page: u64, scarce: bool) -> Plan {
        let (first, end) = if scarce {
            (page, page + 1)
        } else if vma.pattern.next == page && vma.pattern.around > 0 {
            let most = if matches!(kind, Kind::Map | Kind::FromObject) { SHOWN_MAX } else { AROUND_MAX };
            (page, page + (u64::from(vma.pattern.around) * 2).clamp(AROUND, most))
        } else {
            (page / AROUND * AROUND, page / AROUND * AROUND + AROUND)
        };
        Plan { kind, page, first: first.max(vma.first), end: end.min(vma.end), frames: 0, generation: self.generation }
    }

    /// A plan to copy from `page` upward.
    fn plan_break(&self, vma: &Vma, page: u64, ram: &'static Ram, scarce: bool) -> Plan {
        let most = if scarce {
            1
        } else if vma.pattern.copy_next == page && vma.pattern.copied > 0 {
            (u64::from(vma.pattern.copied) * 2).clamp(COPIED, AROUND_MAX)
        } else {
            COPIED
        };
        let (mut end, mut frames) = (page, 0);
        self.pages.for_each(page, (page + most).min(vma.end), |at, pte| {
            if at == end && pte.has(Pte::GUARDED) && !pte.has(Pte::BUSY) {
                end += 1;
                frames += usize::from(must_copy(pte, ram));
            }
        });
        Plan { kind: Kind::Break, page, first: page, end, frames, generation: self.generation }
    }
}

/// Whether a private page that is stored to needs a frame of its own: it is the object's, or another address space has it too.
fn must_copy(pte: Pte, ram: &'static Ram) -> bool {
    pte.has(Pte::OBJECT) || ram.count(pte.pfn()) > 1
}

impl AddressSpace {
    /// Resolves a fault of guest code: when it returns `Ok`, the instruction may run again. May sleep.
    pub fn fault(&self, addr: u64, access: Access) -> Result<(), FaultError> {
        crate::reclaim::bury_the_dead();
        self.bring_in(addr >> PAGE_SHIFT, access, Who::Guest)
    }

    pub(crate) fn bring_in(&self, page: u64, access: Access, who: Who) -> Result<(), FaultError> {
        let mut fetched: Option<Fetched> = None;
        let mut fresh = Fresh { ram: self.ram, pfns: [0; AROUND_MAX as usize], next: 0, end: 0, zeroed: false };
        let mut scarce = self.ram.is_scarce();
        loop {
            let step = self.tables.lock().decide(page, access, who, fetched.as_ref(), self.ram, scarce);
            match step {
                Step::Done => return Ok(()),
                Step::Fail(error) => return Err(error),
                Step::Busy => drop(self.structure.lock()),
                Step::Grow => self.grow_stack(page)?,
                Step::Afford => self.afford(2, 0).map_err(|_| FaultError::Oom)?,
                Step::Fetch { pages, index, write, epoch } => {
                    // Dropped first: while we hold it, nobody can evict it.
                    drop(fetched.take());
                    let frame = pages.page(index, write).map_err(|errno| match errno {
                        Errno::ENOMEM => FaultError::Oom,
                        _ => FaultError::NO_PAGE,
                    })?;
                    fetched = Some(Fetched { frame, object: pages.id(), index, write, epoch });
                }
                Step::Fill(plan) => {
                    if fresh.want(plan.frames, plan.kind == Kind::Zero).is_err() {
                        if scarce {
                            return Err(FaultError::Oom);
                        }
                        scarce = true;
                        continue;
                    }
                    if self.commit(plan, access, who, fetched.as_ref(), &mut fresh, scarce)? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Does what `plan` says if that is still what must be done; `false` means: look again.
    fn commit(
        &self,
        mut plan: Plan,
        access: Access,
        who: Who,
        fetched: Option<&Fetched>,
        fresh: &mut Fresh,
        scarce: bool,
    ) -> Result<bool, FaultError> {
        let mut structure = self.structure.lock();
        let structure = &mut *structure;
        let mut tables = self.tables.lock();
        if tables.generation != plan.generation {
            match tables.decide(plan.page, access, who, fetched, self.ram, scarce) {
                Step::Fill(now) if now.kind == plan.kind && now.frames <= fresh.left() => plan = now,
                _ => return Ok(false),
            }
        }
        tables.generation += 1;
        let done = match plan.kind {
            Kind::Map => {
                // The stub has lost it, or has it with fewer rights than it may have.
                tables.pages.update(plan.page, |pte| pte.without(Pte::MAPPED | Pte::MAPPED_WRITE));
                true
            }
            Kind::Zero => fill_zero(&mut tables, plan, fresh),
            Kind::FromObject | Kind::CopyIn => self.fill_from_object(&mut tables, plan, access, fetched, fresh),
            Kind::Unguard => {
                tables.pages.update(plan.page, |pte| pte.without(Pte::GUARDED).with(Pte::DIRTY));
                true
            }
            Kind::Break => {
                let replaced;
                (tables, replaced) = self.break_copies(structure, tables, plan, fresh);
                replaced
            }
        };
        if !done {
            return Ok(false);
        }
        note_pattern(&mut tables, plan);
        if who == Who::Guest {
            tables.learn(plan.page, access == Access::Write, plan.kind == Kind::Zero);
            tables.emit_maps(plan.first, plan.end, &mut structure.batch);
        }
        drop(tables);
        let result = self.carry_out(structure);
        if plan.kind == Kind::Break {
            self.tables.lock().pages.for_each_mut(plan.first, plan.end, |_, pte| *pte = pte.without(Pte::BUSY));
        }
        result.map(|()| true).map_err(|_| FaultError::Gone)
    }

    /// Puts the object's frames where nothing is yet, as far as they are at hand.
    fn fill_from_object(&self, tables: &mut Tables, plan: Plan, access: Access, fetched: Option<&Fetched>, fresh: &mut Fresh) -> bool {
        let Tables { vmas, pages, epoch, .. } = tables;
        let Some(vma) = vmas.find(plan.page) else { return false };
        let Some(backing) = &vma.backing else { return false };
        let shmem = backing.file.as_ref().is_none_or(|file| file.is_shared_memory());
        let bits = Pte::OBJECT | Pte::GUARDED | if shmem { Pte::SHMEM } else { 0 };
        let rights = vma.rights;
        if !pages.get(plan.page).is_present() {
            let index = vma.index(plan.page);
            let dirties = vma.is_shared() && access == Access::Write;
            let frame = match fetched {
                Some(f) if f.serves(backing.pages.id(), index, dirties, *epoch) => Some(f.frame.clone()),
                _ => backing.pages.page_if_cached(index),
            };
            let Some(frame) = frame else { return false };
            let pte = if plan.kind == Kind::CopyIn {
                let Some(copy) = fresh.take() else { return false };
                self.ram.copy(frame.pfn(), 0, copy, 0, abi::PAGE_SIZE);
                fresh.zeroed = false;
                Pte::new(copy, rights, Pte::DIRTY | Pte::ACCESSED)
            } else if dirties {
                Pte::new(frame.into_pfn(), rights, bits | Pte::DIRTY).without(Pte::GUARDED)
            } else {
                Pte::new(frame.into_pfn(), rights, bits)
            };
            pages.set(plan.page, pte);
        }
        let (first, end) = (vma.index(plan.first), vma.index(plan.first) + (plan.end - plan.first));
        backing.pages.pages_if_cached(first, end, &mut |index, frame| {
            pages.set_if_none(plan.first + (index - first), || Pte::new(frame.into_pfn(), rights, bits));
        });
        true
    }

    /// Gives the pages of the plan frames of their own. The copying is done with the short lock released; entries stay as they are meanwhile,
    /// since the structure lock is held, and the bytes do, since nobody may write to a frame that two have.
    fn break_copies<'a>(
        &'a self,
        structure: &mut Structure,
        tables: sync::SpinGuard<'a, Tables>,
        plan: Plan,
        fresh: &mut Fresh,
    ) -> (sync::SpinGuard<'a, Tables>, bool) {
        let mut copies = [(0, 0); AROUND_MAX as usize];
        let mut count = 0;
        let mut end = plan.first;
        tables.pages.for_each(plan.first, plan.end, |page, pte| {
            if page != end || !must_copy(pte, self.ram) {
                end += u64::from(page == end);
            } else if let Some(new) = fresh.take() {
                copies[count] = (pte.pfn(), new);
                count += 1;
                end += 1;
            }
        });
        drop(tables);
        for (old, new) in &copies[..count] {
            self.ram.copy(*old, 0, *new, 0, abi::PAGE_SIZE);
        }
        fresh.zeroed = false;
        let mut tables = self.tables.lock();
        let mut next = copies[..count].iter().peekable();
        let (batch, released) = (&mut structure.batch, &mut structure.released);
        tables.pages.for_each_mut(plan.first, end, |page, pte| {
            let own = pte.without(Pte::GUARDED).with(Pte::DIRTY | Pte::ACCESSED);
            let Some((old, new)) = next.next_if(|(old, _)| *old == pte.pfn()) else {
                *pte = own;
                return;
            };
            released.push(*old);
            let fresh = Pte::new(*new, pte.rights(), Pte::DIRTY | Pte::ACCESSED);
            *pte = fresh;
            if own.has(Pte::MAPPED) && fresh.host_protection().is_empty() {
                batch.unmap(page, page + 1);
                *pte = fresh.with(Pte::BUSY);
            } else if own.has(Pte::MAPPED) {
                // The stub still shows the old frame. Until it shows the new one, nobody may look at either through the kernel.
                batch.map(page, *new, fresh.host_protection());
                *pte = fresh.mapped().with(Pte::BUSY);
            }
        });
        if end - plan.first <= COPIED {
            tables.note_hot(plan.page);
        }
        let done = end > plan.page;
        (tables, done)
    }

    /// Lets the stack above `page` grow down to it.
    fn grow_stack(&self, page: u64) -> Result<(), FaultError> {
        let structure = self.structure.lock();
        let mut tables = self.tables.lock();
        if tables.vmas.find(page).is_some() {
            return Ok(());
        }
        let Some(stack) = tables.vmas.at_or_above(page).filter(|vma| vma.flags.contains(VmaFlags::GROWSDOWN)) else {
            return Err(FaultError::NO_MAPPING);
        };
        let (old, more) = (stack.first, stack.first - page);
        let locked = stack.flags.contains(VmaFlags::LOCKED);
        // Linux refuses by the same tests: `acct_stack_growth`, and `expand_downwards` for the gap below.
        let too_big = stack.end - page > structure.limits.stack >> PAGE_SHIFT;
        let too_low = page < MMAP_MIN_ADDR >> PAGE_SHIFT;
        let in_the_way = tables.vmas.below(old).is_some_and(|below| {
            let gap = if below.flags.contains(VmaFlags::GROWSDOWN) || below.rights.is_empty() { 0 } else { STACK_GUARD_GAP };
            below.end + gap > page
        });
        let over = locked && tables.vmas.locked + more > structure.limits.locked >> PAGE_SHIFT;
        if too_big || too_low || in_the_way || over || !AddressSpace::fits_limits(&structure, &tables, more, false) {
            return Err(FaultError::NO_MAPPING);
        }
        tables.generation += 1;
        tables.vmas.grow_down(old, page);
        Ok(())
    }
}

fn fill_zero(tables: &mut Tables, plan: Plan, fresh: &mut Fresh) -> bool {
    let Some(rights) = tables.vmas.find(plan.page).map(|vma| vma.rights) else { return false };
    for page in plan.first..plan.end {
        if !tables.pages.get(page).is_present() {
            let Some(pfn) = fresh.take() else { return false };
            tables.pages.set(page, Pte::new(pfn, rights, Pte::ACCESSED));
        }
    }
    true
}

/// Remembers where the next fault would go on.
fn note_pattern(tables: &mut Tables, plan: Plan) {
    if let Some(pattern) = tables.vmas.pattern_mut(plan.page) {
        let pages = (plan.end - plan.first).min(SHOWN_MAX) as u16;
        if plan.kind == Kind::Break {
            (pattern.copy_next, pattern.copied) = (plan.end, pages);
        } else {
            (pattern.next, pattern.around) = (plan.end, pages);
        }
    }
}
