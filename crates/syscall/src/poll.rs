//! Waiting for files: poll(2), select(2) and their variants with signal masks.

use crate::args::{UserAddr, UserRef};
use crate::data::nofile;
use abi::{Errno, Restart, SigSet, SysError, SysResult, Timespec, Timeval};
use std::sync::Arc;
use sync::{Events, Poller, WaitError};
use task::Current;
use vfs::{Fd, OpenFile, PollTable, UserMemory};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// `struct pollfd`.
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, Clone, Copy, Default)]
pub struct PollFd {
    fd: Fd,
    events: i16,
    revents: i16,
}

/// One file that is waited for.
struct Item {
    file: Arc<OpenFile>,
    want: Events,
    got: Events,
}

/// When a wait ends: a monotonic time, or never.
type Deadline = Option<u64>;

/// Waits until at least one item has something, then fills `got` of all. Returns how many have.
fn wait(items: &mut [Item], deadline: Deadline) -> Result<usize, WaitError> {
    let always = Events::ERR | Events::HUP | Events::NVAL;
    let mut look = |mut table: Option<&mut PollTable>| {
        let mut ready = 0;
        for item in items.iter_mut() {
            item.got = item.file.poll(table.as_deref_mut()) & (item.want | always);
            if !item.got.is_empty() {
                ready += 1;
                // Something is there already: the rest is only looked at.
                table = None;
            }
        }
        ready
    };
    if deadline.is_some_and(|at| at <= sync::monotonic_ns()) {
        return Ok(look(None));
    }
    let poller = Poller::new();
    let mut table = PollTable::new(poller.clone());
    let ready = look(Some(&mut table));
    if ready > 0 {
        return Ok(ready);
    }
    loop {
        match poller.wait(deadline) {
            Ok(()) => {}
            Err(WaitError::TimedOut) => return Ok(look(None)),
            Err(WaitError::Interrupted) => return Err(WaitError::Interrupted),
        }
        let ready = look(None);
        if ready > 0 {
            return Ok(ready);
        }
    }
}

fn poll_common(current: &mut Current, fds: UserAddr, count: u32, deadline: Deadline) -> SysResult<usize> {
    if u64::from(count) > nofile(current) {
        return Err(Errno::EINVAL.into());
    }
    let mut entries = vec![PollFd::default(); count as usize];
    let memory = current.memory().clone();
    memory.read_exact(fds.0, entries.as_mut_bytes())?;
    let mut items = Vec::new();
    let mut owner = Vec::new();
    let mut invalid = 0;
    for (i, entry) in entries.iter_mut().enumerate() {
        entry.revents = 0;
        if entry.fd < 0 {
            continue;
        }
        match current.files().get_usable(entry.fd) {
            Ok(file) => {
                items.push(Item { file, want: Events::from_bits_truncate(u32::from(entry.events as u16)), got: Events::empty() });
                owner.push(i);
            }
            Err(_) => {
                entry.revents = Events::NVAL.bits() as i16;
                invalid += 1;
            }
        }
    }
    let deadline = if invalid > 0 { Some(0) } else { deadline };
    let ready = wait(&mut items, deadline).map_err(|_| SysError::Restart(Restart::IfNoHandler))?;
    for (item, i) in items.iter().zip(owner) {
        if let Some(entry) = entries.get_mut(i) {
            entry.revents = item.got.bits() as i16;
        }
    }
    // Only the answers are written: the rest of the array may be changing under another thread's hands.
    for (i, entry) in entries.iter().enumerate() {
        memory.write_all(fds.0 + (i * size_of::<PollFd>()) as u64 + 6, &entry.revents.to_ne_bytes())?;
    }
    Ok(ready + invalid)
}

fn after(ns: u64) -> Deadline {
    Some(sync::monotonic_ns().saturating_add(ns))
}

/// poll(2).
pub fn poll(current: &mut Current, fds: UserAddr, count: u32, timeout_ms: i32) -> SysResult<usize> {
    let deadline = u64::try_from(timeout_ms).ok().and_then(|ms| after(ms * 1_000_000));
    match poll_common(current, fds, count, deadline) {
        Err(SysError::Restart(_)) => {
            // Run again after a stop, it waits for what is left, not for as long again.
            current.set_restart(Box::new(move |current| Ok(poll_common(current, fds, count, deadline)? as u64)));
            Err(SysError::Restart(Restart::Block))
        }
        result => result,
    }
}

fn timespec_deadline(current: &Current, timeout: UserRef<Timespec>) -> Result<Deadline, Errno> {
    Ok(match timeout.read_optional(current)? {
        None => None,
        Some(time) => after(time.to_ns()?),
    })
}

/// Writes back what is left of a timeout, as Linux does. A fault there changes nothing any more.
fn write_left(current: &Current, timeout: UserRef<Timespec>, deadline: Deadline) {
    if let Some(at) = deadline {
        let left = at.saturating_sub(sync::monotonic_ns());
        let _ = timeout.write_optional(current, &Timespec::from_ns(left));
    }
}

/// A signal mask argument of this size or none. EINVAL.
fn mask_argument(current: &Current, mask: UserRef<u64>, size: usize) -> Result<Option<SigSet>, Errno> {
    if mask.is_null() {
        return Ok(None);
    }
    if size != 8 {
        return Err(Errno::EINVAL);
    }
    Ok(Some(SigSet(mask.read(current)?)))
}

