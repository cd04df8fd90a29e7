//! What faults bring, what they cost in commands, and what is refused.

mod common;

use common::*;
use mm::*;
use platform::{Access, Protection};
use vfs::UserMemory;

#[test]
fn a_first_touch_maps_sixteen_pages_around_it_in_one_command() {
    let m = machine();
    let at = m.anon(1 << 20);
    m.space.fault(at + 0x5123, Access::Write).unwrap();
    assert_eq!((m.stub.commands(), m.stub.mapped()), (1, 16));
    m.check();
    // Going on where that ended doubles it, up to 128 pages.
    for (offset, mapped) in [(16, 48), (48, 112), (112, 240)] {
        m.space.fault(at + offset * PAGE, Access::Write).unwrap();
        assert_eq!((m.stub.commands(), m.stub.mapped()), (1, mapped));
    }
    // Equal strides do not.
    let sparse = m.anon(64 << 20);
    for i in 0..10 {
        m.space.fault(sparse + i * 128 * PAGE, Access::Write).unwrap();
    }
    assert_eq!(m.stub.mapped(), 240 + 160);
}

#[test]
fn faults_are_refused_as_linux_refuses_them() {
    let m = machine();
    let at = m.space.map(Mapping::anonymous(0, 2 * PAGE, Protection::READ, MapFlags::empty())).unwrap();
    let none = m.space.map(Mapping::anonymous(0, PAGE, Protection::empty(), MapFlags::empty())).unwrap();
    let file = File::new(&m, 7, 1);
    let mapped = m.space.map(Mapping::of(file.backing(0), 0, 2 * PAGE, RW, MapFlags::PRIVATE)).unwrap();
    for (addr, access, error) in [
        (at, Access::Write, FaultError::NO_RIGHT),
        (at, Access::Execute, FaultError::NO_RIGHT),
        (at + 2 * PAGE, Access::Read, FaultError::NO_MAPPING),
        (none, Access::Read, FaultError::NO_RIGHT),
        (0, Access::Read, FaultError::NO_MAPPING),
        (u64::MAX - 5, Access::Read, FaultError::NO_MAPPING),
        (mapped + PAGE, Access::Read, FaultError::NO_PAGE),
        (mapped + PAGE, Access::Write, FaultError::NO_PAGE),
    ] {
        assert_eq!(m.space.fault(addr, access), Err(error), "{addr:#x} {access:?}");
    }
    assert_eq!(m.space.fault(at, Access::Read), Ok(()));
    assert_eq!(m.space.fault(mapped, Access::Write), Ok(()));
    m.check();
}

#[test]
fn a_page_that_vanished_from_the_stub_is_simply_mapped_again() {
    let m = machine();
    let at = m.anon(4 * PAGE);
    m.store(at, 42).unwrap();
    m.space.drop_host_mappings().unwrap();
    assert_eq!(m.stub.mapped(), 0);
    assert_eq!(m.load(at), Ok(42));
    m.check();
}

#[test]
fn private_pages_of_a_file_are_the_files_own_until_they_are_written() {
    let m = machine();
    let file = File::new(&m, 7, 40);
    let at = m.space.map(Mapping::of(file.backing(3), 0, 30 * PAGE, RW, MapFlags::PRIVATE)).unwrap();
    assert_eq!(m.load(at), Ok(4));
    let frame = file.cache.lock().unwrap()[&3].pfn();
    assert_eq!(m.stub.page(at), Some((frame, Protection::READ)));
    m.store(at, 99).unwrap();
    assert_ne!(m.stub.page(at).unwrap().0, frame);
    assert_eq!((m.load(at), m.load(at + PAGE)), (Ok(99), Ok(5)));
    let mut byte = [0];
    file.cache.lock().unwrap()[&3].read(0, &mut byte);
    assert_eq!(byte, [4]);
    // A store to a page that is not there yet copies at once.
    m.store(at + 20 * PAGE + 1, 77).unwrap();
    assert_eq!((m.load(at + 20 * PAGE), m.load(at + 20 * PAGE + 1)), (Ok(24), Ok(77)));
    m.check();
    assert_eq!(m.space.usage().resident.anon, 2);
}

