//! Descriptor tables: small numbers for open files. One table per process, or shared by CLONE_FILES.
//!
//! Always true: a new descriptor is the lowest free one (at or above a minimum, for F_DUPFD); the search looks at one word per 64 descriptors in
//! use. A reserved number is not free and not open, so that a failed open leaves no trace. Files are dropped after the lock is released.

use crate::file::OpenFile;
use abi::Errno;
use std::sync::Arc;
use sync::SpinLock;

/// A descriptor number.
pub type Fd = i32;

/// Bytes charged per slot.
const SLOT_COST: usize = 16;

/// Whether exec closes a descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnExec {
    Keep,
    Close,
}

/// A process's descriptors.
pub struct FdTable {
    ram: &'static ram::Ram,
    slots: SpinLock<Slots>,
}

#[derive(Default)]
struct Slots {
    files: Vec<Option<Arc<OpenFile>>>,
    /// Bit set: in use or reserved.
    used: Vec<u64>,
    cloexec: Vec<u64>,
    /// No free bit in a word before this one.
    first_free_word: usize,
    charge: Option<ram::Charge>,
}

fn set(words: &mut [u64], at: usize, on: bool) {
    if let Some(word) = words.get_mut(at / 64) {
        let bit = 1 << (at % 64);
        *word = if on { *word | bit } else { *word & !bit };
    }
}
fn get(words: &[u64], at: usize) -> bool {
    words.get(at / 64).is_some_and(|word| word & (1 << (at % 64)) != 0)
}

impl Slots {
    /// Words that a table with descriptor `at` has.
    fn words_for(at: usize) -> usize {
        (at / 64 + 1).next_power_of_two()
    }
    fn has_room(&self, at: usize) -> bool {
        at / 64 < self.used.len()
    }
    /// Room for `words` words, paid for by `charge`.
    fn grow(&mut self, words: usize, charge: ram::Charge) {
        if words > self.used.len() {
            self.charge = Some(charge);
            self.used.resize(words, 0);
            self.cloexec.resize(words, 0);
            self.files.resize(words * 64, None);
        }
    }
    fn lowest_free(&self, minimum: usize) -> usize {
        let mut word = (minimum / 64).max(self.first_free_word);
        // The first word may have free bits below the minimum.
        let mut mask = if word == minimum / 64 { (1u64 << (minimum % 64)) - 1 } else { 0 };
        while let Some(used) = self.used.get(word) {
            let taken = used | mask;
            if taken != u64::MAX {
                return word * 64 + taken.trailing_ones() as usize;
            }
            mask = 0;
            word += 1;
        }
        (word * 64).max(minimum)
    }
    fn take(&mut self, at: usize, minimum: usize, on_exec: OnExec) {
        set(&mut self.used, at, true);
        set(&mut self.cloexec, at, on_exec == OnExec::Close);
        // Only a search that left out no free number says where the next one begins.
        if minimum <= self.first_free_word * 64 {
            self.first_free_word = at / 64;
        }
    }
    fn release(&mut self, at: usize) -> Option<Arc<OpenFile>> {
        let file = self.files.get_mut(at).and_then(Option::take);
        set(&mut self.used, at, false);
        set(&mut self.cloexec, at, false);
        self.first_free_word = self.first_free_word.min(at / 64);
        file
    }
    fn open(&self) -> impl Iterator<Item = usize> + '_ {
        self.files.iter().enumerate().filter(|(_, f)| f.is_some()).map(|(at, _)| at)
    }
}

fn index(fd: Fd) -> Result<usize, Errno> {
    usize::try_from(fd).map_err(|_| Errno::EBADF)
}

impl FdTable {
    /// An empty table.
    #[must_use]
    pub fn new(ram: &'static ram::Ram) -> Arc<FdTable> {
        Arc::new(FdTable { ram, slots: SpinLock::default() })
    }

    /// The file behind `fd`. EBADF.
    pub fn get(&self, fd: Fd) -> Result<Arc<OpenFile>, Errno> {
        let at = index(fd)?;
        self.slots.lock().files.get(at).and_then(Option::as_ref).cloned().ok_or(Errno::EBADF)
    }
    /// The same, refusing descriptors opened with O_PATH (EBADF), as calls that use a file's contents do.
    pub fn get_usable(&self, fd: Fd) -> Result<Arc<OpenFile>, Errno> {
        let file = self.get(fd)?;
        if file.flags().contains(crate::OpenFlags::PATH) { Err(Errno::EBADF) } else { Ok(file) }
    }

