//! What an administrator does to a stack, and what follows from it: interfaces up and down, addresses, and the routes and groups they bring.
//!
//! Behaves as ip-link(8) and ip-address(8): an IPv4 address brings a local route, its subnet and its broadcasts; an IPv6 address its
//! solicited-node group and duplicate address detection; an interface that goes up gets its link-local address, `lo` its loopback ones.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use abi::Errno;

use crate::core::{Core, Event};
use crate::interface::{Address, Dad, InterfaceId, Scope};
use crate::link::Link;
use crate::nd::ALL_NODES;
use crate::prefix::{Family, Prefix};
use crate::route::{Route, RouteKind, TABLE_LOCAL, TABLE_MAIN};
use crate::wire::nd::solicited_node;

/// Routes that the kernel makes (`RTPROT_KERNEL`).
const PROTOCOL_KERNEL: u8 = 2;
/// Metric of IPv6 routes that addresses bring.
const METRIC_V6: u32 = 256;
/// Addresses that one interface may have.
pub const MAX_ADDRESSES: usize = 4096;

impl Core {
    /// Adds a device; see [`crate::interface::Interfaces::add`] for the name.
    pub fn add_link(&mut self, name: &str, link: Box<dyn Link>) -> Result<InterfaceId, Errno> {
        let id = self.interfaces.add(name, link)?;
        self.event(Event::Link(id));
        Ok(id)
    }

    /// Takes a device out and gives it back.
    pub fn remove_link(&mut self, id: InterfaceId) -> Option<Box<dyn Link>> {
        self.set_down(id);
        let gone: Vec<IpAddr> = self.interfaces.get(id)?.addresses.iter().map(|address| address.prefix.address).collect();
        for address in gone {
            let _ = self.remove_address(id, address);
        }
        self.neighbours.remove_interface(id);
        self.neighbours.periods.remove(&id);
        self.event(Event::LinkRemoved(id));
        self.interfaces.remove(id).map(|interface| interface.link)
    }

