//! `/proc/net`, proc_pid_net(5): tables of interfaces, addresses, routes, neighbours and sockets as text, and counters.
//!
//! What it is not: the same tables as messages (`sock`'s netlink). It is a directory here and no link into each process's own, since there is one
//! network.

use fs::kernfs::FileSpec;
use fs::proc::{Proc, Setting, register_sysctls};
use net::datagram::{DatagramSocket, Kind};
use net::interface::Interface;
use net::neighbour::State as NeighbourState;
use net::route::{Route, RouteKind};
use net::{Endpoint, Family, Stack};
use sock::{Network, Sockets};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

/// A file's text.
type Text = fn(&mut Stack) -> String;

const FILES: &[(&str, Text)] = &[
    ("dev", dev),
    ("route", route),
    ("ipv6_route", ipv6_route),
    ("arp", arp),
    ("if_inet6", if_inet6),
    ("tcp", |stack| tcp(stack, Family::V4)),
    ("tcp6", |stack| tcp(stack, Family::V6)),
    ("udp", |stack| datagrams(stack, Family::V4, |kind| kind == Kind::Udp)),
    ("udp6", |stack| datagrams(stack, Family::V6, |kind| kind == Kind::Udp)),
    ("raw", |stack| datagrams(stack, Family::V4, |kind| matches!(kind, Kind::Raw(_)))),
    ("raw6", |stack| datagrams(stack, Family::V6, |kind| matches!(kind, Kind::Raw(_)))),
    ("icmp", |stack| datagrams(stack, Family::V4, |kind| kind == Kind::Ping)),
    ("snmp", snmp),
    ("sockstat", sockstat),
];

/// Makes the files.
pub fn show(proc: &Arc<Proc>, sockets: &'static Sockets) {
    let network = sockets.network();
    let tree = proc.tree();
    tree.remove("net");
    for (name, text) in FILES {
        tree.file(&format!("net/{name}"), 0o444, FileSpec::text(move || network.look(text)));
    }
    tree.file("net/unix", 0o444, FileSpec::text(|| sockets.unix_table()));
    register_sysctls(proc, settings(network));
}

fn dev(stack: &mut Stack) -> String {
    let mut text = "Inter-|   Receive                                                |  Transmit\n \
         face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n"
        .to_owned();
    for interface in stack.interfaces.iter() {
        let s = &interface.statistics;
        let _ = writeln!(
            text,
            "{:>6}: {:>7} {:>7} {:>4} {:>4} {:>4} {:>5} {:>10} {:>9} {:>8} {:>7} {:>4} {:>4} {:>4} {:>5} {:>7} {:>10}",
            interface.name,
            s.rx_bytes,
            s.rx_packets,
            s.rx_errors,
            s.rx_dropped,
            0,
            0,
            0,
            s.multicast,
            s.tx_bytes,
            s.tx_packets,
            s.tx_errors,
            s.tx_dropped,
            0,
            0,
            0,
            0
        );
    }
    text
}

fn name(stack: &Stack, id: net::InterfaceId) -> &str {
    stack.interfaces.get(id).map_or("*", |interface| interface.name.as_str())
}

/// An IPv4 address as a word in memory, the way these tables have it.
fn word(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(ip) => u32::from_ne_bytes(ip.octets()),
        IpAddr::V6(_) => 0,
    }
}

fn mask(len: u8) -> u32 {
    let bits = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
    u32::from_ne_bytes(bits.to_be_bytes())
}

