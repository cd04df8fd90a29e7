//! Two kinds of lock. A [`SpinLock`] is short: held for a few instructions, never over I/O, a user copy or a wait. A [`Mutex`] or [`RwLock`] sleeps:
//! a fiber that finds it taken parks and leaves its virtual CPU to others.
//!
//! A task that dies holding a lock has left what it protects in an unknown state: the next taker panics the machine with the lock's rank.

use crate::rank::{Rank, held};
use crate::wait::WaitQueue;
use std::ops::{Deref, DerefMut};
use std::sync::{self, TryLockError};

/// A short lock.
pub struct SpinLock<T> {
    inner: sync::Mutex<T>,
    rank: Rank,
}

/// Holds a [`SpinLock`].
pub struct SpinGuard<'a, T> {
    guard: sync::MutexGuard<'a, T>,
    rank: Rank,
}

impl<T> SpinLock<T> {
    /// A lock that is taken last, under no other short lock's protection.
    pub const fn new(value: T) -> SpinLock<T> {
        SpinLock::ranked(Rank::Leaf, value)
    }
    /// A lock with its place in the order.
    pub const fn ranked(rank: Rank, value: T) -> SpinLock<T> {
        SpinLock { inner: sync::Mutex::new(value), rank }
    }
    /// Takes the lock.
    pub fn lock(&self) -> SpinGuard<'_, T> {
        held::take(self.rank);
        match self.inner.lock() {
            Ok(guard) => SpinGuard { guard, rank: self.rank },
            Err(_) => abandoned(self.rank),
        }
    }
    /// The value, where nobody else can hold the lock.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut().unwrap_or_else(sync::PoisonError::into_inner)
    }
}

impl<T: Default> Default for SpinLock<T> {
    fn default() -> Self {
        SpinLock::new(T::default())
    }
}

impl<T> Drop for SpinGuard<'_, T> {
    fn drop(&mut self) {
        held::release(self.rank);
    }
}
impl<T> Deref for SpinGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}
impl<T> DerefMut for SpinGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// A sleeping lock.
pub struct Mutex<T> {
    inner: sync::Mutex<T>,
    waiters: WaitQueue,
    rank: Rank,
}

/// Holds a [`Mutex`].
pub struct MutexGuard<'a, T> {
    guard: Option<sync::MutexGuard<'a, T>>,
    mutex: &'a Mutex<T>,
}

impl<T> Mutex<T> {
    /// A sleeping lock that is taken last of the sleeping locks.
    pub const fn new(value: T) -> Mutex<T> {
        Mutex::ranked(Rank::SleepingLeaf, value)
    }
    /// A sleeping lock with its place in the order.
    pub const fn ranked(rank: Rank, value: T) -> Mutex<T> {
        Mutex { inner: sync::Mutex::new(value), waiters: WaitQueue::new(), rank }
    }
    /// Takes the lock, sleeping until it is free.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        held::take(self.rank);
        let guard = match self.try_inner() {
            Some(guard) => guard,
            None => self.waiters.wait_until(|| self.try_inner()),
        };
        MutexGuard { guard: Some(guard), mutex: self }
    }
    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let guard = self.try_inner()?;
        held::take(self.rank);
        Some(MutexGuard { guard: Some(guard), mutex: self })
    }
    fn try_inner(&self) -> Option<sync::MutexGuard<'_, T>> {
        match self.inner.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(_)) => abandoned(self.rank),
        }
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Mutex::new(T::default())
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.guard = None;
        held::release(self.mutex.rank);
        self.mutex.waiters.wake_one();
    }
}
impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.guard.as_ref().unwrap_or_else(|| unreachable!("a guard is empty only while it is dropped"))
    }
}
impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_mut().unwrap_or_else(|| unreachable!("a guard is empty only while it is dropped"))
    }
}

/// A sleeping lock that several readers may hold together.
pub struct RwLock<T> {
    inner: sync::RwLock<T>,
    waiters: WaitQueue,
    rank: Rank,
}

/// Holds an [`RwLock`] for reading.
pub struct RwLockReadGuard<'a, T> {
    guard: Option<sync::RwLockReadGuard<'a, T>>,
    lock: &'a RwLock<T>,
}

/// Holds an [`RwLock`] for writing.
pub struct RwLockWriteGuard<'a, T> {
    guard: Option<sync::RwLockWriteGuard<'a, T>>,
    lock: &'a RwLock<T>,
}

impl<T> RwLock<T> {
    /// A sleeping lock that is taken last of the sleeping locks.
    pub const fn new(value: T) -> RwLock<T> {
        RwLock::ranked(Rank::SleepingLeaf, value)
    }
    /// A sleeping lock with its place in the order.
    pub const fn ranked(rank: Rank, value: T) -> RwLock<T> {
        RwLock { inner: sync::RwLock::new(value), waiters: WaitQueue::new(), rank }
    }
    /// Takes the lock for reading, sleeping while it is held for writing.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        held::take(self.rank);
        let guard = match self.try_read_inner() {
            Some(guard) => guard,
            None => self.waiters.wait_until(|| self.try_read_inner()),
        };
        RwLockReadGuard { guard: Some(guard), lock: self }
    }
    /// Takes the lock for writing, sleeping while anybody holds it.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        held::take(self.rank);
        let guard = match self.try_write_inner() {
            Some(guard) => guard,
            None => self.waiters.wait_until(|| self.try_write_inner()),
        };
        RwLockWriteGuard { guard: Some(guard), lock: self }
    }
    fn try_read_inner(&self) -> Option<sync::RwLockReadGuard<'_, T>> {
        match self.inner.try_read() {
            Ok(guard) => Some(guard),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(_)) => abandoned(self.rank),
        }
    }
    fn try_write_inner(&self) -> Option<sync::RwLockWriteGuard<'_, T>> {
        match self.inner.try_write() {
            Ok(guard) => Some(guard),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(_)) => abandoned(self.rank),
        }
    }
}

impl<T> Drop for RwLockReadGuard<'_, T> {
    fn drop(&mut self) {
        self.guard = None;
        held::release(self.lock.rank);
        self.lock.waiters.wake_all();
    }
}
impl<T> Drop for RwLockWriteGuard<'_, T> {
    fn drop(&mut self) {
        self.guard = None;
        held::release(self.lock.rank);
        self.lock.waiters.wake_all();
    }
}
impl<T> Deref for RwLockReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.guard.as_ref().unwrap_or_else(|| unreachable!("a guard is empty only while it is dropped"))
    }
}
impl<T> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.guard.as_ref().unwrap_or_else(|| unreachable!("a guard is empty only while it is dropped"))
    }
}
impl<T> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_mut().unwrap_or_else(|| unreachable!("a guard is empty only while it is dropped"))
    }
}

#[cold]
fn abandoned(rank: Rank) -> ! {
    panic!("a task died holding a lock of rank {rank:?}; what it protects can't be trusted any more")
}
