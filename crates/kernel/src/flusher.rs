//! Writes what has been changed to the disks every few seconds, so that a machine that is killed loses little.
//!
//! What it is not: fsync(2), or the journal's own order, which a crash between two rounds relies on.

use crate::machine::Machine;
use abi::Errno;
use sync::WaitQueue;

/// Time between two rounds: what ext4's `commit=` is by default.
const INTERVAL_NS: u64 = 5_000_000_000;

/// Starts the rounds, which go on until the machine ends.
pub fn start(machine: &Machine) -> Result<(), Errno> {
    let vfs = machine.vfs;
    let rounds = move || {
        // Nobody wakes it: only time does.
        let alarm = WaitQueue::new();
        loop {
            let next = sync::monotonic_ns() + INTERVAL_NS;
            let _ = alarm.wait_deadline::<()>(Some(next), || None);
            vfs.sync_all();
        }
    };
    machine.scheduler.spawn(rounds).map(drop)
}
