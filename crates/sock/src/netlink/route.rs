//! rtnetlink(7): links, addresses, routes, neighbours and rules, to be listed and changed.
//!
//! What it is not: queueing disciplines beyond an empty list, routes of several ways, or links that are no `dummy` or `veth`. Requests for those
//! are EOPNOTSUPP. What the groups hear is `announce`'s.

use super::message::{
    Answers, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_MATCH, NLM_F_MULTI, NLM_F_REPLACE, NLM_F_ROOT, Payload, Request, attribute, u32_at,
};
use super::rule;
use crate::interface::{self, IFF_UP};
use crate::network::Network;
use abi::Errno;
use abi::raw::net as raw;
use net::interface::Interface;
use net::link::{Dummy, veth_pair};
use net::neighbour::{Neighbour, State as NeighbourState};
use net::route::{Route, RouteKind};
use net::{Address, Family, InterfaceId, MacAddress, Prefix, Stack};
use std::net::IpAddr;
use vfs::{Capability, Credentials};

pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
pub(super) const RTM_NEWADDR: u16 = 20;
pub(super) const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
pub(super) const RTM_NEWROUTE: u16 = 24;
pub(super) const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
pub(super) const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;
const RTM_GETQDISC: u16 = 38;

const IFINFOMSG: usize = 16;
const IFADDRMSG: usize = 8;
const RTMSG: usize = 12;
const NDMSG: usize = 12;

const IFLA_ADDRESS: u16 = 1;
const IFLA_BROADCAST: u16 = 2;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_QDISC: u16 = 6;
const IFLA_STATS: u16 = 7;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_TXQLEN: u16 = 13;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKMODE: u16 = 17;
const IFLA_STATS64: u16 = 23;
const IFLA_GROUP: u16 = 27;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_CARRIER: u16 = 33;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_LABEL: u16 = 3;
const IFA_BROADCAST: u16 = 4;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u32 = 0x80;
const IFA_F_TENTATIVE: u32 = 0x40;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
const RTA_MARK: u16 = 16;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_CACHEINFO: u16 = 3;
const NUD_PERMANENT: u16 = 0x80;
const NUD_STALE: u16 = 4;

const TABLE_MAIN: u32 = 254;
const IFA_F_NODAD: u32 = 2;

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

pub(super) fn from_octets(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

pub(super) fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => raw::AF_INET as u8,
        Family::V6 => raw::AF_INET6 as u8,
    }
}

/// `struct ifinfomsg` and attributes.
pub(super) fn link(interface: &Interface) -> Vec<u8> {
    const UP: u8 = 6;
    const DOWN: u8 = 2;
    const UNKNOWN: u8 = 0;
    let mut header = vec![0; 2];
    header.extend_from_slice(&interface::hardware(interface).to_ne_bytes());
    header.extend_from_slice(&interface.id.0.to_ne_bytes());
    header.extend_from_slice(&interface::flags(interface).to_ne_bytes());
    header.extend_from_slice(&0u32.to_ne_bytes());
    let mut payload = Payload(header);
    payload.string(IFLA_IFNAME, &interface.name);
    payload.word(IFLA_TXQLEN, interface.queue_len as u32);
    let state = match (interface.up, interface.is_loopback(), interface.is_running()) {
        (false, ..) | (_, false, false) => DOWN,
        (true, true, _) => UNKNOWN,
        _ => UP,
    };
    payload.attribute(IFLA_OPERSTATE, &[state]);
    payload.attribute(IFLA_LINKMODE, &[0]);
    payload.word(IFLA_MTU, interface.mtu);
    payload.word(IFLA_GROUP, 0);
    payload.word(IFLA_NUM_TX_QUEUES, 1);
    payload.word(IFLA_NUM_RX_QUEUES, 1);
    payload.attribute(IFLA_CARRIER, &[u8::from(interface.link.has_carrier())]);
    payload.string(IFLA_QDISC, if interface.is_loopback() { "noqueue" } else { "pfifo_fast" });
    payload.attribute(IFLA_ADDRESS, &interface.link.mac().0);
    payload.attribute(IFLA_BROADCAST, &if interface.is_loopback() { [0; 6] } else { [0xff; 6] });
    let s = &interface.statistics;
    // `struct rtnl_link_stats64` up to `rx_nohandler`: 25 words.
    let mut stats =
        [s.rx_packets, s.tx_packets, s.rx_bytes, s.tx_bytes, s.rx_errors, s.tx_errors, s.rx_dropped, s.tx_dropped, s.multicast].to_vec();
    stats.resize(25, 0);
    payload.attribute(IFLA_STATS64, &stats.iter().flat_map(|n| n.to_ne_bytes()).collect::<Vec<u8>>());
    payload.attribute(IFLA_STATS, &stats.iter().take(24).flat_map(|n| (*n as u32).to_ne_bytes()).collect::<Vec<u8>>());
    payload.0
}

