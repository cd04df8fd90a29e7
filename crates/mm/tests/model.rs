//! Random sequences of everything that changes an address space, against a model that knows every page's bytes. After each step, no stub may
//! show anything that its page table does not have, and every byte must be what the model says, to the guest and to the kernel.

mod common;

use abi::Errno;
use common::*;
use mm::*;
use platform::{Access, Protection};
use std::collections::BTreeMap;
use std::sync::Arc;
use vfs::UserMemory;

/// The bytes of a page that are looked at.
const OFFSETS: [u64; 3] = [0, 1001, 4095];
type Bytes = [u8; 3];

const ARENA: u64 = 0x10_0000_0000;
const ARENA_PAGES: u64 = 80;
const FILE_PAGES: u64 = 48;

#[derive(Clone, Debug)]
enum What {
    Anon(Bytes),
    /// A page of the file, and a copy once it was written.
    PrivateFile(u64, Option<Bytes>),
    SharedFile(u64),
    /// Shared anonymous memory: object and page.
    SharedAnon(u64, u64),
}

#[derive(Clone, Debug)]
struct Page {
    what: What,
    rights: Protection,
    wipe: bool,
    skip: bool,
}

struct Process {
    machine: Machine,
    pages: BTreeMap<u64, Page>,
}

struct World {
    random: Random,
    file: Arc<File>,
    file_len: u64,
    file_bytes: BTreeMap<u64, Bytes>,
    shared: BTreeMap<(u64, u64), Bytes>,
    next_shared: u64,
    processes: Vec<Process>,
}

impl World {
    fn new(seed: u64) -> World {
        let machine = machine_of(24 << 20);
        let file = File::new(&machine, 77, FILE_PAGES);
        World {
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            file,
            file_len: FILE_PAGES,
            file_bytes: BTreeMap::new(),
            shared: BTreeMap::new(),
            next_shared: 0,
            processes: vec![Process { machine, pages: BTreeMap::new() }],
        }
    }

    fn range(&mut self) -> (u64, u64) {
        let first = self.random.below(ARENA_PAGES);
        let most = if self.random.below(4) == 0 { 40 } else { 8 };
        let len = 1 + self.random.below(most);
        (ARENA / PAGE + first, len.min(ARENA_PAGES - first))
    }

    /// The start of a range that has something in it, mostly.
    fn used(&mut self, who: usize) -> (u64, u64) {
        let (first, len) = self.range();
        let count = self.processes[who].pages.len() as u64;
        if count > 0 && self.random.below(3) > 0 {
            let nth = self.random.below(count) as usize;
            return (*self.processes[who].pages.keys().nth(nth).unwrap(), len);
        }
        (first, len)
    }

    fn rights(&mut self) -> Protection {
        [RW, RW, RW, Protection::READ, Protection::empty(), Protection::WRITE][self.random.below(6) as usize]
    }

    fn host(&mut self) -> HostRun {
        if self.random.below(2) == 0 { HostRun::Allowed } else { HostRun::Never }
    }

    fn map(&mut self, who: usize) {
        let (first, len) = self.range();
        let rights = self.rights();
        let kind = self.random.below(5);
        let offset = self.random.below(FILE_PAGES);
        let object = self.next_shared;
        let populate = if self.random.below(5) == 0 { MapFlags::POPULATE } else { MapFlags::empty() };
        let place = if self.random.below(3) == 0 { MapFlags::empty() } else { MapFlags::FIXED };
        let addr = if place.is_empty() { 0 } else { first * PAGE };
        let mapping = match kind {
            0 | 1 => Mapping::anonymous(addr, len * PAGE, rights, place | populate),
            2 => Mapping::of(self.file.backing(offset), addr, len * PAGE, rights, place | populate | MapFlags::PRIVATE),
            3 => Mapping::of(self.file.backing(offset), addr, len * PAGE, rights, place | populate | MapFlags::SHARED),
            _ => {
                self.next_shared += 1;
                Mapping { flags: place | populate | MapFlags::SHARED, ..Mapping::anonymous(addr, len * PAGE, rights, MapFlags::empty()) }
            }
        };
        let process = &mut self.processes[who];
        let at = process.machine.space.map(mapping).unwrap() / PAGE;
        for i in 0..len {
            let what = match kind {
                0 | 1 => What::Anon([0; 3]),
                2 => What::PrivateFile(offset + i, None),
                3 => What::SharedFile(offset + i),
                _ => What::SharedAnon(object, i),
            };
            let old = process.pages.insert(at + i, Page { what, rights, wipe: false, skip: false });
            assert!(old.is_none() || place == MapFlags::FIXED, "an address that was taken was given away");
        }
    }

