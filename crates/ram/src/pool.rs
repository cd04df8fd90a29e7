//! Which frames are free: a bitmap per run, and lists of the runs that have free frames.
//!
//! Everything here is O(1) but for the search of a few runs for frames that lie together. Runs are in one of these states, each but the full
//! ones on one list or, for those never used, above a mark:
//!
//! * *fresh*: never used; reads as zeroes, and the host has no memory behind it;
//! * *clean*: free and given back to the host: like fresh;
//! * *dirty*: free, with old bytes; used again before anything clean, since a page that the host has already costs less than a new one;
//! * *partial*: some frames are free; single frames come from here;
//! * *full*; and *offline*, taken out of the machine.
//!
//! Always true: a frame is free in the bitmap of its run if and only if its reference count is zero.
//!
//! What it is not: reference counts, the bytes, the bound (`frames`).

use crate::frames::{Pfn, RUN_FRAMES};

/// How many partial runs are searched for frames that lie together, before a whole run is opened.
const SEARCHED: usize = 4;
/// Requests of at least this many frames look for frames that lie together.
const WORTH_SEARCHING: usize = 4;
const NOWHERE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Run {
    /// Frames that are free, lowest first.
    free: u16,
    /// Frames known to hold zeroes; only bits that are also in `free` mean anything.
    zero: u16,
    /// Index in the list that the run is on.
    place: u32,
}

/// A list of runs from which any can be taken out at once.
#[derive(Default)]
struct List(Vec<u32>);

impl List {
    fn push(&mut self, runs: &mut [Run], run: u32) {
        runs[run as usize].place = self.0.len() as u32;
        self.0.push(run);
    }
    fn pop(&mut self) -> Option<u32> {
        self.0.pop()
    }
    fn remove(&mut self, runs: &mut [Run], run: u32) {
        let place = runs[run as usize].place as usize;
        self.0.swap_remove(place);
        if let Some(moved) = self.0.get(place) {
            runs[*moved as usize].place = place as u32;
        }
    }
}

/// The free frames.
pub(crate) struct Pool {
    runs: Vec<Run>,
    total: usize,
    /// The first run that was never used.
    fresh: u32,
    clean: List,
    dirty: List,
    partial: List,
    offline: List,
}

impl Pool {
    pub(crate) fn new(total: usize) -> Pool {
        let runs = (0..total.div_ceil(RUN_FRAMES)).map(|run| Run { free: mask(run, total), zero: !0, place: NOWHERE }).collect();
        Pool { runs, total, fresh: 0, clean: List::default(), dirty: List::default(), partial: List::default(), offline: List::default() }
    }

    /// Fills `out` (at most 64 frames). Answers which of them need not be zeroed, bit by bit; `None` when there are too few, and then nothing is
    /// taken: the caller has counted before.
    pub(crate) fn take(&mut self, out: &mut [Pfn]) -> Option<u64> {
        debug_assert!(out.len() <= 64);
        let (mut done, mut zero) = (0, 0u64);
        while done < out.len() {
            let Some(run) = self.choose(out.len() - done) else {
                for pfn in &out[..done] {
                    self.give(*pfn);
                }
                return None;
            };
            done += self.cut(run, &mut out[done..], &mut zero, done);
        }
        Some(zero)
    }

    /// The run to cut up to `want` frames from; it is on no list afterwards.
    fn choose(&mut self, want: usize) -> Option<u32> {
        if want < RUN_FRAMES {
            let fits = |run: &Run| want < WORTH_SEARCHING || longest(run.free) >= want as u32;
            let found = self.partial.0.iter().rev().take(SEARCHED).copied().find(|run| fits(&self.runs[*run as usize]));
            if let Some(run) = found {
                self.partial.remove(&mut self.runs, run);
                return Some(run);
            }
        }
        if let Some(run) = self.dirty.pop().or_else(|| self.clean.pop()) {
            return Some(run);
        }
        if (self.fresh as usize) < self.runs.len() {
            self.fresh += 1;
            return Some(self.fresh - 1);
        }
        self.partial.pop()
    }

