//! Network devices as the stack sees them: something that takes frames and gives frames.
//!
//! What it is not: the device's queue, addresses or state, which `interface` keeps, nor the transport to the host, which a driver
//! implements behind [`Link`]. The devices in the submodules need no host at all.
//!
//! Always true: no call blocks. A frame given to [`Link::transmit`] starts at its link header (none for [`Medium::Ip`]) and is no longer than
//! MTU and header unless it carries [`crate::packet::Gso`], which only a link that asked for it gets.

mod dummy;
mod loopback;
mod tuntap;
mod veth;

use abi::Errno;

use crate::packet::Packet;
use crate::wire::MacAddress;

pub use dummy::Dummy;
pub use loopback::Loopback;
pub use tuntap::{TunTap, TunTapQueue};
pub use veth::{Veth, veth_pair};

/// What frames look like, and so who finds the neighbours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Medium {
    /// Ethernet frames; neighbours by ARP and ND.
    Ethernet,
    /// Bare IP packets, point to point (tun, SLIP).
    Ip,
    /// The machine itself: Ethernet frames with zero addresses, no neighbours.
    Loopback,
}

/// What a link can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// Frame format.
    pub medium: Medium,
    /// It finishes partial checksums (`NETIF_F_HW_CSUM`).
    pub checksum: bool,
    /// Longest segmentable packet it cuts itself (`NETIF_F_TSO`, `gso_max_size`); 0 when it can't.
    pub gso_max_bytes: usize,
    /// Neighbours are resolved (not `IFF_NOARP`). Only meaningful for Ethernet.
    pub arp: bool,
    /// Groups and broadcasts work (`IFF_MULTICAST`).
    pub multicast: bool,
}

impl Capabilities {
    /// A plain Ethernet device.
    pub const ETHERNET: Capabilities =
        Capabilities { medium: Medium::Ethernet, checksum: false, gso_max_bytes: 0, arp: true, multicast: true };
    /// A plain point-to-point IP device.
    pub const IP: Capabilities = Capabilities { medium: Medium::Ip, checksum: false, gso_max_bytes: 0, arp: false, multicast: true };
}

/// Why a frame was not taken.
#[derive(Debug)]
pub enum TransmitError {
    /// No room now; here it is back. The stack queues it and tries again at the next poll, which whoever owns the link must bring about when
    /// there is room.
    Full(Packet),
    /// It never will be sent: counted as an error and dropped.
    Failed(Errno),
}

/// A network device.
pub trait Link: Send {
    /// What it can do; may change only while the interface is down.
    fn capabilities(&self) -> Capabilities;
    /// Its hardware address; zero when it has none.
    fn mac(&self) -> MacAddress;
    /// Gives it another address. EOPNOTSUPP when it can't.
    fn set_mac(&mut self, _mac: MacAddress) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// The interface has got an IPv4 address. A device that has no hardware address yet may make one of it.
    fn address_added(&mut self, _address: core::net::Ipv4Addr) {}
    /// The MTU it starts with, in bytes behind the link header.
    fn default_mtu(&self) -> u32 {
        1500
    }
    /// Least and greatest MTU.
    fn mtu_range(&self) -> (u32, u32) {
        (68, 65_535)
    }
    /// Whether a cable is in.
    fn has_carrier(&self) -> bool {
        true
    }
    /// The interface goes up. An error leaves it down.
    fn open(&mut self) -> Result<(), Errno> {
        Ok(())
    }
    /// The interface goes down; queued frames may be forgotten.
    fn close(&mut self) {}
    /// Which group frames are wanted, beside unicast to [`Link::mac`] and broadcast. A link that can't filter ignores it.
    fn set_receive_filter(&mut self, _groups: &[MacAddress], _promiscuous: bool) {}
    /// Takes a frame to send.
    fn transmit(&mut self, packet: Packet) -> Result<(), TransmitError>;
    /// The next frame that arrived.
    fn receive(&mut self) -> Option<Packet>;
    /// The driver's name for `ethtool -i`.
    fn driver(&self) -> &'static str;
    /// What it shares with the other end of its cable alone, where that is a link of this machine too.
    fn twin(&self) -> Option<usize> {
        None
    }
    /// The driver's own counters for `ethtool -S`.
    fn driver_statistics(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}