    fn unmap(&mut self, who: usize) {
        let ((first, len), host) = (self.used(who), self.host());
        let process = &mut self.processes[who];
        match process.machine.space.unmap(first * PAGE, len * PAGE, host).unwrap() {
            Changed::Done => {}
            Changed::LetHostRun(deferred) => deferred.run_now().unwrap(),
        }
        for page in first..first + len {
            process.pages.remove(&page);
        }
    }

    fn protect(&mut self, who: usize) {
        let ((first, len), host, rights) = (self.used(who), self.host(), self.rights());
        let process = &mut self.processes[who];
        let result = process.machine.space.protect(first * PAGE, len * PAGE, rights, host);
        let covered = (first..first + len).take_while(|page| process.pages.contains_key(page)).count() as u64;
        match result {
            Ok(Changed::Done) => {}
            Ok(Changed::LetHostRun(deferred)) => deferred.run_now().unwrap(),
            Err(errno) => assert_eq!(errno, Errno::ENOMEM),
        }
        if covered == len {
            assert!(process.machine.space.protect(first * PAGE, len * PAGE, rights, HostRun::Never).is_ok());
        }
        for page in first..first + covered {
            process.pages.get_mut(&page).unwrap().rights = rights;
        }
    }

    fn remap(&mut self, who: usize) {
        let (first, len) = self.used(who);
        let new_len = 1 + self.random.below(20);
        let fixed = self.random.below(4) == 0;
        let (target, _) = self.range();
        let stay = self.random.below(4) == 0;
        let dont_unmap = !stay && !fixed && self.random.below(6) == 0;
        let flags = match (stay, fixed) {
            (true, _) => RemapFlags::empty(),
            (_, true) => RemapFlags::MAYMOVE | RemapFlags::FIXED,
            _ if dont_unmap => RemapFlags::MAYMOVE | RemapFlags::DONTUNMAP,
            _ => RemapFlags::MAYMOVE,
        };
        let new_len = if dont_unmap { len } else { new_len };
        let process = &mut self.processes[who];
        let Ok(at) = process.machine.space.remap(first * PAGE, len * PAGE, new_len * PAGE, flags, target * PAGE) else { return };
        let at = at / PAGE;
        let moved: Vec<Option<Page>> = (0..len).map(|i| process.pages.get(&(first + i)).cloned()).collect();
        let model = moved[0].clone().unwrap();
        for (i, page) in moved.iter().enumerate() {
            let left = match page {
                Some(page) if dont_unmap => Some(Page {
                    what: match page.what {
                        What::Anon(_) => What::Anon([0; 3]),
                        What::PrivateFile(index, _) => What::PrivateFile(index, None),
                        ref other => other.clone(),
                    },
                    ..page.clone()
                }),
                _ => None,
            };
            match left {
                Some(page) => process.pages.insert(first + i as u64, page),
                None => process.pages.remove(&(first + i as u64)),
            };
        }
        for i in 0..new_len {
            let grown = || {
                let what = match model.what {
                    What::Anon(_) => What::Anon([0; 3]),
                    What::PrivateFile(index, _) => What::PrivateFile(index + i, None),
                    What::SharedFile(index) => What::SharedFile(index + i),
                    What::SharedAnon(object, index) => What::SharedAnon(object, index + i),
                };
                Some(Page { what, ..model.clone() })
            };
            let page = if i < len { moved[i as usize].clone() } else { grown() };
            if let Some(page) = page {
                process.pages.insert(at + i, page);
            }
        }
    }

    fn advise(&mut self, who: usize) {
        let (first, len) = self.used(who);
        let advice = match self.random.below(4) {
            0 => Advice::Set(VmaFlags::DONTFORK),
            1 => Advice::Set(VmaFlags::WIPEONFORK),
            _ => Advice::DontNeed,
        };
        let process = &mut self.processes[who];
        let result = process.machine.space.advise(first * PAGE, len * PAGE, advice);
        if result == Err(Errno::EINVAL) {
            // Wiping is for private anonymous memory; what lies before the first mapping that is not is marked already.
            let _ = process.machine.space.advise(first * PAGE, len * PAGE, Advice::Clear(VmaFlags::WIPEONFORK));
            for (_, page) in process.pages.range_mut(first..first + len) {
                page.wipe = false;
            }
            return;
        }
        for (_, page) in process.pages.range_mut(first..first + len) {
            match advice {
                Advice::Set(VmaFlags::DONTFORK) => page.skip = true,
                Advice::Set(_) => page.wipe = true,
                _ => match &mut page.what {
                    What::Anon(bytes) => *bytes = [0; 3],
                    What::PrivateFile(_, copy) => *copy = None,
                    _ => {}
                },
            }
        }
    }

