//! Neighbour discovery (RFC 4861), autoconfiguration (RFC 4862) and duplicate address detection.
//!
//! What it is not: a router's daemon. Advertisements of a guest that is a router are sent by a program (radvd) through a raw socket.
//!
//! Always true: a message that crossed a router (hop limit below 255) is ignored; what advertisements make is bounded
//! ([`MAX_ADVERTISED`] routes and addresses on an interface).

use core::net::{IpAddr, Ipv6Addr};

use crate::core::{Core, Event, IpInfo, MILLISECOND, SECOND};
use crate::interface::{Address, Dad, InterfaceId};
use crate::ip::SendOptions;
use crate::neighbour::Update;
use crate::packet::Packet;
use crate::prefix::Prefix;
use crate::route::{Query, Route, TABLE_MAIN};
use crate::wire::icmp::{HEADER_LEN, IcmpHeader, v6};
use crate::wire::nd::{self, PrefixInformation, RA_OPTIONS, RouterAdvertisement, option, solicited_node};
use crate::wire::{MacAddress, array, be32};

/// All nodes on the link.
pub(crate) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// Routes, and addresses, that advertisements may make on one interface (`max_addresses`).
pub const MAX_ADVERTISED: usize = 16;
/// Routes made by advertisements (`RTPROT_RA`).
pub const PROTOCOL_RA: u8 = 9;
/// Metric of routes made by advertisements (`IP6_RT_PRIO_USER`, and `IP6_RT_PRIO_ADDRCONF` for prefixes).
const METRIC_DEFAULT: u32 = 1024;
const METRIC_PREFIX: u32 = 256;
const ROUTER_SOLICITATION_NS: u64 = 4 * SECOND;
/// Under this an advertisement can't shorten what is left of an address's life (RFC 4862 5.5.3 e).
const TWO_HOURS_NS: u64 = 7200 * SECOND;

impl Core {
    /// A neighbour discovery message whose checksum is good.
    pub(crate) fn nd_input(&mut self, packet: &Packet, info: &IpInfo, message: &[u8]) {
        let (IpAddr::V6(src), IpAddr::V6(dst)) = (info.src, info.dst) else { return };
        if info.ttl != 255 || message.get(1) != Some(&0) || packet.interface == InterfaceId::NONE {
            return;
        }
        match message[0] {
            v6::NEIGHBOUR_SOLICITATION => self.solicited(info.interface, src, dst, message),
            v6::NEIGHBOUR_ADVERTISEMENT => self.advertised(info.interface, dst, message),
            v6::ROUTER_ADVERTISEMENT if src.is_unicast_link_local() => self.router_advertised(info.interface, src, message),
            v6::REDIRECT if src.is_unicast_link_local() => self.nd_redirected(info.interface, src, message),
            _ => {}
        }
    }

    fn solicited(&mut self, id: InterfaceId, src: Ipv6Addr, dst: Ipv6Addr, message: &[u8]) {
        let Some(target) = array::<16>(message, 8).map(Ipv6Addr::from) else { return };
        let Some(options) = message.get(24..).and_then(nd::options) else { return };
        if target.is_multicast() {
            return;
        }
        let link = nd::link_address(&options, option::SOURCE_LINK);
        let probe = src.is_unspecified();
        if probe && (link.is_some() || !dst.is_multicast()) {
            return;
        }
        let Some(interface) = self.interfaces.get(id) else { return };
        let own = interface.addresses.iter().find(|address| address.prefix.address == IpAddr::V6(target));
        match own.map(|address| address.dad) {
            None | Some(Dad::Duplicate) => {}
            Some(Dad::Tentative { .. }) => {
                // Someone else wants it too; a probe of our own never comes back here.
                if probe {
                    self.duplicate(id, target);
                }
            }
            Some(Dad::Done) => {
                if let Some(mac) = link {
                    let update = Update { solicited: false, replace: true, create: true, router: None };
                    let waiting = self.neighbours.learn((id, src.into()), mac, update, self.now_ns);
                    self.send_resolved(id, mac, waiting);
                }
                let to = if probe { ALL_NODES } else { src };
                self.advertise(id, target, to, !probe);
            }
        }
    }

