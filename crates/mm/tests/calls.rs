//! The system calls on mappings: errors as the manual pages have them, limits, and what the host may be left to do.

mod common;

use abi::Errno;
use common::*;
use mm::*;
use platform::{Access, Protection};
use ram::Ram;
use vfs::UserMemory;

const NONE: Protection = Protection::empty();

fn anon(addr: u64, len: u64, flags: MapFlags) -> Mapping {
    Mapping::anonymous(addr, len, RW, flags)
}

/// `start-end rights` of every mapping, in pages from `base`.
fn maps(m: &Machine, base: u64) -> Vec<(u64, u64, Protection)> {
    let mut all = Vec::new();
    m.space.for_each_vma(|vma| {
        if vma.start >= base {
            all.push(((vma.start - base) / PAGE, (vma.end - base) / PAGE, vma.rights));
        }
    });
    all
}

#[test]
fn mmap_refuses_what_linux_refuses() {
    let m = machine();
    let taken = m.anon(4 * PAGE);
    let file = File::new(&m, 1, 4);
    let fixed = MapFlags::FIXED;
    let huge = u64::MAX >> 12;
    let cases = [
        (anon(0, 0, MapFlags::empty()), Errno::EINVAL),
        (anon(0x1001_0001, PAGE, fixed), Errno::EINVAL),
        (anon(0x1000, PAGE, fixed), Errno::EPERM),
        (anon(0x7fff_0000_0000, PAGE, fixed), Errno::ENOMEM),
        (anon(0x7ffe_ffff_f000, 2 * PAGE, fixed), Errno::ENOMEM),
        (anon(0, u64::MAX, MapFlags::empty()), Errno::ENOMEM),
        (anon(0, 0x7fff_0000_0000, MapFlags::NORESERVE), Errno::ENOMEM),
        (anon(taken, PAGE, MapFlags::FIXED_NOREPLACE), Errno::EEXIST),
        (anon(0, 1 << 40, MapFlags::empty()), Errno::ENOMEM),
        (Mapping { flags: MapFlags::ANONYMOUS, ..anon(0, PAGE, MapFlags::empty()) }, Errno::EINVAL),
        (Mapping::of(file.backing(huge), 0, PAGE, RW, MapFlags::PRIVATE), Errno::EOVERFLOW),
        (Mapping::of(file.backing(0), 0, PAGE, RW, MapFlags::PRIVATE | MapFlags::GROWSDOWN), Errno::EINVAL),
        (anon(0, 16 << 20, MapFlags::LOCKED), Errno::EAGAIN),
    ];
    for (i, (mapping, errno)) in cases.into_iter().enumerate() {
        assert_eq!(m.space.map(mapping), Err(errno), "case {i}");
    }
    // More than there is RAM is refused at once, but not if it is not meant to be reserved.
    assert!(m.space.map(anon(0, 1 << 40, MapFlags::NORESERVE)).is_ok());
    assert_eq!(m.space.usage().mappings, 2);
}

#[test]
fn mappings_are_placed_from_the_top_down_and_hints_are_taken_if_free() {
    let m = machine();
    let base = m.space.layout().mmap_base;
    let first = m.anon(3 * PAGE);
    assert_eq!(first, base - 3 * PAGE);
    assert_eq!(m.anon(PAGE), first - PAGE);
    // Both became one mapping.
    assert_eq!(m.space.usage().mappings, 1);
    // Larger areas begin at 64 KiB.
    let large = m.anon(100 * PAGE);
    assert_eq!(large % (64 << 10), 0);
    let hint = 0x5000_0000_0000;
    assert_eq!(m.space.map(anon(hint + 5, PAGE, MapFlags::empty())), Ok(hint + PAGE));
    assert_ne!(m.space.map(anon(hint + PAGE, PAGE, MapFlags::empty())), Ok(hint + PAGE));
    // A hole is found again.
    assert!(m.space.unmap(first, PAGE, HostRun::Never).is_ok());
    assert_eq!(m.anon(PAGE), first);
    // Nothing is put into the gap below a stack.
    let stack = 0x6000_0000_0000;
    m.space.map(anon(stack, PAGE, MapFlags::FIXED | MapFlags::GROWSDOWN)).unwrap();
    assert_ne!(m.space.map(anon(stack - PAGE, PAGE, MapFlags::empty())), Ok(stack - PAGE));
    assert_eq!(m.space.map(anon(stack - 257 * PAGE, PAGE, MapFlags::empty())), Ok(stack - 257 * PAGE));
}

