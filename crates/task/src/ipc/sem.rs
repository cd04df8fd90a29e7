//! Semaphores, semget(2), semop(2), semctl(2).
//!
//! Always true: the operations of one call happen together or not at all; a value stays between 0 and [`VALUE_MAX`]; what a process is to undo at its
//! end is kept with the set.

use super::{Object, Permission, now};
use crate::process::Process;
use abi::{Errno, SysError, SysResult};
use ram::{Charge, Ram};
use std::collections::HashMap;
use std::sync::Arc;
use sync::{SpinLock, WaitError, WaitQueue};

/// `SEMMSL`: most semaphores of a set.
pub const SET_MAX: usize = 32_000;
/// `SEMOPM`: most operations of a call.
pub const OPERATIONS_MAX: usize = 500;
/// `SEMVMX`.
pub const VALUE_MAX: i32 = 32_767;
/// `SEM_UNDO`.
const UNDO: u16 = 0x1000;

/// `struct sembuf`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operation {
    pub index: u16,
    pub change: i16,
    pub flags: u16,
}

impl Operation {
    fn waits(self) -> bool {
        u32::from(self.flags) & super::NO_WAIT == 0
    }
}

/// One semaphore.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Semaphore {
    pub value: i32,
    /// Who changed it last.
    pub pid: i32,
    /// How many wait for it to grow, and for it to be zero.
    pub waiting_more: i32,
    pub waiting_zero: i32,
}

struct State {
    permission: Permission,
    semaphores: Vec<Semaphore>,
    operated: i64,
    changed: i64,
    removed: bool,
    /// What processes are to undo, by number.
    undo: HashMap<i32, Vec<i32>>,
}

/// A set of semaphores.
pub struct Set {
    state: SpinLock<State>,
    changed: WaitQueue,
    _charge: Charge,
}

impl Object for Set {
    fn permission(&self) -> Permission {
        self.state.lock().permission
    }
    fn set_sequence(&self, sequence: u16) {
        self.state.lock().permission.sequence = sequence;
    }
}

/// What keeps a call from being done.
struct Blocked {
    index: usize,
    for_zero: bool,
}

impl State {
    /// Does all operations, or says which one stands in the way.
    fn attempt(&mut self, operations: &[Operation], pid: i32) -> Result<Option<Blocked>, Errno> {
        if self.removed {
            return Err(Errno::EIDRM);
        }
        let mut values: Vec<i32> = self.semaphores.iter().map(|s| s.value).collect();
        for op in operations {
            let index = usize::from(op.index);
            let value = values.get_mut(index).ok_or(Errno::EFBIG)?;
            let change = i32::from(op.change);
            if (change == 0 && *value != 0) || *value + change < 0 {
                if !op.waits() {
                    return Err(Errno::EAGAIN);
                }
                return Ok(Some(Blocked { index, for_zero: change == 0 }));
            }
            if *value + change > VALUE_MAX {
                return Err(Errno::ERANGE);
            }
            *value += change;
        }
        let count = self.semaphores.len();
        for op in operations.iter().filter(|op| op.flags & UNDO != 0 && op.change != 0) {
            let undo = self.undo.entry(pid).or_insert_with(|| vec![0; count]);
            if let Some(undo) = undo.get_mut(usize::from(op.index)) {
                *undo -= i32::from(op.change);
            }
        }
        for (semaphore, value) in self.semaphores.iter_mut().zip(values) {
            semaphore.value = value;
        }
        for op in operations {
            if let Some(semaphore) = self.semaphores.get_mut(usize::from(op.index)) {
                semaphore.pid = pid;
            }
        }
        self.operated = now();
        Ok(None)
    }
    fn count_waiter(&mut self, blocked: &Blocked, more: i32) {
        if let Some(semaphore) = self.semaphores.get_mut(blocked.index) {
            if blocked.for_zero {
                semaphore.waiting_zero += more;
            } else {
                semaphore.waiting_more += more;
            }
        }
    }
}