/// `struct ifaddrmsg` and attributes.
pub(super) fn address(interface: &Interface, address: &Address) -> Vec<u8> {
    let family = Family::of(address.prefix.address);
    let tentative = if address.is_usable() { 0 } else { IFA_F_TENTATIVE };
    let permanent = if address.valid_until_ns == u64::MAX { IFA_F_PERMANENT } else { 0 };
    let mut header = vec![family_number(family), address.prefix.len, (tentative | permanent) as u8, address.scope as u8];
    header.extend_from_slice(&interface.id.0.to_ne_bytes());
    let mut payload = Payload(header);
    let own = octets(address.prefix.address);
    payload.attribute(IFA_ADDRESS, &address.peer.map_or_else(|| own.clone(), octets));
    if family == Family::V4 {
        payload.attribute(IFA_LOCAL, &own);
        if let Some(broadcast) = address.prefix.broadcast().filter(|_| !interface.is_loopback()) {
            payload.attribute(IFA_BROADCAST, &broadcast.octets());
        }
        payload.string(IFA_LABEL, &interface.name);
    }
    payload.word(IFA_FLAGS, tentative | permanent);
    let left = |until_ns: u64| {
        if until_ns == u64::MAX { u32::MAX } else { (until_ns.saturating_sub(sync::monotonic_ns()) / 1_000_000_000) as u32 }
    };
    let times = [left(address.preferred_until_ns), left(address.valid_until_ns), 0, 0];
    payload.attribute(IFA_CACHEINFO, &times.iter().flat_map(|n| n.to_ne_bytes()).collect::<Vec<u8>>());
    payload.0
}

/// `struct rtmsg` and attributes.
pub(super) fn route(table: u32, route: &Route) -> Vec<u8> {
    let kind = match route.kind {
        RouteKind::Unicast => 1,
        RouteKind::Local => 2,
        RouteKind::Broadcast => 3,
        RouteKind::Multicast => 5,
        RouteKind::Blackhole => 6,
        RouteKind::Unreachable => 7,
        RouteKind::Prohibit => 8,
        RouteKind::Throw => 9,
    };
    let family = family_number(Family::of(route.prefix.address));
    let short = u8::try_from(table).unwrap_or(252);
    let mut payload = Payload(vec![family, route.prefix.len, 0, route.tos, short, route.protocol, route.scope as u8, kind, 0, 0, 0, 0]);
    payload.word(RTA_TABLE, table);
    if route.prefix.len > 0 {
        payload.attribute(RTA_DST, &octets(route.prefix.address));
    }
    if route.metric > 0 {
        payload.word(RTA_PRIORITY, route.metric);
    }
    if let Some(source) = route.source {
        payload.attribute(RTA_PREFSRC, &octets(source));
    }
    // Of several ways the first is told.
    if let Some(hop) = route.nexthops.first() {
        if let Some(gateway) = hop.gateway {
            payload.attribute(RTA_GATEWAY, &octets(gateway));
        }
        if hop.interface != InterfaceId::NONE {
            payload.word(RTA_OIF, hop.interface.0);
        }
    }
    payload.0
}

/// `struct ndmsg` and attributes.
pub(super) fn neighbour(id: InterfaceId, address: IpAddr, neighbour: &Neighbour) -> Vec<u8> {
    const NTF_ROUTER: u8 = 0x80;
    let state: u16 = match neighbour.state {
        NeighbourState::Incomplete => 1,
        NeighbourState::Reachable => 2,
        NeighbourState::Stale => NUD_STALE,
        NeighbourState::Delay => 8,
        NeighbourState::Probe => 0x10,
        NeighbourState::Failed => 0x20,
        NeighbourState::Permanent => NUD_PERMANENT,
    };
    let mut header = vec![family_number(Family::of(address)), 0, 0, 0];
    header.extend_from_slice(&id.0.to_ne_bytes());
    header.extend_from_slice(&state.to_ne_bytes());
    header.extend_from_slice(&[if neighbour.router { NTF_ROUTER } else { 0 }, 1]);
    let mut payload = Payload(header);
    payload.attribute(NDA_DST, &octets(address));
    if !matches!(neighbour.state, NeighbourState::Incomplete | NeighbourState::Failed) {
        payload.attribute(NDA_LLADDR, &neighbour.mac.0);
    }
    let ago = |at_ns: u64| (sync::monotonic_ns().saturating_sub(at_ns) / 10_000_000) as u32;
    let times = [ago(neighbour.confirmed_ns), ago(neighbour.used_ns), ago(neighbour.updated_ns), 0];
    payload.attribute(NDA_CACHEINFO, &times.iter().flat_map(|n| n.to_ne_bytes()).collect::<Vec<u8>>());
    payload.0
}

