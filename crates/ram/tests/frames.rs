//! The frame allocator against a model, and the bound on everything.

use abi::PAGE_SIZE;
use ram::{Frame, Pfn, RUN_FRAMES, Ram, Reclaim};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// xorshift64*, so that a failing seed can be run again.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }
}

fn scale() -> usize {
    match std::env::var("UMLAUT_SCALE").as_deref() {
        Ok("full") => 100,
        Ok(n) => n.parse().unwrap_or(1),
        Err(_) => 1,
    }
}

fn bytes_of(frame: &Frame) -> [u8; 2] {
    let mut ends = [0; 2];
    frame.read(0, &mut ends[..1]);
    frame.read(PAGE_SIZE - 1, &mut ends[1..]);
    ends
}

#[test]
fn no_frame_is_handed_out_twice_and_zeroed_ones_are_zero() {
    for seed in 1..=20 * scale() as u64 {
        let ram = Ram::for_tests((200 + seed as usize % 16) * PAGE_SIZE);
        let mut random = Random(seed * 0x9e37_79b9);
        // What each held frame was filled with.
        let mut held: BTreeMap<Pfn, (Frame, u8)> = BTreeMap::new();
        for step in 0..400 {
            match random.below(10) {
                0..5 => {
                    let want = 1 + random.below(40);
                    let zeroed = random.below(2) == 0;
                    let mut out = Vec::new();
                    let left = ram.frames() - held.len();
                    if ram.alloc_many(want, zeroed, &mut out).is_err() {
                        assert!(left < want, "seed {seed} step {step}: {left} frames are free, and {want} can't be had");
                        assert!(out.is_empty());
                        continue;
                    }
                    assert_eq!(out.len(), want);
                    for frame in out {
                        if zeroed {
                            assert_eq!(bytes_of(&frame), [0; 2], "seed {seed} step {step}");
                        }
                        let fill = 1 + random.below(255) as u8;
                        frame.fill(0, PAGE_SIZE, fill);
                        assert!(held.insert(frame.pfn(), (frame, fill)).is_none(), "seed {seed} step {step}");
                    }
                }
                5..9 => {
                    for _ in 0..random.below(60) {
                        let pfns: Vec<Pfn> = held.keys().copied().collect();
                        if pfns.is_empty() {
                            break;
                        }
                        let (frame, fill) = held.remove(&pfns[random.below(pfns.len())]).unwrap();
                        assert_eq!(bytes_of(&frame), [fill; 2], "seed {seed} step {step}: a held frame was written by somebody else");
                    }
                }
                _ => {
                    ram.give_back(random.below(8) * RUN_FRAMES * PAGE_SIZE);
                }
            }
            assert_eq!(ram.stats().free, ram.frames() - held.len());
        }
        held.clear();
        assert_eq!(ram.stats().free, ram.frames());
    }
}

#[test]
fn a_request_for_a_run_gets_frames_that_lie_together() {
    let ram = Ram::for_tests(64 * RUN_FRAMES * PAGE_SIZE);
    let one = ram.alloc().unwrap();
    let mut run = Vec::new();
    ram.alloc_many(RUN_FRAMES, true, &mut run).unwrap();
    assert!(run.windows(2).all(|w| w[1].pfn() == w[0].pfn() + 1));
    assert_eq!(run[0].pfn() as usize % RUN_FRAMES, 0);
    // Single frames fill up the run that was opened for the first.
    let next = ram.alloc().unwrap();
    assert_eq!(next.pfn() as usize / RUN_FRAMES, one.pfn() as usize / RUN_FRAMES);
}

#[test]
fn used_memory_is_used_again_before_fresh_memory() {
    let ram = Ram::for_tests(64 * RUN_FRAMES * PAGE_SIZE);
    let mut run = Vec::new();
    ram.alloc_many(RUN_FRAMES, false, &mut run).unwrap();
    let first = run[0].pfn();
    run.clear();
    ram.alloc_many(RUN_FRAMES, false, &mut run).unwrap();
    assert_eq!(run[0].pfn(), first);
    run.clear();
    // But what was given back to the host is as good as fresh, and reads as zeroes.
    assert_eq!(ram.give_back(usize::MAX), RUN_FRAMES * PAGE_SIZE);
    assert_eq!(ram.give_back(usize::MAX), 0);
}

