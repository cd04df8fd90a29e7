//! What this host offers: asked before the machine starts, and by `umlaut doctor`. Every verdict comes from trying, or from what the host says of
//! itself; none is invented.

use crate::stub::{self, HandOver};
use abi::Errno;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What: `seccomp notifications`.
    pub name: &'static str,
    pub verdict: Verdict,
}

/// How it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Good; with what was found.
    Good(String),
    /// The machine runs, with this drawback.
    Limited(String),
    /// The machine can't run; one sentence that says what is missing and what to do.
    Missing(String),
}

fn auxiliary(key: libc::c_ulong) -> u64 {
    // SAFETY: getauxval only reads the process's own vector.
    unsafe { libc::getauxval(key) }
}

fn seccomp(operation: libc::c_uint, argument: *mut libc::c_void) -> Result<(), Errno> {
    // SAFETY: the operations used here read or fill a small structure that `argument` points to.
    crate::sys::check(unsafe { libc::syscall(libc::SYS_seccomp, operation, 0, argument) } as libc::c_int).map(drop)
}

fn filters() -> Verdict {
    const GET_ACTION_AVAIL: libc::c_uint = 2;
    let mut action: u32 = 0x0003_0000;
    match seccomp(GET_ACTION_AVAIL, (&raw mut action).cast()) {
        Ok(()) => Verdict::Good("seccomp".into()),
        Err(errno) => Verdict::Missing(format!(
            "this host has no seccomp filters ({errno}). They need CONFIG_SECCOMP_FILTER, and a sandbox around us that allows seccomp(2)."
        )),
    }
}

/// What the environment wishes: `UMLAUT_HANDOVER=notify` or `trap`. A sentence when it is neither.
pub fn wished_hand_over() -> Result<Option<HandOver>, String> {
    match std::env::var("UMLAUT_HANDOVER").as_deref() {
        Err(_) | Ok("") => Ok(None),
        Ok("notify") => Ok(Some(HandOver::Notify)),
        Ok("trap") => Ok(Some(HandOver::Trap)),
        Ok(other) => Err(format!("UMLAUT_HANDOVER={other:?} is not known; say notify or trap, or leave it out.")),
    }
}

/// Which hand-over a machine would take here. It is tried in a process of its own.
fn hand_over() -> Verdict {
    match wished_hand_over() {
        Err(sentence) => return Verdict::Missing(sentence),
        Ok(Some(HandOver::Trap)) => {
            return Verdict::Limited("by signals, as UMLAUT_HANDOVER wishes; without it the faster one is taken where it can be.".into());
        }
        Ok(_) => {}
    }
    let price = "Every call comes by a signal instead, which is slower.";
    match stub::probe_notifications() {
        Ok(()) => Verdict::Good("by seccomp notifications".into()),
        Err(Errno::EBUSY) => Verdict::Limited(format!(
            "a sandbox around us listens to seccomp notifications, and the host allows one listener. {price} Leave the sandbox for more speed."
        )),
        Err(Errno::EINVAL) => {
            Verdict::Limited(format!("seccomp notifications as we need them came with Linux 6.6. {price} A newer host kernel is faster."))
        }
        Err(errno) => {
            Verdict::Limited(format!("seccomp notifications can't be had ({errno}); a sandbox around us may forbid them. {price}"))
        }
    }
}

fn segment_bases() -> Verdict {
    const HWCAP2_FSGSBASE: u64 = 2;
    if auxiliary(libc::AT_HWCAP2) & HWCAP2_FSGSBASE != 0 {
        Verdict::Good("FSGSBASE".into())
    } else {
        Verdict::Missing("the processor or the host kernel lacks FSGSBASE. It needs an Intel processor from 2012 or an AMD one from 2017, and Linux 5.9 or newer without nofsgsbase.".into())
    }
}

fn signal_frame() -> Verdict {
    match auxiliary(libc::AT_MINSIGSTKSZ) {
        0 => Verdict::Good("of the oldest size".into()),
        len if len <= 48 << 10 => Verdict::Good(format!("{len} bytes")),
        len => Verdict::Missing(format!("this processor's signal frames take {len} bytes; stubs have room for 49152.")),
    }
}

fn room() -> Verdict {
    let limit = stub::guest_process_limit();
    match limit {
        0..=3 => Verdict::Missing("the limits on processes or descriptors leave no room for a guest. Raise RLIMIT_NPROC (ulimit -u) and RLIMIT_NOFILE (ulimit -n), or the cgroup's pids.max.".into()),
        4..=63 => Verdict::Limited(format!("{limit} guest processes. Raise ulimit -u, ulimit -n or the cgroup's pids.max for more.")),
        _ => Verdict::Good(format!("{limit} guest processes")),
    }
}

fn memory() -> Verdict {
    match crate::sys::memory_file(c"umlaut-check", 1 << 20) {
        Ok(_) => Verdict::Good("memfd".into()),
        Err(errno) => Verdict::Missing(format!(
            "a memory file can't be made ({errno}): memfd_create(2) is missing or forbidden, or RLIMIT_FSIZE is too small."
        )),
    }
}

/// Looks at everything, for people: [`needed`], and what a machine would make of it. Call it before the process has a second thread: it forks.
#[must_use]
pub fn all() -> Vec<Check> {
    let mut checks = needed();
    checks.insert(1, Check { name: "hand-over", verdict: hand_over() });
    checks
}

/// Looks at what a machine can't run without, as far as that can be done without starting anything.
#[must_use]
pub fn needed() -> Vec<Check> {
    vec![
        Check { name: "filters", verdict: filters() },
        Check { name: "segment bases", verdict: segment_bases() },
        Check { name: "signal frames", verdict: signal_frame() },
        Check { name: "memory files", verdict: memory() },
        Check { name: "room", verdict: room() },
    ]
}

/// Raises the soft limit on descriptors as far as it goes: each guest process needs two.
pub fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is ours; a limit that can't be raised stays.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// The first thing that is missing, as a sentence.
#[must_use]
pub fn first_missing() -> Option<String> {
    needed().into_iter().find_map(|check| match check.verdict {
        Verdict::Missing(sentence) => Some(sentence),
        _ => None,
    })
}

/// Why the first stub could not be made, as a sentence.
#[must_use]
pub fn explain_start(errno: Errno) -> String {
    match errno {
        Errno::EAGAIN => "the host did not let us start a guest process: it is at its limit of processes or descriptors (ulimit -u, ulimit -n, the cgroup's pids.max); `umlaut doctor` says more".into(),
        Errno::EBUSY | Errno::EINVAL => "seccomp notifications can't be had here, and UMLAUT_HANDOVER=notify allows nothing else; leave it out".into(),
        Errno::EPERM | Errno::EACCES => format!("a sandbox around us forbids what guest processes need ({errno})"),
        other => format!("the first guest process could not be started ({other})"),
    }
}

/// Random bytes from the host's own generator, getrandom(2).
pub fn entropy(bytes: &mut [u8]) {
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        // SAFETY: the buffer is ours. Without the GRND_NONBLOCK flag the call fails only by being interrupted.
        let n = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        if n > 0 {
            done += n as usize;
        }
    }
}

/// Processors that this process may use, by its affinity mask and its cgroup's quota.
#[must_use]
pub fn processors() -> usize {
    let by_mask = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    by_mask.max(1)
}

/// Memory that the host still has, bytes: what is available, or what the cgroup leaves, whichever is less.
#[must_use]
pub fn available_memory() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .map_or(1 << 30, |kib| kib << 10);
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse::<u64>().ok());
    limit.map_or(available, |limit| limit.min(available))
}
