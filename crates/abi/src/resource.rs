//! Resource limits and usage, getrlimit(2) and getrusage(2).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// No limit (`RLIM_INFINITY` as the kernel has it).
pub const RLIM_INFINITY: u64 = u64::MAX;
/// Number of limits (`RLIM_NLIMITS`).
pub const RLIM_NLIMITS: usize = 16;

/// One soft and hard limit (`struct rlimit64`, which is `struct rlimit` on 64-bit processors).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Rlimit {
    /// What is enforced.
    pub soft: u64,
    /// The ceiling that an unprivileged process may raise `soft` to.
    pub hard: u64,
}

impl Rlimit {
    /// No limit at all.
    pub const INFINITE: Rlimit = Rlimit { soft: RLIM_INFINITY, hard: RLIM_INFINITY };
    /// The same soft and hard limit.
    #[must_use]
    pub const fn both(limit: u64) -> Rlimit {
        Rlimit { soft: limit, hard: limit }
    }
}

macro_rules! resources {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $label:literal, $unit:literal;)*) => {
        /// A resource that is limited (`RLIMIT_*`), with its x86-64 number.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum Resource { $($(#[$doc])* $name = $number),* }

        impl Resource {
            /// All of them, by number.
            pub const ALL: [Resource; RLIM_NLIMITS] = [$(Resource::$name),*];

            /// The resource with this number.
            #[must_use]
            pub fn new(number: u32) -> Option<Resource> {
                Resource::ALL.get(number as usize).copied()
            }
            /// Its line in `/proc/PID/limits`: name and unit.
            #[must_use]
            pub fn label(self) -> (&'static str, &'static str) {
                match self { $(Resource::$name => ($label, $unit)),* }
            }
        }
    };
}

resources! {
    /// Processor time, seconds.
    Cpu = 0, "Max cpu time", "seconds";
    /// Size of a file that is written, bytes.
    Fsize = 1, "Max file size", "bytes";
    /// Data segment, bytes.
    Data = 2, "Max data size", "bytes";
    /// Stack of the first thread, bytes.
    Stack = 3, "Max stack size", "bytes";
    /// Core dump, bytes.
    Core = 4, "Max core file size", "bytes";
    /// Resident set, bytes; not enforced by Linux.
    Rss = 5, "Max resident set", "bytes";
    /// Processes of the user.
    Nproc = 6, "Max processes", "processes";
    /// One more than the highest descriptor.
    Nofile = 7, "Max open files", "files";
    /// Locked memory, bytes.
    Memlock = 8, "Max locked memory", "bytes";
    /// Address space, bytes.
    As = 9, "Max address space", "bytes";
    /// File locks; not enforced by Linux.
    Locks = 10, "Max file locks", "locks";
    /// Queued signals of the user.
    Sigpending = 11, "Max pending signals", "signals";
    /// POSIX message queues, bytes.
    Msgqueue = 12, "Max msgqueue size", "bytes";
    /// Ceiling of the nice value, as 20 - nice.
    Nice = 13, "Max nice priority", "";
    /// Ceiling of the real-time priority.
    Rtprio = 14, "Max realtime priority", "";
    /// Real-time processor time without a blocking call, microseconds.
    Rttime = 15, "Max realtime timeout", "us";
}

/// `struct rusage`. Times are seconds and microseconds, sizes KiB.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Rusage {
    pub user: crate::Timeval,
    pub system: crate::Timeval,
    pub max_rss_kib: i64,
    /// Never kept by Linux (`ru_ixrss`, `ru_idrss`, `ru_isrss`).
    pub unused: [i64; 3],
    pub minor_faults: i64,
    pub major_faults: i64,
    pub swaps: i64,
    pub blocks_in: i64,
    pub blocks_out: i64,
    /// `ru_msgsnd`, `ru_msgrcv`, `ru_nsignals`: never kept by Linux.
    pub unused_too: [i64; 3],
    pub voluntary_switches: i64,
    pub involuntary_switches: i64,
}
