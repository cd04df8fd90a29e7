//! The traits towards the host, and nothing else: `host` implements them, tests bring fakes.
//!
//! * [`Platform`], [`GuestSpace`], [`GuestThread`]: how guest code runs. One space is one address space on the host (a stub), one thread one host
//!   thread in it. [`GuestThread::resume`] lets it run until it needs the kernel; [`GuestSpace::map`] changes what it can see of RAM.
//! * [`HostDir`], [`HostFile`]: directories and files that the command line gave to the machine.
//! * [`HostChannel`]: a terminal, pipe or socket of the host that serves as a console.
//! * [`HostLink`]: a way for network frames to leave the machine.
//! * [`HostNetwork`]: sockets of the host, for networks without privileges.
//! * [`HostMailbox`]: the management console's socket.
//!
//! Calls that may block in the host are made on helper threads, never on a virtual CPU: each trait says which of its calls may block.
#![forbid(unsafe_code)]

mod channel;
pub mod fake;
mod files;
mod guest;
mod link;
mod mailbox;
mod network;

pub use channel::{Blocking, ConsoleListener, HostChannel, HostChannels, NewPty, TerminalMode, Way, Window, WindowSize};
pub use files::{HostDir, HostDirEntry, HostFile, HostKind, HostMetadata, HostOpen, HostStatFs};
pub use guest::{Access, Exit, GuestSpace, GuestThread, MapCommand, Platform, Protection, SpaceGone, Xstate};
pub use link::{FRAME_HEADROOM, FrameChecksum, FrameSegments, HostFrame, HostLink, LinkOffload};
pub use mailbox::{HostMailbox, MailAddress};
pub use network::{HostDatagram, HostListener, HostNetwork, HostStream, Reach, SocketReady};
