//! Robust lists: locks that a thread holds when it dies are marked and their waiters woken, set_robust_list(2), `Documentation/locking/robust-futex-ABI`.

use super::{ANY, FutexMemory, Futexes};
use abi::Errno;
use abi::raw::general::{FUTEX_OWNER_DIED, FUTEX_TID_MASK, FUTEX_WAITERS};
use vfs::UserMemory;

/// Entries that are walked at most (`ROBUST_LIST_LIMIT`): the list is the guest's and may be a ring.
const LIMIT: usize = 2048;

/// Where a thread's list begins; 0: none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RobustList {
    pub head: u64,
}

/// Bytes of `struct robust_list_head`, the only length that is accepted.
pub const HEAD_LEN: u64 = 24;

fn read_u64(memory: &dyn UserMemory, addr: u64) -> Result<u64, Errno> {
    let mut bytes = [0; 8];
    memory.read_exact(addr, &mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

impl Futexes {
    /// The thread `tid` has ended: goes through its list. A list that can't be read ends where it can't.
    pub fn owner_died(&self, words: &dyn FutexMemory, memory: &dyn UserMemory, list: RobustList, tid: i32) {
        if list.head == 0 {
            return;
        }
        let Ok(first) = read_u64(memory, list.head) else { return };
        let Ok(offset) = read_u64(memory, list.head.wrapping_add(8)) else { return };
        let Ok(pending) = read_u64(memory, list.head.wrapping_add(16)) else { return };
        // Bit 0 of an entry says that it is a priority-inheritance lock.
        let word = |entry: u64| ((entry & !1).wrapping_add(offset), entry & 1 != 0);
        let mut entry = first;
        for _ in 0..LIMIT {
            if entry & !1 == list.head {
                break;
            }
            let next = read_u64(memory, entry & !1);
            if entry & !1 != pending & !1 {
                let (addr, is_pi) = word(entry);
                if self.mark_dead(words, addr, is_pi, tid, false).is_err() {
                    return;
                }
            }
            let Ok(next) = next else { return };
            entry = next;
        }
        if pending & !1 != 0 {
            let (addr, is_pi) = word(pending);
            // Nobody is left to be told of an error.
            let _ = self.mark_dead(words, addr, is_pi, tid, true);
        }
    }

    fn mark_dead(&self, words: &dyn FutexMemory, addr: u64, is_pi: bool, tid: i32, pending: bool) -> Result<(), Errno> {
        if addr & 3 != 0 {
            return Err(Errno::EINVAL);
        }
        let mut word = words.load_u32(addr)?;
        loop {
            if pending && !is_pi && word == 0 {
                // It died between releasing the word and waking the next one.
                self.wake(words, addr, true, 1, ANY)?;
                return Ok(());
            }
            if word & FUTEX_TID_MASK != tid as u32 {
                return Ok(());
            }
            match words.compare_exchange_u32(addr, word, (word & FUTEX_WAITERS) | FUTEX_OWNER_DIED)? {
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        if !is_pi && word & FUTEX_WAITERS != 0 {
            self.wake(words, addr, true, 1, ANY)?;
        }
        Ok(())
    }
}