    /// Brings an interface up, or takes it down.
    pub fn set_up(&mut self, id: InterfaceId, up: bool) -> Result<(), Errno> {
        let interface = self.interfaces.get_mut(id).ok_or(Errno::ENODEV)?;
        if interface.up == up {
            return Ok(());
        }
        if !up {
            self.set_down(id);
            return Ok(());
        }
        interface.link.open()?;
        interface.up = true;
        interface.carrier = interface.link.has_carrier();
        let (loopback, v6, arp, mac) =
            (interface.is_loopback(), !interface.settings.disable_ipv6, interface.capabilities().arp, interface.link.mac());
        let addresses = interface.addresses.clone();
        self.event(Event::Link(id));
        self.join(id, Ipv4Addr::new(224, 0, 0, 1).into());
        if v6 {
            self.join(id, ALL_NODES.into());
            let mut groups =
                Route::new(Prefix { address: Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), len: 8 }, None, id).metric(METRIC_V6);
            (groups.kind, groups.protocol) = (RouteKind::Multicast, PROTOCOL_KERNEL);
            if !loopback {
                let _ = self.routes.add(TABLE_LOCAL, groups);
            }
        }
        for address in &addresses {
            self.install(id, address);
        }
        if loopback {
            for prefix in [Prefix { address: Ipv4Addr::LOCALHOST.into(), len: 8 }, Prefix { address: Ipv6Addr::LOCALHOST.into(), len: 128 }]
            {
                if (prefix.address.is_ipv4() || v6) && !addresses.iter().any(|address| address.prefix == prefix) {
                    let _ = self.add_address(id, Address::new(prefix));
                }
            }
        } else if v6 && arp && mac.is_unicast() {
            let mut octets = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).octets();
            octets[8..].copy_from_slice(&mac.eui64());
            let _ = self.add_address(id, Address::new(Prefix { address: Ipv6Addr::from(octets).into(), len: 64 }));
        }
        Ok(())
    }

    fn set_down(&mut self, id: InterfaceId) {
        let Some(interface) = self.interfaces.get_mut(id).filter(|interface| interface.up) else { return };
        let groups: Vec<IpAddr> = interface.groups.keys().copied().collect();
        let v6: Vec<IpAddr> = interface.addresses.iter().map(|address| address.prefix.address).filter(IpAddr::is_ipv6).collect();
        for address in v6 {
            let _ = self.remove_address(id, address);
        }
        self.leave(id, Ipv4Addr::new(224, 0, 0, 1).into());
        if groups.contains(&ALL_NODES.into()) {
            self.leave(id, ALL_NODES.into());
        }
        self.routes.retain(|_, route| !route.nexthops.iter().any(|hop| hop.interface == id));
        self.neighbours.remove_interface(id);
        let Some(interface) = self.interfaces.get_mut(id) else { return };
        interface.up = false;
        interface.carrier = false;
        interface.mtu6 = None;
        interface.solicit_routers = None;
        interface.queue.clear();
        interface.link.close();
        self.event(Event::Link(id));
        self.event(Event::Routes);
    }

    /// Sets the MTU. EINVAL outside of what the device can.
    pub fn set_mtu(&mut self, id: InterfaceId, mtu: u32) -> Result<(), Errno> {
        let interface = self.interfaces.get_mut(id).ok_or(Errno::ENODEV)?;
        let (least, most) = interface.link.mtu_range();
        if !(least..=most).contains(&mtu) {
            return Err(Errno::EINVAL);
        }
        interface.mtu = mtu;
        interface.mtu6 = None;
        self.event(Event::Link(id));
        Ok(())
    }

    /// Sets the hardware address.
    pub fn set_mac(&mut self, id: InterfaceId, mac: crate::wire::MacAddress) -> Result<(), Errno> {
        let interface = self.interfaces.get_mut(id).ok_or(Errno::ENODEV)?;
        if !mac.is_unicast() {
            return Err(Errno::EADDRNOTAVAIL);
        }
        interface.link.set_mac(mac)?;
        interface.update_filter();
        self.event(Event::Link(id));
        Ok(())
    }

    /// Gives an interface another name; see [`crate::interface::Interfaces::add`]. EBUSY while it is up.
    pub fn rename(&mut self, id: InterfaceId, name: &str) -> Result<(), Errno> {
        let interface = self.interfaces.get(id).ok_or(Errno::ENODEV)?;
        if interface.name == name {
            return Ok(());
        }
        if interface.up {
            return Err(Errno::EBUSY);
        }
        let name = self.interfaces.free_name(name)?;
        if let Some(interface) = self.interfaces.get_mut(id) {
            interface.name = name;
        }
        self.event(Event::Link(id));
        Ok(())
    }

    /// Sets how many frames may wait for a full device (`txqueuelen`).
    pub fn set_queue_len(&mut self, id: InterfaceId, frames: i32) -> Result<(), Errno> {
        let interface = self.interfaces.get_mut(id).ok_or(Errno::ENODEV)?;
        // Frames are bounded by what sockets may hold anyway; this bounds those that are forwarded.
        interface.queue_len = usize::try_from(frames).map_err(|_| Errno::ERANGE)?.min(10_000);
        self.event(Event::Link(id));
        Ok(())
    }

    /// Adds an address. EEXIST when the interface has it, EADDRNOTAVAIL for one that no interface can have, ENOBUFS beyond
    /// [`MAX_ADDRESSES`].
    pub fn add_address(&mut self, id: InterfaceId, mut address: Address) -> Result<(), Errno> {
        let own = address.prefix.address;
        if own.is_multicast() || own.is_unspecified() && own.is_ipv6() {
            return Err(Errno::EADDRNOTAVAIL);
        }
        let interface = self.interfaces.get(id).ok_or(Errno::ENODEV)?;
        if own.is_ipv6() && interface.settings.disable_ipv6 {
            return Err(Errno::EACCES);
        }
        if interface.addresses.iter().any(|there| there.prefix.address == own && (own.is_ipv6() || there.prefix == address.prefix)) {
            return Err(Errno::EEXIST);
        }
        if interface.addresses.len() >= MAX_ADDRESSES {
            return Err(Errno::ENOBUFS);
        }
        let up = interface.up;
        if own.is_ipv6() && up && address.dad == Dad::Done {
            address.dad = self.initial_dad(id);
        }
        if let Some(interface) = self.interfaces.get_mut(id) {
            interface.addresses.push(address.clone());
            if let IpAddr::V4(own) = own {
                interface.link.address_added(own);
            }
        }
        self.keep_house_at(address.valid_until_ns);
        if up {
            self.install(id, &address);
        }
        self.event(Event::Addresses(id));
        Ok(())
    }

    /// The same without waiting for duplicate address detection (`IFA_F_NODAD`).
    pub fn add_address_at_once(&mut self, id: InterfaceId, address: Address) -> Result<(), Errno> {
        let own = address.prefix.address;
        self.add_address(id, address)?;
        if let Some(there) = self.interfaces.get_mut(id).and_then(|i| i.addresses.iter_mut().find(|there| there.prefix.address == own))
            && there.dad != Dad::Done
        {
            there.dad = Dad::Done;
            self.address_ready(id, own);
        }
        Ok(())
    }

    /// Removes an address. EADDRNOTAVAIL when the interface does not have it.
    pub fn remove_address(&mut self, id: InterfaceId, own: IpAddr) -> Result<(), Errno> {
        let interface = self.interfaces.get_mut(id).ok_or(Errno::ENODEV)?;
        let at = interface.addresses.iter().position(|address| address.prefix.address == own).ok_or(Errno::EADDRNOTAVAIL)?;
        let address = interface.addresses.remove(at);
        let up = interface.up;
        let still = |prefix: Prefix| interface.addresses.iter().any(|other| other.prefix.network() == prefix.network());
        let subnet_stays = still(address.prefix);
        let (host, subnet) = (Prefix::host(own), address.prefix.network());
        let broadcast = address.prefix.broadcast().map(|b| Prefix::host(b.into()));
        let through = |route: &Route| route.nexthops.iter().any(|hop| hop.interface == id) && route.protocol == PROTOCOL_KERNEL;
        self.routes.retain(|table, route| {
            let goes = through(route)
                && ((table == TABLE_LOCAL && route.prefix == host && route.kind == RouteKind::Local)
                    || (!subnet_stays && route.prefix == subnet)
                    || (!subnet_stays && table == TABLE_LOCAL && Some(route.prefix) == broadcast));
            !goes
        });
        if let IpAddr::V6(own) = own
            && up
        {
            self.leave(id, solicited_node(own).into());
        }
        self.event(Event::Addresses(id));
        self.event(Event::Routes);
        Ok(())
    }

    /// Routes and groups of an address of an interface that is up.
    fn install(&mut self, id: InterfaceId, address: &Address) {
        let own = address.prefix.address;
        let loopback = self.interfaces.get(id).is_some_and(crate::interface::Interface::is_loopback);
        let metric = if own.is_ipv6() { METRIC_V6 } else { 0 };
        let route = |prefix: Prefix, kind| {
            let mut route = Route::new(prefix, None, id).kind(kind);
            (route.protocol, route.source, route.scope) = (PROTOCOL_KERNEL, own.is_ipv4().then_some(own), Scope::Link);
            route
        };
        let subnet = Prefix { len: address.prefix.len, address: address.peer.unwrap_or(own) };
        if subnet.len < Family::of(own).bits() || address.peer.is_some() {
            let (kind, table) = if loopback && own.is_ipv4() { (RouteKind::Local, TABLE_LOCAL) } else { (RouteKind::Unicast, TABLE_MAIN) };
            let _ = self.routes.add(table, route(subnet, kind).metric(metric));
        }
        if let Some(broadcast) = address.prefix.broadcast()
            && !loopback
        {
            let _ = self.routes.add(TABLE_LOCAL, route(Prefix::host(broadcast.into()), RouteKind::Broadcast));
        }
        if let IpAddr::V6(own) = own {
            self.join(id, solicited_node(own).into());
        }
        if address.is_usable() {
            self.address_ready(id, own);
        }
        self.event(Event::Routes);
    }

    /// An address may be used from now on.
    pub(crate) fn address_ready(&mut self, id: InterfaceId, own: IpAddr) {
        let mut route = Route::new(Prefix::host(own), None, id).kind(RouteKind::Local);
        (route.protocol, route.source, route.scope) = (PROTOCOL_KERNEL, Some(own), Scope::Host);
        let _ = self.routes.add(TABLE_LOCAL, route);
        match own {
            IpAddr::V6(own) if own.is_unicast_link_local() => self.start_router_discovery(id),
            IpAddr::V4(own) if self.interfaces.get(id).is_some_and(|i| i.settings.arp_notify) => self.arp_announce(id, own),
            _ => {}
        }
        self.event(Event::Addresses(id));
    }

    /// Whoever changed [`Core::routes`] says so.
    pub fn routes_changed(&mut self) {
        self.event(Event::Routes);
    }

    /// Sets a neighbour by an administrator's word, and sends what waited for it.
    pub fn set_neighbour(&mut self, id: InterfaceId, address: IpAddr, mac: crate::wire::MacAddress, state: crate::neighbour::State) {
        let waiting = self.neighbours.set((id, address), mac, state, self.now_ns);
        self.send_resolved(id, mac, waiting);
        self.event(Event::Neighbour(id, address));
    }

    /// Turns forwarding of a family on or off for all interfaces (`ip_forward`, `conf/all/forwarding`).
    pub fn set_forwarding(&mut self, family: Family, on: bool) {
        for interface in self.interfaces.iter_mut() {
            interface.settings.forwarding[family.index()] = on;
        }
    }

    /// Slow timers: lifetimes, groups, duplicate detection, router discovery, carriers.
    pub(crate) fn keep_house(&mut self) {
        if self.housekeeping_ns > self.now_ns {
            return;
        }
        self.housekeeping_ns = u64::MAX;
        let now_ns = self.now_ns;
        let expired: Vec<(InterfaceId, IpAddr)> = self
            .interfaces
            .iter()
            .flat_map(|i| i.addresses.iter().filter(|a| a.valid_until_ns <= now_ns).map(|a| (i.id, a.prefix.address)))
            .collect();
        for (id, address) in expired {
            let _ = self.remove_address(id, address);
        }
        if !self.routes.retain(|_, route| route.expires_ns > now_ns).is_empty() {
            self.event(Event::Routes);
        }
        self.routes.flush_exceptions(Some(now_ns));
        let lifetimes = self.interfaces.iter().flat_map(|i| i.addresses.iter().map(|a| a.valid_until_ns)).min().unwrap_or(u64::MAX);
        let next = lifetimes.min(self.routes.next_expiry().unwrap_or(u64::MAX));
        let next = next.min(self.routes.next_exception_expiry().unwrap_or(u64::MAX));
        let next = next.min(self.poll_dad()).min(self.poll_router_discovery()).min(self.poll_groups());
        self.keep_house_at(next);
    }

    /// Notices cables that were pulled or plugged in.
    pub(crate) fn check_carriers(&mut self) {
        let mut changed = Vec::new();
        for interface in self.interfaces.iter_mut().filter(|interface| interface.up) {
            let carrier = interface.link.has_carrier();
            if carrier != interface.carrier {
                interface.carrier = carrier;
                changed.push(interface.id);
            }
        }
        for id in changed {
            self.event(Event::Link(id));
        }
    }
}