#[test]
fn many_small_mappings_do_not_make_the_next_one_slow_nor_overlap() {
    let m = machine();
    let mut taken = std::collections::BTreeSet::new();
    let mut random = Random(7);
    for i in 0..3000 {
        let len = 1 + random.below(20);
        let rights = if i % 2 == 0 { RW } else { Protection::READ };
        let at = m.space.map(Mapping::anonymous(0, len * PAGE, rights, MapFlags::empty())).unwrap() / PAGE;
        for page in at..at + len {
            assert!(taken.insert(page));
        }
        if random.below(3) == 0 {
            let nth = random.below(taken.len() as u64) as usize;
            let page = *taken.iter().nth(nth).unwrap();
            assert!(m.space.unmap(page * PAGE, PAGE, HostRun::Never).is_ok());
            taken.remove(&page);
        }
    }
    assert_eq!(m.space.usage().total, taken.len() as u64);
}

#[test]
fn munmap_and_mprotect_refuse_what_linux_refuses() {
    let m = machine();
    let at = 0x1000_0000;
    m.space.map(anon(at, 10 * PAGE, MapFlags::FIXED)).unwrap();
    for (addr, len) in [(at + 1, PAGE), (at, 0), (!4095, PAGE), (0x7ffe_ffff_f000, 2 * PAGE), (0, u64::MAX)] {
        assert!(matches!(m.space.unmap(addr, len, HostRun::Never), Err(Errno::EINVAL)), "{addr:#x} {len:#x}");
    }
    // What is not mapped can be unmapped.
    assert!(m.space.unmap(0x2000_0000, PAGE, HostRun::Never).is_ok());
    let protect = |addr, len, rights| m.space.protect(addr, len, rights, HostRun::Never).map(|_| ());
    assert_eq!(protect(at + 1, PAGE, RW), Err(Errno::EINVAL));
    assert_eq!(protect(at, 0, RW), Ok(()));
    assert_eq!(protect(0x2000_0000, PAGE, RW), Err(Errno::ENOMEM));
    assert_eq!(protect(at, u64::MAX - at, RW), Err(Errno::ENOMEM));
    // What lies before a hole is changed all the same.
    assert!(m.space.unmap(at + 4 * PAGE, PAGE, HostRun::Never).is_ok());
    assert_eq!(protect(at + 2 * PAGE, 6 * PAGE, Protection::READ), Err(Errno::ENOMEM));
    assert_eq!(maps(&m, at), [(0, 2, RW), (2, 4, Protection::READ), (5, 10, RW)]);
    // And joins its neighbours again.
    assert_eq!(protect(at + 2 * PAGE, 2 * PAGE, RW), Ok(()));
    assert_eq!(maps(&m, at), [(0, 4, RW), (5, 10, RW)]);
    let file = File::new(&m, 1, 4);
    let read_only = Mapping { max_rights: RX, ..Mapping::of(file.backing(0), 0, PAGE, Protection::READ, MapFlags::SHARED) };
    let mapped = m.space.map(read_only).unwrap();
    assert_eq!(protect(mapped, PAGE, RW), Err(Errno::EACCES));
}

#[test]
fn the_number_of_mappings_is_limited() {
    let m = machine_of(128 << 20);
    let at = 0x1000_0000;
    m.space.map(Mapping::anonymous(at, 140_000 * PAGE, NONE, MapFlags::FIXED | MapFlags::NORESERVE)).unwrap();
    let mut page = 1;
    let errno = loop {
        match m.space.protect(at + page * PAGE, PAGE, Protection::READ, HostRun::Never) {
            Ok(_) => page += 2,
            Err(errno) => break errno,
        }
    };
    assert_eq!((errno, m.space.usage().mappings), (Errno::ENOMEM, MAX_MAP_COUNT - 1));
    assert!(m.space.unmap(at + (page + 5) * PAGE, PAGE, HostRun::Never).is_ok());
    assert!(matches!(m.space.unmap(at + (page + 9) * PAGE, PAGE, HostRun::Never), Err(Errno::ENOMEM)));
    m.space.clear();
    assert_eq!(m.space.usage().mappings, 0);
}