    /// Sends a neighbour advertisement for an address of ours.
    pub(crate) fn advertise(&mut self, id: InterfaceId, target: Ipv6Addr, to: Ipv6Addr, solicited: bool) {
        let Some(interface) = self.interfaces.get(id) else { return };
        let mut flags = nd::NA_OVERRIDE;
        if interface.settings.forwarding[1] {
            flags |= nd::NA_ROUTER;
        }
        if solicited {
            flags |= nd::NA_SOLICITED;
        }
        let mut message = vec![0; HEADER_LEN];
        IcmpHeader { kind: v6::NEIGHBOUR_ADVERTISEMENT, code: 0, rest: flags }.emit(&mut message);
        message.extend_from_slice(&target.octets());
        message.extend_from_slice(&nd::link_option(option::TARGET_LINK, interface.link.mac()));
        self.send_nd(id, target, to, &message);
    }

    fn send_nd(&mut self, id: InterfaceId, src: Ipv6Addr, dst: Ipv6Addr, message: &[u8]) {
        let options = SendOptions { ttl: Some(255), interface: id, multicast_loop: false, ..SendOptions::default() };
        self.send_icmp_with(src.into(), dst.into(), &options, message);
    }

    fn advertised(&mut self, id: InterfaceId, dst: Ipv6Addr, message: &[u8]) {
        let (Some(flags), Some(target)) = (be32(message, 4), array::<16>(message, 8).map(Ipv6Addr::from)) else { return };
        let Some(options) = message.get(24..).and_then(nd::options) else { return };
        let solicited = flags & nd::NA_SOLICITED != 0;
        if target.is_multicast() || (dst.is_multicast() && solicited) {
            return;
        }
        let Some(interface) = self.interfaces.get(id) else { return };
        let own = interface.addresses.iter().find(|address| address.prefix.address == IpAddr::V6(target));
        match own.map(|address| address.dad) {
            Some(Dad::Tentative { .. }) => return self.duplicate(id, target),
            Some(_) => return self.event(Event::Duplicate(id, target.into())),
            None => {}
        }
        let key = (id, IpAddr::V6(target));
        let router = flags & nd::NA_ROUTER != 0;
        let known = self.neighbours.get(key).map(|neighbour| (neighbour.mac, neighbour.router));
        let Some((known_mac, was_router)) = known else { return };
        let mac = nd::link_address(&options, option::TARGET_LINK).unwrap_or(known_mac);
        if !mac.is_unicast() {
            return;
        }
        let update = Update { solicited, replace: flags & nd::NA_OVERRIDE != 0, create: false, router: Some(router) };
        let waiting = self.neighbours.learn(key, mac, update, self.now_ns);
        self.send_resolved(id, mac, waiting);
        if was_router && !router {
            self.forget_router(id, target);
        }
    }

    /// Asks for a neighbour: its solicited-node group, or itself.
    pub(crate) fn nd_solicit(&mut self, id: InterfaceId, target: Ipv6Addr, mac: Option<MacAddress>) {
        let Some(interface) = self.interfaces.get(id) else { return };
        let Some(IpAddr::V6(src)) = interface.source_for(target.into(), self.now_ns) else { return };
        let own = interface.link.mac();
        let dst = if mac.is_some() { target } else { solicited_node(target) };
        let mut message = vec![0; HEADER_LEN];
        IcmpHeader { kind: v6::NEIGHBOUR_SOLICITATION, code: 0, rest: 0 }.emit(&mut message);
        message.extend_from_slice(&target.octets());
        message.extend_from_slice(&nd::link_option(option::SOURCE_LINK, own));
        self.send_nd(id, src, dst, &message);
    }

    /// Starts duplicate address detection, or says that none is needed.
    pub(crate) fn initial_dad(&mut self, id: InterfaceId) -> Dad {
        let Some(interface) = self.interfaces.get(id) else { return Dad::Done };
        let settings = &interface.settings;
        if settings.dad_transmits == 0 || !interface.capabilities().arp {
            return Dad::Done;
        }
        let left = settings.dad_transmits;
        // A random delay keeps a rack that boots at once from shouting at once (RFC 4862 5.4.2).
        let next_ns = self.now_ns + self.random.below(SECOND / 2);
        self.keep_house_at(next_ns);
        Dad::Tentative { left, next_ns }
    }

