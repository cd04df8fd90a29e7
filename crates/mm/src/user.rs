//! User copies: the kernel's own way into guest memory, by the page table and past the stub.
//!
//! The quick way is one short lock and a copy. What is not there, or not writable yet, is brought in as a fault would, but without showing it to
//! the stub, which does that when the guest gets there. While a frame is being replaced that the stub still shows, the page is busy and the copy
//! waits: what the kernel writes is what the guest reads next.

use crate::fault::{FaultError, Who};
use crate::space::{AddressSpace, SpaceId, TASK_PAGES};
use crate::table::Pte;
use abi::arch::TASK_SIZE;
use abi::{Errno, PAGE_SHIFT, PAGE_SIZE};
use platform::Access;
use ram::{Frame, Pfn};
use vfs::UserMemory;

/// Pages copied before the short lock is let go for others.
const AT_A_TIME: usize = 4;

/// What a futex is known by, futex(2): the word itself wherever it is mapped, or an address in one address space.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum FutexKey {
    Shared { object: u64, page: u64, offset: u32 },
    Private { space: SpaceId, addr: u64 },
}

impl AddressSpace {
    /// Goes through `addr..addr+len` page by page with `visit(pfn, offset in page, bytes done, bytes)`; answers how far it got.
    fn walk(&self, addr: u64, len: usize, access: Access, visit: impl FnMut(Pfn, usize, usize, usize)) -> Result<usize, Errno> {
        self.walk_as(Who::Kernel, addr, len, access, visit)
    }

    fn walk_as(
        &self,
        who: Who,
        addr: u64,
        len: usize,
        access: Access,
        mut visit: impl FnMut(Pfn, usize, usize, usize),
    ) -> Result<usize, Errno> {
        let mut done = 0;
        while done < len {
            let at = addr.wrapping_add(done as u64);
            if at >= TASK_SIZE || at < addr {
                break;
            }
            let before = done;
            {
                let mut tables = self.tables.lock();
                for _ in 0..AT_A_TIME {
                    let at = addr + done as u64;
                    let page = at >> PAGE_SHIFT;
                    let pte = tables.pages.get(page);
                    let ready = match (who, access) {
                        (Who::Debugger, Access::Write) => pte.own(),
                        (Who::Debugger, _) => pte.is_present() && !pte.has(Pte::BUSY),
                        (_, Access::Write) => pte.writable(),
                        _ => pte.readable(),
                    };
                    if done == len || !ready || page >= TASK_PAGES {
                        break;
                    }
                    let offset = (at % PAGE_SIZE as u64) as usize;
                    let n = (PAGE_SIZE - offset).min(len - done);
                    visit(pte.pfn(), offset, done, n);
                    let bits = if access == Access::Write { Pte::DIRTY | Pte::ACCESSED } else { Pte::ACCESSED };
                    if pte.with(bits) != pte {
                        tables.pages.update(page, |pte| pte.with(bits));
                    }
                    done += n;
                }
            }
            if done == before && self.bring_in(at >> PAGE_SHIFT, access, who).is_err() {
                break;
            }
        }
        if done == 0 && len > 0 { Err(Errno::EFAULT) } else { Ok(done) }
    }

    /// The frame of an aligned word, for as long as `visit` looks at it.
    fn word<R>(&self, addr: u64, access: Access, mut visit: impl FnMut(Pfn, usize) -> R) -> Result<R, Errno> {
        if !addr.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        let mut result = None;
        self.walk(addr, 4, access, |pfn, offset, _, _| result = Some(visit(pfn, offset)))?;
        result.ok_or(Errno::EFAULT)
    }

    /// Atomically replaces the 32-bit word at `addr` if it is `old`; gives what was there, as `Err` if it was something else. EFAULT, EINVAL (not
    /// aligned).
    pub fn compare_exchange_u32(&self, addr: u64, old: u32, new: u32) -> Result<Result<u32, u32>, Errno> {
        self.word(addr, Access::Write, |pfn, offset| self.ram.compare_exchange_u32(pfn, offset, old, new))
    }

    /// Reads the 32-bit word at `addr` in one piece. EFAULT, EINVAL (not aligned).
    pub fn load_u32(&self, addr: u64) -> Result<u32, Errno> {
        self.word(addr, Access::Read, |pfn, offset| self.ram.load_u32(pfn, offset))
    }

