//! What this host offers: asked before the machine starts, and by `umlaut doctor`. Every verdict comes from trying, or from what the host says of
//! itself; none is invented.

use crate::stub;
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

fn notifications() -> Verdict {
    const GET_ACTION_AVAIL: libc::c_uint = 2;
    const GET_NOTIF_SIZES: libc::c_uint = 3;
    let mut action: u32 = 0x7fc0_0000;
    if let Err(errno) = seccomp(GET_ACTION_AVAIL, (&raw mut action).cast()) {
        return Verdict::Missing(format!(
            "this host has no seccomp notifications ({errno}). They need Linux 5.0 or newer with CONFIG_SECCOMP_FILTER, and a sandbox around us that allows seccomp(2)."
        ));
    }
    let mut sizes = [0u16; 3];
    match seccomp(GET_NOTIF_SIZES, sizes.as_mut_ptr().cast()) {
        Ok(()) if sizes[0] == 80 && sizes[1] == 24 => Verdict::Good("available".into()),
        Ok(()) => {
            Verdict::Missing(format!("this host's seccomp notifications have sizes {sizes:?}, which we do not know. A newer Umlaut may."))
        }
        Err(errno) => Verdict::Missing(format!(
            "seccomp(2) answers {errno} when asked for the size of a notification; a sandbox around us may forbid it."
        )),
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

/// Looks at everything that can be looked at without starting anything.
#[must_use]
pub fn all() -> Vec<Check> {
    vec![
        Check { name: "seccomp notifications", verdict: notifications() },
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
    all().into_iter().find_map(|check| match check.verdict {
        Verdict::Missing(sentence) => Some(sentence),
        _ => None,
    })
}

/// Why the first stub could not be made, as a sentence.
#[must_use]
pub fn explain_start(errno: Errno) -> String {
    match errno {
        Errno::EAGAIN => "the host did not let us start a guest process: it is at its limit of processes (ulimit -u, the cgroup's pids.max), or a sandbox around us already listens to seccomp notifications".into(),
        Errno::EINVAL => "the host's seccomp notifications are too old: they need Linux 6.6 or newer".into(),
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
