//! Signal numbers and sets, signal(7).

use core::fmt;

/// A signal number, 1 to 64.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Signal(u8);

macro_rules! signals {
    ($($name:ident = $number:literal)*) => {
        impl Signal {
            $(#[doc = concat!("`", stringify!($name), "`, signal(7).")]
            pub const $name: Signal = Signal($number);)*

            /// The symbolic name; `"SIGRT"` for a real-time signal.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Signal::$name => stringify!($name),)*
                    _ => "SIGRT",
                }
            }
        }
    };
}

signals! {
    SIGHUP = 1 SIGINT = 2 SIGQUIT = 3 SIGILL = 4 SIGTRAP = 5 SIGABRT = 6 SIGBUS = 7 SIGFPE = 8 SIGKILL = 9 SIGUSR1 = 10 SIGSEGV = 11
    SIGUSR2 = 12 SIGPIPE = 13 SIGALRM = 14 SIGTERM = 15 SIGSTKFLT = 16 SIGCHLD = 17 SIGCONT = 18 SIGSTOP = 19 SIGTSTP = 20 SIGTTIN = 21
    SIGTTOU = 22 SIGURG = 23 SIGXCPU = 24 SIGXFSZ = 25 SIGVTALRM = 26 SIGPROF = 27 SIGWINCH = 28 SIGIO = 29 SIGPWR = 30 SIGSYS = 31
}

impl Signal {
    /// The first real-time signal.
    pub const RTMIN: Signal = Signal(32);
    /// The highest signal number.
    pub const MAX: u8 = 64;

    /// The signal with this number; `None` outside 1..=64 (0 is "no signal, check only").
    #[must_use]
    pub fn new(number: i32) -> Option<Signal> {
        (1..=64).contains(&number).then_some(Signal(number as u8))
    }

    /// The number, 1 to 64.
    #[must_use]
    pub fn number(self) -> i32 {
        i32::from(self.0)
    }

    /// Index from 0, for tables.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0) - 1
    }

    /// Whether the signal queues (32 and above).
    #[must_use]
    pub fn is_realtime(self) -> bool {
        self.0 >= 32
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}

/// A set of signals in the kernel's layout: bit n-1 is signal n.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Hash)]
pub struct SigSet(pub u64);

impl SigSet {
    /// No signal.
    pub const EMPTY: SigSet = SigSet(0);
    /// Every signal.
    pub const ALL: SigSet = SigSet(!0);
    /// SIGKILL and SIGSTOP, which nobody can block, catch or ignore.
    pub const UNBLOCKABLE: SigSet = SigSet((1 << 8) | (1 << 18));

    /// The set that holds one signal.
    #[must_use]
    pub fn of(signal: Signal) -> SigSet {
        SigSet(1 << signal.index())
    }
    /// Whether `signal` is in the set.
    #[must_use]
    pub fn has(self, signal: Signal) -> bool {
        self.0 & (1 << signal.index()) != 0
    }
    /// Adds one signal.
    pub fn add(&mut self, signal: Signal) {
        self.0 |= 1 << signal.index();
    }
    /// Removes one signal.
    pub fn remove(&mut self, signal: Signal) {
        self.0 &= !(1 << signal.index());
    }
    /// Signals in this set and not in `other`.
    #[must_use]
    pub fn without(self, other: SigSet) -> SigSet {
        SigSet(self.0 & !other.0)
    }
    /// Signals in either set.
    #[must_use]
    pub fn union(self, other: SigSet) -> SigSet {
        SigSet(self.0 | other.0)
    }
    /// Whether no signal is in the set.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// The lowest-numbered signal in the set.
    #[must_use]
    pub fn first(self) -> Option<Signal> {
        (self.0 != 0).then(|| Signal(self.0.trailing_zeros() as u8 + 1))
    }
}
