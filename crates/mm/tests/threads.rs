//! Many threads in one address space: what each of them stores it reads again, by whatever way, and nothing ever shows a frame that is gone.

mod common;

use common::*;
use mm::*;
use platform::Access;
use ram::Reclaim;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use vfs::UserMemory;

/// Runs `workers` until `rounds` of `driver` are over.
fn beside(workers: &[&(dyn Fn() + Sync)], rounds: u64, mut driver: impl FnMut(u64)) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for worker in workers {
            scope.spawn(|| {
                worker();
                while !over.load(Ordering::Relaxed) {
                    worker();
                }
            });
        }
        // A failed driver must end the workers too.
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _over = Over(&over);
        for round in 0..rounds {
            driver(round);
        }
    });
}

#[test]
fn threads_read_what_they_stored_while_others_copy_the_same_pages() {
    let m = machine();
    m.stub.slow.store(true, Ordering::Relaxed);
    let at = m.anon(8 * PAGE);
    // Each thread has bytes of its own in pages that all share.
    let turns = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let work = |who: usize| {
        let mine = turns[who].fetch_add(1, Ordering::Relaxed) as u64;
        let addr = at + mine % 8 * PAGE + (mine / 8 * 2 + who as u64) % PAGE;
        let value = (mine % 250) as u8;
        m.poke(addr, value).unwrap();
        assert_eq!(m.load(addr), Ok(value), "the guest does not see what the kernel wrote");
        m.store(addr, value + 1).unwrap();
        assert_eq!(m.peek(addr), Ok(value + 1), "the kernel does not see what the guest stored");
        m.poke(addr, value + 2).unwrap();
        m.poke(addr, value + 3).unwrap();
        assert_eq!(m.load(addr), Ok(value + 3));
    };
    beside(&[&|| work(0), &|| work(1)], 3_000 * scale(), |round| {
        let child = m.fork(&[at + round % 8 * PAGE]);
        if round % 3 == 0 {
            child.store(at + PAGE, 1).unwrap();
            child.check();
        }
        if round % 50 == 0 {
            m.space.drop_host_mappings().unwrap();
        }
    });
    m.check();
}

#[test]
fn threads_that_map_and_unmap_do_not_disturb_each_other() {
    let m = machine();
    let turn = AtomicUsize::new(0);
    let worker = || {
        let mine = turn.fetch_add(1, Ordering::Relaxed);
        let len = (1 + mine as u64 % 40) * PAGE;
        let at = m.anon(len);
        let value = mine as u8;
        for page in 0..len / PAGE {
            m.store(at + page * PAGE, value).unwrap();
        }
        assert!(m.space.protect(at, len, platform::Protection::READ, HostRun::Never).is_ok());
        assert_eq!(m.store(at, 1), Err(FaultError::NO_RIGHT));
        let moved = m.space.remap(at, len, len + 64 * PAGE, RemapFlags::MAYMOVE, 0).unwrap();
        for page in 0..len / PAGE {
            assert_eq!((m.load(moved + page * PAGE), m.peek(moved + page * PAGE)), (Ok(value), Ok(value)));
        }
        assert!(m.space.unmap(moved, len + 64 * PAGE, HostRun::Never).is_ok());
    };
    beside(&[&worker, &worker, &worker], 500 * scale(), |_| {
        worker();
        drop(m.fork(&[]));
    });
    m.check();
    assert_eq!(m.space.usage().total, 0);
    assert_eq!(m.ram.stats().free, m.ram.frames());
}

#[test]
fn truncation_and_write_back_race_with_faults_and_lose_nothing() {
    let m = machine();
    m.stub.slow.store(true, Ordering::Relaxed);
    let file = File::new(&m, 3, 32);
    let shared = m.space.map(Mapping::of(file.backing(0), 0, 32 * PAGE, RW, MapFlags::SHARED)).unwrap();
    let private = m.space.map(Mapping::of(file.backing(0), 0, 32 * PAGE, RW, MapFlags::PRIVATE)).unwrap();
    let turn = AtomicUsize::new(0);
    let worker = || {
        let mine = turn.fetch_add(1, Ordering::Relaxed) as u64;
        let page = mine % 32 * PAGE;
        // Pages 0 to 7 are never truncated: what is stored there stays, whatever is written back and reclaimed.
        let offset = mine / 32 % PAGE;
        if page < 8 * PAGE {
            m.store(shared + page + offset, mine as u8).unwrap();
            assert_eq!(m.load(shared + page + offset), Ok(mine as u8));
            assert_eq!(m.peek(shared + page + offset), Ok(mine as u8));
        } else {
            let _ = m.store(shared + page, 1);
            let _ = m.load(private + page);
            let _ = m.poke(private + page + 5, 3);
        }
    };
    beside(&[&worker, &worker], 3_000 * scale(), |round| {
        match round % 3 {
            0 => {
                let keep = 8 + round % 20;
                file.truncate(keep);
                *file.len.lock().unwrap() = 32;
            }
            1 => file.write_back(),
            _ => drop(std::hint::black_box(file.shrink())),
        };
    });
    m.check();
}