    /// The lowest free number at or above `minimum`, reserved until [`FdTable::install`] or [`FdTable::cancel`]. EMFILE at `limit` (RLIMIT_NOFILE).
    pub fn reserve(&self, minimum: usize, limit: u64, on_exec: OnExec) -> Result<Fd, Errno> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(i32::MAX as usize);
        loop {
            let mut slots = self.slots.lock();
            let at = slots.lowest_free(minimum);
            if at >= limit {
                return Err(Errno::EMFILE);
            }
            if slots.has_room(at) {
                slots.take(at, minimum, on_exec);
                return Ok(at as Fd);
            }
            drop(slots);
            self.make_room(at)?;
        }
    }

    /// Room for descriptor `at`. Charging may reclaim, so it is done without the lock.
    fn make_room(&self, at: usize) -> Result<(), Errno> {
        let words = Slots::words_for(at);
        let charge = self.ram.charge(words * 64 * SLOT_COST)?;
        self.slots.lock().grow(words, charge);
        Ok(())
    }
    /// Puts a file behind a reserved number.
    pub fn install(&self, fd: Fd, file: Arc<OpenFile>) {
        let old = match usize::try_from(fd) {
            Ok(at) => self.slots.lock().files.get_mut(at).and_then(|slot| slot.replace(file)),
            Err(_) => None,
        };
        drop(old);
    }
    /// Gives a reserved number back.
    pub fn cancel(&self, fd: Fd) {
        let file = usize::try_from(fd).ok().and_then(|at| self.slots.lock().release(at));
        drop(file);
    }
    /// Reserves and installs at once.
    pub fn add(&self, file: Arc<OpenFile>, limit: u64, on_exec: OnExec) -> Result<Fd, Errno> {
        self.add_from(file, 0, limit, on_exec)
    }
    /// The same at or above `minimum` (F_DUPFD; EINVAL if that is at or above the limit).
    pub fn add_from(&self, file: Arc<OpenFile>, minimum: usize, limit: u64, on_exec: OnExec) -> Result<Fd, Errno> {
        if minimum as u64 >= limit && minimum != 0 {
            return Err(Errno::EINVAL);
        }
        let fd = self.reserve(minimum, limit, on_exec)?;
        self.install(fd, file);
        Ok(fd)
    }
    /// Takes a descriptor out; the caller flushes the file and drops locks. EBADF.
    pub fn remove(&self, fd: Fd) -> Result<Arc<OpenFile>, Errno> {
        let at = index(fd)?;
        let mut slots = self.slots.lock();
        if slots.files.get(at).is_none_or(Option::is_none) {
            return Err(Errno::EBADF);
        }
        slots.release(at).ok_or(Errno::EBADF)
    }
    /// dup2(2), dup3(2): `to` becomes `from`'s file; what it was is answered. EBADF, EMFILE's cousin EBADF for a number at the limit, EBUSY while
    /// another thread's open has the number reserved. `from` and `to` differ (the caller's affair: dup2 and dup3 disagree on that).
    pub fn replace(&self, from: Fd, to: Fd, limit: u64, on_exec: OnExec) -> Result<Option<Arc<OpenFile>>, Errno> {
        let file = self.get(from)?;
        let at = index(to)?;
        if at as u64 >= limit {
            return Err(Errno::EBADF);
        }
        if !self.slots.lock().has_room(at) {
            self.make_room(at)?;
        }
        let mut slots = self.slots.lock();
        let old = slots.files.get_mut(at).and_then(Option::take);
        if old.is_none() && get(&slots.used, at) {
            return Err(Errno::EBUSY);
        }
        set(&mut slots.used, at, true);
        set(&mut slots.cloexec, at, on_exec == OnExec::Close);
        if let Some(slot) = slots.files.get_mut(at) {
            *slot = Some(file);
        }
        Ok(old)
    }
    /// F_GETFD.
    pub fn on_exec(&self, fd: Fd) -> Result<OnExec, Errno> {
        self.get(fd)?;
        Ok(if get(&self.slots.lock().cloexec, index(fd)?) { OnExec::Close } else { OnExec::Keep })
    }
    /// F_SETFD.
    pub fn set_on_exec(&self, fd: Fd, on_exec: OnExec) -> Result<(), Errno> {
        self.get(fd)?;
        set(&mut self.slots.lock().cloexec, index(fd)?, on_exec == OnExec::Close);
        Ok(())
    }
    /// A copy of its own for fork; reserved numbers are free in it.
    pub fn fork(&self) -> Result<Arc<FdTable>, Errno> {
        let charge = self.ram.charge(self.capacity() * SLOT_COST)?;
        let slots = self.slots.lock();
        let mut copy = Slots {
            files: slots.files.clone(),
            used: vec![0; slots.used.len()],
            cloexec: slots.cloexec.clone(),
            first_free_word: slots.first_free_word,
            charge: Some(charge),
        };
        for at in slots.open() {
            set(&mut copy.used, at, true);
        }
        copy.first_free_word = 0;
        Ok(Arc::new(FdTable { ram: self.ram, slots: SpinLock::new(copy) }))
    }
    /// Takes out everything that exec closes.
    pub fn remove_cloexec(&self) -> Vec<(Fd, Arc<OpenFile>)> {
        let mut slots = self.slots.lock();
        let closing: Vec<usize> = slots.open().filter(|at| get(&slots.cloexec, *at)).collect();
        closing.into_iter().filter_map(|at| Some((at as Fd, slots.release(at)?))).collect()
    }
    /// Takes out everything from `first` to `last` (close_range(2), exit).
    pub fn remove_range(&self, first: u32, last: u32) -> Vec<(Fd, Arc<OpenFile>)> {
        let mut slots = self.slots.lock();
        let closing: Vec<usize> = slots.open().filter(|at| (first as usize..=last as usize).contains(at)).collect();
        closing.into_iter().filter_map(|at| Some((at as Fd, slots.release(at)?))).collect()
    }
    /// Marks everything from `first` to `last` to be closed by exec (`CLOSE_RANGE_CLOEXEC`).
    pub fn set_range_cloexec(&self, first: u32, last: u32) {
        let mut slots = self.slots.lock();
        let marking: Vec<usize> = slots.open().filter(|at| (first as usize..=last as usize).contains(at)).collect();
        for at in marking {
            set(&mut slots.cloexec, at, true);
        }
    }
    /// Open descriptors, lowest first, for `/proc/PID/fd`.
    #[must_use]
    pub fn descriptors(&self) -> Vec<Fd> {
        self.slots.lock().open().map(|at| at as Fd).collect()
    }
    /// Slots that there is room for (`FDSize`).
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.slots.lock().files.len()
    }
}
