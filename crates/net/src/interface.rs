//! The table of interfaces: names, flags, addresses, groups, settings, queues and counters of every device.
//!
//! What it is not: the device (`link`), nor what follows from a change (routes, groups, announcements), which `stack` sees to.
//!
//! Always true: an interface index is never used twice; the queue of frames for a full device holds at most `queue_len`.

use core::net::{IpAddr, Ipv6Addr};
use std::collections::{BTreeMap, VecDeque};

use abi::Errno;

use crate::link::{Capabilities, Link, Medium};
use crate::packet::Packet;
use crate::prefix::{Family, Prefix, scope};
use crate::wire::MacAddress;

/// An interface index (`ifindex`), from 1. The default, 0, is no interface.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct InterfaceId(pub u32);

impl InterfaceId {
    /// No interface: local packets, unbound sockets.
    pub const NONE: InterfaceId = InterfaceId(0);

    /// `Some` unless [`InterfaceId::NONE`].
    #[must_use]
    pub fn some(self) -> Option<InterfaceId> {
        (self != InterfaceId::NONE).then_some(self)
    }
}

impl core::fmt::Debug for InterfaceId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "if{}", self.0)
    }
}

/// How far an address is known (rtnetlink(7) `ifa_scope`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Scope {
    /// Everywhere.
    Universe = 0,
    /// On this link.
    Link = 253,
    /// On this machine.
    Host = 254,
    /// Nowhere.
    Nowhere = 255,
}

/// Duplicate address detection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dad {
    /// In use.
    Done,
    /// Not to be used yet: this many solicitations are still to be sent, the next at that time.
    Tentative {
        /// Still to send.
        left: u32,
        /// When.
        next_ns: u64,
    },
    /// Someone else has it.
    Duplicate,
}

/// An address of an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    /// Address and prefix length.
    pub prefix: Prefix,
    /// The other end of a point-to-point link.
    pub peer: Option<IpAddr>,
    /// How far it is known.
    pub scope: Scope,
    /// State of duplicate address detection; always done for IPv4.
    pub dad: Dad,
    /// Past this it is not chosen for new flows.
    pub preferred_until_ns: u64,
    /// Past this it is gone.
    pub valid_until_ns: u64,
    /// Made by autoconfiguration.
    pub autoconfigured: bool,
}

impl Address {
    /// An address that an administrator sets, for ever.
    #[must_use]
    pub fn new(prefix: Prefix) -> Address {
        let scope = match prefix.address {
            IpAddr::V4(address) if address.is_loopback() => Scope::Host,
            IpAddr::V6(address) if address.is_loopback() => Scope::Host,
            IpAddr::V6(address) if address.is_unicast_link_local() => Scope::Link,
            _ => Scope::Universe,
        };
        Address { prefix, peer: None, scope, dad: Dad::Done, preferred_until_ns: u64::MAX, valid_until_ns: u64::MAX, autoconfigured: false }
    }

    /// Whether packets may come from it and go to it.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.dad == Dad::Done
    }
}

/// Settings of one interface: `/proc/sys/net/ipv{4,6}/conf/*`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// IPv4 and IPv6 `forwarding`
    pub forwarding: [bool; 2],
    /// `rp_filter`: 0 off, 1 strict, 2 loose
    pub rp_filter: u8,
    /// `accept_redirects` of each family
    pub accept_redirects: [bool; 2],
    /// `send_redirects`
    pub send_redirects: bool,
    /// `proxy_arp`
    pub proxy_arp: bool,
    /// `arp_ignore`: 0 any local address, 1 only the interface's own
    pub arp_ignore: u8,
    /// `arp_announce`: 0 any source, 2 the best for the target
    pub arp_announce: u8,
    /// `arp_notify`: tell the link of new IPv4 addresses
    pub arp_notify: bool,
    /// IPv6 `disable_ipv6`
    pub disable_ipv6: bool,
    /// IPv6 `accept_ra`: 0 never, 1 unless forwarding, 2 always
    pub accept_ra: u8,
    /// IPv6 `autoconf`
    pub autoconf: bool,
    /// IPv6 `dad_transmits`
    pub dad_transmits: u32,
    /// IPv6 `hop_limit`
    pub hop_limit: u8,
    /// IPv6 `router_solicitations`
    pub router_solicitations: u32,
    /// `neigh/*/base_reachable_time_ms`
    pub base_reachable_ms: u64,
    /// `neigh/*/retrans_time_ms`
    pub retransmit_ms: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            forwarding: [false; 2],
            rp_filter: 0,
            accept_redirects: [true; 2],
            send_redirects: true,
            proxy_arp: false,
            arp_ignore: 0,
            arp_announce: 0,
            arp_notify: false,
            disable_ipv6: false,
            accept_ra: 1,
            autoconf: true,
            dad_transmits: 1,
            hop_limit: 64,
            router_solicitations: 3,
            base_reachable_ms: 30_000,
            retransmit_ms: 1000,
        }
    }
}