#[test]
fn limits_bound_the_space_its_data_and_what_is_locked() {
    let m = machine();
    m.space.set_limits(Limits { address_space: 100 * PAGE, data: 60 * PAGE, locked: 10 * PAGE, ..Limits::default() });
    let data = m.anon(50 * PAGE);
    assert_eq!(m.space.map(anon(0, 11 * PAGE, MapFlags::empty())), Err(Errno::ENOMEM));
    let text = m.space.map(Mapping::anonymous(0, 40 * PAGE, RX, MapFlags::empty())).unwrap();
    assert_eq!(m.space.map(Mapping::anonymous(0, 11 * PAGE, RX, MapFlags::empty())), Err(Errno::ENOMEM));
    assert!(matches!(m.space.protect(text, 11 * PAGE, RW, HostRun::Never), Err(Errno::ENOMEM)));
    assert_eq!(m.space.lock_pages(data, 11 * PAGE, false), Err(Errno::ENOMEM));
    assert_eq!(m.space.lock_pages(data + 100, 9 * PAGE, false), Ok(()));
    assert_eq!((m.space.usage().locked, m.space.usage().resident.anon), (10, 10));
    assert_eq!(m.space.lock_pages(data, 5 * PAGE, false), Ok(()));
    assert_eq!(m.space.unlock_pages(data, 5 * PAGE), Ok(()));
    assert_eq!(m.space.lock_pages(data + 49 * PAGE, 2 * PAGE, false), Err(Errno::ENOMEM));
    assert_eq!(m.space.lock_all(true, false, false), Err(Errno::ENOMEM));
    assert_eq!(m.space.lock_all(false, false, false), Ok(()));
    assert_eq!(m.space.usage().locked, 0);
    m.space.set_limits(Limits { locked: 0, ..Limits::default() });
    assert_eq!(m.space.lock_pages(data, PAGE, false), Err(Errno::EPERM));
}

#[test]
fn brk_grows_and_shrinks_the_heap_and_answers_where_it_is() {
    let m = machine();
    assert_eq!(m.space.brk(0x1234), 0);
    let start = 0x2000_0000;
    m.space.set_layout(Layout { start_brk: start, ..m.space.layout() });
    assert_eq!(m.space.brk(0), start);
    assert_eq!(m.space.brk(start + 100), start + 100);
    m.store(start + 99, 7).unwrap();
    assert_eq!(m.space.brk(start + 20 * PAGE + 1), start + 20 * PAGE + 1);
    assert_eq!((m.load(start + 99), m.space.usage().total, m.space.usage().mappings), (Ok(7), 21, 1));
    assert_eq!(m.space.vma_at_or_above(0).unwrap().name, Some("[heap]"));
    assert_eq!(m.space.brk(start + PAGE), start + PAGE);
    assert_eq!(m.store(start + PAGE, 1), Err(FaultError::NO_MAPPING));
    assert_eq!(m.space.brk(start - 1), start + PAGE);
    // Something in the way, or no more allowed.
    m.space.map(anon(start + 8 * PAGE, PAGE, MapFlags::FIXED)).unwrap();
    assert_eq!(m.space.brk(start + 8 * PAGE), start + PAGE);
    assert_eq!(m.space.brk(start + 7 * PAGE), start + 7 * PAGE);
    m.space.set_limits(Limits { data: 7 * PAGE, ..Limits::default() });
    assert_eq!(m.space.brk(start + 7 * PAGE + 1), start + 7 * PAGE);
    m.check();
}