    fn fork(&mut self, who: usize) {
        if self.processes.len() >= 4 {
            let gone = self.random.below(4) as usize;
            self.processes.remove(gone);
            return;
        }
        let hot: Vec<u64> = (0..3).map(|_| self.used(who).0 * PAGE).collect();
        let parent = &self.processes[who];
        let machine = parent.machine.fork(&hot);
        let mut pages = parent.pages.clone();
        pages.retain(|_, page| !page.skip);
        for page in pages.values_mut().filter(|page| page.wipe) {
            page.what = What::Anon([0; 3]);
        }
        self.processes.push(Process { machine, pages });
    }

    fn bytes_of(&self, what: &What) -> Option<Bytes> {
        let file = |index: u64| (index < self.file_len).then(|| self.file_bytes.get(&index).copied().unwrap_or([(index + 1) as u8; 3]));
        match what {
            What::Anon(bytes) | What::PrivateFile(_, Some(bytes)) => Some(*bytes),
            What::PrivateFile(index, None) | What::SharedFile(index) => file(*index),
            What::SharedAnon(object, index) => {
                // Objects are as long as they were made; what was grown beyond by mremap is not there.
                Some(self.shared.get(&(*object, *index)).copied().unwrap_or([0; 3]))
            }
        }
    }

    fn store(&mut self, who: usize) {
        for _ in 0..1 + self.random.below(6) {
            let (page, _) = self.used(who);
            let (nth, value) = (self.random.below(3) as usize, self.random.below(256) as u8);
            let by_kernel = self.random.below(2) == 0;
            let addr = page * PAGE + OFFSETS[nth];
            let before = self.processes[who].pages.get(&page).map(|p| (p.clone(), self.bytes_of(&p.what)));
            let machine = &self.processes[who].machine;
            let done = if by_kernel { machine.poke(addr, value).is_ok() } else { machine.store(addr, value).is_ok() };
            let Some((Page { what, rights, .. }, Some(mut bytes))) = before else {
                assert!(!done, "a store to {addr:#x} succeeded, where nothing is");
                continue;
            };
            if let What::SharedAnon(..) = what
                && !done
                && rights.contains(Protection::WRITE)
            {
                continue; // Beyond the object's end.
            }
            assert_eq!(done, rights.contains(Protection::WRITE), "a store to {addr:#x} of {what:?}");
            if !done {
                continue;
            }
            bytes[nth] = value;
            let page = self.processes[who].pages.get_mut(&page).unwrap();
            match &mut page.what {
                What::Anon(b) => *b = bytes,
                What::PrivateFile(_, copy) => *copy = Some(bytes),
                What::SharedFile(index) => drop(self.file_bytes.insert(*index, bytes)),
                What::SharedAnon(object, index) => drop(self.shared.insert((*object, *index), bytes)),
            }
            self.note_copies();
        }
    }

    /// Copies come in clusters: pages near one that was stored to may have a copy already, with what the file had then. mmap(2) leaves open whether a
    /// private mapping sees what is written to the file later.
    fn note_copies(&mut self) {
        for who in 0..self.processes.len() {
            let process = &self.processes[who];
            let mut copied = Vec::new();
            for (page, model) in &process.pages {
                let entry = process.machine.space.pagemap(page * PAGE);
                if matches!(model.what, What::PrivateFile(_, None)) && entry >> 63 == 1 && entry >> 61 & 1 == 0 {
                    copied.push((*page, self.bytes_of(&model.what).expect("a page beyond the end of the file is there")));
                }
            }
            for (page, bytes) in copied {
                if let Some(Page { what: What::PrivateFile(_, copy), .. }) = self.processes[who].pages.get_mut(&page) {
                    *copy = Some(bytes);
                }
            }
        }
    }

