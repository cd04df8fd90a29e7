//! File locks: POSIX byte ranges and open-file-description locks (fcntl(2)), and whole files (flock(2)).
//!
//! Always true of the byte ranges of one inode: those of one owner do not overlap, and neighbours of one kind are one range; ranges of different
//! owners overlap only if both are shared. A wait that would never end because owners wait for each other in a circle is EDEADLK (POSIX locks
//! only; the other kinds just wait).

use crate::attachments::Attachments;
use crate::file::OpenFile;
use crate::inode::Inode;
use crate::types::DeviceNumber;
use abi::{Errno, SysResult};
use ram::{Charge, Ram};
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use sync::{SpinLock, WaitQueue};

/// Bytes charged for a range.
const LOCK_COST: usize = 128;
/// Owners looked at for a circle; Linux gives up after ten.
const CIRCLE_MAX: usize = 64;

/// To whom a lock belongs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LockOwner {
    /// A descriptor table (POSIX): any number that identifies it.
    Process(u64),
    /// An open file description (OFD, flock): [`crate::OpenFile::id`].
    File(u64),
}

/// Shared or exclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockKind {
    Shared,
    Exclusive,
}

/// A byte range and who has it. `end` is the last byte; `u64::MAX` is "to the end of the file, wherever that is".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RangeLock {
    pub owner: LockOwner,
    pub kind: LockKind,
    pub start: u64,
    pub end: u64,
    /// What F_GETLK tells; -1 for locks of open file descriptions.
    pub pid: i32,
}

impl RangeLock {
    fn overlaps(&self, start: u64, end: u64) -> bool {
        self.start <= end && start <= self.end
    }
    fn conflicts(&self, other: &RangeLock) -> bool {
        self.owner != other.owner
            && self.overlaps(other.start, other.end)
            && (self.kind == LockKind::Exclusive || other.kind == LockKind::Exclusive)
    }
}

/// Whether to wait for a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockWait {
    No,
    Yes,
}

/// The locks of one inode.
#[derive(Default)]
pub(crate) struct FileLocks {
    ranges: SpinLock<Vec<(RangeLock, Charge)>>,
    whole: SpinLock<Vec<WholeLock>>,
    released: WaitQueue,
}

/// A lock of flock(2).
struct WholeLock {
    owner: LockOwner,
    kind: LockKind,
    /// Who took it, for `/proc/locks`.
    pid: i32,
    _charge: Charge,
}

/// Which owner waits for which.
static WAITING: SpinLock<Option<HashMap<LockOwner, LockOwner>>> = SpinLock::new(None);

fn locks(inode: &Arc<dyn Inode>) -> &FileLocks {
    inode.attachments().locks()
}

impl FileLocks {
    fn conflict(&self, wanted: &RangeLock) -> Option<RangeLock> {
        self.ranges.lock().iter().map(|(lock, _)| *lock).find(|lock| lock.conflicts(wanted))
    }

    /// Takes the range from the owner and, with a kind, gives it back as that kind. `charges` pays for up to two more ranges than there were.
    fn put(ranges: &mut Vec<(RangeLock, Charge)>, wanted: RangeLock, kind: Option<LockKind>, mut charges: Vec<Charge>) -> Vec<Charge> {
        let mut mine = Vec::new();
        let mut at = 0;
        while at < ranges.len() {
            if ranges.get(at).is_some_and(|(lock, _)| lock.owner == wanted.owner) {
                let (lock, charge) = ranges.swap_remove(at);
                mine.push(lock);
                charges.push(charge);
            } else {
                at += 1;
            }
        }
        let mut kept = Vec::new();
        for lock in mine {
            if !lock.overlaps(wanted.start, wanted.end) {
                kept.push(lock);
                continue;
            }
            if lock.start < wanted.start {
                kept.push(RangeLock { end: wanted.start - 1, ..lock });
            }
            if lock.end > wanted.end {
                kept.push(RangeLock { start: wanted.end + 1, ..lock });
            }
        }
        kept.extend(kind.map(|kind| RangeLock { kind, ..wanted }));
        kept.sort_by_key(|lock| lock.start);
        let mut joined: Vec<RangeLock> = Vec::new();
        for lock in kept {
            match joined.last_mut() {
                Some(last) if last.kind == lock.kind && last.end.checked_add(1).is_none_or(|next| lock.start <= next) => {
                    last.end = last.end.max(lock.end);
                }
                _ => joined.push(lock),
            }
        }
        for lock in joined {
            if let Some(charge) = charges.pop() {
                ranges.push((lock, charge));
            }
        }
        charges
    }

