//! A machine for tests: RAM, a stub that checks every command, objects to map.
#![allow(dead_code, reason = "each test file uses some of it")]

use abi::Errno;
use mm::*;
use platform::{GuestSpace, GuestThread, MapCommand, Protection, SpaceGone};
use ram::{Frame, Pfn, Ram};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use vfs::{Mapper, Pages, UserMemory};

pub const PAGE: u64 = 4096;
pub const RW: Protection = Protection::READ.union(Protection::WRITE);
pub const RX: Protection = Protection::READ.union(Protection::EXEC);

/// A stub: which frame each page shows and with what rights. Panics when it is asked to go on showing a frame that was freed.
pub struct Stub {
    ram: &'static Ram,
    pages: Mutex<BTreeMap<u64, (Pfn, Protection)>>,
    commands: AtomicUsize,
    batches: AtomicUsize,
    /// Lets others run between the change of the page table and what the stub makes of it.
    pub slow: AtomicBool,
}

impl Stub {
    pub fn new(ram: &'static Ram) -> Arc<Stub> {
        Arc::new(Stub {
            ram,
            pages: Mutex::default(),
            commands: AtomicUsize::new(0),
            batches: AtomicUsize::new(0),
            slow: AtomicBool::new(false),
        })
    }
    pub fn page(&self, addr: u64) -> Option<(Pfn, Protection)> {
        self.pages.lock().unwrap().get(&(addr / PAGE)).copied()
    }
    pub fn pages(&self) -> BTreeMap<u64, (Pfn, Protection)> {
        self.pages.lock().unwrap().clone()
    }
    pub fn mapped(&self) -> usize {
        self.pages.lock().unwrap().len()
    }
    /// Commands since the last call.
    pub fn commands(&self) -> usize {
        self.commands.swap(0, Ordering::Relaxed)
    }
    /// Batches since the last call.
    pub fn batches(&self) -> usize {
        self.batches.swap(0, Ordering::Relaxed)
    }
    /// What the host does when it runs a guest's own munmap or mprotect.
    pub fn run(&self, command: MapCommand) {
        self.map(&[command]).unwrap();
    }
}

