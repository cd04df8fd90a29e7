//! RAM in ordinary heap memory, for tests that have no host.

use crate::Backing;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A [`Backing`] in a vector.
pub struct HeapBacking {
    bytes: Mutex<Vec<u8>>,
}

impl HeapBacking {
    /// RAM of `len_bytes` zero bytes.
    #[must_use]
    pub fn new(len_bytes: usize) -> HeapBacking {
        HeapBacking { bytes: Mutex::new(vec![0; len_bytes]) }
    }
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backing for HeapBacking {
    fn len_bytes(&self) -> usize {
        self.bytes().len()
    }
    fn read(&self, offset: usize, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.bytes()[offset..offset + buffer.len()]);
    }
    fn write(&self, offset: usize, data: &[u8]) {
        self.bytes()[offset..offset + data.len()].copy_from_slice(data);
    }
    fn copy(&self, from: usize, to: usize, len: usize) {
        self.bytes().copy_within(from..from + len, to);
    }
    fn fill(&self, offset: usize, len: usize, value: u8) {
        self.bytes()[offset..offset + len].fill(value);
    }
    fn compare_exchange_u32(&self, offset: usize, old: u32, new: u32) -> Result<u32, u32> {
        let mut bytes = self.bytes();
        let word: &mut [u8; 4] = (&mut bytes[offset..offset + 4]).try_into().unwrap_or_else(|_| unreachable!("four bytes"));
        let was = u32::from_ne_bytes(*word);
        if was != old {
            return Err(was);
        }
        *word = new.to_ne_bytes();
        Ok(was)
    }
    fn load_u32(&self, offset: usize) -> u32 {
        let bytes = self.bytes();
        u32::from_ne_bytes([bytes[offset], bytes[offset + 1], bytes[offset + 2], bytes[offset + 3]])
    }
    fn punch(&self, offset: usize, len: usize) {
        self.fill(offset, len, 0);
    }
}
