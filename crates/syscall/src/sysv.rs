//! System V shared memory, semaphores and message queues, sysvipc(7). `task::ipc` does the work; the structures of the control calls are here.

use crate::args::{UserAddr, UserRef};
use abi::{Errno, SysError, SysResult, Timespec};
use mm::MapFlags;
use platform::Protection;
use std::sync::Arc;
use task::Current;
use task::ipc::msg::{MESSAGE_MAX, QUEUE_MAX, Queue, Wanted};
use task::ipc::sem::{OPERATIONS_MAX, Operation, SET_MAX, Set, VALUE_MAX};
use task::ipc::shm::{Segment, detach};
use task::ipc::{Ipc, NO_WAIT, Object, Permission, READ, Table, WRITE};
use vfs::UserMemory;

const IPC_RMID: u32 = 0;
const IPC_SET: u32 = 1;
const IPC_STAT: u32 = 2;
const IPC_INFO: u32 = 3;

/// A structure being put together.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn int(mut self, value: i32) -> Fields {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }
    fn uint(self, value: u32) -> Fields {
        self.int(value as i32)
    }
    fn long(mut self, value: i64) -> Fields {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }
    fn ulong(self, value: u64) -> Fields {
        self.long(value as i64)
    }
    /// `struct ipc64_perm`; the mode may hold more than the permissions.
    fn permission(self, p: &Permission, mode: u32) -> Fields {
        let ids = self.int(p.key).uint(p.uid).uint(p.gid).uint(p.creator_uid).uint(p.creator_gid).uint(mode);
        ids.uint(u32::from(p.sequence)).int(0).long(0).long(0)
    }
    fn write(self, current: &Current, to: u64) -> Result<(), Errno> {
        current.memory().write_all(to, &self.0)
    }
}

/// What `IPC_SET` takes from the structure: owner, group, mode.
fn read_owner(current: &Current, from: u64) -> Result<(u32, u32, u32), Errno> {
    let words: [u32; 6] = UserRef::at(from).read(current)?;
    Ok((words[1], words[2], words[5]))
}

fn ipc(current: &Current) -> Arc<Ipc> {
    current.task().ipc()
}

/// An object by number, or by index for the `..._STAT` commands that want one; `ANY` asks for no permission.
fn for_stat<T: Object>(
    current: &Current,
    table: &Table<T>,
    id: i32,
    (command, by_index, any): (u32, u32, u32),
) -> Result<(i32, Arc<T>), Errno> {
    let (id, object) = if command == IPC_STAT { (id, table.by_id(id)?) } else { table.by_index(id)? };
    debug_assert!([IPC_STAT, by_index, any].contains(&command));
    if command != any {
        object.permission().check(current.credentials(), READ)?;
    }
    Ok((id, object))
}

// Shared memory.

/// shmget(2).
pub fn shmget(current: &mut Current, key: i32, size: u64, flags: u32) -> SysResult<i32> {
    let (ram, pid, ipc) = (current.system().ram, current.pid(), ipc(current));
    let fits = |segment: &Segment| if size > segment.len_bytes() { Err(Errno::EINVAL) } else { Ok(()) };
    let make = |permission| Segment::new(ram, &ipc.segments, permission, size, pid);
    Ok(ipc.segments.get(key, flags, current.credentials(), fits, make)?)
}

/// shmat(2).
pub fn shmat(current: &mut Current, id: i32, addr: u64, flags: u32) -> SysResult<u64> {
    const RDONLY: u32 = 0o10000;
    const ROUND: u32 = 0o20000;
    const REMAP: u32 = 0o40000;
    const EXEC: u32 = 0o100_000;
    let page = abi::PAGE_SIZE as u64;
    let mut at = addr;
    if !addr.is_multiple_of(page) {
        if flags & ROUND == 0 {
            return Err(Errno::EINVAL.into());
        }
        at -= addr % page;
    }
    if flags & REMAP != 0 && at == 0 {
        return Err(Errno::EINVAL.into());
    }
    let segment = ipc(current).segments.by_id(id)?;
    let (want, mut rights) =
        if flags & RDONLY != 0 { (READ, Protection::READ) } else { (READ | WRITE, Protection::READ | Protection::WRITE) };
    if flags & EXEC != 0 {
        rights |= Protection::EXEC;
    }
    segment.permission().check(current.credentials(), want | u32::from(flags & EXEC != 0))?;
    let max = if flags & RDONLY != 0 { Protection::READ | Protection::EXEC } else { Protection::all() };
    let place = match (at, flags & REMAP) {
        (0, _) => MapFlags::empty(),
        (_, 0) => MapFlags::FIXED_NOREPLACE,
        _ => MapFlags::FIXED,
    };
    let memory = current.memory().clone();
    let attached = segment.attach(id, &memory, current.process(), at, place, (rights, max));
    // Here something in the way is a wrong address.
    Ok(attached.map_err(|errno| if errno == Errno::EEXIST { Errno::EINVAL } else { errno })?)
}

