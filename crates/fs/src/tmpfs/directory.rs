//! Directories of tmpfs: a hash by name, and the order in which names were made for reading.
//!
//! Always true: a name keeps its cookie while it exists, and cookies only grow, so that reading sees every name that was there all the time once.

use super::inode::TmpfsInode;
use abi::Errno;
use ram::{Charge, Ram};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use sync::SpinLock;
use vfs::{DirEntry, Emit, Inode};

/// Bytes charged for a name, beside its own.
const ENTRY_COST: usize = 128;
/// The first cookie that is not for `.` or `..`.
const FIRST_COOKIE: u64 = 3;
/// Entries looked at under one lock.
const BATCH: usize = 64;

struct Entry {
    inode: Arc<TmpfsInode>,
    cookie: u64,
    _charge: Charge,
}

#[derive(Default)]
struct Entries {
    by_name: HashMap<Arc<[u8]>, Entry>,
    by_cookie: BTreeMap<u64, Arc<[u8]>>,
    made: u64,
}

#[derive(Default)]
pub(super) struct Directory(SpinLock<Entries>);

impl Directory {
    pub fn len(&self) -> usize {
        self.0.lock().by_name.len()
    }
    pub fn get(&self, name: &[u8]) -> Option<Arc<TmpfsInode>> {
        self.0.lock().by_name.get(name).map(|entry| entry.inode.clone())
    }
    /// Adds a name that is not there.
    pub fn insert(&self, ram: &'static Ram, name: &[u8], inode: Arc<TmpfsInode>) -> Result<(), Errno> {
        let charge = ram.charge(ENTRY_COST + name.len())?;
        let name: Arc<[u8]> = Arc::from(name);
        let mut entries = self.0.lock();
        let cookie = FIRST_COOKIE + entries.made;
        entries.made += 1;
        entries.by_cookie.insert(cookie, name.clone());
        entries.by_name.insert(name, Entry { inode, cookie, _charge: charge });
        Ok(())
    }
    /// Lets a name stand for another inode.
    pub fn replace(&self, name: &[u8], inode: Arc<TmpfsInode>) {
        let old = self.0.lock().by_name.get_mut(name).map(|entry| std::mem::replace(&mut entry.inode, inode));
        drop(old);
    }
    pub fn remove(&self, name: &[u8]) -> Option<Arc<TmpfsInode>> {
        let mut entries = self.0.lock();
        let entry = entries.by_name.remove(name)?;
        entries.by_cookie.remove(&entry.cookie);
        drop(entries);
        Some(entry.inode)
    }
    pub fn read(&self, mut from: u64, emit: Emit<'_>) {
        loop {
            let batch: Vec<_> = {
                let entries = self.0.lock();
                let names = entries.by_cookie.range(from..).take(BATCH);
                names
                    .filter_map(|(cookie, name)| {
                        let inode = &entries.by_name.get(name)?.inode;
                        Some((*cookie, name.clone(), inode.ino(), inode.kind()))
                    })
                    .collect()
            };
            let Some((last, ..)) = batch.last() else { return };
            from = last + 1;
            for (cookie, name, ino, kind) in &batch {
                if !emit(DirEntry { name, ino: *ino, kind: Some(*kind), next: cookie + 1 }) {
                    return;
                }
            }
        }
    }
    /// Empties it, for dropping.
    pub fn take_all(&mut self) -> Vec<Arc<TmpfsInode>> {
        let entries = std::mem::take(self.0.get_mut());
        entries.by_name.into_values().map(|entry| entry.inode).collect()
    }
}