/// ppoll(2).
pub fn ppoll(
    current: &mut Current,
    fds: UserAddr,
    count: u32,
    timeout: UserRef<Timespec>,
    mask: UserRef<u64>,
    size: usize,
) -> SysResult<usize> {
    let deadline = timespec_deadline(current, timeout)?;
    let mask = mask_argument(current, mask, size)?;
    let result = current.with_signal_mask(mask, |current| poll_common(current, fds, count, deadline));
    write_left(current, timeout, deadline);
    result
}

/// Most descriptors in a set: as many as a table can have.
const SET_MAX: usize = 1 << 20;

/// The three sets of select(2), as words in the guest's layout.
struct Sets {
    addr: [u64; 3],
    words: usize,
    bits: [Vec<u64>; 3],
}

impl Sets {
    fn read(current: &Current, count: i32, addr: [u64; 3]) -> Result<Sets, Errno> {
        let count =
            usize::try_from(count).map_err(|_| Errno::EINVAL)?.min(SET_MAX).min(current.files().capacity().next_multiple_of(64).max(64));
        let words = count.div_ceil(64);
        let mut bits = [vec![0; words], vec![0; words], vec![0; words]];
        for (set, addr) in bits.iter_mut().zip(addr) {
            if addr != 0 {
                current.memory().read_exact(addr, set.as_mut_bytes())?;
            }
        }
        for set in &mut bits {
            if let Some(last) = set.last_mut().filter(|_| !count.is_multiple_of(64)) {
                *last &= (1 << (count % 64)) - 1;
            }
        }
        Ok(Sets { addr, words, bits })
    }
    fn has(&self, set: usize, fd: usize) -> bool {
        self.bits.get(set).and_then(|s| s.get(fd / 64)).is_some_and(|word| word & (1 << (fd % 64)) != 0)
    }
    fn write(&self, current: &Current, answer: &[Vec<u64>; 3]) -> Result<(), Errno> {
        for (set, addr) in answer.iter().zip(self.addr) {
            if addr != 0 {
                current.memory().write_all(addr, set.as_bytes())?;
            }
        }
        Ok(())
    }
}

/// What each set of select(2) means to poll: `POLLIN_SET`, `POLLOUT_SET`, `POLLEX_SET` of the kernel.
fn set_events(set: usize) -> Events {
    match set {
        0 => Events::IN | Events::RDNORM | Events::RDBAND | Events::HUP | Events::ERR,
        1 => Events::OUT | Events::WRNORM | Events::WRBAND | Events::ERR,
        _ => Events::PRI,
    }
}

fn select_common(current: &mut Current, count: i32, addr: [u64; 3], deadline: Deadline) -> SysResult<usize> {
    let sets = Sets::read(current, count, addr)?;
    let mut items = Vec::new();
    let mut owner = Vec::new();
    for fd in 0..sets.words * 64 {
        let mut want = Events::empty();
        for set in 0..3 {
            if sets.has(set, fd) {
                want |= set_events(set);
            }
        }
        if !want.is_empty() {
            items.push(Item { file: current.files().get_usable(fd as Fd)?, want, got: Events::empty() });
            owner.push(fd);
        }
    }
    loop {
        wait(&mut items, deadline).map_err(|_| SysError::Restart(Restart::IfNoHandler))?;
        let mut answer = [vec![0u64; sets.words], vec![0u64; sets.words], vec![0u64; sets.words]];
        let mut total = 0;
        for (item, fd) in items.iter().zip(&owner) {
            for (set, words) in answer.iter_mut().enumerate() {
                if sets.has(set, *fd) && item.got.intersects(set_events(set)) {
                    if let Some(word) = words.get_mut(fd / 64) {
                        *word |= 1 << (fd % 64);
                    }
                    total += 1;
                }
            }
        }
        // A hang-up wakes a wait for priority data, which it does not answer.
        if total > 0 || deadline.is_some_and(|at| at <= sync::monotonic_ns()) || items.iter().all(|item| item.got.is_empty()) {
            sets.write(current, &answer)?;
            return Ok(total);
        }
        for item in &mut items {
            if !item.got.is_empty() && item.want == Events::PRI {
                item.want = Events::empty();
            }
        }
        items.retain(|item| !item.want.is_empty());
        owner.truncate(items.len());
    }
}

/// select(2). What is left of the timeout is written back.
pub fn select(current: &mut Current, count: i32, read: u64, write: u64, except: u64, timeout: UserRef<Timeval>) -> SysResult<usize> {
    let deadline = match timeout.read_optional(current)? {
        None => None,
        Some(time) => after(time.to_ns()?),
    };
    let result = select_common(current, count, [read, write, except], deadline);
    if let Some(at) = deadline {
        let left = at.saturating_sub(sync::monotonic_ns());
        // As with ppoll, the call's own result stands.
        let _ = timeout.write_optional(current, &Timeval::from_ns(left));
    }
    result
}

/// pselect6(2). The sixth argument points to the mask's address and size.
pub fn pselect6(
    current: &mut Current,
    count: i32,
    read: u64,
    write: u64,
    except: u64,
    timeout: UserRef<Timespec>,
    mask: UserRef<[u64; 2]>,
) -> SysResult<usize> {
    let deadline = timespec_deadline(current, timeout)?;
    let mask = match mask.read_optional(current)? {
        Some([addr, size]) => mask_argument(current, UserRef::at(addr), size as usize)?,
        None => None,
    };
    let result = current.with_signal_mask(mask, |current| select_common(current, count, [read, write, except], deadline));
    write_left(current, timeout, deadline);
    result
}
