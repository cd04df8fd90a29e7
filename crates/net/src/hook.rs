//! Where a packet filter looks at packets: the five places of Linux's netfilter.
//!
//! What it is not: a filter. Whoever implements [`Filter`] (tables, address translation) keeps its own state and rules.

use crate::interface::InterfaceId;
use crate::packet::Packet;

/// The places, in the order of `NF_INET_*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    /// Arrived, before routing.
    PreRouting,
    /// For this machine.
    LocalIn,
    /// Through this machine.
    Forward,
    /// Made on this machine, after its first routing.
    LocalOut,
    /// About to leave, after all routing.
    PostRouting,
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// On with it. The filter may have changed it; a changed destination or mark is routed again.
    Accept,
    /// Away with it, silently; the sender of a local packet sees EPERM.
    Drop,
}

/// What is known where the packet is seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HookContext {
    /// Which place.
    pub hook: Hook,
    /// Arrived on; none for local packets.
    pub input: InterfaceId,
    /// Leaves on; none before routing.
    pub output: InterfaceId,
    /// The stack's clock.
    pub now_ns: u64,
}

/// A packet filter. `packet` starts at its IP header.
pub trait Filter: Send {
    /// Judges, and may change, a packet. A transport checksum may be unfinished ([`crate::packet::Checksum::Partial`]).
    fn judge(&mut self, packet: &mut Packet, context: HookContext) -> Verdict;
}
