//! Futexes on a few words of pretended memory, with host threads for guests.

use super::*;
use abi::raw::general::{FUTEX_OWNER_DIED, FUTEX_WAITERS};
use abi::{NS_PER_SEC, Restart};
use ram::Frame;
use std::sync::atomic::AtomicU32;
use std::thread;
use std::time::Duration;
use vfs::UserMemory;

struct Words(Vec<AtomicU32>);

impl Words {
    fn new() -> Arc<Words> {
        Arc::new(Words((0..64).map(|_| AtomicU32::new(0)).collect()))
    }
    fn set(&self, addr: u64, value: u32) {
        self.0[addr as usize / 4].store(value, Ordering::SeqCst);
    }
    fn word(&self, addr: u64) -> Result<&AtomicU32, Errno> {
        self.0.get(addr as usize / 4).ok_or(Errno::EFAULT)
    }
}

impl FutexMemory for Words {
    fn futex_key(&self, addr: u64, _: bool) -> Result<Key, Errno> {
        self.word(addr).map(|_| Key::Private { space: 1, addr })
    }
    fn load_u32(&self, addr: u64) -> Result<u32, Errno> {
        Ok(self.word(addr)?.load(Ordering::SeqCst))
    }
    fn compare_exchange_u32(&self, addr: u64, old: u32, new: u32) -> Result<Result<u32, u32>, Errno> {
        Ok(self.word(addr)?.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst))
    }
}

impl UserMemory for Words {
    fn read(&self, addr: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        for (i, byte) in buffer.iter_mut().enumerate() {
            let at = addr + i as u64;
            *byte = self.load_u32(at & !3)?.to_ne_bytes()[at as usize % 4];
        }
        Ok(buffer.len())
    }
    fn write(&self, _: u64, _: &[u8]) -> Result<usize, Errno> {
        Err(Errno::EFAULT)
    }
    fn zero(&self, _: u64, _: usize) -> Result<usize, Errno> {
        Err(Errno::EFAULT)
    }
    fn read_to_frame(&self, _: u64, _: &Frame, _: usize, _: usize) -> Result<usize, Errno> {
        Err(Errno::EFAULT)
    }
    fn write_from_frame(&self, _: u64, _: &Frame, _: usize, _: usize) -> Result<usize, Errno> {
        Err(Errno::EFAULT)
    }
}

fn soon(ms: u64) -> Option<u64> {
    Some(sync::monotonic_ns() + ms * 1_000_000)
}