    fn truncate(&mut self) {
        self.file_len = self.random.below(FILE_PAGES) + 1;
        self.file.truncate(self.file_len);
        drop(self.file_bytes.split_off(&self.file_len));
        for process in &mut self.processes {
            for page in process.pages.values_mut() {
                if let What::PrivateFile(index, copy) = &mut page.what
                    && *index >= self.file_len
                {
                    *copy = None;
                }
            }
        }
        // And long again, with what a new file has there.
        if self.random.below(3) > 0 {
            self.file_len = FILE_PAGES;
            *self.file.len.lock().unwrap() = FILE_PAGES;
        }
    }

    fn step(&mut self) -> &'static str {
        let who = self.random.below(self.processes.len() as u64) as usize;
        match self.random.below(40) {
            0..6 => (self.map(who), "map").1,
            6..10 => (self.unmap(who), "unmap").1,
            10..15 => (self.protect(who), "protect").1,
            15..18 => (self.remap(who), "remap").1,
            18..21 => (self.advise(who), "advise").1,
            21..24 => (self.fork(who), "fork").1,
            24 => (self.processes[who].machine.space.drop_host_mappings().unwrap(), "drop").1,
            25 => (self.file.write_back(), "write back").1,
            26 => (self.file.shrink(), "shrink").1,
            27 if self.random.below(4) == 0 => (self.truncate(), "truncate").1,
            28 => {
                let (first, len) = self.used(who);
                let access = if self.random.below(2) == 0 { Access::Read } else { Access::Write };
                self.processes[who].machine.space.premap(&[(first * PAGE..(first + len) * PAGE, access)]).unwrap();
                "premap"
            }
            _ => (self.store(who), "store").1,
        }
    }

    fn check(&mut self, everything: bool) {
        for (who, process) in self.processes.iter().enumerate() {
            process.machine.check();
            let usage = process.machine.space.usage();
            assert_eq!(usage.total, process.pages.len() as u64);
            assert!(usage.resident.total() <= usage.total);
            if !everything {
                continue;
            }
            for (page, model) in &process.pages {
                let expected = self.bytes_of(&model.what).filter(|_| !model.rights.is_empty());
                for (nth, offset) in OFFSETS.iter().enumerate() {
                    let addr = page * PAGE + offset;
                    let (kernel, guest) = match (nth + *page as usize) % 2 {
                        0 => (process.machine.peek(addr).ok(), process.machine.load(addr).ok()),
                        _ => {
                            let guest = process.machine.load(addr).ok();
                            (process.machine.peek(addr).ok(), guest)
                        }
                    };
                    assert_eq!(kernel, guest, "process {who} {addr:#x} {model:?}");
                    if let What::SharedAnon(..) = model.what
                        && kernel.is_none()
                    {
                        continue;
                    }
                    assert_eq!(kernel, expected.map(|bytes| bytes[nth]), "process {who} {addr:#x} {model:?}");
                }
            }
        }
    }
}

#[test]
fn every_byte_is_what_the_model_says_and_no_stub_shows_a_stale_frame() {
    for seed in 1..=60 * scale() {
        let mut world = World::new(seed);
        let ram = world.processes[0].machine.ram;
        let mut history = Vec::new();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for step in 0..400 {
                history.push(world.step());
                world.note_copies();
                if world.processes.is_empty() {
                    break;
                }
                world.check(step % 20 == 19);
            }
        }));
        if let Err(panic) = outcome {
            eprintln!("seed {seed}: {history:?}");
            std::panic::resume_unwind(panic);
        }
        world.processes.clear();
        world.file.write_back();
        world.file.shrink();
        drop(world);
        assert_eq!(ram.stats().free, ram.frames(), "seed {seed}: frames leaked");
        assert_eq!(ram.stats().charged_bytes, 0, "seed {seed}: charges leaked");
    }
}

#[test]
fn reading_the_model_file_again_after_reclaim_gives_what_was_stored() {
    let m = machine();
    let file = File::new(&m, 5, 4);
    let at = m.space.map(Mapping::of(file.backing(0), 0, 4 * PAGE, RW, MapFlags::SHARED)).unwrap();
    m.store(at + PAGE, 200).unwrap();
    assert_eq!(file.shrink(), 0, "a dirty page stays");
    file.write_back();
    assert_eq!(file.shrink(), 1);
    assert_eq!(m.load(at + PAGE), Ok(200));
    let mut one = [0];
    assert_eq!(m.space.read(at, &mut one), Ok(1));
    m.check();
}