    fn duplicate(&mut self, id: InterfaceId, target: Ipv6Addr) {
        if let Some(interface) = self.interfaces.get_mut(id) {
            for address in interface.addresses.iter_mut().filter(|address| address.prefix.address == IpAddr::V6(target)) {
                address.dad = Dad::Duplicate;
            }
        }
        self.event(Event::Duplicate(id, target.into()));
    }

    /// Goes on with duplicate address detection; answers when next.
    pub(crate) fn poll_dad(&mut self) -> u64 {
        let now_ns = self.now_ns;
        let mut next = u64::MAX;
        let (mut probes, mut done) = (Vec::new(), Vec::new());
        for interface in self.interfaces.iter_mut() {
            let wait_ns = interface.settings.retransmit_ms * MILLISECOND;
            for address in &mut interface.addresses {
                let (Dad::Tentative { left, next_ns }, IpAddr::V6(own)) = (&mut address.dad, address.prefix.address) else { continue };
                if *next_ns <= now_ns {
                    if *left == 0 {
                        address.dad = Dad::Done;
                        done.push((interface.id, own));
                        continue;
                    }
                    *left -= 1;
                    *next_ns = now_ns + wait_ns;
                    probes.push((interface.id, own));
                }
                next = next.min(*next_ns);
            }
        }
        for (id, target) in probes {
            let mut message = vec![0; HEADER_LEN];
            IcmpHeader { kind: v6::NEIGHBOUR_SOLICITATION, code: 0, rest: 0 }.emit(&mut message);
            message.extend_from_slice(&target.octets());
            self.send_nd(id, Ipv6Addr::UNSPECIFIED, solicited_node(target), &message);
        }
        for (id, address) in done {
            self.address_ready(id, address.into());
        }
        next
    }

    /// The link-local address is in use: look for routers.
    pub(crate) fn start_router_discovery(&mut self, id: InterfaceId) {
        let now_ns = self.now_ns;
        let Some(interface) = self.interfaces.get_mut(id) else { return };
        let count = interface.settings.router_solicitations;
        if accepts_advertisements(interface) && interface.capabilities().multicast && !interface.is_loopback() && count > 0 {
            interface.solicit_routers = Some((count, now_ns));
            self.keep_house_at(now_ns);
        }
    }

    /// Sends router solicitations that are due; answers when next.
    pub(crate) fn poll_router_discovery(&mut self) -> u64 {
        let now_ns = self.now_ns;
        let mut next = u64::MAX;
        let mut due = Vec::new();
        for interface in self.interfaces.iter_mut() {
            let Some((left, at_ns)) = interface.solicit_routers else { continue };
            if at_ns > now_ns {
                next = next.min(at_ns);
                continue;
            }
            due.push((interface.id, interface.link_local(), interface.link.mac()));
            interface.solicit_routers = (left > 1).then_some((left - 1, now_ns + ROUTER_SOLICITATION_NS));
            next = next.min(interface.solicit_routers.map_or(u64::MAX, |(_, at_ns)| at_ns));
        }
        for (id, src, mac) in due {
            let mut message = vec![0; HEADER_LEN];
            IcmpHeader { kind: v6::ROUTER_SOLICITATION, code: 0, rest: 0 }.emit(&mut message);
            if src.is_some() {
                message.extend_from_slice(&nd::link_option(option::SOURCE_LINK, mac));
            }
            self.send_nd(id, src.unwrap_or(Ipv6Addr::UNSPECIFIED), ALL_ROUTERS, &message);
        }
        next
    }

