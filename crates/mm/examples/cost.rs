//! What the bookkeeping costs, without a host: run with `cargo run --release -p mm --example cost`.

use abi::Errno;
use mm::*;
use platform::{Access, GuestSpace, GuestThread, MapCommand, Protection, SpaceGone};
use ram::{Backing, Ram};
use std::sync::Arc;
use std::time::Instant;
use vfs::UserMemory;

/// RAM that forgets, so that only bookkeeping is measured.
struct Nothing(usize);

impl Backing for Nothing {
    fn len_bytes(&self) -> usize {
        self.0
    }
    fn read(&self, _: usize, _: &mut [u8]) {}
    fn write(&self, _: usize, _: &[u8]) {}
    fn copy(&self, _: usize, _: usize, _: usize) {}
    fn fill(&self, _: usize, _: usize, _: u8) {}
    fn compare_exchange_u32(&self, _: usize, _: u32, _: u32) -> Result<u32, u32> {
        Ok(0)
    }
    fn load_u32(&self, _: usize) -> u32 {
        0
    }
    fn punch(&self, _: usize, _: usize) {}
}

struct Deaf;

impl GuestSpace for Deaf {
    fn map(&self, commands: &[MapCommand]) -> Result<(), SpaceGone> {
        std::hint::black_box(commands);
        Ok(())
    }
    fn new_thread(&self) -> Result<Box<dyn GuestThread>, Errno> {
        Err(Errno::EAGAIN)
    }
    fn kill(&self) {}
}

fn time(what: &str, count: u64, per: &str, f: impl FnOnce()) {
    let begin = Instant::now();
    f();
    println!("{what}: {:.0} ns a {per}", begin.elapsed().as_nanos() as f64 / count as f64);
}

fn main() {
    const PAGE: u64 = 4096;
    let ram = Ram::new(Box::new(Nothing(1 << 30)));
    let space = AddressSpace::new(ram, Arc::new(Deaf), Limits::default()).unwrap();
    let rights = Protection::READ | Protection::WRITE;
    let len = 64 << 20;
    let pages = len / PAGE;
    for round in 0..2 {
        let at = space.map(Mapping::anonymous(0, len, rights, MapFlags::empty())).unwrap();
        // Backwards, so that each brings 16 pages.
        time("fault of 16 pages", pages / 16, "fault", || {
            for i in (0..pages / 16).rev() {
                space.fault(at + i * 16 * PAGE, Access::Write).unwrap();
            }
        });
        let mut bytes = [0; 64];
        time("read of 64 bytes", 1_000_000, "read", || {
            for i in 0..1_000_000u64 {
                space.read(at + i * 977 * 64 % len, &mut bytes).unwrap();
            }
        });
        let begin = Instant::now();
        let child = space.fork(Arc::new(Deaf), &[at, at + PAGE]).unwrap();
        let took = begin.elapsed().as_nanos() as f64;
        println!("fork of {pages} pages: {:.0} us, {:.1} ns a page", took / 1e3, took / pages as f64);
        time("break of 4 copies", pages / 64, "fault", || {
            for i in (0..pages / 64).rev() {
                space.fault(at + i * 64 * PAGE, Access::Write).unwrap();
            }
        });
        time("end of the child", pages, "page", || drop(child));
        time("unmap", pages, "page", || {
            let _ = space.unmap(at, len, HostRun::Never).unwrap();
        });
        if round == 0 {
            println!("once more, with used memory");
        }
    }
    let begin = Instant::now();
    for _ in 0..1000 {
        let _child = space.fork(Arc::new(Deaf), &[]).unwrap();
    }
    println!("fork and end of an empty space: {:.1} us", begin.elapsed().as_nanos() as f64 / 1e6);
    let begin = Instant::now();
    for _ in 0..1_000_000 {
        let at = space.map(Mapping::anonymous(0, 4 * PAGE, rights, MapFlags::empty())).unwrap();
        let _ = space.unmap(at, 4 * PAGE, HostRun::Never).unwrap();
    }
    println!("mmap and munmap: {:.0} ns", begin.elapsed().as_nanos() as f64 / 1e6);
}