#[test]
fn shared_pages_of_a_file_are_read_only_until_written_and_again_after_write_back() {
    let m = machine();
    let file = File::new(&m, 7, 40);
    let at = m.space.map(Mapping::of(file.backing(0), 0, 30 * PAGE, RW, MapFlags::SHARED)).unwrap();
    assert_eq!(m.load(at), Ok(1));
    assert_eq!(m.stub.page(at).unwrap().1, Protection::READ);
    m.store(at, 50).unwrap();
    m.poke(at + PAGE, 51).unwrap();
    assert_eq!(file.dirty.lock().unwrap().iter().copied().collect::<Vec<_>>(), [0, 1]);
    file.write_back();
    m.check();
    assert_eq!(m.stub.page(at).unwrap().1, Protection::READ);
    assert_eq!((m.load(at), m.load(at + PAGE)), (Ok(50), Ok(51)));
    assert!(file.dirty.lock().unwrap().is_empty());
    m.store(at, 52).unwrap();
    assert_eq!(file.dirty.lock().unwrap().len(), 1);
    m.check();
}

#[test]
fn truncation_takes_pages_away_from_everybody_private_copies_too() {
    let m = machine();
    let file = File::new(&m, 7, 8);
    let shared = m.space.map(Mapping::of(file.backing(0), 0, 8 * PAGE, RW, MapFlags::SHARED)).unwrap();
    let private = m.space.map(Mapping::of(file.backing(0), 0, 8 * PAGE, RW, MapFlags::PRIVATE)).unwrap();
    for page in 0..8 {
        m.store(shared + page * PAGE, 100).unwrap();
        m.store(private + page * PAGE, 200).unwrap();
    }
    let other = m.fork(&[]);
    other.load(shared + 5 * PAGE).unwrap();
    file.truncate(4);
    for machine in [&m, &other] {
        machine.check();
        assert_eq!((machine.load(shared + 3 * PAGE), machine.load(private + 3 * PAGE)), (Ok(100), Ok(200)));
        for page in 4..8 {
            assert_eq!(machine.load(shared + page * PAGE), Err(FaultError::NO_PAGE));
            assert_eq!(machine.load(private + page * PAGE), Err(FaultError::NO_PAGE));
            assert!(machine.peek(shared + page * PAGE).is_err());
        }
    }
}

#[test]
fn the_stack_grows_to_its_limit_and_keeps_its_gap() {
    let m = machine();
    let top = 0x7ffe_0000_0000;
    m.space.map(Mapping::anonymous(top - PAGE, PAGE, RW, MapFlags::FIXED | MapFlags::GROWSDOWN)).unwrap();
    assert_eq!(m.store(top - 100 * PAGE, 1), Ok(()));
    assert_eq!(m.space.usage().stack, 100);
    assert_eq!(m.store(top - (8 << 20), 1), Ok(()));
    assert_eq!(m.store(top - (8 << 20) - 1, 1), Err(FaultError::NO_MAPPING));
    // The kernel's own accesses grow it as well.
    let other = 0x7ffd_0000_0000;
    m.space.map(Mapping::anonymous(other - PAGE, PAGE, RW, MapFlags::FIXED | MapFlags::GROWSDOWN)).unwrap();
    m.poke(other - 5 * PAGE, 1).unwrap();
    // Something in the way, less than a megabyte below.
    m.space.map(Mapping::anonymous(other - 400 * PAGE, PAGE, RW, MapFlags::FIXED)).unwrap();
    assert_eq!(m.store(other - 143 * PAGE, 1), Ok(()));
    assert_eq!(m.store(other - 144 * PAGE, 1), Err(FaultError::NO_MAPPING));
    m.check();
}

