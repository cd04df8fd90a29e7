//! Locks of file ranges and whole files.

mod common;

use abi::Errno;
use common::Machine;
use std::sync::Arc;
use std::time::Duration;
use vfs::{Inode, LockKind, LockOwner, LockWait, OpenFlags, RangeLock, flock, get_lock, release_locks, set_lock, unlock};

const P1: LockOwner = LockOwner::Process(1);
const P2: LockOwner = LockOwner::Process(2);
use LockKind::{Exclusive, Shared};

fn lock(owner: LockOwner, kind: LockKind, start: u64, end: u64) -> RangeLock {
    RangeLock { owner, kind, start, end, pid: 1 }
}

#[test]
fn ranges_split_join_and_conflict() {
    let m = Machine::new();
    let ram = m.vfs.ram();
    let file = m.open("/f", OpenFlags::CREAT | OpenFlags::RDWR).unwrap();
    let inode = file.inode();
    let set = |l| set_lock(ram, inode, l, LockWait::No).map_err(|e| e.errno());
    let seen = |start, end| get_lock(inode, &lock(P2, Exclusive, start, end)).map(|l| (l.kind, l.start, l.end));
    set(lock(P1, Exclusive, 0, 99)).unwrap();
    assert_eq!(set(lock(P2, Shared, 50, 60)), Err(Errno::EAGAIN));
    set(lock(P1, Shared, 40, 49)).unwrap();
    set(lock(P2, Shared, 45, 47)).unwrap();
    assert_eq!(seen(0, 10), Some((Exclusive, 0, 39)));
    assert_eq!(seen(41, 44), Some((Shared, 40, 49)));
    unlock(ram, inode, P1, 10, 19).unwrap();
    assert_eq!(seen(10, 19), None);
    assert_eq!(seen(9, 9), Some((Exclusive, 0, 9)));
    set(lock(P1, Exclusive, 10, 19)).unwrap();
    assert_eq!(seen(9, 9), Some((Exclusive, 0, 39)), "neighbours of one kind are one range");
    set(lock(P1, Exclusive, 100, u64::MAX)).unwrap();
    assert_eq!(seen(1 << 40, 1 << 40), Some((Exclusive, 50, u64::MAX)));
    release_locks(inode, P1);
    assert_eq!(seen(0, u64::MAX), None);
}

#[test]
fn a_waiter_gets_the_lock_and_a_circle_is_refused() {
    let m = Machine::new();
    let ram = m.vfs.ram();
    let (a, b) = (m.open("/a", OpenFlags::CREAT).unwrap(), m.open("/b", OpenFlags::CREAT).unwrap());
    let (a, b): (Arc<dyn Inode>, Arc<dyn Inode>) = (a.inode().clone(), b.inode().clone());
    set_lock(ram, &a, lock(P1, Exclusive, 0, 0), LockWait::Yes).unwrap();
    set_lock(ram, &b, lock(P2, Exclusive, 0, 0), LockWait::Yes).unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| set_lock(ram, &b, lock(P1, Exclusive, 0, 0), LockWait::Yes));
        std::thread::sleep(Duration::from_millis(20));
        let error = set_lock(ram, &a, lock(P2, Shared, 0, 5), LockWait::Yes).unwrap_err();
        assert_eq!(error.errno(), Errno::EDEADLK);
        unlock(ram, &b, P2, 0, u64::MAX).unwrap();
        waiter.join().unwrap().unwrap();
    });
}

#[test]
fn a_whole_file_lock_goes_with_its_description() {
    let m = Machine::new();
    let ram = m.vfs.ram();
    let open = || m.open("/f", OpenFlags::CREAT | OpenFlags::RDWR).unwrap();
    let (one, two) = (open(), open());
    let inode = one.inode().clone();
    let take = |id, kind| flock(ram, &inode, (id, 1), kind, LockWait::No).map_err(|e| e.errno());
    take(one.id(), Some(Shared)).unwrap();
    take(two.id(), Some(Shared)).unwrap();
    assert_eq!(take(one.id(), Some(Exclusive)), Err(Errno::EAGAIN));
    take(two.id(), None).unwrap();
    take(one.id(), Some(Exclusive)).unwrap();
    assert_eq!(take(two.id(), Some(Shared)), Err(Errno::EAGAIN));
    drop(one);
    take(two.id(), Some(Exclusive)).unwrap();
}