    /// Takes frames out of `run`, those that lie together if some do, and puts it on the list where it now belongs.
    fn cut(&mut self, run: u32, out: &mut [Pfn], zero: &mut u64, shift: usize) -> usize {
        let r = &mut self.runs[run as usize];
        let want = out.len().min(RUN_FRAMES) as u32;
        let first = first_fit(r.free, want);
        let mut n = 0;
        for bit in first..RUN_FRAMES as u32 {
            if n == want || r.free & (1 << bit) == 0 {
                break;
            }
            r.free &= !(1 << bit);
            *zero |= u64::from(r.zero >> bit & 1) << (shift + n as usize);
            r.zero &= !(1 << bit);
            out[n as usize] = run * RUN_FRAMES as u32 + bit;
            n += 1;
        }
        if r.free != 0 {
            self.partial.push(&mut self.runs, run);
        }
        n as usize
    }

    /// Takes a frame back.
    pub(crate) fn give(&mut self, pfn: Pfn) {
        let (run, bit) = (pfn / RUN_FRAMES as u32, pfn % RUN_FRAMES as u32);
        let full = mask(run as usize, self.total);
        let r = &mut self.runs[run as usize];
        debug_assert!(r.free & (1 << bit) == 0, "frame {pfn} is free already");
        let was = r.free;
        r.free |= 1 << bit;
        r.zero &= !(1 << bit);
        if r.free == full {
            if was != 0 {
                self.partial.remove(&mut self.runs, run);
            }
            self.dirty.push(&mut self.runs, run);
        } else if was == 0 {
            self.partial.push(&mut self.runs, run);
        }
    }

    /// Takes a free dirty run away from everybody, so that its memory can be given back; [`Pool::cleaned`] brings it back.
    pub(crate) fn dirty_run(&mut self) -> Option<u32> {
        self.dirty.pop()
    }
    pub(crate) fn cleaned(&mut self, run: u32) {
        self.runs[run as usize].zero = !0;
        self.clean.push(&mut self.runs, run);
    }

    /// Takes a free run out of the machine; its bytes must be given back if `true` comes with it. [`Pool::gone`] puts it away.
    pub(crate) fn any_free_run(&mut self) -> Option<(u32, bool)> {
        if let Some(run) = self.dirty.pop() {
            return Some((run, true));
        }
        if let Some(run) = self.clean.pop() {
            return Some((run, false));
        }
        if (self.fresh as usize) < self.runs.len() {
            self.fresh += 1;
            return Some((self.fresh - 1, false));
        }
        None
    }
    pub(crate) fn gone(&mut self, run: u32) {
        self.offline.push(&mut self.runs, run);
    }
    /// Brings one back; answers how many frames it has.
    pub(crate) fn back(&mut self) -> Option<usize> {
        let run = self.offline.pop()?;
        self.cleaned(run);
        Some(mask(run as usize, self.total).count_ones() as usize)
    }
    pub(crate) fn frames_in(&self, run: u32) -> usize {
        mask(run as usize, self.total).count_ones() as usize
    }
}

/// The frames that a run has: all but for the last run of an odd size.
fn mask(run: usize, total: usize) -> u16 {
    let n = (total - run * RUN_FRAMES).min(RUN_FRAMES);
    if n == RUN_FRAMES { !0 } else { (1 << n) - 1 }
}

/// Length of the longest row of set bits.
fn longest(mut bits: u16) -> u32 {
    let mut n = 0;
    while bits != 0 {
        bits &= bits << 1;
        n += 1;
    }
    n
}

/// Where `want` set bits in a row begin; where the first set bit is if there is no such row.
fn first_fit(bits: u16, want: u32) -> u32 {
    let mut rows = bits;
    for _ in 1..want {
        let next = rows & rows >> 1;
        if next == 0 {
            break;
        }
        rows = next;
    }
    rows.trailing_zeros()
}
