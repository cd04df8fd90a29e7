//! What goes with the data of a message: flags, addresses, descriptors and credentials; send(2), recv(2), cmsg(3), unix(7).

use abi::raw::net as raw;
use bitflags::bitflags;
use std::any::Any;
use std::sync::{Arc, Weak};
use vfs::{Credentials, OpenFile};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

bitflags! {
    /// Flags of send(2) and recv(2), and `msg_flags` of what was received.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct MessageFlags: u32 {
        const OOB = raw::MSG_OOB;
        const PEEK = raw::MSG_PEEK;
        const DONTROUTE = raw::MSG_DONTROUTE;
        const CTRUNC = raw::MSG_CTRUNC;
        const TRUNC = raw::MSG_TRUNC;
        const DONTWAIT = raw::MSG_DONTWAIT;
        const EOR = raw::MSG_EOR;
        const WAITALL = raw::MSG_WAITALL;
        const CONFIRM = raw::MSG_CONFIRM;
        const ERRQUEUE = raw::MSG_ERRQUEUE;
        const NOSIGNAL = raw::MSG_NOSIGNAL;
        const MORE = raw::MSG_MORE;
        /// recvmmsg(2): waits for the first message only.
        const WAITFORONE = 0x10000;
        /// sendmmsg(2), between the messages of one call.
        const BATCH = 0x40000;
        const CMSG_CLOEXEC = raw::MSG_CMSG_CLOEXEC;
    }
}

/// `struct ucred`: who sent a message, or is at the other end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ucred {
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
}

impl Ucred {
    /// What is told of a sender who is not known: nobody, with the overflow identity.
    pub const NOBODY: Ucred = Ucred { pid: 0, uid: 65534, gid: 65534 };
}

/// The task that makes a call, as far as sockets have to know it.
#[derive(Clone)]
pub struct Identity {
    /// Its process.
    pub pid: i32,
    pub credentials: Arc<Credentials>,
    /// The soft RLIMIT_NOFILE: most descriptors that its user may have in flight.
    pub nofile: u64,
    /// The process itself, for whoever made this to recognize (SO_PEERPIDFD).
    pub process: Weak<dyn Any + Send + Sync>,
}

impl Identity {
    /// As messages tell it: the real user and group.
    #[must_use]
    pub fn ucred(&self) -> Ucred {
        Ucred { pid: self.pid, uid: self.credentials.uid, gid: self.credentials.gid }
    }
    /// As SO_PEERCRED tells it: the effective user and group.
    #[must_use]
    pub fn effective(&self) -> Ucred {
        Ucred { pid: self.pid, uid: self.credentials.euid, gid: self.credentials.egid }
    }
}

/// What a send asks for beside its data.
#[derive(Default)]
pub struct SendRequest<'a> {
    pub flags: MessageFlags,
    /// The address, as the guest gave it.
    pub to: Option<&'a [u8]>,
    /// SCM_CREDENTIALS.
    pub credentials: Option<Ucred>,
    /// SCM_RIGHTS.
    pub rights: Vec<Arc<OpenFile>>,
    /// Control messages of other levels: level, type, data.
    pub control: Vec<(i32, i32, Vec<u8>)>,
}

/// What a receive asks for beside data.
#[derive(Clone, Copy, Default)]
pub struct ReceiveRequest {
    pub flags: MessageFlags,
    /// The sender's address is wanted.
    pub wants_address: bool,
}

/// A control message of what was received.
pub enum Control {
    /// SCM_CREDENTIALS.
    Credentials(Ucred),
    /// SCM_RIGHTS: to be installed, or dropped.
    Rights(Vec<Arc<OpenFile>>),
    /// Any other: level, type, data.
    Other(i32, i32, Vec<u8>),
}

/// What was received beside the data that is in the sink.
#[derive(Default)]
pub struct Received {
    /// Bytes; with [`MessageFlags::TRUNC`] in the request the message's own length.
    pub len: usize,
    /// `msg_flags`.
    pub flags: MessageFlags,
    /// The sender's address; `None` if it has none or it was not asked for.
    pub from: Option<Vec<u8>>,
    pub control: Vec<Control>,
}