/// RTM_NEWNEIGH and RTM_DELNEIGH.
fn change_neighbour(stack: &mut Stack, payload: &[u8], add: bool) -> Result<(), Errno> {
    let id = InterfaceId(u32_at(payload, 4));
    stack.interfaces.get(id).ok_or(Errno::ENODEV)?;
    let address = attribute(payload, NDMSG, NDA_DST).and_then(from_octets).ok_or(Errno::EINVAL)?;
    if !add {
        return if stack.neighbours.remove((id, address)) { Ok(()) } else { Err(Errno::ENOENT) };
    }
    let mac = attribute(payload, NDMSG, NDA_LLADDR).and_then(|bytes| bytes.try_into().ok()).map(MacAddress).ok_or(Errno::EINVAL)?;
    let permanent = u32_at(payload, 8) as u16 & NUD_PERMANENT != 0;
    stack.set_neighbour(id, address, mac, if permanent { NeighbourState::Permanent } else { NeighbourState::Stale });
    Ok(())
}

/// A new link: `dummy`, or `veth` with its other end.
fn new_link(stack: &mut Stack, payload: &[u8]) -> Result<(), Errno> {
    let info = attribute(payload, IFINFOMSG, IFLA_LINKINFO).ok_or(Errno::EOPNOTSUPP)?;
    let kind = attribute(info, 0, IFLA_INFO_KIND).map(text).ok_or(Errno::EINVAL)??;
    let name = |payload: &[u8], kind: &str| match attribute(payload, IFINFOMSG, IFLA_IFNAME) {
        Some(name) => text(name).map(str::to_owned),
        None => Ok(format!("{kind}%d")),
    };
    let mut mac = |payload: &[u8]| match attribute(payload, IFINFOMSG, IFLA_ADDRESS) {
        Some(bytes) => bytes.try_into().map(MacAddress).map_err(|_| Errno::EINVAL),
        None => {
            let mut bytes = [0; 6];
            bytes.copy_from_slice(stack.random.next_u64().to_ne_bytes().get(..6).unwrap_or_default());
            bytes[0] = bytes[0] & !1 | 2;
            Ok(MacAddress(bytes))
        }
    };
    match kind {
        "dummy" => {
            let mac = mac(payload)?;
            stack.add_link(&name(payload, "dummy")?, Box::new(Dummy::new(mac))).map(drop)
        }
        "veth" => {
            let data = attribute(info, 0, IFLA_INFO_DATA);
            let peer = data.and_then(|data| attribute(data, 0, VETH_INFO_PEER)).unwrap_or_default();
            let (own_end, peer_end) = veth_pair(mac(payload)?, mac(peer)?);
            let (own_name, peer_name) = (name(payload, "veth")?, name(peer, "veth")?);
            let first = stack.add_link(&own_name, Box::new(own_end))?;
            stack.add_link(&peer_name, Box::new(peer_end)).map(drop).inspect_err(|_| drop(stack.remove_link(first)))
        }
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// A string with or without its NUL. EINVAL when it is no text.
fn text(bytes: &[u8]) -> Result<&str, Errno> {
    bytes.split(|b| *b == 0).next().and_then(|text| std::str::from_utf8(text).ok()).ok_or(Errno::EINVAL)
}

/// RTM_DELLINK: only what a guest made. EOPNOTSUPP for the machine's own.
fn delete_link(stack: &mut Stack, payload: &[u8]) -> Result<(), Errno> {
    let interface = find(stack, payload)?;
    if !matches!(interface.link.driver(), "dummy" | "veth") {
        return Err(Errno::EOPNOTSUPP);
    }
    let (id, twin) = (interface.id, interface.link.twin());
    stack.remove_link(id);
    // A cable has two ends, and goes with either.
    let other =
        twin.and_then(|twin| stack.interfaces.iter().find(|other| other.id != id && other.link.twin() == Some(twin)).map(|other| other.id));
    if let Some(other) = other {
        stack.remove_link(other);
    }
    Ok(())
}

/// RTM_GETROUTE for one destination: which way a packet would go (ip-route(8) `get`).
fn way(stack: &mut Stack, payload: &[u8]) -> Result<Vec<u8>, Errno> {
    let target = attribute(payload, RTMSG, RTA_DST).and_then(from_octets).ok_or(Errno::EINVAL)?;
    let mut query = net::route::Query::to(target);
    query.output = InterfaceId(attribute(payload, RTMSG, RTA_OIF).map_or(0, |bytes| u32_at(bytes, 0)));
    query.mark = attribute(payload, RTMSG, RTA_MARK).map_or(0, |bytes| u32_at(bytes, 0));
    let decision = stack.routes.lookup(&query, &stack.interfaces)?;
    let now_ns = stack.now_ns;
    let source = decision.source.or_else(|| stack.interfaces.get(decision.interface)?.source_for(target, now_ns));
    let mut found = Route::new(Prefix::host(target), decision.via_gateway.then_some(decision.next), decision.interface).kind(decision.kind);
    (found.source, found.protocol, found.scope) = (source, 0, net::interface::Scope::Universe);
    let mut bytes = route(TABLE_MAIN, &found);
    if let Some(flags) = bytes.get_mut(8..12) {
        const RTM_F_CLONED: u32 = 0x200;
        flags.copy_from_slice(&RTM_F_CLONED.to_ne_bytes());
    }
    Ok(bytes)
}

/// Lists everything of a kind. EOPNOTSUPP.
fn dump(stack: &mut Stack, request: &Request<'_>, answers: &mut Answers) -> Result<(), Errno> {
    let family = request.payload.first().copied().unwrap_or(0);
    let wanted = |address: IpAddr| family == 0 || family == family_number(Family::of(address));
    match request.kind {
        RTM_GETLINK => stack.interfaces.iter().for_each(|interface| answers.push(RTM_NEWLINK, &link(interface))),
        RTM_GETADDR => {
            for interface in stack.interfaces.iter() {
                for own in interface.addresses.iter().filter(|own| wanted(own.prefix.address)) {
                    answers.push(RTM_NEWADDR, &address(interface, own));
                }
            }
        }
        RTM_GETROUTE => {
            for (table, found) in stack.routes.iter().filter(|(_, found)| wanted(found.prefix.address)) {
                answers.push(RTM_NEWROUTE, &route(table, found));
            }
        }
        RTM_GETNEIGH => {
            let only = InterfaceId(u32_at(request.payload, 4));
            for ((id, own), found) in
                stack.neighbours.iter().filter(|((id, own), _)| wanted(*own) && (only == InterfaceId::NONE || *id == only))
            {
                answers.push(RTM_NEWNEIGH, &neighbour(*id, *own, found));
            }
        }
        RTM_GETRULE => {
            for found in stack.routes.rules().iter().filter(|found| wanted(found.family.unspecified())) {
                answers.push(RTM_NEWRULE, &rule::rule(stack, found));
            }
        }
        RTM_GETQDISC => {}
        _ => return Err(Errno::EOPNOTSUPP),
    }
    answers.done();
    Ok(())
}

/// The interface that an ifinfomsg names, by number or name. ENODEV.
fn find<'a>(stack: &'a Stack, payload: &[u8]) -> Result<&'a Interface, Errno> {
    let index = u32_at(payload, 4);
    if index != 0 {
        return stack.interfaces.get(InterfaceId(index)).ok_or(Errno::ENODEV);
    }
    let name = attribute(payload, IFINFOMSG, IFLA_IFNAME).ok_or(Errno::EINVAL)?;
    let name = name.split(|b| *b == 0).next().and_then(|name| std::str::from_utf8(name).ok()).ok_or(Errno::ENODEV)?;
    stack.interfaces.by_name(name).ok_or(Errno::ENODEV)
}