/// shmdt(2).
pub fn shmdt(current: &mut Current, addr: u64) -> SysResult<()> {
    if !addr.is_multiple_of(abi::PAGE_SIZE as u64) {
        return Err(Errno::EINVAL.into());
    }
    let memory = current.memory().clone();
    Ok(detach(&memory, current.process(), addr)?)
}

/// shmctl(2).
pub fn shmctl(current: &mut Current, id: i32, command: u32, buffer: u64) -> SysResult<i32> {
    const LOCK: u32 = 11;
    const UNLOCK: u32 = 12;
    const STAT: u32 = 13;
    const INFO: u32 = 14;
    const STAT_ANY: u32 = 15;
    if id < 0 {
        return Err(Errno::EINVAL.into());
    }
    let ipc = ipc(current);
    let table = &ipc.segments;
    match command {
        IPC_INFO => {
            let limit = u64::MAX - (1 << 24);
            Fields::default().ulong(limit).long(1).long(4096).long(4096).ulong(limit).write_padded(current, buffer, 72)?;
            Ok(table.highest_index())
        }
        INFO => {
            let all = table.all();
            let pages: u64 = all.iter().map(|(_, s)| s.len_bytes().div_ceil(abi::PAGE_SIZE as u64)).sum();
            Fields::default().int(all.len() as i32).int(0).ulong(pages).ulong(pages).ulong(0).ulong(0).ulong(0).write(current, buffer)?;
            Ok(table.highest_index())
        }
        IPC_STAT | STAT | STAT_ANY => {
            let (number, segment) = for_stat(current, table, id, (command, STAT, STAT_ANY))?;
            let times = segment.times();
            let fields = Fields::default().permission(&segment.permission(), segment.mode()).ulong(segment.len_bytes());
            let fields = fields.long(times.attached).long(times.detached).long(times.changed).int(times.creator).int(times.last);
            fields.ulong(segment.attached()).long(0).long(0).write(current, buffer)?;
            Ok(if command == IPC_STAT { 0 } else { number })
        }
        IPC_SET => {
            let (uid, gid, mode) = read_owner(current, buffer)?;
            let segment = table.by_id(id)?;
            segment.permission().check_owner(current.credentials())?;
            segment.change(uid, gid, mode);
            Ok(0)
        }
        IPC_RMID => {
            let segment = table.by_id(id)?;
            segment.permission().check_owner(current.credentials())?;
            if segment.mark_removed() {
                drop(table.remove(id));
            }
            Ok(0)
        }
        LOCK | UNLOCK => {
            let segment = table.by_id(id)?;
            if !current.credentials().has(vfs::Capability::IPC_LOCK) {
                segment.permission().check_owner(current.credentials())?;
                if command == LOCK && current.process().rlimit(abi::Resource::Memlock).soft == 0 {
                    return Err(Errno::EPERM.into());
                }
            }
            segment.set_locked(command == LOCK);
            Ok(0)
        }
        _ => Err(Errno::EINVAL.into()),
    }
}

impl Fields {
    fn write_padded(mut self, current: &Current, to: u64, len: usize) -> Result<(), Errno> {
        self.0.resize(len, 0);
        self.write(current, to)
    }
}

// Semaphores.

/// semget(2).
pub fn semget(current: &mut Current, key: i32, count: i32, flags: u32) -> SysResult<i32> {
    let count = usize::try_from(count).ok().filter(|count| *count <= SET_MAX).ok_or(Errno::EINVAL)?;
    let (ram, ipc) = (current.system().ram, ipc(current));
    let fits = |set: &Set| if count > set.count() { Err(Errno::EINVAL) } else { Ok(()) };
    Ok(ipc.semaphores.get(key, flags, current.credentials(), fits, |permission| Set::new(ram, permission, count))?)
}

/// semop(2).
pub fn semop(current: &mut Current, id: i32, operations: UserAddr, count: usize) -> SysResult<()> {
    semtimedop(current, id, operations, count, None)
}