/// `struct rtnl_link_stats64`, as far as it can differ from zero here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LinkStatistics {
    /// Frames received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames that were not what they claimed to be.
    pub rx_errors: u64,
    /// Frames for which there was no taker.
    pub rx_dropped: u64,
    /// Group frames received.
    pub multicast: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames the device refused.
    pub tx_errors: u64,
    /// Frames that found the queue full.
    pub tx_dropped: u64,
}

/// Who listens to a group on an interface, and to which sources.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Membership {
    /// Memberships of sockets and of the stack itself.
    pub users: u32,
    /// When a report is due, in answer to a query or repeating an unsolicited one.
    pub report_at_ns: Option<u64>,
    /// Unsolicited reports still to send (robustness).
    pub repeats: u8,
    /// The pending report is a change (to exclude), not an answer.
    pub changed: bool,
    /// We were the last to report it, so a leave says so (versions 1 and 2).
    pub last_reporter: bool,
}

/// An interface.
pub struct Interface {
    /// Index.
    pub id: InterfaceId,
    /// Name, at most 15 bytes.
    pub name: String,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// Users of promiscuous mode (`IFF_PROMISC` when not zero).
    pub promiscuous: u32,
    /// Users of all-multicast mode.
    pub all_multicast: u32,
    /// Bytes behind the link header in one frame.
    pub mtu: u32,
    /// MTU that a router announced for IPv6; never above `mtu`.
    pub mtu6: Option<u32>,
    /// `txqueuelen`, frames.
    pub queue_len: usize,
    /// Addresses in order of age; the first of a family is the primary.
    pub addresses: Vec<Address>,
    /// Group memberships.
    pub groups: BTreeMap<IpAddr, Membership>,
    /// Settings.
    pub settings: Settings,
    /// Counters.
    pub statistics: LinkStatistics,
    /// Frames waiting for a full device.
    pub queue: VecDeque<Packet>,
    /// Router solicitations still to send, and when.
    pub solicit_routers: Option<(u32, u64)>,
    /// The oldest group protocol version that a querier on the link speaks, until when, by family.
    pub querier: [(crate::wire::igmp::Version, u64); 2],
    /// The carrier as last seen, to notice a change.
    pub carrier: bool,
    /// The device.
    pub link: Box<dyn Link>,
}

impl Interface {
    /// What the device can do.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.link.capabilities()
    }

    /// Whether this is the loopback device.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.capabilities().medium == Medium::Loopback
    }

    /// Bytes of its link header.
    #[must_use]
    pub fn header_len(&self) -> usize {
        match self.capabilities().medium {
            Medium::Ethernet | Medium::Loopback => crate::wire::ethernet::HEADER_LEN,
            Medium::Ip => 0,
        }
    }

    /// Up, with carrier (`IFF_RUNNING`).
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.up && self.link.has_carrier()
    }

    /// The MTU for a family.
    #[must_use]
    pub fn mtu_for(&self, family: Family) -> u32 {
        match (family, self.mtu6) {
            (Family::V6, Some(mtu)) => mtu.min(self.mtu),
            _ => self.mtu,
        }
    }

    /// Whether `address` is one of its own, tentative ones excluded.
    #[must_use]
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.prefix.address == address && own.is_usable())
    }

    /// Its addresses of a family that may be used.
    pub fn usable(&self, family: Family) -> impl Iterator<Item = &Address> {
        self.addresses.iter().filter(move |address| Family::of(address.prefix.address) == family && address.is_usable())
    }

    /// Its link-local IPv6 address.
    #[must_use]
    pub fn link_local(&self) -> Option<Ipv6Addr> {
        self.usable(Family::V6).find_map(|address| match address.prefix.address {
            IpAddr::V6(address) if address.is_unicast_link_local() => Some(address),
            _ => None,
        })
    }

    /// Tells the device which group frames to let through.
    pub fn update_filter(&mut self) {
        let groups: Vec<MacAddress> = self
            .groups
            .keys()
            .map(|group| match group {
                IpAddr::V4(group) => MacAddress::from_ipv4_group(*group),
                IpAddr::V6(group) => MacAddress::from_ipv6_group(*group),
            })
            .collect();
        self.link.set_receive_filter(&groups, self.promiscuous > 0 || self.all_multicast > 0);
    }

    /// An address to talk to `dst` from: for IPv4 the first on the same subnet, else the first of the right scope; for IPv6 by the rules of
    /// RFC 6724 that can differ here (1 same, 2 scope, 3 not deprecated, 8 longest match).
    #[must_use]
    pub fn source_for(&self, dst: IpAddr, now_ns: u64) -> Option<IpAddr> {
        match dst {
            IpAddr::V4(_) => {
                let candidates = || self.usable(Family::V4).filter(|address| address.scope != Scope::Host || self.is_loopback());
                candidates().find(|address| address.prefix.contains(dst)).or_else(|| candidates().next()).map(|a| a.prefix.address)
            }
            IpAddr::V6(dst) => self.usable(Family::V6).max_by_key(|address| source_rank(address, dst, now_ns)).map(|a| a.prefix.address),
        }
    }
}

