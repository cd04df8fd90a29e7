//! Calls that aren't there: what they answer, and how often they were asked for.

use abi::Errno;
use std::collections::BTreeMap;
use sync::SpinLock;
use task::Current;

static COUNTS: SpinLock<BTreeMap<u64, u64>> = SpinLock::new(BTreeMap::new());

/// Answers a call that has no handler: ENOSYS. Logs it the first time.
pub(crate) fn answer(current: &Current, number: u64) -> Errno {
    let first = {
        let mut counts = COUNTS.lock();
        // A guest that goes through all numbers must not make us remember them.
        if counts.len() >= 1024 && !counts.contains_key(&number) {
            return Errno::ENOSYS;
        }
        let count = counts.entry(number).or_insert(0);
        *count += 1;
        *count == 1
    };
    if first {
        let name = crate::table::name(number).unwrap_or("unknown");
        current
            .system()
            .hooks
            .log(&format!("system call {number} ({name}) is not implemented, asked for by {}", current.task().comm_text()));
    }
    Errno::ENOSYS
}

/// Call numbers and how often each was asked for, for `/proc/umlaut/unimplemented`.
#[must_use]
pub fn counts() -> Vec<(u64, u64)> {
    COUNTS.lock().iter().map(|(number, count)| (*number, *count)).collect()
}
