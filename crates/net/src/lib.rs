//! The network stack: Ethernet, ARP, IPv4 and IPv6 with neighbour discovery and autoconfiguration, ICMP, group membership, UDP, TCP, raw and
//! packet sockets, routing, forwarding and filtering.
//!
//! What it is not: sockets as files, tasks, waiting, credentials, netlink (those are `sock`'s), or transports to the host (`drivers`' devices
//! behind [`link::Link`]). It has no clock, no threads and no I/O: [`Stack::poll`] is told the time, moves what can be moved, and says when it
//! wants to be called again.
//!
//! Always true: whatever bytes a device delivers, nothing here panics, loops or grows without bound.
//!
//! One [`Stack`] is one network namespace.
#![forbid(unsafe_code)]

mod admin;
mod arp;
pub mod bpf;
pub mod config;
pub mod core;
pub mod datagram;
mod frame;
mod groups;
pub mod gso;
pub mod hook;
pub mod interface;
pub mod ip;
pub mod link;
mod nd;
pub mod neighbour;
pub mod packet;
pub mod packet_socket;
pub mod prefix;
pub mod random;
pub mod route;
mod stack;
pub mod stats;
pub mod tcp;
mod timers;
pub mod wire;

pub use crate::core::{Core, Event, Ready, SocketId};
pub use datagram::Endpoint;
pub use interface::{Address, InterfaceId};
pub use packet::Packet;
pub use prefix::{Family, Prefix};
pub use stack::Stack;
pub use wire::MacAddress;