/// How good an IPv6 source is for `dst`; greater is better.
pub(crate) fn source_rank(address: &Address, dst: Ipv6Addr, now_ns: u64) -> (bool, i16, bool, u32) {
    let IpAddr::V6(own) = address.prefix.address else { return (false, i16::MIN, false, 0) };
    let (own_scope, dst_scope) = (i16::from(scope(own)), i16::from(scope(dst)));
    // Of scopes that reach, the smallest; of those that don't, the greatest.
    let by_scope = if own_scope >= dst_scope { 100 - own_scope } else { own_scope - 100 };
    let common = (own.to_bits() ^ dst.to_bits()).leading_zeros();
    (own == dst, by_scope, address.preferred_until_ns > now_ns, common.min(u32::from(address.prefix.len)))
}

/// All interfaces of a stack.
#[derive(Default)]
pub struct Interfaces {
    table: BTreeMap<InterfaceId, Interface>,
    last: u32,
}

impl Interfaces {
    /// Adds a device under `name`, down and without addresses. A `%d` in the name becomes the first free number. EEXIST when taken, EINVAL
    /// for an empty name, one of 16 bytes or more, or one with a slash, colon or space.
    pub fn add(&mut self, name: &str, link: Box<dyn Link>) -> Result<InterfaceId, Errno> {
        let name = self.free_name(name)?;
        self.last += 1;
        let id = InterfaceId(self.last);
        let interface = Interface {
            id,
            name,
            up: false,
            promiscuous: 0,
            all_multicast: 0,
            mtu: link.default_mtu(),
            mtu6: None,
            queue_len: 1000,
            addresses: Vec::new(),
            groups: BTreeMap::new(),
            settings: Settings::default(),
            statistics: LinkStatistics::default(),
            queue: VecDeque::new(),
            solicit_routers: None,
            querier: [(crate::wire::igmp::Version::Three, 0); 2],
            carrier: false,
            link,
        };
        self.table.insert(id, interface);
        Ok(id)
    }

    pub(crate) fn free_name(&self, name: &str) -> Result<String, Errno> {
        let valid = |name: &str| {
            !name.is_empty()
                && name.len() < 16
                && name != "."
                && name != ".."
                && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
        };
        let taken = |name: &str| self.by_name(name).is_some();
        if let Some((before, after)) = name.split_once("%d") {
            let free = (0..100_000u32).map(|n| format!("{before}{n}{after}")).find(|name| !taken(name)).ok_or(Errno::ENFILE)?;
            return if valid(&free) { Ok(free) } else { Err(Errno::EINVAL) };
        }
        match (valid(name), taken(name)) {
            (false, _) => Err(Errno::EINVAL),
            (true, true) => Err(Errno::EEXIST),
            (true, false) => Ok(name.to_owned()),
        }
    }

    /// Renames an interface, which Linux allows only while it is down. EBUSY, or as [`Interfaces::add`].
    pub fn rename(&mut self, id: InterfaceId, name: &str) -> Result<(), Errno> {
        let name = self.free_name(name)?;
        let interface = self.table.get_mut(&id).ok_or(Errno::ENODEV)?;
        if interface.up {
            return Err(Errno::EBUSY);
        }
        interface.name = name;
        Ok(())
    }

    /// Takes an interface out and gives its device back.
    pub fn remove(&mut self, id: InterfaceId) -> Option<Interface> {
        self.table.remove(&id)
    }

    /// One interface.
    #[must_use]
    pub fn get(&self, id: InterfaceId) -> Option<&Interface> {
        self.table.get(&id)
    }

    /// One interface, to change.
    pub fn get_mut(&mut self, id: InterfaceId) -> Option<&mut Interface> {
        self.table.get_mut(&id)
    }

    /// By name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Interface> {
        self.iter().find(|interface| interface.name == name)
    }

    /// All, by index.
    pub fn iter(&self) -> impl Iterator<Item = &Interface> {
        self.table.values()
    }

    /// All, by index, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Interface> {
        self.table.values_mut()
    }

    /// All indices.
    #[must_use]
    pub fn ids(&self) -> Vec<InterfaceId> {
        self.table.keys().copied().collect()
    }

    /// The interface that has `address`, which for a link-local one may depend on where it is seen.
    #[must_use]
    pub fn owner(&self, address: IpAddr) -> Option<&Interface> {
        self.iter().find(|interface| interface.up && interface.has_address(address))
    }

    /// The loopback interface.
    #[must_use]
    pub fn loopback(&self) -> Option<&Interface> {
        self.iter().find(|interface| interface.is_loopback())
    }
}