impl Set {
    /// A set of zeroes.
    ///
    /// # Errors
    /// EINVAL for none or too many, ENOMEM.
    pub fn new(ram: &'static Ram, permission: Permission, count: usize) -> Result<Arc<Set>, Errno> {
        if count == 0 || count > SET_MAX {
            return Err(Errno::EINVAL);
        }
        let charge = ram.charge(size_of::<Set>() + count * size_of::<Semaphore>()).map_err(|_| Errno::ENOMEM)?;
        let semaphores = vec![Semaphore::default(); count];
        let state = State { permission, semaphores, operated: 0, changed: now(), removed: false, undo: HashMap::new() };
        Ok(Arc::new(Set { state: SpinLock::new(state), changed: WaitQueue::new(), _charge: charge }))
    }
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.state.lock().semaphores.len()
    }
    /// One of them.
    ///
    /// # Errors
    /// EINVAL when there is none of this index.
    pub fn semaphore(&self, index: usize) -> Result<Semaphore, Errno> {
        self.state.lock().semaphores.get(index).copied().ok_or(Errno::EINVAL)
    }
    /// All values.
    #[must_use]
    pub fn values(&self) -> Vec<u16> {
        self.state.lock().semaphores.iter().map(|s| s.value as u16).collect()
    }
    /// When it was last operated on and changed.
    #[must_use]
    pub fn times(&self) -> (i64, i64) {
        let state = self.state.lock();
        (state.operated, state.changed)
    }
    /// `SETVAL`, `SETALL`: values from `first` on. What was to be undone to them is forgotten.
    ///
    /// # Errors
    /// EIDRM; EINVAL when there are not so many; ERANGE.
    pub fn set(&self, first: usize, values: &[i32], pid: i32) -> Result<(), Errno> {
        if values.iter().any(|value| !(0..=VALUE_MAX).contains(value)) {
            return Err(Errno::ERANGE);
        }
        let mut state = self.state.lock();
        if state.removed {
            return Err(Errno::EIDRM);
        }
        let range = first..first + values.len();
        let semaphores = state.semaphores.get_mut(range.clone()).ok_or(Errno::EINVAL)?;
        for (semaphore, value) in semaphores.iter_mut().zip(values) {
            (semaphore.value, semaphore.pid) = (*value, pid);
        }
        for undo in state.undo.values_mut() {
            if let Some(undo) = undo.get_mut(range.clone()) {
                undo.fill(0);
            }
        }
        state.changed = now();
        drop(state);
        self.changed.wake_all();
        Ok(())
    }
    /// `IPC_SET`.
    pub fn change(&self, uid: u32, gid: u32, mode: u32) {
        let mut state = self.state.lock();
        state.permission.change(uid, gid, mode);
        state.changed = now();
    }
    /// It has left the table: all that wait are told.
    pub fn removed(&self) {
        self.state.lock().removed = true;
        self.changed.wake_all();
    }

    /// semop(2), semtimedop(2), until `deadline_ns` of the monotonic clock.
    ///
    /// # Errors
    /// EAGAIN, EFBIG, ERANGE, EIDRM, EINTR: a semop is never restarted.
    pub fn operate(&self, operations: &[Operation], process: &Arc<Process>, deadline_ns: Option<u64>) -> SysResult<()> {
        let pid = process.pid();
        let Some(mut blocked) = self.state.lock().attempt(operations, pid)? else {
            self.operated(operations, process);
            return Ok(());
        };
        self.state.lock().count_waiter(&blocked, 1);
        let result = self.changed.wait_deadline(deadline_ns, || {
            let mut state = self.state.lock();
            match state.attempt(operations, pid) {
                Ok(None) => Some(Ok(())),
                Ok(Some(now)) => {
                    state.count_waiter(&blocked, -1);
                    state.count_waiter(&now, 1);
                    blocked = now;
                    None
                }
                Err(errno) => Some(Err(errno)),
            }
        });
        self.state.lock().count_waiter(&blocked, -1);
        match result {
            Ok(Ok(())) => {
                self.operated(operations, process);
                Ok(())
            }
            Ok(Err(errno)) => Err(errno.into()),
            Err(WaitError::TimedOut) => Err(Errno::EAGAIN.into()),
            Err(WaitError::Interrupted) => Err(SysError::Errno(Errno::EINTR)),
        }
    }

    fn operated(&self, operations: &[Operation], process: &Arc<Process>) {
        if operations.iter().any(|op| op.change != 0) {
            self.changed.wake_all();
        }
        if operations.iter().any(|op| op.flags & UNDO != 0) {
            process.has_undo.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// The process is dead: what it did with `SEM_UNDO` is undone, as far as values go.
    pub fn undo(&self, pid: i32) {
        let mut state = self.state.lock();
        let Some(undo) = state.undo.remove(&pid) else { return };
        for (semaphore, change) in state.semaphores.iter_mut().zip(undo) {
            if change != 0 {
                semaphore.value = (semaphore.value + change).clamp(0, VALUE_MAX);
                semaphore.pid = pid;
            }
        }
        state.operated = now();
        drop(state);
        self.changed.wake_all();
    }
}