#[test]
fn mremap_refuses_what_linux_refuses() {
    let m = machine();
    let at = 0x1000_0000;
    m.space.map(anon(at, 10 * PAGE, MapFlags::FIXED)).unwrap();
    m.space.map(Mapping::anonymous(at + 10 * PAGE, PAGE, NONE, MapFlags::FIXED)).unwrap();
    let (may, fixed, dont) = (RemapFlags::MAYMOVE, RemapFlags::MAYMOVE | RemapFlags::FIXED, RemapFlags::DONTUNMAP);
    let none = RemapFlags::empty();
    for (addr, old, new, flags, to, result) in [
        (at + 1, PAGE, PAGE, may, 0, Err(Errno::EINVAL)),
        (at, PAGE, 0, may, 0, Err(Errno::EINVAL)),
        (at, PAGE, PAGE, RemapFlags::FIXED, at, Err(Errno::EINVAL)),
        (at, PAGE, PAGE, dont, 0, Err(Errno::EINVAL)),
        (at, PAGE, 2 * PAGE, dont | may, 0, Err(Errno::EINVAL)),
        (at, 10 * PAGE, 10 * PAGE, fixed, at + PAGE, Err(Errno::EINVAL)),
        (at, 10 * PAGE, 10 * PAGE, fixed, 0x1000, Err(Errno::EPERM)),
        (at, 0, PAGE, may, 0, Err(Errno::EINVAL)),
        (0x3000_0000, PAGE, PAGE, may, 0, Err(Errno::EFAULT)),
        (at, 11 * PAGE, 20 * PAGE, may, 0, Err(Errno::EFAULT)),
        (at, 10 * PAGE, 11 * PAGE, none, 0, Err(Errno::ENOMEM)),
        (at, 5 * PAGE, 6 * PAGE, none, 0, Err(Errno::ENOMEM)),
        (at, 10 * PAGE, 10 * PAGE, none, 0, Ok(at)),
        (at + 2 * PAGE, 8 * PAGE, 7 * PAGE, none, 0, Ok(at + 2 * PAGE)),
        (at + 2 * PAGE, 7 * PAGE, 8 * PAGE, none, 0, Ok(at + 2 * PAGE)),
    ] {
        assert_eq!(m.space.remap(addr, old, new, flags, to), result, "{addr:#x} {old:#x} {new:#x} {flags:?}");
    }
    // Length 0 maps shared pages a second time.
    let shared = Mapping { flags: MapFlags::SHARED, ..anon(0, 4 * PAGE, MapFlags::empty()) };
    let first = m.space.map(shared).unwrap();
    let second = m.space.remap(first, 0, 4 * PAGE, may, 0).unwrap();
    m.store(first + PAGE, 5).unwrap();
    assert_eq!((second != first, m.load(second + PAGE)), (true, Ok(5)));
    // The pages move, and the old place reads as zeroes.
    m.store(at, 9).unwrap();
    let moved = m.space.remap(at, 4 * PAGE, 4 * PAGE, dont | may, 0).unwrap();
    assert_eq!((m.load(moved), m.load(at)), (Ok(9), Ok(0)));
    m.check();
}

#[test]
fn madvise_msync_and_mincore_answer_as_linux_does() {
    let m = machine();
    let at = 0x1000_0000;
    m.space.map(anon(at, 4 * PAGE, MapFlags::FIXED)).unwrap();
    m.space.map(anon(at + 6 * PAGE, 4 * PAGE, MapFlags::FIXED)).unwrap();
    let file = File::new(&m, 1, 4);
    let mapped = m.space.map(Mapping::of(file.backing(0), 0, 4 * PAGE, RW, MapFlags::PRIVATE)).unwrap();
    m.store(at, 1).unwrap();
    m.store(at + 6 * PAGE, 1).unwrap();
    // Both sides of the hole are emptied though the answer is ENOMEM.
    assert_eq!(m.space.advise(at, 10 * PAGE, Advice::DontNeed), Err(Errno::ENOMEM));
    assert_eq!((m.load(at), m.load(at + 6 * PAGE)), (Ok(0), Ok(0)));
    assert_eq!(m.space.advise(at + 1, PAGE, Advice::DontNeed), Err(Errno::EINVAL));
    assert_eq!(m.space.advise(at, 0, Advice::DontNeed), Ok(()));
    assert_eq!(m.space.advise(mapped, PAGE, Advice::Free), Err(Errno::EINVAL));
    assert_eq!(m.space.advise(mapped, PAGE, Advice::Set(VmaFlags::WIPEONFORK)), Err(Errno::EINVAL));
    assert_eq!(m.space.advise(at, 5 * PAGE, Advice::PopulateWrite), Err(Errno::ENOMEM));
    assert_eq!(m.space.advise(at, 4 * PAGE, Advice::PopulateWrite), Ok(()));
    assert_eq!((Advice::from_raw(8), Advice::from_raw(12), Advice::from_raw(-1)), (Some(Advice::Free), None, None));
    m.space.lock_pages(at, PAGE, false).unwrap();
    assert_eq!(m.space.advise(at, PAGE, Advice::DontNeed), Err(Errno::EINVAL));
    assert_eq!(m.space.advise(at, PAGE, Advice::DontNeedLocked), Ok(()));
    let sync = Msync { wait: true, invalidate: true };
    assert_eq!(m.space.sync(at, PAGE, sync), Err(Errno::EBUSY));
    assert_eq!(m.space.sync(at + 1, PAGE, sync), Err(Errno::EINVAL));
    assert_eq!(m.space.sync(at + PAGE, 5 * PAGE, sync), Err(Errno::ENOMEM));
    assert_eq!(m.space.sync(mapped, 4 * PAGE, sync), Ok(()));
    assert_eq!(m.space.in_core(at, 4 * PAGE), Ok(vec![0, 1, 1, 1]));
    m.load(mapped + 2 * PAGE).unwrap();
    m.space.advise(mapped, 4 * PAGE, Advice::DontNeed).unwrap();
    assert_eq!(m.space.in_core(mapped, 4 * PAGE), Ok(vec![0, 0, 1, 0]), "in the page cache still");
    assert_eq!(m.space.in_core(at, 5 * PAGE), Err(Errno::ENOMEM));
    assert_eq!(m.space.in_core(at + 1, PAGE), Err(Errno::EINVAL));
}