struct Shrinker(Arc<File>, AtomicUsize);

impl Reclaim for Shrinker {
    fn reclaim(&self, _: usize) -> usize {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.shrink()
    }
}

#[test]
fn reclaim_takes_file_pages_from_the_very_space_that_asks_for_memory() {
    let m = machine_of(2 << 20);
    let file = File::new(&m, 3, 1000);
    let shrinker = Arc::new(Shrinker(file.clone(), AtomicUsize::new(0)));
    let weak = Arc::downgrade(&shrinker);
    m.ram.register_reclaim(weak);
    let mapped = m.space.map(Mapping::of(file.backing(0), 0, 1000 * PAGE, platform::Protection::READ, MapFlags::SHARED)).unwrap();
    let anon = m.space.map(Mapping::anonymous(0, 250 * PAGE, RW, MapFlags::NORESERVE)).unwrap();
    let turn = AtomicUsize::new(0);
    let worker = || {
        let mine = turn.fetch_add(7, Ordering::Relaxed) as u64;
        let page = mine % 1000;
        assert_eq!(m.load(mapped + page * PAGE), Ok((page + 1) as u8));
        let own = anon + mine % 250 * PAGE + mine / 250 % PAGE;
        m.store(own, mine as u8).unwrap();
        assert_eq!(m.peek(own), Ok(mine as u8));
    };
    beside(&[&worker, &worker], 5000 * scale(), |_| worker());
    assert!(shrinker.1.load(Ordering::Relaxed) > 0);
    m.check();
}

struct Owner(Arc<File>);

impl Reclaim for Owner {
    fn reclaim(&self, _: usize) -> usize {
        self.0.drop_idle()
    }
}

#[test]
fn a_file_larger_than_memory_can_be_mapped_and_locked_pages_stay() {
    let m = machine_of(2 << 20);
    let file = File::new(&m, 3, 4000);
    let owner = Arc::new(Owner(file.clone()));
    let weak = Arc::downgrade(&owner);
    m.ram.register_reclaim(weak);
    let mapping = Mapping::of(file.file_backing(0), 0, 4000 * PAGE, platform::Protection::READ, MapFlags::SHARED);
    let mapped = m.space.map(mapping).unwrap();
    m.space.lock_pages(mapped, 10 * PAGE, false).unwrap();
    let locked = m.space.pagemap(mapped);
    let other = m.fork(&[]);
    for round in 0..2 {
        for page in 0..4000 {
            let who = if page % 3 == round { &m } else { &other };
            assert_eq!(who.load(mapped + page * PAGE), Ok((page + 1) as u8));
        }
    }
    m.check();
    other.check();
    assert_eq!(m.space.pagemap(mapped), locked);
    assert_eq!(m.space.in_core(mapped, 10 * PAGE), Ok(vec![1; 10]));
}

#[test]
fn a_space_that_a_truncation_was_the_last_to_hold_is_dropped_all_the_same() {
    let m = machine();
    let file = File::new(&m, 3, 8);
    let turn = AtomicUsize::new(0);
    let worker = || {
        let space = AddressSpace::new(m.ram, Stub::new(m.ram), Limits::default()).unwrap();
        let at = space.map(Mapping::of(file.backing(0), 0, 8 * PAGE, RW, MapFlags::PRIVATE)).unwrap();
        for page in 0..8 {
            space.fault(at + page * PAGE, Access::Write).unwrap();
        }
        turn.fetch_add(1, Ordering::Relaxed);
    };
    beside(&[&worker, &worker], 3000 * scale(), |_| file.write_back());
    let _ = m.space.fault(0, Access::Read);
    file.truncate(0);
    // What the dead held is theirs no more.
    assert_eq!(m.ram.stats().free, m.ram.frames());
    assert!(turn.load(Ordering::Relaxed) > 0);
}

#[test]
fn atomic_words_of_threads_add_up() {
    let m = machine();
    let at = m.anon(PAGE);
    let done = AtomicUsize::new(0);
    let worker = || loop {
        let now = m.space.load_u32(at).unwrap();
        if m.space.compare_exchange_u32(at, now, now + 1).unwrap().is_ok() {
            done.fetch_add(1, Ordering::Relaxed);
            break;
        }
    };
    beside(&[&worker, &worker], 5_000 * scale(), |_| drop(m.fork(&[])));
    assert_eq!(m.space.load_u32(at).unwrap() as usize, done.load(Ordering::Relaxed));
    let mut bytes = [0; 4];
    m.space.read_exact(at, &mut bytes).unwrap();
    m.space.fault(at, Access::Write).unwrap();
    m.check();
}