/// semtimedop(2).
pub fn semtimedop(current: &mut Current, id: i32, operations: UserAddr, count: usize, timeout: Option<UserRef<Timespec>>) -> SysResult<()> {
    if count == 0 || id < 0 {
        return Err(Errno::EINVAL.into());
    }
    if count > OPERATIONS_MAX {
        return Err(Errno::E2BIG.into());
    }
    let words: Vec<[u16; 3]> = UserRef::at(operations.0).read_many(current, count)?;
    let operations: Vec<Operation> =
        words.into_iter().map(|[index, change, flags]| Operation { index, change: change as i16, flags }).collect();
    let deadline = match timeout {
        Some(timeout) => Some(sync::monotonic_ns().saturating_add(timeout.read(current)?.to_ns()?)),
        None => None,
    };
    let set = ipc(current).semaphores.by_id(id)?;
    if operations.iter().any(|op| usize::from(op.index) >= set.count()) {
        return Err(Errno::EFBIG.into());
    }
    let want = if operations.iter().any(|op| op.change != 0) { WRITE } else { READ };
    set.permission().check(current.credentials(), want)?;
    set.operate(&operations, current.process(), deadline)
}

/// semctl(2).
pub fn semctl(current: &mut Current, id: i32, index: i32, command: u32, argument: u64) -> SysResult<i32> {
    const GETPID: u32 = 11;
    const GETVAL: u32 = 12;
    const GETALL: u32 = 13;
    const GETNCNT: u32 = 14;
    const GETZCNT: u32 = 15;
    const SETVAL: u32 = 16;
    const SETALL: u32 = 17;
    const STAT: u32 = 18;
    const INFO: u32 = 19;
    const STAT_ANY: u32 = 20;
    if id < 0 {
        return Err(Errno::EINVAL.into());
    }
    let ipc = ipc(current);
    let table = &ipc.semaphores;
    let which = usize::try_from(index).map_err(|_| Errno::EINVAL);
    match command {
        IPC_INFO | INFO => {
            let all = table.all();
            let semaphores: usize = all.iter().map(|(_, set)| set.count()).sum();
            let (used, total) = if command == INFO { (all.len() as i32, semaphores as i32) } else { (20, VALUE_MAX) };
            let limits = [0x3e80_0000, 32_000, 1_024_000_000, 1_024_000_000, SET_MAX as i32, OPERATIONS_MAX as i32];
            let fields = limits.into_iter().fold(Fields::default(), Fields::int);
            fields.int(OPERATIONS_MAX as i32).int(used).int(VALUE_MAX).int(total).write(current, argument)?;
            Ok(table.highest_index())
        }
        IPC_STAT | STAT | STAT_ANY => {
            let (number, set) = for_stat(current, table, id, (command, STAT, STAT_ANY))?;
            let (permission, (operated, changed)) = (set.permission(), set.times());
            let fields = Fields::default().permission(&permission, permission.mode).long(operated).long(0).long(changed).long(0);
            fields.ulong(set.count() as u64).long(0).long(0).write(current, argument)?;
            Ok(if command == IPC_STAT { 0 } else { number })
        }
        IPC_SET | IPC_RMID => {
            let owner = if command == IPC_SET { Some(read_owner(current, argument)?) } else { None };
            let set = table.by_id(id)?;
            set.permission().check_owner(current.credentials())?;
            match owner {
                Some((uid, gid, mode)) => set.change(uid, gid, mode),
                None => {
                    drop(table.remove(id));
                    set.removed();
                }
            }
            Ok(0)
        }
        GETPID | GETVAL | GETNCNT | GETZCNT => {
            let set = table.by_id(id)?;
            set.permission().check(current.credentials(), READ)?;
            let semaphore = set.semaphore(which?)?;
            Ok(match command {
                GETPID => semaphore.pid,
                GETVAL => semaphore.value,
                GETNCNT => semaphore.waiting_more,
                _ => semaphore.waiting_zero,
            })
        }
        GETALL => {
            let set = table.by_id(id)?;
            set.permission().check(current.credentials(), READ)?;
            UserRef::at(argument).write_many(current, &set.values())?;
            Ok(0)
        }
        SETVAL => {
            let value = argument as i32;
            let set = table.by_id(id)?;
            set.permission().check(current.credentials(), WRITE)?;
            set.set(which?, &[value], current.pid())?;
            Ok(0)
        }
        SETALL => {
            let set = table.by_id(id)?;
            set.permission().check(current.credentials(), WRITE)?;
            let values: Vec<u16> = UserRef::at(argument).read_many(current, set.count())?;
            let values: Vec<i32> = values.into_iter().map(i32::from).collect();
            set.set(0, &values, current.pid())?;
            Ok(0)
        }
        _ => Err(Errno::EINVAL.into()),
    }
}

// Messages.

/// msgget(2).
pub fn msgget(current: &mut Current, key: i32, flags: u32) -> SysResult<i32> {
    let (ram, ipc) = (current.system().ram, ipc(current));
    Ok(ipc.queues.get(key, flags, current.credentials(), |_| Ok(()), |permission| Queue::new(ram, permission))?)
}