/// RTM_NEWLINK and RTM_SETLINK: makes a link, or changes one that is there: name, address, queue, MTU, up or down.
fn change_link(stack: &mut Stack, request: &Request<'_>) -> Result<(), Errno> {
    let payload = request.payload;
    let id = match find(stack, payload) {
        Ok(_) if request.kind == RTM_NEWLINK && request.flags & NLM_F_EXCL != 0 => return Err(Errno::EEXIST),
        Ok(interface) => interface.id,
        Err(_) if request.kind == RTM_NEWLINK && request.flags & NLM_F_CREATE != 0 => return new_link(stack, payload),
        // Whoever names no link asks whether this message is known at all; iproute2 does, and takes EINVAL for no.
        Err(Errno::EINVAL) => return Err(Errno::ENODEV),
        Err(errno) => return Err(errno),
    };
    if let Some(mac) = attribute(payload, IFINFOMSG, IFLA_ADDRESS) {
        stack.set_mac(id, mac.try_into().map(MacAddress).map_err(|_| Errno::EINVAL)?)?;
    }
    if let Some(frames) = attribute(payload, IFINFOMSG, IFLA_TXQLEN) {
        stack.set_queue_len(id, u32_at(frames, 0) as i32)?;
    }
    // The name says which interface where there is no index, and is a new one where there is.
    if let Some(name) = attribute(payload, IFINFOMSG, IFLA_IFNAME).filter(|_| u32_at(payload, 4) != 0) {
        stack.rename(id, text(name)?)?;
    }
    if let Some(mtu) = attribute(payload, IFINFOMSG, IFLA_MTU) {
        stack.set_mtu(id, u32_at(mtu, 0))?;
    }
    let (flags, change) = (u32_at(payload, 8), u32_at(payload, 12));
    if change & IFF_UP != 0 { stack.set_up(id, flags & IFF_UP != 0) } else { Ok(()) }
}