    fn router_advertised(&mut self, id: InterfaceId, src: Ipv6Addr, message: &[u8]) {
        let Some(advertisement) = RouterAdvertisement::parse(message) else { return };
        let Some(options) = message.get(RA_OPTIONS..).and_then(nd::options) else { return };
        let Some(interface) = self.interfaces.get_mut(id) else { return };
        if !accepts_advertisements(interface) {
            return;
        }
        interface.solicit_routers = None;
        if advertisement.hop_limit != 0 {
            interface.settings.hop_limit = advertisement.hop_limit;
        }
        if (1..=3_600_000).contains(&advertisement.reachable_ms) {
            interface.settings.base_reachable_ms = advertisement.reachable_ms.into();
        }
        if (1000..=3_600_000).contains(&advertisement.retransmit_ms) {
            interface.settings.retransmit_ms = advertisement.retransmit_ms.into();
        }
        let periods = (interface.settings.base_reachable_ms * MILLISECOND, interface.settings.retransmit_ms * MILLISECOND);
        for option in &options {
            if option[0] == option::MTU
                && let Some(mtu) = be32(option, 4).filter(|mtu| (1280..=interface.mtu).contains(mtu))
            {
                interface.mtu6 = Some(mtu);
            }
        }
        self.neighbours.periods.insert(id, periods);
        if let Some(mac) = nd::link_address(&options, option::SOURCE_LINK) {
            let update = Update { solicited: false, replace: true, create: true, router: Some(true) };
            let waiting = self.neighbours.learn((id, src.into()), mac, update, self.now_ns);
            self.send_resolved(id, mac, waiting);
        }
        self.learn_router(id, src, advertisement.lifetime_s);
        for prefix in options.iter().filter(|o| o[0] == option::PREFIX).filter_map(|o| PrefixInformation::parse(o)) {
            self.learn_prefix(id, &prefix);
        }
    }

    fn learn_router(&mut self, id: InterfaceId, router: Ipv6Addr, lifetime_s: u16) {
        self.forget_router(id, router);
        if lifetime_s == 0 || self.advertised_routes(id) >= MAX_ADVERTISED {
            return;
        }
        let all = Prefix::all(crate::prefix::Family::V6);
        // One metric further for each further router: a next hop list would share flows, while RFC 4861 6.3.6 wants one until it fails.
        let others = self.routes.iter().filter(|(_, route)| route.prefix == all && route.protocol == PROTOCOL_RA).count() as u32;
        let expires_ns = self.now_ns + u64::from(lifetime_s) * SECOND;
        let route =
            Route { protocol: PROTOCOL_RA, metric: METRIC_DEFAULT + others, expires_ns, ..Route::new(all, Some(router.into()), id) };
        self.routes.replace(TABLE_MAIN, route);
        self.keep_house_at(expires_ns);
        self.event(Event::Routes);
    }

    fn advertised_routes(&self, id: InterfaceId) -> usize {
        self.routes
            .iter()
            .filter(|(_, route)| route.protocol == PROTOCOL_RA && route.nexthops.iter().any(|hop| hop.interface == id))
            .count()
    }

    fn forget_router(&mut self, id: InterfaceId, router: Ipv6Addr) {
        let gone = self.routes.retain(|_, route| {
            !(route.protocol == PROTOCOL_RA
                && route.prefix.len == 0
                && route.nexthops.iter().any(|hop| hop.interface == id && hop.gateway == Some(router.into())))
        });
        if !gone.is_empty() {
            self.event(Event::Routes);
        }
    }

    fn learn_prefix(&mut self, id: InterfaceId, option: &PrefixInformation) {
        let prefix = Prefix::new(option.prefix.into(), option.prefix_len).network();
        if option.prefix.is_unicast_link_local() || option.prefix.is_multicast() || option.preferred_s > option.valid_s {
            return;
        }
        let until = |seconds: u32| if seconds == u32::MAX { u64::MAX } else { self.now_ns + u64::from(seconds) * SECOND };
        let (valid_ns, preferred_ns) = (until(option.valid_s), until(option.preferred_s));
        if option.on_link {
            let known = self.routes.iter().any(|(_, route)| route.prefix == prefix && route.protocol == PROTOCOL_RA);
            if option.valid_s == 0 {
                self.routes.retain(|_, route| route.prefix != prefix || route.protocol != PROTOCOL_RA);
            } else if known || self.advertised_routes(id) < MAX_ADVERTISED {
                let route = Route { protocol: PROTOCOL_RA, metric: METRIC_PREFIX, expires_ns: valid_ns, ..Route::new(prefix, None, id) };
                self.routes.replace(TABLE_MAIN, route);
                self.keep_house_at(valid_ns);
            }
        }
        if option.autonomous && option.prefix_len == 64 {
            self.autoconfigure(id, option.prefix, valid_ns, preferred_ns);
        }
    }

