//! System V shared memory, semaphores and message queues, sysvipc(7): objects with a key and a number, outliving who made them.
//!
//! Always true: a number names one object for its life and is not given out again soon; everything that waits is told when its object is removed
//! (EIDRM); each object and message is charged to RAM.

pub mod msg;
pub mod sem;
pub mod shm;

use abi::Errno;
use std::collections::BTreeMap;
use std::sync::Arc;
use sync::SpinLock;
use vfs::{Capability, Credentials};

/// `IPC_CREAT`.
pub const CREATE: u32 = 0o1000;
/// `IPC_EXCL`.
pub const EXCLUSIVE: u32 = 0o2000;
/// `IPC_NOWAIT`.
pub const NO_WAIT: u32 = 0o4000;
/// `IPC_PRIVATE`: always a new object.
pub const PRIVATE: i32 = 0;
/// Numbers are `sequence * IPCMNI + index`.
const INDICES: i32 = 32_768;
/// Sequences before they begin again, so that numbers stay positive.
const SEQUENCES: i32 = i32::MAX / INDICES;

/// Reading, as mode bits of one class.
pub const READ: u32 = 4;
/// Writing.
pub const WRITE: u32 = 2;

/// `struct ipc_perm`: whose an object is and who may use it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Permission {
    pub key: i32,
    pub uid: u32,
    pub gid: u32,
    pub creator_uid: u32,
    pub creator_gid: u32,
    pub mode: u32,
    pub sequence: u16,
}

impl Permission {
    fn new(key: i32, flags: u32, who: &Credentials) -> Permission {
        Permission { key, uid: who.euid, gid: who.egid, creator_uid: who.euid, creator_gid: who.egid, mode: flags & 0o777, sequence: 0 }
    }

    /// Whether `who` may do all of `want` (bits of one class, [`READ`] and [`WRITE`]).
    ///
    /// # Errors
    /// EACCES.
    pub fn check(&self, who: &Credentials, want: u32) -> Result<(), Errno> {
        let granted = if who.euid == self.uid || who.euid == self.creator_uid {
            self.mode >> 6
        } else if who.egid == self.gid || who.egid == self.creator_gid || who.in_group(self.gid) || who.in_group(self.creator_gid) {
            self.mode >> 3
        } else {
            self.mode
        };
        if want & !granted & 7 == 0 || who.has(Capability::IPC_OWNER) { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// Whether `who` may change or remove it.
    ///
    /// # Errors
    /// EPERM.
    pub fn check_owner(&self, who: &Credentials) -> Result<(), Errno> {
        let owns = who.euid == self.uid || who.euid == self.creator_uid;
        if owns || who.has(Capability::SYS_ADMIN) { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// `IPC_SET`: another owner and mode.
    pub fn change(&mut self, uid: u32, gid: u32, mode: u32) {
        (self.uid, self.gid) = (uid, gid);
        self.mode = mode & 0o777;
    }
}

/// An object of one of the three kinds.
pub trait Object: Send + Sync {
    /// Its permissions now.
    fn permission(&self) -> Permission;
    /// It has its number.
    fn set_sequence(&self, sequence: u16);
    /// Nothing finds it by its key any more.
    fn is_hidden(&self) -> bool {
        false
    }
}

struct Entries<T> {
    objects: BTreeMap<i32, Arc<T>>,
    sequence: i32,
}

/// All objects of a kind, by index.
pub struct Table<T> {
    entries: SpinLock<Entries<T>>,
    most: usize,
}

impl<T: Object> Table<T> {
    fn new(most: usize) -> Table<T> {
        Table { entries: SpinLock::new(Entries { objects: BTreeMap::new(), sequence: 0 }), most }
    }

    /// The object with this key, or a new one: shmget(2), semget(2), msgget(2). `fits` says whether one that is there will do.
    ///
    /// # Errors
    /// ENOENT, EEXIST, EACCES, ENOSPC, and what the closures answer.
    pub fn get(
        &self,
        key: i32,
        flags: u32,
        who: &Credentials,
        fits: impl FnOnce(&T) -> Result<(), Errno>,
        make: impl FnOnce(Permission) -> Result<Arc<T>, Errno>,
    ) -> Result<i32, Errno> {
        let there = |entries: &Entries<T>| {
            let mut objects = entries.objects.iter();
            objects.find(|(_, o)| key != PRIVATE && o.permission().key == key && !o.is_hidden()).map(|(id, o)| (*id, o.clone()))
        };
        let found = there(&self.entries.lock());
        if let Some((id, object)) = found {
            if flags & CREATE != 0 && flags & EXCLUSIVE != 0 {
                return Err(Errno::EEXIST);
            }
            fits(&object)?;
            object.permission().check(who, flags >> 6 | flags >> 3 | flags)?;
            return Ok(id);
        }
        if key != PRIVATE && flags & CREATE == 0 {
            return Err(Errno::ENOENT);
        }
        let object = make(Permission::new(key, flags, who))?;
        let mut entries = self.entries.lock();
        if there(&entries).is_some() {
            // Somebody else was quicker by an instant: as if he had come first and this call saw him.
            return Err(Errno::EEXIST);
        }
        if entries.objects.len() >= self.most {
            return Err(Errno::ENOSPC);
        }
        let index = (0..INDICES).find(|index| !entries.objects.keys().any(|id| id % INDICES == *index)).ok_or(Errno::ENOSPC)?;
        let sequence = entries.sequence;
        object.set_sequence(sequence as u16);
        let id = sequence * INDICES + index;
        entries.objects.insert(id, object);
        Ok(id)
    }

    /// An object by number.
    ///
    /// # Errors
    /// EINVAL.
    pub fn by_id(&self, id: i32) -> Result<Arc<T>, Errno> {
        self.entries.lock().objects.get(&id).cloned().ok_or(Errno::EINVAL)
    }

    /// The object with this index, and its number: `SHM_STAT` and its kin.
    ///
    /// # Errors
    /// EINVAL.
    pub fn by_index(&self, index: i32) -> Result<(i32, Arc<T>), Errno> {
        let entries = self.entries.lock();
        entries.objects.iter().find(|(id, _)| *id % INDICES == index).map(|(id, o)| (*id, o.clone())).ok_or(Errno::EINVAL)
    }

    /// Takes an object out.
    pub fn remove(&self, id: i32) -> Option<Arc<T>> {
        let mut entries = self.entries.lock();
        let gone = entries.objects.remove(&id)?;
        entries.sequence = (entries.sequence + 1) % SEQUENCES;
        Some(gone)
    }

    /// The highest index in use; 0 when there are none.
    #[must_use]
    pub fn highest_index(&self) -> i32 {
        self.entries.lock().objects.keys().map(|id| id % INDICES).max().unwrap_or(0)
    }

    /// All objects with their numbers.
    #[must_use]
    pub fn all(&self) -> Vec<(i32, Arc<T>)> {
        self.entries.lock().objects.iter().map(|(id, o)| (*id, o.clone())).collect()
    }
}

/// The objects that a process sees: an IPC namespace.
pub struct Ipc {
    pub segments: Arc<Table<shm::Segment>>,
    pub semaphores: Table<sem::Set>,
    pub queues: Table<msg::Queue>,
}

impl Default for Ipc {
    fn default() -> Ipc {
        Ipc { segments: Arc::new(Table::new(4096)), semaphores: Table::new(32_000), queues: Table::new(32_000) }
    }
}

/// Seconds of the real-time clock, as the objects' times are kept.
fn now() -> i64 {
    (sync::realtime_ns() / abi::NS_PER_SEC) as i64
}
