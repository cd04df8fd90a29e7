//! Shared memory, shmget(2), shmat(2), shmdt(2).
//!
//! Always true: a segment that was removed lives until the last mapping of it goes, and then leaves the table by itself.

use super::{Object, Permission, Table, now};
use crate::process::Process;
use abi::{Errno, PAGE_SIZE};
use mm::SharedMemory;
use mm::{AddressSpace, Backing, MapFlags, MappedFile, Mapping};
use platform::Protection;
use ram::Ram;
use std::sync::{Arc, Weak};
use sync::SpinLock;
use vfs::Pages;

/// Times and processes that shmctl(2) tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Times {
    pub attached: i64,
    pub detached: i64,
    pub changed: i64,
    pub creator: i32,
    pub last: i32,
}

struct State {
    permission: Permission,
    times: Times,
    removed: bool,
    locked: bool,
    /// What all mappings of it hold.
    mapped: Weak<SegmentMapping>,
}

/// A segment.
pub struct Segment {
    pages: Arc<dyn Pages>,
    len_bytes: u64,
    state: SpinLock<State>,
    table: Weak<Table<Segment>>,
}

/// A segment as mappings know it; its last reference is the last mapping.
pub struct SegmentMapping {
    segment: Arc<Segment>,
    id: i32,
}

impl MappedFile for SegmentMapping {
    fn path(&self) -> Vec<u8> {
        format!("/SYSV{:08x} (deleted)", self.segment.permission().key).into_bytes()
    }
    fn device(&self) -> u64 {
        1
    }
    fn inode(&self) -> u64 {
        self.id as u64
    }
    fn sync_pages(&self, _: u64, _: u64) -> Result<(), Errno> {
        Ok(())
    }
    fn is_shared_memory(&self) -> bool {
        true
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

impl Drop for SegmentMapping {
    fn drop(&mut self) {
        let (gone, table) = {
            let mut state = self.segment.state.lock();
            state.times.detached = now();
            // Another mapping may have begun since.
            (state.removed && state.mapped.strong_count() == 0, self.segment.table.upgrade())
        };
        if let Some(table) = table.filter(|_| gone) {
            drop(table.remove(self.id));
        }
    }
}

impl Object for Segment {
    fn permission(&self) -> Permission {
        self.state.lock().permission
    }
    fn set_sequence(&self, sequence: u16) {
        self.state.lock().permission.sequence = sequence;
    }
    fn is_hidden(&self) -> bool {
        self.state.lock().removed
    }
}

impl Segment {
    /// A segment of zeroes. EINVAL for no bytes, ENOMEM.
    pub fn new(
        ram: &'static Ram,
        table: &Arc<Table<Segment>>,
        permission: Permission,
        len_bytes: u64,
        creator: i32,
    ) -> Result<Arc<Segment>, Errno> {
        if len_bytes == 0 || len_bytes > i64::MAX as u64 {
            return Err(Errno::EINVAL);
        }
        let pages = SharedMemory::new(ram, len_bytes.div_ceil(PAGE_SIZE as u64))?;
        let times = Times { changed: now(), creator, ..Times::default() };
        let state = State { permission, times, removed: false, locked: false, mapped: Weak::new() };
        Ok(Arc::new(Segment { pages, len_bytes, state: SpinLock::new(state), table: Arc::downgrade(table) }))
    }

    /// Its size as it was asked for.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }
    /// Times and processes.
    #[must_use]
    pub fn times(&self) -> Times {
        self.state.lock().times
    }
    /// How many mappings there are.
    #[must_use]
    pub fn attached(&self) -> u64 {
        self.state.lock().mapped.strong_count() as u64
    }
    /// The mode with `SHM_DEST` and `SHM_LOCKED`.
    #[must_use]
    pub fn mode(&self) -> u32 {
        let state = self.state.lock();
        state.permission.mode | if state.removed { 0o1000 } else { 0 } | if state.locked { 0o2000 } else { 0 }
    }
    /// `SHM_LOCK`, `SHM_UNLOCK`: there is no swap that it could be kept from.
    pub fn set_locked(&self, locked: bool) {
        self.state.lock().locked = locked;
    }
    /// `IPC_SET`.
    pub fn change(&self, uid: u32, gid: u32, mode: u32) {
        let mut state = self.state.lock();
        state.permission.change(uid, gid, mode);
        state.times.changed = now();
    }
    /// `IPC_RMID`: whether nobody has it mapped, so that it is to leave the table now.
    pub fn mark_removed(&self) -> bool {
        let mut state = self.state.lock();
        state.removed = true;
        state.permission.key = super::PRIVATE;
        state.mapped.strong_count() == 0
    }

    /// Maps it at `addr` (0: anywhere) for `process`; the address.
    ///
    /// # Errors
    /// EIDRM when it was removed meanwhile, and mmap's.
    pub fn attach(
        self: &Arc<Segment>,
        id: i32,
        memory: &AddressSpace,
        process: &Process,
        addr: u64,
        flags: MapFlags,
        (rights, max_rights): (Protection, Protection),
    ) -> Result<u64, Errno> {
        let mapping = {
            let mut state = self.state.lock();
            match state.mapped.upgrade() {
                Some(there) => there,
                None if state.removed => return Err(Errno::EIDRM),
                None => {
                    let made = Arc::new(SegmentMapping { segment: self.clone(), id });
                    state.mapped = Arc::downgrade(&made);
                    made
                }
            }
        };
        let backing = Backing { pages: self.pages.clone(), file: Some(mapping.clone()), offset: 0 };
        let len = self.len_bytes.next_multiple_of(PAGE_SIZE as u64);
        let at = memory.map(Mapping { max_rights, ..Mapping::of(backing, addr, len, rights, flags | MapFlags::SHARED) })?;
        // With no lock held: this may be the last reference if another thread has unmapped it already.
        drop(mapping);
        let mut state = self.state.lock();
        state.times.attached = now();
        state.times.last = process.pid();
        Ok(at)
    }
}

/// shmdt(2): takes away what was mapped at `addr`.
///
/// # Errors
/// EINVAL when no segment was mapped there.
pub fn detach(memory: &AddressSpace, process: &Process, addr: u64) -> Result<(), Errno> {
    let mut found: Option<Arc<Segment>> = None;
    let mut ranges = Vec::new();
    memory.for_each_vma(|vma| {
        let Some(mapped) = vma.file.as_ref().and_then(|file| file.as_any().downcast_ref::<SegmentMapping>()) else { return };
        // A part of it may have been unmapped: what belongs to this attachment lies at its own distance.
        if vma.start.checked_sub(vma.offset) == Some(addr) && found.as_ref().is_none_or(|segment| Arc::ptr_eq(segment, &mapped.segment)) {
            found = Some(mapped.segment.clone());
            ranges.push((vma.start, vma.end - vma.start));
        }
    });
    let segment = found.ok_or(Errno::EINVAL)?;
    for (start, len) in ranges {
        drop(memory.unmap(start, len, mm::HostRun::Never)?);
    }
    let mut state = segment.state.lock();
    state.times.detached = now();
    state.times.last = process.pid();
    Ok(())
}