/// msgsnd(2).
pub fn msgsnd(current: &mut Current, id: i32, message: u64, size: usize, flags: u32) -> SysResult<()> {
    if size > MESSAGE_MAX || id < 0 {
        return Err(Errno::EINVAL.into());
    }
    let kind: i64 = UserRef::at(message).read(current)?;
    if kind < 1 {
        return Err(Errno::EINVAL.into());
    }
    let data: Vec<u8> = UserRef::at(message.wrapping_add(8)).read_many(current, size)?;
    let queue = ipc(current).queues.by_id(id)?;
    queue.permission().check(current.credentials(), WRITE)?;
    queue.send(current.system().ram, kind, data, flags & NO_WAIT == 0, current.pid())
}

/// msgrcv(2).
pub fn msgrcv(current: &mut Current, id: i32, message: u64, size: i64, kind: i64, flags: u32) -> SysResult<usize> {
    const NOERROR: u32 = 0o10000;
    const EXCEPT: u32 = 0o20000;
    const COPY: u32 = 0o40000;
    let room = usize::try_from(size).map_err(|_| Errno::EINVAL)?;
    if id < 0 || (flags & COPY != 0 && (flags & EXCEPT != 0 || flags & NO_WAIT == 0)) {
        return Err(Errno::EINVAL.into());
    }
    let queue = ipc(current).queues.by_id(id)?;
    queue.permission().check(current.credentials(), READ)?;
    let cut = flags & NOERROR != 0;
    let (kind, data) = if flags & COPY != 0 {
        queue.copy(usize::try_from(kind).map_err(|_| Errno::ENOMSG)?, room, cut)?
    } else {
        let wanted = match kind {
            0 => Wanted::First,
            kind if kind < 0 => Wanted::Lowest(kind.checked_neg().unwrap_or(i64::MAX)),
            kind if flags & EXCEPT != 0 => Wanted::Other(kind),
            kind => Wanted::Kind(kind),
        };
        let taken = queue.receive(wanted, room, cut, flags & NO_WAIT == 0, current.pid())?;
        (taken.kind, taken.data)
    };
    UserRef::at(message).write(current, &kind)?;
    current.memory().write_all(message.wrapping_add(8), &data)?;
    Ok(data.len())
}

/// msgctl(2).
pub fn msgctl(current: &mut Current, id: i32, command: u32, buffer: u64) -> SysResult<i32> {
    const STAT: u32 = 11;
    const INFO: u32 = 12;
    const STAT_ANY: u32 = 13;
    if id < 0 {
        return Err(Errno::EINVAL.into());
    }
    let ipc = ipc(current);
    let table = &ipc.queues;
    match command {
        IPC_INFO | INFO => {
            let all = table.all();
            let (messages, bytes) =
                all.iter().map(|(_, q)| q.figures()).fold((0, 0), |(m, b), f| (m + f.messages as i32, b + f.bytes as i32));
            let (pool, map, total) = if command == INFO { (all.len() as i32, messages, bytes) } else { (512_000, 16_384, 16_384) };
            let fields = Fields::default().int(pool).int(map).int(MESSAGE_MAX as i32).int(QUEUE_MAX as i32);
            fields.int(32_000).int(16).int(total).int(0xffff).write(current, buffer)?;
            Ok(table.highest_index())
        }
        IPC_STAT | STAT | STAT_ANY => {
            let (number, queue) = for_stat(current, table, id, (command, STAT, STAT_ANY))?;
            let (permission, f) = (queue.permission(), queue.figures());
            let fields = Fields::default().permission(&permission, permission.mode).long(f.sent).long(f.received).long(f.changed);
            let fields = fields.ulong(f.bytes).ulong(f.messages).ulong(f.most).int(f.sender).int(f.receiver);
            fields.long(0).long(0).write(current, buffer)?;
            Ok(if command == IPC_STAT { 0 } else { number })
        }
        IPC_SET => {
            let (uid, gid, mode) = read_owner(current, buffer)?;
            // `msg_qbytes` of the structure.
            let most: u64 = UserRef::at(buffer.wrapping_add(88)).read(current)?;
            let queue = table.by_id(id)?;
            queue.permission().check_owner(current.credentials())?;
            if most > QUEUE_MAX && !current.credentials().has(vfs::Capability::SYS_RESOURCE) {
                return Err(Errno::EPERM.into());
            }
            queue.change(uid, gid, mode, most);
            Ok(0)
        }
        IPC_RMID => {
            let queue = table.by_id(id)?;
            queue.permission().check_owner(current.credentials())?;
            drop(table.remove(id));
            queue.removed();
            Ok(0)
        }
        _ => Err(SysError::from(Errno::EINVAL)),
    }
}
