//! Bits of a bitmap block: finding runs, setting and clearing them.
//!
//! Not here: what a bit stands for (`block_alloc`, `inode_alloc`).

use crate::field::{byte, le64, put_byte};

pub(crate) fn is_set(map: &[u8], bit: u32) -> bool {
    byte(map, bit as usize / 8) >> (bit % 8) & 1 != 0
}

/// Sets or clears `len` bits. False when any was so already; it is done all the same.
pub(crate) fn change(map: &mut [u8], start: u32, len: u32, set: bool) -> bool {
    let (mut bit, end, mut all_changed) = (start, start.saturating_add(len), true);
    while bit < end {
        let (at, shift) = (bit as usize / 8, bit % 8);
        let count = (8 - shift).min(end - bit);
        let mask = (((1u16 << count) - 1) as u8) << shift;
        let old = byte(map, at);
        all_changed &= old & mask == if set { 0 } else { mask };
        put_byte(map, at, if set { old | mask } else { old & !mask });
        bit += count;
    }
    all_changed
}

/// The first bit at or after `from` and below `end` that is `set`; `end` when there is none.
pub(crate) fn next(map: &[u8], from: u32, end: u32, set: bool) -> u32 {
    let mut bit = from;
    while bit < end {
        let word = le64_padded(map, bit as usize / 64 * 8);
        let wanted = if set { word } else { !word } & (u64::MAX << (bit % 64));
        if wanted != 0 {
            return (bit / 64 * 64 + wanted.trailing_zeros()).min(end);
        }
        bit = bit / 64 * 64 + 64;
    }
    end
}

fn le64_padded(map: &[u8], at: usize) -> u64 {
    if at + 8 <= map.len() {
        return le64(map, at);
    }
    (0..8).fold(0, |word, i| word | u64::from(byte(map, at + i)) << (8 * i))
}

/// Clear bits below `end`.
pub(crate) fn count_clear(map: &[u8], end: u32) -> u32 {
    let (mut bit, mut count) = (0, 0);
    while bit < end {
        let start = next(map, bit, end, false);
        let stop = next(map, start, end, true);
        count += stop - start;
        bit = stop;
    }
    count
}

/// What a search for a run of clear bits found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Run {
    pub(crate) start: u32,
    pub(crate) len: u32,
}

/// Bits at the goal that are worth more than a longer run elsewhere.
pub(crate) const NEAR_ENOUGH: u32 = 8;

/// A run of up to `want` clear bits below `end`: at `goal` if [`NEAR_ENOUGH`] are clear there; else the first of `want` after it, else
/// before it; else the longest there is. The second value is the longest run seen, when all were.
pub(crate) fn find_run(map: &[u8], mut goal: u32, end: u32, want: u32) -> (Run, Option<u32>) {
    if goal < end && !is_set(map, goal) {
        let stop = next(map, goal, end, true);
        if stop - goal >= want.min(NEAR_ENOUGH) {
            return (Run { start: goal, len: (stop - goal).min(want) }, None);
        }
        while goal > 0 && !is_set(map, goal - 1) {
            goal -= 1;
        }
    }
    let (mut best, mut longest) = (Run::default(), 0);
    for (from, to) in [(goal.min(end), end), (0, goal.min(end))] {
        let mut bit = from;
        while bit < to {
            let start = next(map, bit, to, false);
            // The goal is set, or begins a run: it cuts none in two.
            let stop = next(map, start, to, true);
            longest = longest.max(stop - start);
            if stop - start > best.len {
                best = Run { start, len: (stop - start).min(want) };
            }
            if best.len >= want {
                return (best, None);
            }
            bit = stop;
        }
    }
    (best, Some(longest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_change_across_bytes_and_say_whether_they_did() {
        let mut map = [0u8; 16];
        assert!(change(&mut map, 5, 20, true));
        assert!(!change(&mut map, 24, 2, true));
        assert_eq!((next(&map, 0, 128, true), next(&map, 5, 128, false), count_clear(&map, 128)), (5, 26, 107));
        assert!(change(&mut map, 6, 3, false));
        assert_eq!((next(&map, 6, 128, true), next(&map, 90, 100, true)), (9, 100));
        assert!(change(&mut map, 126, 10, true));
    }

    #[test]
    fn a_run_is_taken_at_the_goal_or_the_first_that_fits_or_the_longest() {
        let mut map = [0xffu8; 16];
        change(&mut map, 10, 4, false);
        change(&mut map, 40, 9, false);
        change(&mut map, 100, 6, false);
        let cases = [
            ((12, 2), Run { start: 12, len: 2 }),
            ((12, 8), Run { start: 40, len: 8 }),
            ((41, 9), Run { start: 41, len: 8 }),
            ((102, 6), Run { start: 100, len: 6 }),
            ((30, 5), Run { start: 40, len: 5 }),
            ((60, 5), Run { start: 100, len: 5 }),
            ((60, 8), Run { start: 40, len: 8 }),
            ((60, 20), Run { start: 40, len: 9 }),
        ];
        for ((goal, want), found) in cases {
            assert_eq!(find_run(&map, goal, 128, want).0, found, "goal {goal} want {want}");
        }
        assert_eq!(find_run(&map, 0, 128, 20).1, Some(9));
        assert_eq!(find_run(&[0xff; 4], 0, 32, 1), (Run::default(), Some(0)));
    }
}
