//! Keeps what the host has given us under what the machine may use: `mem=` bounds pages and kernel objects together, but free pages stay with us to be
//! used again, and so does memory of objects that are gone. While a guest uses now one and now the other, both would grow to the bound.
//!
//! What it is not: the bound. That is `ram`'s account.

use abi::Errno;
use std::time::Duration;

/// Time between two looks: while far from the bound, and near it.
const FAR: Duration = Duration::from_millis(200);
const NEAR: Duration = Duration::from_millis(20);

/// Starts looking, on a thread of the host's that ends with the process.
pub fn start(ram: &'static ram::Ram) -> Result<(), Errno> {
    let bound = ram.frames() * abi::PAGE_SIZE;
    let look = move || {
        // What was resident when nothing more could be given back: no use in trying again before it has grown.
        let mut stuck = 0;
        loop {
            let resident = host::memory::resident_bytes();
            if resident > bound.max(stuck) {
                let mut left = resident;
                if ram.give_back(resident - bound) < resident - bound {
                    host::memory::trim();
                    left = host::memory::resident_bytes();
                }
                stuck = if left > bound { left + (1 << 20) } else { 0 };
            } else if resident <= bound {
                stuck = 0;
            }
            std::thread::sleep(if resident > bound / 2 { NEAR } else { FAR });
        }
    };
    let thread = std::thread::Builder::new().name("umlaut-balance".into()).stack_size(128 << 10).spawn(look);
    thread.map(drop).map_err(|_| Errno::EAGAIN)
}