    /// Takes the range unless somebody is in the way.
    fn try_set(&self, wanted: RangeLock, charges: &mut Vec<Charge>) -> Result<(), RangeLock> {
        let mut ranges = self.ranges.lock();
        if let Some((other, _)) = ranges.iter().find(|(lock, _)| lock.conflicts(&wanted)) {
            return Err(*other);
        }
        let unused = Self::put(&mut ranges, wanted, Some(wanted.kind), std::mem::take(charges));
        drop(ranges);
        drop(unused);
        Ok(())
    }
}

fn two_charges(ram: &'static Ram) -> Result<Vec<Charge>, Errno> {
    let charge = || ram.charge(LOCK_COST).map_err(|_| Errno::ENOLCK);
    Ok(vec![charge()?, charge()?])
}

/// F_GETLK: a lock that is in the way of `wanted`.
#[must_use]
pub fn get_lock(inode: &Arc<dyn Inode>, wanted: &RangeLock) -> Option<RangeLock> {
    locks(inode).conflict(wanted)
}

/// F_SETLK, F_SETLKW and their OFD kin. EAGAIN, EDEADLK, ENOLCK.
pub fn set_lock(ram: &'static Ram, inode: &Arc<dyn Inode>, wanted: RangeLock, wait: LockWait) -> SysResult<()> {
    let locks = locks(inode);
    let mut charges = two_charges(ram)?;
    let other = match locks.try_set(wanted, &mut charges) {
        Ok(()) => {
            // An exclusive lock that became shared lets others in.
            locks.released.wake_all();
            return Ok(());
        }
        Err(other) => other,
    };
    if wait == LockWait::No {
        return Err(Errno::EAGAIN.into());
    }
    note_waiting(wanted.owner, other.owner)?;
    let result = locks.released.wait_interruptible(|| match locks.try_set(wanted, &mut charges) {
        Ok(()) => Some(Ok(())),
        Err(other) => note_waiting(wanted.owner, other.owner).err().map(Err),
    });
    if let Some(waiting) = &mut *WAITING.lock() {
        waiting.remove(&wanted.owner);
    }
    Ok(result??)
}

/// Notes who waits for whom; EDEADLK if that closes a circle.
fn note_waiting(owner: LockOwner, holder: LockOwner) -> Result<(), Errno> {
    if !matches!(owner, LockOwner::Process(_)) {
        return Ok(());
    }
    let mut waiting = WAITING.lock();
    let waiting = waiting.get_or_insert_default();
    let mut at = holder;
    for _ in 0..CIRCLE_MAX {
        match waiting.get(&at) {
            Some(next) if *next == owner => return Err(Errno::EDEADLK),
            Some(next) => at = *next,
            None => break,
        }
    }
    waiting.insert(owner, holder);
    Ok(())
}

/// F_UNLCK over a range. ENOLCK when a range has to be split and there is no memory for that.
pub fn unlock(ram: &'static Ram, inode: &Arc<dyn Inode>, owner: LockOwner, start: u64, end: u64) -> Result<(), Errno> {
    let locks = locks(inode);
    let whole = RangeLock { owner, kind: LockKind::Shared, start, end, pid: 0 };
    let charges = if (start, end) == (0, u64::MAX) { Vec::new() } else { two_charges(ram)? };
    let unused = FileLocks::put(&mut locks.ranges.lock(), whole, None, charges);
    drop(unused);
    locks.released.wake_all();
    Ok(())
}

/// Drops every byte-range lock of an owner, as close(2) of any descriptor of the file does for POSIX locks.
pub fn release_locks(inode: &Arc<dyn Inode>, owner: LockOwner) {
    let Some(locks) = inode.attachments().locks_if_any() else { return };
    let gone: Vec<_> = locks.ranges.lock().extract_if(.., |(lock, _)| lock.owner == owner).collect();
    if !gone.is_empty() {
        locks.released.wake_all();
    }
}