#[test]
fn the_host_is_left_to_run_only_what_does_just_the_same() {
    let m = machine();
    let at = m.anon(32 * PAGE);
    let lets = |changed: Result<Changed, Errno>| match changed.unwrap() {
        Changed::Done => false,
        Changed::LetHostRun(deferred) => {
            deferred.run_now().unwrap();
            true
        }
    };
    let protect = |page: u64, pages: u64, rights| lets(m.space.protect(at + page * PAGE, pages * PAGE, rights, HostRun::Allowed));
    // Nothing is mapped: there is nothing to run.
    assert!(!protect(0, 16, Protection::READ));
    assert!(!protect(0, 16, RW));
    for page in 0..16 {
        m.store(at + page * PAGE, 1).unwrap();
    }
    m.stub.batches();
    assert!(protect(0, 16, Protection::READ));
    assert!(protect(0, 8, RW));
    // The half that the stub does not have would make the host's call fail.
    assert!(!protect(8, 16, RW));
    m.check();
    // Pages that a fork shares must not become writable.
    assert!(protect(0, 16, Protection::READ));
    let child = m.fork(&[]);
    assert!(!protect(0, 16, RW));
    assert!(protect(0, 16, NONE));
    m.check();
    m.store(at + 16 * PAGE, 1).unwrap();
    let free = m.ram.available();
    // Frames wait until the host has run the call.
    match m.space.unmap(at, 32 * PAGE, HostRun::Allowed).unwrap() {
        Changed::Done => panic!("munmap of what is mapped is the host's to run"),
        Changed::LetHostRun(deferred) => {
            assert_eq!(m.ram.available(), free);
            deferred.run_now().unwrap();
        }
    }
    assert!(m.ram.available() > free);
    assert_eq!(m.stub.mapped(), 0);
    drop(child);
}

#[test]
fn a_fork_protects_with_few_commands_and_shows_the_child_what_it_needs() {
    let m = machine();
    let at = m.anon(512 * PAGE);
    for page in 0..512 {
        m.store(at + page * PAGE, 1).unwrap();
    }
    let text = m.space.map(Mapping::of(File::new(&m, 1, 16).backing(0), 0, 16 * PAGE, RX, MapFlags::PRIVATE)).unwrap();
    m.space.premap(&[(text..text + 16 * PAGE, Access::Execute)]).unwrap();
    m.stub.commands();
    let stack = at + 100 * PAGE;
    let child = m.fork(&[stack + 8, text + 3 * PAGE]);
    assert!(m.stub.commands() <= 3, "the area on both sides of the hot page");
    assert_eq!(child.stub.batches(), 1);
    // The stack is both's own, and writable without a fault.
    for machine in [&m, &child] {
        assert_eq!(machine.stub.page(stack).map(|(_, protection)| protection), Some(RW));
        assert!(machine.stub.page(text).is_some());
        machine.check();
    }
    assert_ne!(m.stub.page(stack), child.stub.page(stack));
    // A second fork has nothing left to protect but that page.
    m.stub.commands();
    let second = m.fork(&[]);
    assert_eq!(m.stub.commands(), 1);
    drop((child, second));
    // Alone again, the parent copies nothing.
    let free = m.ram.available();
    m.store(at, 2).unwrap();
    assert_eq!(m.ram.available(), free);
}

