//! rtnetlink(7): links, addresses and routes, to be listed and changed.
//!
//! What it is not: neighbours, rules and queueing disciplines beyond an empty list, new links, and multicast groups of events. Requests for those
//! are EOPNOTSUPP.

use super::message::{Answers, NLM_F_ACK, NLM_F_MATCH, NLM_F_MULTI, NLM_F_ROOT, Payload, Request, attribute, u32_at};
use crate::interface::{self, IFF_UP};
use crate::network::Network;
use abi::Errno;
use abi::raw::net as raw;
use net::interface::Interface;
use net::route::{Route, RouteKind};
use net::{Address, Family, InterfaceId, Prefix, Stack};
use std::net::IpAddr;
use vfs::{Capability, Credentials};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_GETNEIGH: u16 = 30;
const RTM_GETRULE: u16 = 34;
const RTM_GETQDISC: u16 = 38;

const IFINFOMSG: usize = 16;
const IFADDRMSG: usize = 8;
const RTMSG: usize = 12;

const IFLA_ADDRESS: u16 = 1;
const IFLA_BROADCAST: u16 = 2;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_QDISC: u16 = 6;
const IFLA_STATS: u16 = 7;
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

const TABLE_MAIN: u32 = 254;

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn from_octets(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => raw::AF_INET as u8,
        Family::V6 => raw::AF_INET6 as u8,
    }
}

/// `struct ifinfomsg` and attributes.
fn link(interface: &Interface) -> Vec<u8> {
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
fn address(interface: &Interface, address: &Address) -> Vec<u8> {
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
fn route(table: u32, route: &Route) -> Vec<u8> {
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
        RTM_GETNEIGH | RTM_GETRULE | RTM_GETQDISC => {}
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

/// Changes a link that is there: up or down, MTU. EOPNOTSUPP for one that is not.
fn change_link(stack: &mut Stack, payload: &[u8]) -> Result<(), Errno> {
    let id = find(stack, payload).map_err(|errno| if errno == Errno::ENODEV { Errno::EOPNOTSUPP } else { errno })?.id;
    if let Some(mtu) = attribute(payload, IFINFOMSG, IFLA_MTU) {
        stack.set_mtu(id, u32_at(mtu, 0))?;
    }
    let (flags, change) = (u32_at(payload, 8), u32_at(payload, 12));
    if change & IFF_UP != 0 { stack.set_up(id, flags & IFF_UP != 0) } else { Ok(()) }
}

fn change_address(stack: &mut Stack, payload: &[u8], add: bool) -> Result<(), Errno> {
    let id = InterfaceId(u32_at(payload, 4));
    let len = payload.get(1).copied().ok_or(Errno::EINVAL)?;
    let own = attribute(payload, IFADDRMSG, IFA_LOCAL).or_else(|| attribute(payload, IFADDRMSG, IFA_ADDRESS)).ok_or(Errno::EINVAL)?;
    let own = from_octets(own).filter(|own| len <= Family::of(*own).bits()).ok_or(Errno::EINVAL)?;
    if add { stack.add_address(id, Address::new(Prefix { address: own, len })) } else { stack.remove_address(id, own) }
}

fn change_route(stack: &mut Stack, payload: &[u8], add: bool) -> Result<(), Errno> {
    let [family, len, ..] = payload else { return Err(Errno::EINVAL) };
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
        return stack.routes.remove(table, fits).map(drop);
    }
    if let (Some(gateway), true) = (gateway, output == InterfaceId::NONE) {
        let query = net::route::Query::to(gateway);
        output = stack.routes.lookup(&query, &stack.interfaces)?.interface;
    }
    stack.interfaces.get(output).ok_or(Errno::ENODEV)?;
    let metric = attribute(payload, RTMSG, RTA_PRIORITY).map_or(0, |bytes| u32_at(bytes, 0));
    let mut route = Route::new(prefix, gateway, output).metric(metric);
    route.source = address(RTA_PREFSRC)?;
    stack.routes.add(table, route)
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
            _ => Err(Errno::EOPNOTSUPP),
        })
    } else {
        credentials.require(Capability::NET_ADMIN).and_then(|()| {
            network.with(|stack| match request.kind {
                RTM_NEWLINK | RTM_SETLINK => change_link(stack, request.payload),
                RTM_NEWADDR | RTM_DELADDR => change_address(stack, request.payload, request.kind == RTM_NEWADDR),
                RTM_NEWROUTE | RTM_DELROUTE => change_route(stack, request.payload, request.kind == RTM_NEWROUTE),
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