impl GuestSpace for Stub {
    fn map(&self, commands: &[MapCommand]) -> Result<(), SpaceGone> {
        if self.slow.load(Ordering::Relaxed) {
            let until = std::time::Instant::now() + std::time::Duration::from_micros(20);
            while std::time::Instant::now() < until {
                std::thread::yield_now();
            }
        }
        let mut pages = self.pages.lock().unwrap();
        for (page, (pfn, _)) in pages.iter() {
            assert!(self.ram.count(*pfn) > 0, "the stub shows frame {pfn} at page {page:#x}, and it is free");
        }
        self.commands.fetch_add(commands.len(), Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
        for command in commands {
            match *command {
                MapCommand::Map { addr, len, pfn, protection } => {
                    assert!(len > 0 && addr % PAGE == 0 && len % PAGE == 0 && !protection.is_empty());
                    for i in 0..len / PAGE {
                        assert!(self.ram.count(pfn + i as u32) > 0, "a free frame is mapped");
                        pages.insert(addr / PAGE + i, (pfn + i as u32, protection));
                    }
                }
                MapCommand::Unmap { addr, len } => {
                    assert!(len > 0 && addr % PAGE == 0 && len % PAGE == 0);
                    let gone: Vec<u64> = pages.range(addr / PAGE..(addr + len) / PAGE).map(|(page, _)| *page).collect();
                    for page in gone {
                        pages.remove(&page);
                    }
                }
                MapCommand::Protect { addr, len, protection } => {
                    for page in addr / PAGE..(addr + len) / PAGE {
                        pages.get_mut(&page).expect("mprotect of a page that is not mapped fails with ENOMEM on the host").1 = protection;
                    }
                }
            }
        }
        Ok(())
    }
    fn new_thread(&self) -> Result<Box<dyn GuestThread>, Errno> {
        Err(Errno::EAGAIN)
    }
    fn kill(&self) {}
}

pub struct Machine {
    pub ram: &'static Ram,
    pub stub: Arc<Stub>,
    pub space: Arc<AddressSpace>,
}

/// A machine of 64 MiB.
pub fn machine() -> Machine {
    machine_of(64 << 20)
}

pub fn machine_of(bytes: usize) -> Machine {
    let ram = Ram::for_tests(bytes);
    let stub = Stub::new(ram);
    let space = AddressSpace::new(ram, stub.clone(), Limits::default()).unwrap();
    Machine { ram, stub, space }
}

impl Machine {
    /// Private anonymous memory somewhere.
    pub fn anon(&self, len: u64) -> u64 {
        self.space.map(Mapping::anonymous(0, len, RW, MapFlags::empty())).unwrap()
    }
    /// The same as a fork.
    pub fn fork(&self, hot: &[u64]) -> Machine {
        let stub = Stub::new(self.ram);
        let space = self.space.fork(stub.clone(), hot).unwrap();
        Machine { ram: self.ram, stub, space }
    }
    /// That the stub shows nothing but what the page table has, and never more rights.
    pub fn check(&self) {
        for (page, (pfn, protection)) in self.stub.pages() {
            let (table_pfn, allowed) =
                self.space.page_state(page * PAGE).unwrap_or_else(|| panic!("page {page:#x} is shown and not there"));
            assert_eq!(pfn, table_pfn, "page {page:#x} shows a stale frame");
            assert!(allowed.contains(protection), "page {page:#x} is shown {protection:?}, and only {allowed:?} is allowed");
        }
    }
    /// A load of guest code: faults until the stub shows the page.
    pub fn load(&self, addr: u64) -> Result<u8, FaultError> {
        let mut byte = [0];
        self.reach(addr, platform::Access::Read, |pfn, offset| self.ram.read(pfn, offset, &mut byte))?;
        Ok(byte[0])
    }
    /// A store of guest code.
    pub fn store(&self, addr: u64, value: u8) -> Result<(), FaultError> {
        self.reach(addr, platform::Access::Write, |pfn, offset| self.ram.write(pfn, offset, &[value]))
    }
    /// The access is one with looking at what the stub shows, as in a processor.
    fn reach(&self, addr: u64, access: platform::Access, mut touch: impl FnMut(Pfn, usize)) -> Result<(), FaultError> {
        let need = if access == platform::Access::Write { Protection::WRITE } else { Protection::READ };
        for _ in 0..1000 {
            {
                let pages = self.stub.pages.lock().unwrap();
                if let Some((pfn, _)) = pages.get(&(addr / PAGE)).filter(|(_, protection)| protection.contains(need)) {
                    touch(*pfn, (addr % PAGE) as usize);
                    return Ok(());
                }
            }
            self.space.fault(addr, access)?;
        }
        panic!("the fault at {addr:#x} does not end");
    }
    pub fn peek(&self, addr: u64) -> Result<u8, Errno> {
        let mut byte = [0];
        self.space.read(addr, &mut byte).map(|_| byte[0])
    }
    pub fn poke(&self, addr: u64, value: u8) -> Result<(), Errno> {
        self.space.write(addr, &[value]).map(|_| ())
    }
}

/// A file: pages that are "read in" when asked for, page n full of n + 1.
pub struct File {
    ram: &'static Ram,
    pub id: u64,
    pub cache: Mutex<BTreeMap<u64, Frame>>,
    pub dirty: Mutex<std::collections::BTreeSet<u64>>,
    pub len: Mutex<u64>,
    /// What was written back.
    disk: Mutex<BTreeMap<u64, Vec<u8>>>,
    mappers: Mutex<Vec<Weak<dyn Mapper>>>,
    pub reads: AtomicUsize,
}

impl File {
    pub fn new(m: &Machine, id: u64, len_pages: u64) -> Arc<File> {
        Arc::new(File {
            ram: m.ram,
            id,
            cache: Mutex::default(),
            dirty: Mutex::default(),
            len: Mutex::new(len_pages),
            disk: Mutex::default(),
            mappers: Mutex::default(),
            reads: AtomicUsize::new(0),
        })
    }
    pub fn backing(self: &Arc<File>, offset: u64) -> Backing {
        Backing { pages: self.clone(), file: None, offset }
    }
    /// As mapped through a file, which counts as such.
    pub fn file_backing(self: &Arc<File>, offset: u64) -> Backing {
        Backing { file: Some(Arc::new(Name(self.id))), ..self.backing(offset) }
    }
    /// Reclaim as page caches do it: drops clean pages that nobody maps.
    pub fn drop_idle(&self) -> usize {
        let dirty = self.dirty.lock().unwrap();
        let mut cache = self.cache.lock().unwrap();
        let before = cache.len();
        cache.retain(|index, frame| dirty.contains(index) || !frame.is_unique());
        before - cache.len()
    }
    fn each_mapper(&self, f: impl Fn(&dyn Mapper)) {
        let mappers: Vec<_> = self.mappers.lock().unwrap().iter().filter_map(Weak::upgrade).collect();
        for mapper in mappers {
            f(&*mapper);
        }
    }
    pub fn truncate(&self, len_pages: u64) {
        *self.len.lock().unwrap() = len_pages;
        let gone = self.cache.lock().unwrap().split_off(&len_pages);
        drop(self.disk.lock().unwrap().split_off(&len_pages));
        drop(self.dirty.lock().unwrap().split_off(&len_pages));
        self.each_mapper(|mapper| mapper.unmap_object(self.id, len_pages, u64::MAX, true));
        drop(gone);
    }
    /// Write-back: every dirty page becomes clean.
    pub fn write_back(&self) {
        let dirty = std::mem::take(&mut *self.dirty.lock().unwrap());
        self.each_mapper(|mapper| mapper.write_protect_object(self.id, 0, u64::MAX));
        for index in dirty {
            let mut page = vec![0; PAGE as usize];
            self.cache.lock().unwrap()[&index].read(0, &mut page);
            self.disk.lock().unwrap().insert(index, page);
        }
    }
    /// Reclaim: drops clean pages that nobody uses once they are unmapped.
    pub fn shrink(&self) -> usize {
        self.each_mapper(|mapper| mapper.unmap_object(self.id, 0, u64::MAX, false));
        self.drop_idle()
    }
}

/// A mapped file with no other properties.
pub struct Name(pub u64);

impl MappedFile for Name {
    fn path(&self) -> Vec<u8> {
        b"/file".to_vec()
    }
    fn device(&self) -> u64 {
        1
    }
    fn inode(&self) -> u64 {
        self.0
    }
    fn sync_pages(&self, _: u64, _: u64) -> Result<(), Errno> {
        Ok(())
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

impl Pages for File {
    fn page(&self, index: u64, write: bool) -> Result<Frame, Errno> {
        if index >= *self.len.lock().unwrap() {
            return Err(Errno::ENXIO);
        }
        if let Some(frame) = self.page_if_cached(index) {
            if write {
                self.dirty.lock().unwrap().insert(index);
            }
            return Ok(frame);
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
        let frame = self.ram.alloc()?;
        match self.disk.lock().unwrap().get(&index) {
            Some(page) => frame.write(0, page),
            None => frame.fill(0, PAGE as usize, (index + 1) as u8),
        }
        let mut cache = self.cache.lock().unwrap();
        if write {
            self.dirty.lock().unwrap().insert(index);
        }
        Ok(cache.entry(index).or_insert(frame).clone())
    }
    fn page_if_cached(&self, index: u64) -> Option<Frame> {
        self.cache.lock().unwrap().get(&index).cloned()
    }
    fn len_pages(&self) -> u64 {
        *self.len.lock().unwrap()
    }
    fn id(&self) -> u64 {
        self.id
    }
    fn register_mapper(&self, mapper: Weak<dyn Mapper>) {
        self.mappers.lock().unwrap().push(mapper);
    }
}

/// xorshift64*, so that a failing seed can be run again.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

pub fn scale() -> u64 {
    match std::env::var("UMLAUT_SCALE").as_deref() {
        Ok("full") => 100,
        Ok(n) => n.parse().unwrap_or(1),
        Err(_) => 1,
    }
}