    /// What the futex word at `addr` is known by; `shared` unless the guest said `FUTEX_PRIVATE_FLAG`. EINVAL (not aligned), EFAULT (shared, and
    /// nothing is mapped there).
    pub fn futex_key(&self, addr: u64, shared: bool) -> Result<FutexKey, Errno> {
        if !addr.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        if addr >= TASK_SIZE {
            return Err(Errno::EFAULT);
        }
        let private = FutexKey::Private { space: self.id, addr };
        if !shared {
            return Ok(private);
        }
        let tables = self.tables.lock();
        let page = addr >> PAGE_SHIFT;
        let vma = tables.vmas.find(page).ok_or(Errno::EFAULT)?;
        Ok(match &vma.backing {
            Some(backing) if vma.is_shared() => {
                FutexKey::Shared { object: backing.pages.id(), page: vma.index(page), offset: (addr % PAGE_SIZE as u64) as u32 }
            }
            _ => private,
        })
    }

    /// Makes sure that the range can be read (or written) without faulting just now; a copy after that may still fault if somebody takes pages
    /// away meanwhile. How far that holds, in bytes.
    pub fn prefault(&self, addr: u64, len: usize, access: Access) -> Result<usize, Errno> {
        self.walk(addr, len, access, |_, _, _, _| {})
    }

    /// A debugger's way in, ptrace(2) and `/proc/PID/mem`: reads whatever the rights say. As far as anything is mapped; EFAULT if nothing is.
    pub fn read_forced(&self, addr: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        self.walk_as(Who::Debugger, addr, buffer.len(), Access::Read, |pfn, offset, done, n| {
            if let Some(part) = buffer.get_mut(done..done + n) {
                self.ram.read(pfn, offset, part);
            }
        })
    }

    /// The same for writing: a private page gets a copy of its own though it is read-only; a shared one must be writable.
    pub fn write_forced(&self, addr: u64, data: &[u8]) -> Result<usize, Errno> {
        self.walk_as(Who::Debugger, addr, data.len(), Access::Write, |pfn, offset, done, n| {
            if let Some(part) = data.get(done..done + n) {
                self.ram.write(pfn, offset, part);
            }
        })
    }

    /// Why a copy that failed did: as a guest's own access there would fail.
    pub fn why(&self, addr: u64, access: Access) -> Option<FaultError> {
        self.bring_in(addr >> PAGE_SHIFT, access, Who::Kernel).err()
    }
}

impl UserMemory for AddressSpace {
    fn read(&self, addr: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        let len = buffer.len();
        self.walk(addr, len, Access::Read, |pfn, offset, done, n| {
            if let Some(part) = buffer.get_mut(done..done + n) {
                self.ram.read(pfn, offset, part);
            }
        })
    }

    fn write(&self, addr: u64, data: &[u8]) -> Result<usize, Errno> {
        self.walk(addr, data.len(), Access::Write, |pfn, offset, done, n| {
            if let Some(part) = data.get(done..done + n) {
                self.ram.write(pfn, offset, part);
            }
        })
    }

    fn zero(&self, addr: u64, len: usize) -> Result<usize, Errno> {
        self.walk(addr, len, Access::Write, |pfn, offset, _, n| self.ram.fill(pfn, offset, n, 0))
    }

    fn read_to_frame(&self, addr: u64, frame: &Frame, offset: usize, len: usize) -> Result<usize, Errno> {
        self.walk(addr, len, Access::Read, |pfn, at, done, n| self.copy_within_ram(pfn, at, frame.pfn(), offset + done, n))
    }

    fn write_from_frame(&self, addr: u64, frame: &Frame, offset: usize, len: usize) -> Result<usize, Errno> {
        self.walk(addr, len, Access::Write, |pfn, at, done, n| self.copy_within_ram(frame.pfn(), offset + done, pfn, at, n))
    }
}

impl AddressSpace {
    /// As [`ram::Ram::copy`], but the two may be one frame: a file written from its own mapping.
    fn copy_within_ram(&self, from: Pfn, from_offset: usize, to: Pfn, to_offset: usize, len: usize) {
        if from != to {
            return self.ram.copy(from, from_offset, to, to_offset, len);
        }
        let mut bytes = [0; PAGE_SIZE];
        if let Some(part) = bytes.get_mut(..len) {
            self.ram.read(from, from_offset, part);
            self.ram.write(to, to_offset, part);
        }
    }
}