#[test]
fn memory_that_is_used_up_is_the_fault_of_whoever_faults() {
    let m = machine_of(2 << 20);
    let at = m.space.map(Mapping::anonymous(0, 2 << 20, RW, MapFlags::NORESERVE)).unwrap();
    let mut page = 0;
    let error = loop {
        match m.store(at + page * PAGE, 1) {
            Ok(()) => page += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error, FaultError::Oom);
    // All but what kernel objects are charged could be had.
    assert!(page > 470, "{page}");
    m.check();
    let _ = m.space.unmap(at, 2 << 20, HostRun::Never).unwrap();
    assert_eq!(m.stub.mapped(), 0);
    assert!(m.ram.available() > 490);
}

#[test]
fn user_copies_cross_pages_and_stop_where_nothing_is() {
    let m = machine();
    let at = m.anon(4 * PAGE);
    let data: Vec<u8> = (0..3 * PAGE).map(|i| (i % 251) as u8).collect();
    assert_eq!(m.space.write(at + 100, &data), Ok(data.len()));
    let mut back = vec![0; data.len()];
    assert_eq!(m.space.read(at + 100, &mut back), Ok(data.len()));
    assert_eq!(back, data);
    assert_eq!(m.stub.batches(), 0, "the kernel's copies need no stub");
    // Four pages mapped: a copy over the end is cut, one from the end on fails.
    assert_eq!(m.space.write(at + 3 * PAGE, &data), Ok(PAGE as usize));
    assert_eq!(m.space.write(at + 4 * PAGE, &data), Err(abi::Errno::EFAULT));
    assert_eq!(m.space.read(u64::MAX - 10, &mut back), Err(abi::Errno::EFAULT));
    assert_eq!(m.space.read(at + 4 * PAGE, &mut []), Ok(0));
    assert_eq!(m.space.zero(at + 5, 10), Ok(10));
    assert_eq!((m.load(at + 4), m.load(at + 5)), (Ok(0), Ok(0)));
    let frame = m.ram.alloc_zeroed().unwrap();
    assert_eq!(m.space.read_to_frame(at + 200, &frame, 10, 50), Ok(50));
    let mut part = [0; 50];
    frame.read(10, &mut part);
    assert_eq!(part, data[100..150]);
    assert_eq!(m.space.write_from_frame(at, &frame, 10, 50), Ok(50));
    assert_eq!(m.peek(at + 1), Ok(part[1]));
}

#[test]
fn a_copy_that_the_kernel_breaks_is_what_the_guest_reads_next() {
    let m = machine();
    let at = m.anon(16 * PAGE);
    m.store(at, 1).unwrap();
    let child = m.fork(&[]);
    assert_eq!((m.load(at), child.load(at)), (Ok(1), Ok(1)));
    m.poke(at, 2).unwrap();
    m.check();
    assert_eq!((m.load(at), child.load(at)), (Ok(2), Ok(1)));
    child.poke(at, 3).unwrap();
    child.check();
    assert_eq!((m.peek(at), child.load(at)), (Ok(2), Ok(3)));
}

#[test]
fn futex_words_are_known_by_object_where_they_are_shared() {
    let m = machine();
    let file = File::new(&m, 9, 8);
    let a = m.space.map(Mapping::of(file.backing(1), 0, 2 * PAGE, RW, MapFlags::SHARED)).unwrap();
    let b = m.space.map(Mapping::of(file.backing(0), 0, 4 * PAGE, RW, MapFlags::SHARED)).unwrap();
    let p = m.space.map(Mapping::of(file.backing(0), 0, 4 * PAGE, RW, MapFlags::PRIVATE)).unwrap();
    assert_eq!(m.space.futex_key(a + 8, true), m.space.futex_key(b + PAGE + 8, true));
    assert_ne!(m.space.futex_key(a + 8, true), m.space.futex_key(b + 8, true));
    assert_ne!(m.space.futex_key(a + 8, false), m.space.futex_key(b + PAGE + 8, false));
    assert_eq!(m.space.futex_key(p, true), Ok(FutexKey::Private { space: m.space.id(), addr: p }));
    let child = m.fork(&[]);
    assert_eq!(m.space.futex_key(a, true), child.space.futex_key(a, true));
    assert_ne!(m.space.futex_key(p, true), child.space.futex_key(p, true));
    let anon = m.space.map(Mapping::anonymous(0, PAGE, RW, MapFlags::empty())).unwrap();
    assert_eq!(m.space.compare_exchange_u32(anon, 0, 7), Ok(Ok(0)));
    assert_eq!(m.space.compare_exchange_u32(anon, 0, 8), Ok(Err(7)));
    assert_eq!((m.space.load_u32(anon), m.space.load_u32(anon + 2)), (Ok(7), Err(abi::Errno::EINVAL)));
    assert_eq!(m.space.futex_key(0x1000, true), Err(abi::Errno::EFAULT));
}

#[test]
fn shared_anonymous_memory_is_one_for_parent_and_child() {
    let m = machine();
    let shared = Mapping { flags: MapFlags::SHARED | MapFlags::ANONYMOUS, ..Mapping::anonymous(0, 40 * PAGE, RW, MapFlags::empty()) };
    let at = m.space.map(shared).unwrap();
    let child = m.fork(&[]);
    child.store(at + 20 * PAGE, 9).unwrap();
    assert_eq!(m.load(at + 20 * PAGE), Ok(9));
    m.poke(at, 8).unwrap();
    assert_eq!(child.load(at), Ok(8));
    assert!(m.space.usage().resident.shmem > 0);
    m.check();
    child.check();
    let free = m.ram.available();
    drop(child);
    let _ = m.space.unmap(at, 40 * PAGE, HostRun::Never).unwrap();
    assert!(m.ram.available() > free + 16);
}
