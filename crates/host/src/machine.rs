//! The host's side of the scheduler: contexts, kicks, and the threads of virtual CPUs.

use crate::fiber::Context;
use crate::stub::Stubs;
use crate::sys;
use abi::Errno;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use sync::sched::{self, Scheduler};

/// Wakes a virtual CPU's host thread from a listener that will stay silent. Its handler does nothing.
pub const WAKE_SIGNAL: libc::c_int = libc::SIGUSR2;
/// Heap that is kept though nothing needs it, bytes.
const HEAP_KEPT: libc::c_int = 1 << 20;
/// How much processor time a kicked thread may still use before it counts as defiant.
const DEFIANCE_NS: u64 = 20_000_000;
/// How long it may sleep instead of stopping, where it could do that at all.
const SLEEP_NS: u64 = 500_000_000;

/// Implements [`sched::Machine`] over stubs.
pub struct HostMachine {
    stubs: &'static Stubs,
    /// Kicked threads that did not stop at once: when they were asked, and the processor time they had used when the delay was noticed.
    overdue: Mutex<HashMap<u64, (u64, u64)>>,
}

impl HostMachine {
    /// A machine whose guest threads live in `stubs`.
    #[must_use]
    pub fn new(stubs: &'static Stubs) -> HostMachine {
        HostMachine { stubs, overdue: Mutex::new(HashMap::new()) }
    }

    fn kill_defiant(&self, pid: i32) {
        self.stubs.counters.killed_defiant.fetch_add(1, Ordering::Relaxed);
        sys::kill_process(pid);
    }
}

impl sched::Machine for HostMachine {
    fn new_context(&self, entry: Box<dyn FnOnce() + Send>) -> Result<Box<dyn sched::Context>, Errno> {
        Ok(Context::new(entry)?)
    }

    fn kick(&self, token: u64, asked_ns: u64, now_ns: u64) {
        let (pid, tid) = ((token >> 32) as i32, token as u32 as i32);
        // It may have ended by itself meanwhile.
        let _ = sys::tgkill(pid, tid, libc::SIGUSR1);
        if now_ns.saturating_sub(asked_ns) < DEFIANCE_NS {
            return;
        }
        if now_ns.saturating_sub(asked_ns) >= SLEEP_NS && self.stubs.sleeps_silently(pid, tid) {
            self.kill_defiant(pid);
            return;
        }
        // Late because the host does not let it run, or because it blocks the signal? Only the second uses processor time.
        let Some(used) = processor_time_ns(pid, tid) else { return };
        let mut overdue = self.overdue.lock().unwrap_or_else(PoisonError::into_inner);
        if overdue.len() > 1000 {
            overdue.clear();
        }
        let (asked, before) = overdue.entry(token).or_insert((asked_ns, used));
        if *asked != asked_ns {
            // It did stop that time, and has run since.
            (*asked, *before) = (asked_ns, used);
        }
        let before = *before;
        if used.saturating_sub(before) >= DEFIANCE_NS {
            overdue.remove(&token);
            self.kill_defiant(pid);
        }
    }
}

/// Processor time that a thread of a stub has used, from `/proc/PID/task/TID/schedstat`.
fn processor_time_ns(pid: i32, tid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// Starts the host threads of the virtual CPUs and of the ticker. They end when the scheduler is stopped.
pub fn start_cpus(scheduler: &'static Scheduler, stubs: &'static Stubs) -> Result<Vec<std::thread::JoinHandle<()>>, Errno> {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: all zeroes is a valid action; the handler does nothing, so it is safe at any instant. mallopt takes numbers. No SA_RESTART: the point is to get EINTR.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
        libc::sigaction(WAKE_SIGNAL, &raw const action, std::ptr::null_mut());
        // The heap breathes with every process that comes and goes: it is not given back to the host for a few hundred KiB, nor asked for again.
        libc::mallopt(libc::M_TRIM_THRESHOLD, HEAP_KEPT);
        libc::mallopt(libc::M_TOP_PAD, HEAP_KEPT / 4);
    }
    let mut threads = Vec::new();
    let mut start = |name: String, body: Box<dyn FnOnce() + Send>| {
        let thread = std::thread::Builder::new().name(name).spawn(body).map_err(|_| Errno::EAGAIN)?;
        threads.push(thread);
        Ok::<(), Errno>(())
    };
    start("umlaut-ticker".into(), Box::new(move || scheduler.run_ticker()))?;
    for number in 0..scheduler.cpus() {
        let body = move || {
            crate::stub::unregister_rseq();
            stubs.register_waiter();
            scheduler.run_cpu(number);
        };
        start(format!("umlaut-cpu{number}"), Box::new(body))?;
    }
    Ok(threads)
}