#[test]
fn a_stub_near_the_hosts_limit_of_mappings_is_emptied() {
    let ram = Ram::for_tests(320 << 20);
    let stub = Stub::new(ram);
    let space = AddressSpace::new(ram, stub.clone(), Limits::default()).unwrap();
    let m = Machine { ram, stub, space };
    let pages = 66_000;
    let at = m.space.map(anon(0, pages * PAGE, MapFlags::POPULATE)).unwrap();
    assert_eq!(m.stub.mapped(), pages as usize);
    let mut emptied = false;
    for page in (0..pages).step_by(2) {
        if m.space.protect(at + page * PAGE, PAGE, Protection::READ, HostRun::Allowed).is_err() {
            break;
        }
        emptied |= m.stub.mapped() == 0;
    }
    assert!(emptied);
    assert_eq!(m.load(at + 5 * PAGE), Ok(0));
    m.check();
}

#[test]
fn a_debugger_writes_where_the_guest_may_not() {
    let m = machine();
    let file = File::new(&m, 1, 4);
    let text = m.space.map(Mapping::of(file.backing(0), 0, 4 * PAGE, RX, MapFlags::PRIVATE)).unwrap();
    assert_eq!(m.load(text), Ok(1));
    assert!(m.poke(text, 0xcc).is_err());
    assert_eq!(m.space.write_forced(text, &[0xcc]), Ok(1));
    assert_eq!((m.load(text), m.load(text + 1)), (Ok(0xcc), Ok(1)));
    let mut byte = [0];
    file.cache.lock().unwrap()[&0].read(0, &mut byte);
    assert_eq!(byte, [1], "the file keeps its own");
    let shared = m.space.map(Mapping::of(file.backing(0), 0, PAGE, Protection::READ, MapFlags::SHARED)).unwrap();
    assert!(m.space.write_forced(shared, &[1]).is_err());
    let hidden = m.anon(PAGE);
    m.store(hidden, 3).unwrap();
    assert!(m.space.protect(hidden, PAGE, NONE, HostRun::Never).is_ok());
    assert_eq!((m.space.read_forced(hidden, &mut byte), byte), (Ok(1), [3]));
    assert_eq!(m.space.read(hidden, &mut byte), Err(Errno::EFAULT));
    let child = m.fork(&[]);
    assert_eq!(m.space.write_forced(hidden, &[4]), Ok(1));
    assert_eq!((child.space.read_forced(hidden, &mut byte), byte), (Ok(1), [3]));
    m.check();
}

#[test]
fn what_proc_shows_adds_up() {
    let m = machine();
    let at = 0x1000_0000;
    m.space.map(anon(at, 8 * PAGE, MapFlags::FIXED)).unwrap();
    m.poke(at, 1).unwrap();
    let child = m.fork(&[]);
    m.poke(at + PAGE, 1).unwrap();
    let smaps = m.space.smaps(at, at + 8 * PAGE);
    assert_eq!((smaps.resident, smaps.anonymous), (8 * PAGE, 8 * PAGE));
    // Copies come in fours; the rest is still shared by two.
    assert_eq!((smaps.private_dirty, smaps.shared_clean + smaps.shared_dirty), (4 * PAGE, 4 * PAGE));
    assert_eq!(smaps.proportional, 4 * PAGE + 4 * PAGE / 2);
    let entry = m.space.pagemap(at + PAGE);
    assert_eq!(entry >> 63, 1);
    assert_eq!(m.space.pagemap(at + 8 * PAGE), 0);
    assert!(m.space.badness() >= 8);
    assert_eq!(m.space.usage().resident, Resident { anon: 8, file: 0, shmem: 0 });
    drop(child);
    m.space.clear();
    assert_eq!((m.space.usage().total, m.space.badness()), (0, 0));
}