fn until(condition: impl Fn() -> bool) {
    let end = sync::monotonic_ns() + 20 * NS_PER_SEC;
    while !condition() {
        assert!(sync::monotonic_ns() < end, "it never came true");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn waiting_checks_the_word_the_alignment_the_bits_and_the_time() {
    let (futexes, words) = (Futexes::default(), Words::new());
    let wait = |addr, value, bitset, deadline| futexes.wait(&*words, addr, false, value, bitset, deadline);
    assert_eq!(wait(0, 1, ANY, None), Err(Errno::EAGAIN.into()));
    assert_eq!(wait(2, 0, ANY, None), Err(Errno::EINVAL.into()));
    assert_eq!(wait(0, 0, 0, None), Err(Errno::EINVAL.into()));
    assert_eq!(wait(4096, 0, ANY, None), Err(Errno::EFAULT.into()));
    assert_eq!(wait(0, 0, ANY, soon(5)), Err(Errno::ETIMEDOUT.into()));
    assert_eq!(futexes.waiters(), 0);
}

#[test]
fn a_signal_ends_the_wait_with_a_restart() {
    let (futexes, words) = (Futexes::default(), Words::new());
    sync::current().set_interrupted(true);
    let ended = futexes.wait(&*words, 0, false, 0, ANY, None);
    sync::current().set_interrupted(false);
    assert_eq!(ended, Err(SysError::Restart(Restart::IfRestartable)));
    assert_eq!(futexes.waiters(), 0);
}

#[test]
fn waking_counts_and_chooses_by_bits() {
    let (futexes, words) = (Arc::new(Futexes::default()), Words::new());
    let sleepers: Vec<_> = [1u32, 2, 4, 4]
        .into_iter()
        .map(|bits| {
            let (futexes, words) = (futexes.clone(), words.clone());
            thread::spawn(move || futexes.wait(&*words, 8, false, 0, bits, None))
        })
        .collect();
    until(|| futexes.waiters() == 4);
    assert_eq!(futexes.wake(&*words, 8, false, 9, 2), Ok(1));
    assert_eq!(futexes.wake(&*words, 8, false, 1, 4), Ok(1));
    assert_eq!(futexes.wake(&*words, 12, false, 9, ANY), Ok(0));
    assert_eq!(futexes.wake(&*words, 8, false, 9, ANY), Ok(2));
    for sleeper in sleepers {
        assert_eq!(sleeper.join().unwrap(), Ok(()));
    }
}

#[test]
fn requeued_waiters_wake_with_the_second_word_or_time_out_there() {
    let (futexes, words) = (Arc::new(Futexes::default()), Words::new());
    let sleepers: Vec<_> = (0..3)
        .map(|_| {
            let (futexes, words) = (futexes.clone(), words.clone());
            thread::spawn(move || futexes.wait(&*words, 16, false, 0, ANY, None))
        })
        .collect();
    let (f, w) = (futexes.clone(), words.clone());
    until(|| futexes.waiters() == 3);
    let late = thread::spawn(move || f.wait(&*w, 16, false, 0, ANY, soon(100)));
    until(|| futexes.waiters() == 4);
    assert_eq!(futexes.requeue(&*words, 16, 20, false, (1, 9), Some(7)), Err(Errno::EAGAIN));
    assert_eq!(futexes.requeue(&*words, 16, 20, false, (1, 9), Some(0)), Ok((1, 3)));
    assert_eq!(futexes.wake(&*words, 16, false, 9, ANY), Ok(0));
    assert_eq!(late.join().unwrap(), Err(Errno::ETIMEDOUT.into()));
    assert_eq!(futexes.wake(&*words, 20, false, 9, ANY), Ok(2));
    for sleeper in sleepers {
        assert_eq!(sleeper.join().unwrap(), Ok(()));
    }
}

#[test]
fn a_mutex_of_futexes_loses_no_wake_up() {
    let rounds = 2000;
    let (futexes, words) = (Arc::new(Futexes::default()), Words::new());
    let workers: Vec<_> = (0..3)
        .map(|_| {
            let (futexes, words) = (futexes.clone(), words.clone());
            thread::spawn(move || {
                for _ in 0..rounds {
                    // 0 free, 1 taken, 2 taken and somebody waits.
                    let mut was = words.compare_exchange_u32(0, 0, 1).unwrap();
                    while was.is_err() {
                        let seen = words.0[0].swap(2, Ordering::SeqCst);
                        if seen == 0 {
                            break;
                        }
                        let _ = futexes.wait(&*words, 0, false, 2, ANY, None);
                        was = Err(2);
                    }
                    let count = words.load_u32(4).unwrap();
                    words.set(4, count + 1);
                    if words.0[0].swap(0, Ordering::SeqCst) == 2 {
                        futexes.wake(&*words, 0, false, 1, ANY).unwrap();
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
    assert_eq!(words.load_u32(4), Ok(3 * rounds));
}

#[test]
fn wake_op_changes_the_second_word_and_tests_its_old_value() {
    let (futexes, words) = (Futexes::default(), Words::new());
    words.set(4, 5);
    // *addr2 += 1; wake if old > 4.
    let op = WakeOp::decode((1 << 28) | (4 << 24) | (1 << 12) | 4);
    assert_eq!(futexes.wake_op(&*words, 0, 4, false, (1, 1), op), Ok(0));
    assert_eq!(words.load_u32(4), Ok(6));
}

#[test]
fn a_priority_lock_is_handed_to_the_first_waiter() {
    let (futexes, words) = (Arc::new(Futexes::default()), Words::new());
    let alive = |_: i32| true;
    assert_eq!(futexes.lock_pi(&*words, 0, false, 7, None, &alive), Ok(()));
    assert_eq!(futexes.lock_pi(&*words, 0, false, 7, None, &alive), Err(Errno::EDEADLK.into()));
    let (f, w) = (futexes.clone(), words.clone());
    let second = thread::spawn(move || f.lock_pi(&*w, 0, false, 8, None, &|_| true));
    until(|| words.load_u32(0) == Ok(7 | FUTEX_WAITERS));
    assert_eq!(futexes.unlock_pi(&*words, 0, false, 9), Err(Errno::EPERM));
    assert_eq!(futexes.unlock_pi(&*words, 0, false, 7), Ok(()));
    assert_eq!(second.join().unwrap(), Ok(()));
    assert_eq!(words.load_u32(0), Ok(8));
    assert_eq!(futexes.lock_pi(&*words, 0, false, 7, soon(5), &alive), Err(Errno::ETIMEDOUT.into()));
    assert_eq!(futexes.lock_pi(&*words, 0, false, 7, None, &|_| false), Err(Errno::ESRCH.into()));
    assert_eq!(futexes.unlock_pi(&*words, 0, false, 8), Ok(()));
    assert_eq!(words.load_u32(0), Ok(0));
}

#[test]
fn waiting_for_any_of_several_words_tells_which() {
    let (futexes, words) = (Arc::new(Futexes::default()), Words::new());
    let (f, w) = (futexes.clone(), words.clone());
    let sleeper = thread::spawn(move || f.wait_any(&*w, &[(0, false, 0), (4, false, 0)], None));
    until(|| futexes.waiters() == 2);
    assert_eq!(futexes.wake(&*words, 4, false, 1, ANY), Ok(1));
    assert_eq!(sleeper.join().unwrap(), Ok(1));
    assert_eq!(futexes.wait_any(&*words, &[(0, false, 0), (4, false, 1)], None), Err(Errno::EAGAIN.into()));
    assert_eq!(futexes.waiters(), 0);
}

#[test]
fn the_locks_of_a_dead_thread_are_marked_even_if_its_list_is_a_ring() {
    let (futexes, words) = (Futexes::default(), Words::new());
    // The head at 0: first entry at 64, offset of the word 8, pending entry at 96. The entry at 64 points to itself.
    for (addr, value) in [(0, 64), (8, 8), (16, 96), (64, 64), (72, 5 | FUTEX_WAITERS), (96, 0), (104, 5)] {
        words.set(addr, value);
    }
    futexes.owner_died(&*words, &*words, RobustList { head: 0 }, 5);
    assert_eq!(words.load_u32(72), Ok(5 | FUTEX_WAITERS));
    // Now a head that is not at 0, which means none.
    for (addr, value) in [(128, 64), (136, 8), (144, 96)] {
        words.set(addr, value);
    }
    futexes.owner_died(&*words, &*words, RobustList { head: 128 }, 5);
    assert_eq!(words.load_u32(72), Ok(FUTEX_OWNER_DIED | FUTEX_WAITERS));
    assert_eq!(words.load_u32(104), Ok(FUTEX_OWNER_DIED));
}
