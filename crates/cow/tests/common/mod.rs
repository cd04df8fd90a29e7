//! What the tests of this crate share: random numbers from a seed, names in memory, a file that forgets.
#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::HashMap;
use std::sync::Mutex;

use abi::Errno;
use cow::Storage;
use cow::open::{BackingFiles, BackingStat};

/// `count`, or `full` when `UMLAUT_SCALE=full`, or `count` times the number it holds.
pub fn scaled(count: u64, full: u64) -> u64 {
    match std::env::var("UMLAUT_SCALE").as_deref() {
        Ok("full") => full,
        Ok(factor) => count * factor.parse::<u64>().unwrap_or(1),
        Err(_) => count,
    }
}

/// Random numbers (xorshift64*), the same for the same seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 16) % bound
    }
}

/// A host with these files; relative names lie in `/home`.
#[derive(Default)]
pub struct Names(pub HashMap<Vec<u8>, BackingStat>);

impl Names {
    pub fn with(mut self, path: &str, size: u64, mtime: u32, inode: u64) -> Names {
        self.0.insert(path.into(), BackingStat { size, mtime, identity: (1, inode) });
        self
    }
}

impl BackingFiles for Names {
    fn stat(&self, path: &[u8]) -> Result<BackingStat, Errno> {
        self.0.get(&self.absolute(path)?).copied().ok_or(Errno::ENOENT)
    }

    fn absolute(&self, path: &[u8]) -> Result<Vec<u8>, Errno> {
        if path.starts_with(b"/") { Ok(path.to_vec()) } else { Ok([b"/home/", path].concat()) }
    }
}

#[derive(Clone)]
pub enum Change {
    Write(u64, Vec<u8>),
    Punch(u64, u64),
    Sync,
}

/// A file that records what was done to it.
pub struct Recorded {
    base: Vec<u8>,
    current: cow::MemoryStorage,
    pub log: Mutex<Vec<Change>>,
    /// Plants a fault: a sync is kept only when the last write before it lies in front of this offset.
    pub forget_syncs_after_data_from: Option<u64>,
    pub can_punch: bool,
}

pub enum Fate {
    Whole,
    Lost,
    /// Only the first this many bytes.
    Torn(usize),
}

impl Recorded {
    pub fn new(base: Vec<u8>) -> Recorded {
        let current = cow::MemoryStorage::new(base.clone());
        Recorded { base, current, log: Mutex::default(), forget_syncs_after_data_from: None, can_punch: true }
    }

    pub fn changes(&self) -> usize {
        self.log.lock().unwrap().len()
    }

    /// The file as a failing host may leave it once `at` changes have completed.
    pub fn crash(&self, at: usize, mut fate: impl FnMut(bool) -> Fate) -> Vec<u8> {
        let log = self.log.lock().unwrap();
        let image = cow::MemoryStorage::new(self.base.clone());
        let synced = log[..at].iter().rposition(|change| matches!(change, Change::Sync)).unwrap_or(0);
        for (number, change) in log.iter().enumerate().take(at + 1) {
            let fate = match change {
                Change::Sync => continue,
                _ if number < synced => Fate::Whole,
                _ => fate(number == at),
            };
            match (change, fate) {
                (Change::Sync, _) | (_, Fate::Lost) => {}
                (Change::Write(offset, data), Fate::Whole) => image.write_at(*offset, data).unwrap(),
                (Change::Write(offset, data), Fate::Torn(len)) => image.write_at(*offset, &data[..len.min(data.len())]).unwrap(),
                (Change::Punch(offset, len), Fate::Whole) => image.punch(*offset, *len).unwrap(),
                (Change::Punch(offset, len), Fate::Torn(part)) => image.punch(*offset, (part as u64).min(*len)).unwrap(),
            }
        }
        image.image()
    }
}

impl Storage for Recorded {
    fn len_bytes(&self) -> Result<u64, Errno> {
        self.current.len_bytes()
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        self.current.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.log.lock().unwrap().push(Change::Write(offset, data.to_vec()));
        self.current.write_at(offset, data)
    }
    fn sync(&self) -> Result<(), Errno> {
        let mut log = self.log.lock().unwrap();
        let last = log.iter().rev().find_map(|change| match change {
            Change::Write(offset, _) | Change::Punch(offset, _) => Some(*offset),
            Change::Sync => None,
        });
        match (self.forget_syncs_after_data_from, last) {
            (Some(data), Some(last)) if last >= data => {}
            _ => log.push(Change::Sync),
        }
        Ok(())
    }
    fn punch(&self, offset: u64, len_bytes: u64) -> Result<(), Errno> {
        if !self.can_punch {
            return Err(Errno::EOPNOTSUPP);
        }
        self.log.lock().unwrap().push(Change::Punch(offset, len_bytes));
        self.current.punch(offset, len_bytes)
    }
}