    fn autoconfigure(&mut self, id: InterfaceId, prefix: Ipv6Addr, valid_ns: u64, preferred_ns: u64) {
        let now_ns = self.now_ns;
        let Some(interface) = self.interfaces.get_mut(id) else { return };
        if !interface.settings.autoconf {
            return;
        }
        let mut octets = prefix.octets();
        octets[8..].copy_from_slice(&interface.link.mac().eui64());
        let own = IpAddr::V6(Ipv6Addr::from(octets));
        if let Some(address) = interface.addresses.iter_mut().find(|address| address.prefix.address == own) {
            if address.autoconfigured {
                let left_ns = address.valid_until_ns.saturating_sub(now_ns);
                if valid_ns > now_ns + TWO_HOURS_NS || valid_ns > address.valid_until_ns {
                    address.valid_until_ns = valid_ns;
                } else if left_ns > TWO_HOURS_NS {
                    address.valid_until_ns = now_ns + TWO_HOURS_NS;
                }
                address.preferred_until_ns = preferred_ns;
            }
            return;
        }
        let count = interface.addresses.iter().filter(|address| address.autoconfigured).count();
        if valid_ns <= now_ns || count >= MAX_ADVERTISED {
            return;
        }
        let address = Address {
            valid_until_ns: valid_ns,
            preferred_until_ns: preferred_ns,
            autoconfigured: true,
            ..Address::new(Prefix { address: own, len: 64 })
        };
        let _ = self.add_address(id, address);
        self.keep_house_at(valid_ns);
    }

    /// RFC 4861 8.1: a redirect is believed from the present first hop.
    fn nd_redirected(&mut self, id: InterfaceId, src: Ipv6Addr, message: &[u8]) {
        let (Some(target), Some(dst)) = (array::<16>(message, 8), array::<16>(message, 24)) else { return };
        let (target, dst) = (Ipv6Addr::from(target), Ipv6Addr::from(dst));
        let Some(options) = message.get(40..).and_then(nd::options) else { return };
        let Some(interface) = self.interfaces.get(id) else { return };
        if dst.is_multicast()
            || (target != dst && !target.is_unicast_link_local())
            || !interface.settings.accept_redirects[1]
            || interface.settings.forwarding[1]
        {
            return;
        }
        self.statistics.icmp[1].in_redirects += 1;
        let Ok((decision, _)) = self.route(&Query::to(dst.into())) else { return };
        if decision.next != IpAddr::V6(src) || decision.interface != id {
            return;
        }
        if let Some(mac) = nd::link_address(&options, option::TARGET_LINK) {
            let update = Update { solicited: false, replace: true, create: true, router: (target != dst).then_some(true) };
            let waiting = self.neighbours.learn((id, target.into()), mac, update, self.now_ns);
            self.send_resolved(id, mac, waiting);
        }
        let expires_ns = self.now_ns + 300 * SECOND;
        self.routes.set_redirect(dst.into(), target.into(), id, expires_ns);
        self.keep_house_at(expires_ns);
    }

    /// Sends a redirect for a packet that leaves where it came in.
    pub(crate) fn nd_redirect(&mut self, packet: &Packet, dst: IpAddr, target: Ipv6Addr) {
        let Some((IpAddr::V6(to), IpAddr::V6(dst))) = crate::ip::addresses(packet).map(|(src, _)| (src, dst)) else { return };
        let Some(src) = self.interfaces.get(packet.interface).and_then(crate::interface::Interface::link_local) else { return };
        let mut message = vec![0; HEADER_LEN];
        IcmpHeader { kind: v6::REDIRECT, code: 0, rest: 0 }.emit(&mut message);
        message.extend_from_slice(&target.octets());
        message.extend_from_slice(&dst.octets());
        if let Some(neighbour) = self.neighbours.get((packet.interface, target.into())) {
            message.extend_from_slice(&nd::link_option(option::TARGET_LINK, neighbour.mac));
        }
        self.statistics.icmp[1].out_redirects += 1;
        self.send_nd(packet.interface, src, to, &message);
    }
}

fn accepts_advertisements(interface: &crate::interface::Interface) -> bool {
    match interface.settings.accept_ra {
        0 => false,
        1 => !interface.settings.forwarding[1],
        _ => true,
    }
}