#[test]
fn frames_and_charges_share_one_bound() {
    let ram = Ram::for_tests(32 * PAGE_SIZE);
    let mut charge = ram.charge(10 * PAGE_SIZE + 1).unwrap();
    assert_eq!(ram.available(), 21);
    let mut frames = Vec::new();
    ram.alloc_many(21, false, &mut frames).unwrap();
    assert!(ram.alloc().is_err());
    assert!(ram.charge(PAGE_SIZE).is_err());
    let more = ram.charge(PAGE_SIZE - 1).unwrap();
    charge.absorb(more);
    assert_eq!(charge.len_bytes(), 11 * PAGE_SIZE);
    charge.shrink_to(PAGE_SIZE);
    assert_eq!((ram.available(), ram.stats().charged_bytes), (10, PAGE_SIZE));
    drop(charge);
    assert_eq!((ram.available(), ram.stats().charged_bytes), (11, 0));
}

struct Cache(Mutex<Vec<Frame>>, AtomicUsize);

impl Reclaim for Cache {
    fn reclaim(&self, frames: usize) -> usize {
        self.1.fetch_add(1, Ordering::Relaxed);
        let mut cached = self.0.lock().unwrap();
        let keep = cached.len().saturating_sub(frames);
        let freed = cached.len() - keep;
        cached.truncate(keep);
        freed
    }
}

#[test]
fn caches_are_asked_when_frames_run_out_and_only_then() {
    let ram = Ram::for_tests(64 * PAGE_SIZE);
    let cache = Arc::new(Cache(Mutex::default(), AtomicUsize::new(0)));
    let weak: std::sync::Weak<Cache> = Arc::downgrade(&cache);
    ram.register_reclaim(weak);
    ram.alloc_many(60, false, &mut cache.0.lock().unwrap()).unwrap();
    let mut mine = Vec::new();
    ram.alloc_many(4, false, &mut mine).unwrap();
    assert_eq!(cache.1.load(Ordering::Relaxed), 0);
    ram.alloc_many(30, false, &mut mine).unwrap();
    assert_eq!(cache.1.load(Ordering::Relaxed), 1);
    assert!(ram.alloc_many(64, false, &mut mine).is_err());
}

#[test]
fn ram_can_be_taken_out_and_brought_back() {
    let ram = Ram::for_tests(8 * RUN_FRAMES * PAGE_SIZE);
    let one = ram.alloc().unwrap();
    let run = RUN_FRAMES * PAGE_SIZE;
    assert_eq!(ram.offline(3 * run), 3 * run);
    assert_eq!(ram.stats().total, 5 * RUN_FRAMES);
    // The run that is in use stays.
    assert_eq!(ram.offline(100 * run), 4 * run);
    assert_eq!(ram.available(), RUN_FRAMES - 1);
    assert_eq!(ram.online(2 * run), 2 * run);
    assert_eq!((ram.stats().total, ram.available()), (3 * RUN_FRAMES, 3 * RUN_FRAMES - 1));
    assert_eq!(ram.online(usize::MAX), 5 * run);
    drop(one);
    assert_eq!((ram.stats().total, ram.stats().free), (8 * RUN_FRAMES, 8 * RUN_FRAMES));
}

#[test]
fn threads_that_take_and_give_never_meet_on_a_frame() {
    let ram = Ram::for_tests(256 * PAGE_SIZE);
    std::thread::scope(|scope| {
        for id in 1..=4u8 {
            scope.spawn(move || {
                for round in 0..200 * scale() {
                    let mut frames = Vec::new();
                    if ram.alloc_many(1 + round % 60, false, &mut frames).is_err() {
                        continue;
                    }
                    for frame in &frames {
                        frame.fill(0, 8, id);
                    }
                    for frame in &frames {
                        let mut bytes = [0; 8];
                        frame.read(0, &mut bytes);
                        assert_eq!(bytes, [id; 8]);
                    }
                    if round % 50 == 0 {
                        ram.give_back(usize::MAX);
                    }
                }
            });
        }
    });
    assert_eq!(ram.stats().free, ram.frames());
}
