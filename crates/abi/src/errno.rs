//! Error numbers, and what a system call may end with before it is turned into one.
//!
//! Restart codes are a type of their own ([`Restart`]), so that none can reach a guest: only the signal code at the end of a system call
//! consumes them. Source: errno(3), signal(7) "Interruption of system calls by signal handlers".

use core::fmt;

/// A Linux error number, 1 to 4095.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(u16);

macro_rules! errnos {
    ($($name:ident)*) => {
        impl Errno {
            $(#[doc = concat!("`", stringify!($name), "`, errno(3).")]
            pub const $name: Errno = Errno(linux_raw_sys::errno::$name as u16);)*

            /// The symbolic name (`"ENOENT"`), or `"E?"` for a number that Linux does not name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Errno::$name => stringify!($name),)*
                    _ => "E?",
                }
            }
        }
    };
}

errnos! {
    EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY EEXIST EXDEV ENODEV
    ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK
    ENOSYS ENOTEMPTY ELOOP ENOMSG EIDRM ENODATA EBADR ETIME EPROTO EBADMSG EOVERFLOW EILSEQ EUSERS ENOTSOCK EDESTADDRREQ EMSGSIZE EPROTOTYPE
    ENOPROTOOPT EPROTONOSUPPORT ESOCKTNOSUPPORT EOPNOTSUPP EPFNOSUPPORT EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH
    ENETRESET ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN ESHUTDOWN ETIMEDOUT ECONNREFUSED EHOSTDOWN EHOSTUNREACH EALREADY
    EINPROGRESS ESTALE EUCLEAN EREMOTEIO EDQUOT ENOMEDIUM EMEDIUMTYPE ECANCELED ENOKEY EKEYREJECTED EOWNERDEAD ENOTRECOVERABLE ENONET
    ENOLINK ECOMM ELIBBAD ETOOMANYREFS
}

impl Errno {
    /// Same number as [`Errno::EAGAIN`]; sockets call it so.
    pub const EWOULDBLOCK: Errno = Errno::EAGAIN;
    /// Same number as [`Errno::EOPNOTSUPP`].
    pub const ENOTSUP: Errno = Errno::EOPNOTSUPP;

    /// The errno with this number; `None` outside 1..=4095.
    #[must_use]
    pub fn from_raw(number: i32) -> Option<Errno> {
        (1..=4095).contains(&number).then_some(Errno(number as u16))
    }

    /// The positive number.
    #[must_use]
    pub fn raw(self) -> i32 {
        i32::from(self.0)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl core::error::Error for Errno {}

/// An interruptible wait ended because a signal is deliverable to the waiting task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interrupted;

/// How an interrupted system call goes on once the signal is dealt with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restart {
    /// Restart unless a handler without `SA_RESTART` ran (`ERESTARTSYS`).
    IfRestartable,
    /// Restart only if no handler ran (`ERESTARTNOHAND`): pause, sigsuspend, poll, select.
    IfNoHandler,
    /// Restart always (`ERESTARTNOINTR`).
    Always,
    /// As `IfNoHandler`, but through `restart_syscall`, which waits for the remaining time (`ERESTART_RESTARTBLOCK`).
    Block,
}

/// What a system call may end with short of success.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SysError {
    /// The guest sees this number.
    Errno(Errno),
    /// A wait was interrupted; the signal code decides between `EINTR` and running the call again.
    Restart(Restart),
}

/// The result of a system call, or of anything that may sleep interruptibly on its behalf.
pub type SysResult<T> = Result<T, SysError>;

impl From<Errno> for SysError {
    fn from(errno: Errno) -> Self {
        SysError::Errno(errno)
    }
}

impl From<Interrupted> for SysError {
    fn from(_: Interrupted) -> Self {
        SysError::Restart(Restart::IfRestartable)
    }
}

impl SysError {
    /// The number for a caller that can't restart: an interrupted wait is `EINTR`.
    #[must_use]
    pub fn errno(self) -> Errno {
        match self {
            SysError::Errno(errno) => errno,
            SysError::Restart(_) => Errno::EINTR,
        }
    }
}