/// The main table of IPv4 and its default routes, as route(8) reads it.
fn route(stack: &mut Stack) -> String {
    let mut text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT".to_owned();
    text += &" ".repeat(55);
    text.push('\n');
    let shown = |route: &Route| matches!(route.kind, RouteKind::Unicast | RouteKind::Unreachable | RouteKind::Prohibit);
    for (_, route) in stack.routes.iter().filter(|(table, route)| *table != 255 && route.prefix.address.is_ipv4() && shown(route)) {
        let hop = route.nexthops.first();
        let gateway = hop.and_then(|hop| hop.gateway);
        let flags = 1 | if gateway.is_some() { 2 } else { 0 } | if route.prefix.len == 32 { 4 } else { 0 };
        let line = format!(
            "{}\t{:08X}\t{:08X}\t{:04X}\t0\t0\t{}\t{:08X}\t{}\t0\t0",
            hop.map_or("*", |hop| name(stack, hop.interface)),
            word(route.prefix.address),
            gateway.map_or(0, word),
            flags,
            route.metric,
            mask(route.prefix.len),
            route.mtu
        );
        let _ = writeln!(text, "{line:<127}");
    }
    text
}

fn hex(address: IpAddr) -> String {
    match address {
        IpAddr::V4(ip) => format!("{:08X}", u32::from_ne_bytes(ip.octets())),
        IpAddr::V6(ip) => ip.octets().iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

fn ipv6_route(stack: &mut Stack) -> String {
    let mut text = String::new();
    let none = "0".repeat(32);
    for (_, route) in stack.routes.iter().filter(|(_, route)| route.prefix.address.is_ipv6()) {
        let hop = route.nexthops.first();
        let gateway = hop.and_then(|hop| hop.gateway).map_or_else(|| none.clone(), hex);
        let flags = match (route.kind, gateway == none) {
            (RouteKind::Local, _) => 0x8020_0001u32,
            (_, true) => 1,
            (_, false) => 3,
        };
        let device = hop.map_or("lo", |hop| name(stack, hop.interface));
        let _ = writeln!(
            text,
            "{} {:02x} {none} 00 {gateway} {:08x} {:08x} {:08x} {flags:08x} {device:>8}",
            hex(route.prefix.address),
            route.prefix.len,
            route.metric,
            0,
            0
        );
    }
    text
}

fn arp(stack: &mut Stack) -> String {
    let mut text = "IP address       HW type     Flags       HW address            Mask     Device\n".to_owned();
    for ((id, address), neighbour) in stack.neighbours.iter().filter(|((_, address), _)| address.is_ipv4()) {
        let flags = match neighbour.state {
            NeighbourState::Incomplete | NeighbourState::Failed => 0,
            NeighbourState::Permanent => 6,
            _ => 2,
        };
        let _ = writeln!(text, "{address:<16} 0x1         0x{flags:<10x}{}     *        {}", neighbour.mac, name(stack, *id));
    }
    text
}

fn if_inet6(stack: &mut Stack) -> String {
    let line = |interface: &Interface| {
        let own = interface.addresses.iter().filter(|own| own.prefix.address.is_ipv6());
        own.map(|own| {
            let scope = match own.scope {
                net::interface::Scope::Host => 0x10,
                net::interface::Scope::Link => 0x20,
                _ => 0,
            };
            let flags = if own.is_usable() { 0x80 } else { 0xc0 };
            let (id, len) = (interface.id.0, own.prefix.len);
            format!("{} {id:02x} {len:02x} {scope:02x} {flags:02x} {:>8}\n", hex(own.prefix.address), interface.name)
        })
        .collect::<String>()
    };
    stack.interfaces.iter().map(line).collect()
}

/// Address and port as `/proc/net/tcp` has them.
fn endpoint(endpoint: Endpoint, family: Family) -> String {
    let address = match (endpoint.address, family) {
        // An IPv6 address as four words in memory; one of IPv4 on an IPv6 socket is mapped.
        (address, Family::V6) => {
            let octets = match address {
                IpAddr::V6(ip) => ip.octets(),
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            };
            octets.chunks_exact(4).map(|word| format!("{:08X}", u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))).collect()
        }
        (address, Family::V4) => hex(address),
    };
    format!("{address}:{:04X}", endpoint.port)
}

fn header(family: Family, last: &str) -> String {
    let width = if family == Family::V4 { 13 } else { 37 };
    format!(
        "  sl  {:<width$} {:<width$} st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode{last}\n",
        "local_address", "remote_address"
    )
}

/// One socket's line, up to its inode, whose number the stack does not know.
fn socket_line(slot: usize, local: &str, remote: &str, state: u8, queues: (usize, usize), owner: u32) -> String {
    let (send, receive) = queues;
    format!("{slot:>4}: {local} {remote} {state:02X} {send:08X}:{receive:08X} 00:00000000 00000000 {owner:>5}        0 0")
}

fn tcp(stack: &mut Stack, family: Family) -> String {
    let mut text = header(family, "");
    for (slot, (id, socket)) in stack.tcp_sockets().filter(|(_, socket)| socket.family() == family).enumerate() {
        let remote = socket.remote().unwrap_or_else(|_| Endpoint::any(family));
        let queues = (socket.unacknowledged(), socket.readable());
        let line = socket_line(
            slot,
            &endpoint(socket.local(), family),
            &endpoint(remote, family),
            socket.state() as u8,
            queues,
            socket.options.owner,
        );
        let _ = writeln!(text, "{line} 1 {:016x} 20 4 0 10 -1", id.0);
    }
    text
}

fn datagrams(stack: &mut Stack, family: Family, wanted: fn(Kind) -> bool) -> String {
    const ESTABLISHED: u8 = 1;
    const CLOSED: u8 = 7;
    let mut text = header(family, " ref pointer drops");
    let fits = |socket: &DatagramSocket| socket.family() == family && wanted(socket.kind());
    for (slot, (id, socket)) in stack.datagram_sockets().filter(|(_, socket)| fits(socket)).enumerate() {
        let mut local = socket.local();
        if let Kind::Raw(protocol) = socket.kind() {
            local.port = protocol.into();
        }
        let remote = socket.remote();
        let state = if remote.is_ok() { ESTABLISHED } else { CLOSED };
        let remote = endpoint(remote.unwrap_or_else(|_| Endpoint::any(family)), family);
        let line = socket_line(slot, &endpoint(local, family), &remote, state, (0, socket.next_len()), socket.owner);
        let _ = writeln!(text, "{line} 2 {:016x} {}", id.0, socket.drops());
    }
    text
}

/// Two lines for each protocol: the counters' names, then their values.
fn snmp(stack: &mut Stack) -> String {
    let s = &stack.statistics;
    let mut text = String::new();
    let mut add = |protocol: &str, counters: Vec<(&'static str, u64)>| {
        let names: Vec<&str> = counters.iter().map(|(name, _)| *name).collect();
        let values: Vec<String> = counters.iter().map(|(_, value)| value.to_string()).collect();
        let _ = writeln!(text, "{protocol}: {}\n{protocol}: {}", names.join(" "), values.join(" "));
    };
    let forwarding = stack.interfaces.iter().any(|interface| interface.settings.forwarding[0]);
    let mut ip = vec![("Forwarding", if forwarding { 1 } else { 2 }), ("DefaultTTL", u64::from(stack.config.default_ttl))];
    ip.extend(s.ip[0].iter().take(17));
    add("Ip", ip);
    add("Icmp", s.icmp[0].iter().collect());
    let mut tcp = vec![("RtoAlgorithm", 1), ("RtoMin", 200), ("RtoMax", 120_000), ("MaxConn", u64::MAX)];
    tcp.extend(s.tcp.iter().take(4));
    tcp.push(("CurrEstab", stack.tcp_sockets().filter(|(_, socket)| socket.state() == net::tcp::State::Established).count() as u64));
    tcp.extend(s.tcp.iter().skip(4).take(6));
    // MaxConn is -1 on Linux.
    let names: Vec<&str> = tcp.iter().map(|(name, _)| *name).collect();
    let values: Vec<String> = tcp.iter().map(|(name, value)| if *name == "MaxConn" { "-1".into() } else { value.to_string() }).collect();
    let udp: Vec<(&'static str, u64)> = s.udp[0].iter().collect();
    let _ = writeln!(text, "Tcp: {}\nTcp: {}", names.join(" "), values.join(" "));
    let names: Vec<&str> = udp.iter().map(|(name, _)| *name).collect();
    let values: Vec<String> = udp.iter().map(|(_, value)| value.to_string()).collect();
    let _ = writeln!(text, "Udp: {}\nUdp: {}", names.join(" "), values.join(" "));
    text
}

fn sockstat(stack: &mut Stack) -> String {
    let tcp = stack.tcp_sockets().count();
    let count = |wanted: fn(Kind) -> bool| stack.datagram_sockets().filter(|(_, socket)| wanted(socket.kind())).count();
    let (udp, raw) = (count(|kind| kind == Kind::Udp), count(|kind| matches!(kind, Kind::Raw(_))));
    let pages = stack.memory_bytes.div_ceil(abi::PAGE_SIZE);
    format!(
        "sockets: used {}\nTCP: inuse {tcp} orphan 0 tw {} alloc {tcp} mem {pages}\nUDP: inuse {udp} mem 0\nUDPLITE: inuse 0\n\
         RAW: inuse {raw}\nFRAG: inuse 0 memory {}\n",
        tcp + udp + raw,
        stack.tcp_time_waits(),
        stack.reassembly_bytes()
    )
}

/// A number of the stack's settings, below `/proc/sys/net`.
fn setting(network: &'static Network, path: &'static str, range: (i64, i64), get: fn(&Stack) -> i64, set: fn(&mut Stack, i64)) -> Setting {
    let store = move |value| {
        network.with(|stack| set(stack, value));
        Ok(())
    };
    Setting::number(path, range, move || network.look(|stack| get(stack)), store)
}

fn forwards(stack: &Stack, family: Family) -> i64 {
    i64::from(stack.interfaces.iter().any(|interface| interface.settings.forwarding[family.index()]))
}

fn settings(network: &'static Network) -> Vec<Setting> {
    const MOST: i64 = i32::MAX as i64;
    vec![
        setting(network, "net/ipv4/ip_forward", (0, 1), |s| forwards(s, Family::V4), |s, on| s.set_forwarding(Family::V4, on != 0)),
        setting(
            network,
            "net/ipv4/conf/all/forwarding",
            (0, 1),
            |s| forwards(s, Family::V4),
            |s, on| s.set_forwarding(Family::V4, on != 0),
        ),
        setting(
            network,
            "net/ipv6/conf/all/forwarding",
            (0, 1),
            |s| forwards(s, Family::V6),
            |s, on| s.set_forwarding(Family::V6, on != 0),
        ),
        setting(network, "net/ipv4/ip_default_ttl", (1, 255), |s| s.config.default_ttl.into(), |s, ttl| s.config.default_ttl = ttl as u8),
        setting(
            network,
            "net/ipv4/icmp_echo_ignore_all",
            (0, 1),
            |s| s.config.echo_ignore_all.into(),
            |s, on| s.config.echo_ignore_all = on != 0,
        ),
        setting(
            network,
            "net/ipv4/ip_unprivileged_port_start",
            (0, 65_535),
            |s| s.config.unprivileged_port_start.into(),
            |s, port| s.config.unprivileged_port_start = port as u16,
        ),
        setting(network, "net/core/somaxconn", (0, MOST), |s| s.config.max_backlog as i64, |s, most| s.config.max_backlog = most as usize),
        setting(
            network,
            "net/core/rmem_max",
            (2304, MOST),
            |s| s.config.receive_max as i64,
            |s, most| s.config.receive_max = most as usize,
        ),
        setting(network, "net/core/wmem_max", (4608, MOST), |s| s.config.send_max as i64, |s, most| s.config.send_max = most as usize),
        setting(
            network,
            "net/ipv4/tcp_syncookies",
            (0, 2),
            |s| s.config.tcp.syn_cookies.into(),
            |s, mode| s.config.tcp.syn_cookies = mode as u8,
        ),
    ]
}