fn change_address(stack: &mut Stack, request: &Request<'_>, add: bool) -> Result<(), Errno> {
    let (payload, replace) = (request.payload, request.flags & NLM_F_REPLACE != 0);
    let id = InterfaceId(u32_at(payload, 4));
    let len = payload.get(1).copied().ok_or(Errno::EINVAL)?;
    let own = attribute(payload, IFADDRMSG, IFA_LOCAL).or_else(|| attribute(payload, IFADDRMSG, IFA_ADDRESS)).ok_or(Errno::EINVAL)?;
    let own = from_octets(own).filter(|own| len <= Family::of(*own).bits()).ok_or(Errno::EINVAL)?;
    if !add {
        return stack.remove_address(id, own);
    }
    let mut address = Address::new(Prefix { address: own, len });
    address.peer = attribute(payload, IFADDRMSG, IFA_ADDRESS).and_then(from_octets).filter(|peer| *peer != own);
    let flags = attribute(payload, IFADDRMSG, IFA_FLAGS).map_or(u32::from(payload.get(2).copied().unwrap_or(0)), |bytes| u32_at(bytes, 0));
    if let Some(times) = attribute(payload, IFADDRMSG, IFA_CACHEINFO) {
        let until = |seconds: u32| if seconds == u32::MAX { u64::MAX } else { stack.now_ns + u64::from(seconds) * 1_000_000_000 };
        (address.preferred_until_ns, address.valid_until_ns) = (until(u32_at(times, 0)), until(u32_at(times, 4)));
    }
    let add = |stack: &mut Stack, address: Address| match flags & IFA_F_NODAD {
        0 => stack.add_address(id, address),
        _ => stack.add_address_at_once(id, address),
    };
    match add(stack, address.clone()) {
        // A lease that is renewed.
        Err(Errno::EEXIST) if replace => {
            stack.remove_address(id, own)?;
            add(stack, address)
        }
        added => added,
    }
}