/// flock(2): `None` unlocks. A change of kind lets go first, as Linux does. EAGAIN (EWOULDBLOCK), ENOLCK.
pub fn flock(ram: &'static Ram, inode: &Arc<dyn Inode>, (file, pid): (u64, i32), kind: Option<LockKind>, wait: LockWait) -> SysResult<()> {
    let (locks, owner) = (locks(inode), LockOwner::File(file));
    let unchanged = locks.whole.lock().iter().any(|lock| lock.owner == owner && Some(lock.kind) == kind);
    if unchanged {
        return Ok(());
    }
    release_flock(locks, owner);
    let Some(kind) = kind else { return Ok(()) };
    let mut charge = Some(ram.charge(LOCK_COST).map_err(|_| Errno::ENOLCK)?);
    let mut take = || {
        let mut whole = locks.whole.lock();
        let conflict = |lock: &WholeLock| lock.owner != owner && (lock.kind == LockKind::Exclusive || kind == LockKind::Exclusive);
        if whole.iter().any(conflict) {
            return None;
        }
        whole.extend(charge.take().map(|charge| WholeLock { owner, kind, pid, _charge: charge }));
        Some(())
    };
    if take().is_none() {
        if wait == LockWait::No {
            return Err(Errno::EAGAIN.into());
        }
        locks.released.wait_interruptible(take)?;
    }
    Ok(())
}

fn release_flock(locks: &FileLocks, owner: LockOwner) {
    let gone: Vec<_> = locks.whole.lock().extract_if(.., |lock| lock.owner == owner).collect();
    if !gone.is_empty() {
        locks.released.wake_all();
    }
}

/// Drops what an open file description holds, when it goes away.
pub(crate) fn release_file(attachments: &Attachments, file: u64) {
    let Some(locks) = attachments.locks_if_any() else { return };
    let owner = LockOwner::File(file);
    release_flock(locks, owner);
    let gone: Vec<_> = locks.ranges.lock().extract_if(.., |(lock, _)| lock.owner == owner).collect();
    if !gone.is_empty() {
        locks.released.wake_all();
    }
}

/// Inodes that may hold locks, by address, and the device that `/proc/locks` names for each. Locks hang on inodes; this is how they are listed.
#[derive(Default)]
struct Locked {
    inodes: HashMap<usize, (Weak<dyn Inode>, DeviceNumber)>,
    /// When there are this many, those that hold none are forgotten.
    tidy_at: usize,
}

static LOCKED: SpinLock<Option<Locked>> = SpinLock::new(None);

/// Least number of inodes at which [`Locked`] is tidied.
const TIDY_AT: usize = 256;

fn holds_locks(inode: &Weak<dyn Inode>) -> Option<Arc<dyn Inode>> {
    let inode = inode.upgrade()?;
    let holds = inode.attachments().locks_if_any().is_some_and(|locks| !locks.ranges.lock().is_empty() || !locks.whole.lock().is_empty());
    holds.then_some(inode)
}

/// Notes that a lock was taken through this file, for [`lock_table`].
pub fn note_locked(file: &OpenFile) {
    let inode = file.inode();
    let key = Arc::as_ptr(inode).cast::<()>() as usize;
    let device = file.path().mount.superblock().dev();
    let mut locked = LOCKED.lock();
    let locked = locked.get_or_insert_default();
    locked.inodes.insert(key, (Arc::downgrade(inode), device));
    if locked.inodes.len() >= locked.tidy_at.max(TIDY_AT) {
        locked.inodes.retain(|_, (inode, _)| inode.strong_count() > 0);
        locked.tidy_at = locked.inodes.len() * 2;
    }
}

/// `/proc/locks`, proc(5).
#[must_use]
pub fn lock_table() -> String {
    let known: Vec<(Weak<dyn Inode>, DeviceNumber)> = match &*LOCKED.lock() {
        Some(locked) => locked.inodes.values().cloned().collect(),
        None => return String::new(),
    };
    let mut text = String::new();
    let mut number = 0;
    for (inode, device) in known {
        let Some(inode) = holds_locks(&inode) else { continue };
        let locks = locks(&inode);
        let place = format!("{:02x}:{:02x}:{}", device.major(), device.minor(), inode.ino());
        let ranges: Vec<RangeLock> = locks.ranges.lock().iter().map(|(lock, _)| *lock).collect();
        let whole: Vec<(LockKind, i32)> = locks.whole.lock().iter().map(|lock| (lock.kind, lock.pid)).collect();
        let word = |kind| if kind == LockKind::Shared { "READ" } else { "WRITE" };
        for lock in ranges {
            number += 1;
            let class = if matches!(lock.owner, LockOwner::Process(_)) { "POSIX " } else { "OFDLCK" };
            let end = if lock.end == u64::MAX { "EOF".to_owned() } else { lock.end.to_string() };
            text += &format!("{number}: {class} ADVISORY  {} {} {place} {} {end}\n", word(lock.kind), lock.pid, lock.start);
        }
        for (kind, pid) in whole {
            number += 1;
            text += &format!("{number}: FLOCK  ADVISORY  {} {pid} {place} 0 EOF\n", word(kind));
        }
    }
    text
}
