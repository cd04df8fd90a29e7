//! Socket objects: what a socket descriptor stands for, and the protocol families behind it.
//!
//! What it is: [`Socket`], the file (its options and the calls of socket(2), send(2), recv(2) and their relatives); `unix`, local sockets;
//! `inet`, UDP, TCP and raw sockets over `network`, the machine's stack; `netlink`, rtnetlink; [`Sockets`], what all sockets of a machine share.
//!
//! What it is not: the system calls (`syscall` copies addresses, iovecs and control messages in and out and installs descriptors), or the network
//! protocols (`net`).
//!
//! Always true: no lock is held over a copy from or to a guest but for a socket's own turn of readers, which nothing else waits for; data in a
//! socket lies in frames, and everything else that a guest can make of it is charged.
#![forbid(unsafe_code)]

mod inet;
mod interface;
mod message;
mod netlink;
mod network;
mod options;
mod packet;
mod patience;
mod protocol;
mod socket;
mod sockets;
#[cfg(test)]
mod tests;
mod unix;

pub use interface::{flags as interface_flags, hardware as hardware_type};
pub use message::{Control, Identity, MessageFlags, ReceiveRequest, Received, SendRequest, Ucred};
pub use network::{Network, Subscriber};
pub use options::Options;
pub use patience::Patience;
pub use protocol::{Call, How};
pub use socket::{Kind, Socket};
pub use sockets::{Sockets, World};
pub use unix::SCM_MAX_FD;