fn change_route(stack: &mut Stack, request: &Request<'_>, add: bool) -> Result<(), Errno> {
    let payload = request.payload;
    let [family, len, _, tos, _, protocol, _, kind, ..] = payload else { return Err(Errno::EINVAL) };
    let any = match u32::from(*family) {
        raw::AF_INET => Family::V4,
        raw::AF_INET6 => Family::V6,
        _ => return Err(Errno::EAFNOSUPPORT),
    };
    let address = |kind: u16| attribute(payload, RTMSG, kind).map(|bytes| from_octets(bytes).ok_or(Errno::EINVAL)).transpose();
    let target = address(RTA_DST)?.unwrap_or(any.unspecified());
    if *len > any.bits() || Family::of(target) != any {
        return Err(Errno::EINVAL);
    }
    let prefix = Prefix { address: target, len: *len };
    let gateway = address(RTA_GATEWAY)?;
    let mut output = InterfaceId(attribute(payload, RTMSG, RTA_OIF).map_or(0, |bytes| u32_at(bytes, 0)));
    let short = payload.get(4).copied().unwrap_or(0);
    let table = attribute(payload, RTMSG, RTA_TABLE).map_or(u32::from(short), |bytes| u32_at(bytes, 0));
    let table = if table == 0 { TABLE_MAIN } else { table };
    if !add {
        let fits = |route: &Route| {
            let hop = route.nexthops.first();
            route.prefix == prefix.network()
                && gateway.is_none_or(|gateway| hop.is_some_and(|hop| hop.gateway == Some(gateway)))
                && (output == InterfaceId::NONE || hop.is_some_and(|hop| hop.interface == output))
        };
        stack.routes.remove(table, fits)?;
        stack.routes_changed();
        return Ok(());
    }
    if let (Some(gateway), true) = (gateway, output == InterfaceId::NONE) {
        let query = net::route::Query::to(gateway);
        output = stack.routes.lookup(&query, &stack.interfaces)?.interface;
    }
    let kind = match kind {
        0 | 1 => RouteKind::Unicast,
        2 => RouteKind::Local,
        3 => RouteKind::Broadcast,
        5 => RouteKind::Multicast,
        6 => RouteKind::Blackhole,
        7 => RouteKind::Unreachable,
        8 => RouteKind::Prohibit,
        9 => RouteKind::Throw,
        _ => return Err(Errno::EINVAL),
    };
    let refuses = matches!(kind, RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit | RouteKind::Throw);
    if !refuses && !stack.interfaces.get(output).ok_or(Errno::ENODEV)?.up {
        return Err(Errno::ENETDOWN);
    }
    let metric = attribute(payload, RTMSG, RTA_PRIORITY).map_or(0, |bytes| u32_at(bytes, 0));
    let mut route = Route::new(prefix, gateway, output).metric(metric);
    (route.source, route.kind, route.tos, route.protocol) = (address(RTA_PREFSRC)?, kind, *tos, *protocol);
    if refuses {
        route.nexthops.clear();
    }
    if request.flags & NLM_F_REPLACE != 0 {
        stack.routes.replace(table, route);
    } else {
        stack.routes.add(table, route)?;
    }
    stack.routes_changed();
    Ok(())
}

/// Answers a request. Whoever changes something needs CAP_NET_ADMIN.
pub(super) fn handle(network: &Network, credentials: &Credentials, request: &Request<'_>, port: u32) -> Answers {
    const DUMP: u16 = NLM_F_ROOT | NLM_F_MATCH;
    let is_get = request.kind & 3 == 2;
    let dumps = is_get && (request.flags & DUMP != 0);
    let mut answers = Answers::new(request, port, if dumps { NLM_F_MULTI } else { 0 });
    let result = if dumps {
        network.look(|stack| dump(stack, request, &mut answers))
    } else if is_get {
        network.look(|stack| match request.kind {
            RTM_GETLINK => {
                let found = link(find(stack, request.payload)?);
                answers.push(RTM_NEWLINK, &found);
                Ok(())
            }
            RTM_GETROUTE => {
                let found = way(stack, request.payload)?;
                answers.push(RTM_NEWROUTE, &found);
                Ok(())
            }
            _ => Err(Errno::EOPNOTSUPP),
        })
    } else {
        credentials.require(Capability::NET_ADMIN).and_then(|()| {
            network.with(|stack| match request.kind {
                RTM_NEWLINK | RTM_SETLINK => change_link(stack, request),
                RTM_DELLINK => delete_link(stack, request.payload),
                RTM_NEWADDR | RTM_DELADDR => change_address(stack, request, request.kind == RTM_NEWADDR),
                RTM_NEWROUTE | RTM_DELROUTE => change_route(stack, request, request.kind == RTM_NEWROUTE),
                RTM_NEWNEIGH | RTM_DELNEIGH => change_neighbour(stack, request.payload, request.kind == RTM_NEWNEIGH),
                RTM_NEWRULE | RTM_DELRULE => rule::change(stack, request.payload, request.kind == RTM_NEWRULE),
                _ => Err(Errno::EOPNOTSUPP),
            })
        })
    };
    if result.is_err() || (request.flags & NLM_F_ACK != 0 && !dumps) {
        let mut error = Answers::new(request, port, 0);
        error.error(request, result);
        answers.datagrams.append(&mut error.datagrams);
    }
    answers
}
