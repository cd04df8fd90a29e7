//! Devices, groups, autoconfiguration, filters and packet sockets.

mod common;

use std::sync::{Arc, Mutex};

use abi::Errno;
use common::{Faults, MS, SEC, World};
use net::bpf::{Instruction, Program};
use net::datagram::{Endpoint, FilterMode, Kind, Membership, SendCall};
use net::hook::{Filter, Hook, HookContext, Verdict};
use net::interface::InterfaceId;
use net::link::{Dummy, TunTap, veth_pair};
use net::packet_socket::{FrameMode, LinkAddress, PacketMembership};
use net::prefix::Family;
use net::route::{Route, TABLE_MAIN};
use net::wire::ethernet::ethertype;
use net::{Address, Event, MacAddress, Packet};

fn at(text: &str, port: u16) -> Endpoint {
    Endpoint::new(text.parse().unwrap(), port)
}

fn mac(last: u8) -> MacAddress {
    MacAddress([2, 0, 0, 1, 0, last])
}

#[test]
fn a_veth_joins_two_namespaces() {
    let mut world = World::new();
    let (a, b) = (world.host(), world.host());
    let (left, right) = veth_pair(mac(1), mac(2));
    world.stacks[a].attach("veth0", Box::new(left), &["10.9.0.1/24".parse().unwrap()]).unwrap();
    let id = world.stacks[b].attach("veth0", Box::new(right), &["10.9.0.2/24".parse().unwrap()]).unwrap();
    let s = world.stacks[a].udp_open(Family::V4);
    let t = world.stacks[b].udp_open(Family::V4);
    world.stacks[b].datagram_bind(t, at("10.9.0.2", 7)).unwrap();
    world.stacks[a].datagram_send(s, b"over", Some(at("10.9.0.2", 7)), SendCall::default()).unwrap();
    world.run(SEC);
    assert_eq!(world.stacks[b].datagram_receive(t, false).unwrap().unwrap().payload.bytes(), b"over");
    // Pulling one end is seen at the other.
    world.stacks[b].take_events();
    let other = world.stacks[a].interfaces.by_name("veth0").unwrap().id;
    world.stacks[a].set_up(other, false).unwrap();
    world.run(MS);
    assert!(world.stacks[b].take_events().contains(&Event::Link(id)));
    assert!(!world.stacks[b].interfaces.get(id).unwrap().is_running());
}

#[test]
fn a_program_reads_and_writes_packets_through_a_tun() {
    let mut world = World::new();
    let a = world.host();
    let (device, program) = TunTap::tun();
    world.stacks[a].attach("tun0", Box::new(device), &["10.8.0.1/24".parse().unwrap()]).unwrap();
    let s = world.stacks[a].udp_open(Family::V4);
    world.stacks[a].datagram_bind(s, at("10.8.0.1", 9)).unwrap();
    world.stacks[a].datagram_send(s, b"out", Some(at("10.8.0.77", 7)), SendCall::default()).unwrap();
    let out = std::iter::from_fn(|| program.read()).find(|packet| packet.bytes()[0] == 0x45 && packet.bytes()[9] == 17).unwrap();
    assert_eq!(&out.bytes()[28..], b"out");
    // The answer: the same with its ends exchanged.
    let mut bytes = out.bytes().to_vec();
    for n in 0..4 {
        bytes.swap(12 + n, 16 + n);
    }
    (bytes[20], bytes[21], bytes[22], bytes[23]) = (bytes[22], bytes[23], bytes[20], bytes[21]);
    program.write(Packet::copy_of(&bytes)).unwrap();
    world.run(MS);
    assert_eq!(world.stacks[a].datagram_receive(s, false).unwrap().unwrap().payload.bytes(), b"out");
}

#[test]
fn a_dummy_gives_addresses_a_home() {
    let mut world = World::new();
    let a = world.host();
    let id = world.stacks[a].attach("dummy0", Box::new(Dummy::new(mac(9))), &["192.0.2.1/32".parse().unwrap()]).unwrap();
    let t = world.stacks[a].udp_open(Family::V4);
    world.stacks[a].datagram_bind(t, at("192.0.2.1", 7)).unwrap();
    let s = world.stacks[a].udp_open(Family::V4);
    world.stacks[a].datagram_send(s, b"home", Some(at("192.0.2.1", 7)), SendCall::default()).unwrap();
    world.run(MS);
    let datagram = world.stacks[a].datagram_receive(t, false).unwrap().unwrap();
    assert_eq!(datagram.from.address.to_string(), "192.0.2.1");
    assert!(world.stacks[a].remove_link(id).is_some());
    assert_eq!(world.stacks[a].datagram_send(s, b"gone", Some(at("192.0.2.1", 7)), SendCall::default()), Err(Errno::ENETUNREACH));
}

#[test]
fn interfaces_are_named_and_renamed_as_linux_allows() {
    let mut world = World::new();
    let a = world.host();
    let stack = &mut world.stacks[a];
    let id = stack.add_link("eth%d", Box::new(Dummy::new(mac(1)))).unwrap();
    let second = stack.add_link("eth%d", Box::new(Dummy::new(mac(2)))).unwrap();
    assert_eq!(stack.interfaces.get(second).unwrap().name, "eth1");
    for (name, errno) in [("eth1", Errno::EEXIST), ("", Errno::EINVAL), ("a/b", Errno::EINVAL), ("a234567890123456", Errno::EINVAL)] {
        assert_eq!(stack.interfaces.rename(id, name), Err(errno), "{name:?}");
    }
    stack.set_up(id, true).unwrap();
    assert_eq!(stack.interfaces.rename(id, "lan"), Err(Errno::EBUSY));
    stack.set_up(id, false).unwrap();
    assert_eq!(stack.interfaces.rename(id, "lan"), Ok(()));
    assert_eq!(stack.set_mtu(id, 40), Err(Errno::EINVAL));
}

#[test]
fn an_address_that_goes_takes_its_routes_with_it() {
    let mut world = World::new();
    let a = world.host();
    let stack = &mut world.stacks[a];
    let before = stack.routes.iter().count();
    let id = stack.add_link("eth0", Box::new(Dummy::new(mac(1)))).unwrap();
    stack.set_up(id, true).unwrap();
    let up = stack.routes.iter().count();
    for prefix in ["10.0.0.1/24", "10.0.0.2/24", "2001:db8::1/64"] {
        stack.add_address(id, Address::new(prefix.parse().unwrap())).unwrap();
    }
    assert_eq!(stack.add_address(id, Address::new("10.0.0.1/24".parse().unwrap())), Err(Errno::EEXIST));
    stack.remove_address(id, "10.0.0.1".parse().unwrap()).unwrap();
    assert!(
        stack.routes.lookup(&net::route::Query::to("10.0.0.9".parse().unwrap()), &stack.interfaces).is_ok(),
        "the other keeps the subnet"
    );
    stack.remove_address(id, "10.0.0.2".parse().unwrap()).unwrap();
    stack.remove_address(id, "2001:db8::1".parse().unwrap()).unwrap();
    assert_eq!(stack.routes.iter().count(), up);
    stack.set_up(id, false).unwrap();
    assert_eq!(stack.routes.iter().count(), before);
}

/// What a member says to routers, seen on the wire by a packet socket: (family, payload of IGMP or MLD).
fn reports(world: &mut World, host: usize, socket: net::SocketId) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while let Ok(frame) = world.stacks[host].packet_receive(socket, false) {
        let bytes = frame.packet.bytes();
        if bytes[0] == 0x46 && bytes[9] == 2 {
            found.push(bytes[24..].to_vec());
        }
        if bytes[0] == 0x60 && bytes[6] == 0 && bytes[48] == 143 {
            found.push(bytes[48..].to_vec());
        }
    }
    found
}

#[test]
fn members_report_their_groups_and_say_when_they_leave() {
    for (group, kind) in [("239.1.2.3", 0x22u8), ("ff15::7", 143)] {
        let mut world = World::new();
        let (a, b) = (world.host(), world.host());
        let (id, _) = world.join((a, &["10.0.0.1/24"]), (b, &["10.0.0.2/24"]), 1, Faults::default());
        world.run(5 * SEC);
        let watch = world.stacks[b].packet_open(FrameMode::Cooked, ethertype::ALL);
        world.stacks[b].packet_mut(watch).unwrap().ignore_outgoing = true;
        let group: std::net::IpAddr = group.parse().unwrap();
        let socket = world.stacks[a].udp_open(Family::of(group));
        world.stacks[a].datagram_join(socket, Membership { group, interface: id, mode: FilterMode::Exclude, sources: vec![] }).unwrap();
        world.run(3 * SEC);
        let joined = reports(&mut world, b, watch);
        assert_eq!(joined.len(), 2, "told twice: {joined:?}");
        assert!(joined.iter().all(|report| report[0] == kind && report[8] == 4), "{joined:?}");
        world.stacks[a].datagram_close(socket);
        world.run(SEC);
        let left = reports(&mut world, b, watch);
        assert!(left.len() == 1 && left[0][0] == kind && left[0][8] == 3, "{left:?}");
    }
}

#[test]
fn a_router_advertisement_brings_an_address_and_a_default_route_for_its_lifetime() {
    let mut world = World::new();
    let (host, router) = (world.host(), world.host());
    let (id, _) = world.join((host, &[]), (router, &["2001:db8:5::1/64"]), 1, Faults::default());
    world.stacks[router].set_forwarding(Family::V6, true);
    world.run(3 * SEC);
    // What radvd does: a raw socket.
    let raw = world.stacks[router].datagram_open(Kind::Raw(58), Family::V6);
    let (own, eth0) = {
        let eth0 = world.stacks[router].interfaces.by_name("eth0").unwrap();
        (eth0.link_local().unwrap(), eth0.id)
    };
    let mut message = vec![0u8; net::wire::nd::RA_OPTIONS];
    message[0] = 134;
    net::wire::nd::RouterAdvertisement { hop_limit: 61, flags: 0, lifetime_s: 100, reachable_ms: 0, retransmit_ms: 0 }.emit(&mut message);
    let option = net::wire::nd::PrefixInformation {
        prefix_len: 64,
        on_link: true,
        autonomous: true,
        valid_s: 8000,
        preferred_s: 50,
        prefix: "2001:db8:5::".parse().unwrap(),
    };
    message.extend_from_slice(&option.to_bytes());
    message.extend_from_slice(&[5, 1, 0, 0, 0, 0, 5, 120]);
    let to = Endpoint { address: "ff02::1".parse().unwrap(), port: 0, interface: eth0 };
    let call = SendCall { ttl: Some(255), ..SendCall::default() };
    world.stacks[router].datagram_send(raw, &message, Some(to), call).unwrap();
    world.run(3 * SEC);
    let interface = world.stacks[host].interfaces.get(id).unwrap();
    let address = interface.addresses.iter().find(|address| address.autoconfigured).expect("an address").clone();
    assert!(address.is_usable() && address.prefix.contains("2001:db8:5::99".parse().unwrap()));
    assert_eq!((interface.mtu_for(Family::V6), interface.settings.hop_limit), (1400, 61));
    let query = net::route::Query::to("2600::1".parse().unwrap());
    let decision = world.stacks[host].route(&query).unwrap();
    assert_eq!((decision.0.next, decision.1), (own.into(), address.prefix.address));
    // The route lives shorter than the address.
    world.run(100 * SEC);
    assert_eq!(world.stacks[host].route(&query).err(), Some(Errno::ENETUNREACH));
    world.run(8000 * SEC);
    assert!(!world.stacks[host].interfaces.get(id).unwrap().addresses.iter().any(|address| address.autoconfigured));
}

/// Counts what it sees, and drops one port.
struct Wall(Arc<Mutex<Vec<Hook>>>);

impl Filter for Wall {
    fn judge(&mut self, packet: &mut Packet, context: HookContext) -> Verdict {
        let bytes = packet.bytes();
        if bytes[9] == 17 {
            self.0.lock().unwrap().push(context.hook);
        }
        let blocked = bytes[9] == 17 && bytes[22..24] == 666u16.to_be_bytes();
        if blocked { Verdict::Drop } else { Verdict::Accept }
    }
}

#[test]
fn a_filter_sees_every_packet_at_its_places() {
    let mut world = World::new();
    let (a, r, b) = (world.host(), world.host(), world.host());
    world.join((a, &["10.1.0.1/24"]), (r, &["10.1.0.254/24"]), 1, Faults::default());
    world.join((r, &["10.2.0.254/24"]), (b, &["10.2.0.1/24"]), 2, Faults::default());
    world.stacks[r].set_forwarding(Family::V4, true);
    for (host, gateway) in [(a, "10.1.0.254"), (b, "10.2.0.254")] {
        let id = world.stacks[host].interfaces.by_name("eth0").unwrap().id;
        world.stacks[host].routes.add(TABLE_MAIN, Route::new("0.0.0.0/0".parse().unwrap(), gateway.parse().ok(), id)).unwrap();
    }
    let seen: Vec<Arc<Mutex<Vec<Hook>>>> = (0..3).map(|_| Arc::default()).collect();
    for (host, seen) in seen.iter().enumerate() {
        world.stacks[host].add_filter(Box::new(Wall(seen.clone())));
    }
    let (s, t) = (world.stacks[a].udp_open(Family::V4), world.stacks[b].udp_open(Family::V4));
    world.stacks[b].datagram_bind(t, at("10.2.0.1", 7)).unwrap();
    world.stacks[a].datagram_send(s, b"x", Some(at("10.2.0.1", 7)), SendCall::default()).unwrap();
    world.run(SEC);
    let seen: Vec<Vec<Hook>> = seen.iter().map(|seen| seen.lock().unwrap().clone()).collect();
    assert_eq!(seen[a], [Hook::LocalOut, Hook::PostRouting]);
    assert_eq!(seen[r], [Hook::PreRouting, Hook::Forward, Hook::PostRouting]);
    assert_eq!(seen[b], [Hook::PreRouting, Hook::LocalIn]);
    assert_eq!(world.stacks[a].datagram_send(s, b"x", Some(at("10.2.0.1", 666)), SendCall::default()), Err(Errno::EPERM));
}

#[test]
fn packet_sockets_see_frames_through_their_filter_and_send_their_own() {
    let mut world = World::new();
    let (a, b) = (world.host(), world.host());
    let (id, _) = world.join((a, &["10.0.0.1/24"]), (b, &["10.0.0.2/24"]), 1, Faults::default());
    world.run(5 * SEC);
    let sniffer = world.stacks[b].packet_open(FrameMode::Raw, ethertype::ALL);
    // "udp" of tcpdump, first 60 bytes.
    let code = [(0x28, 0, 0, 12), (0x15, 0, 3, 0x800), (0x30, 0, 0, 23), (0x15, 0, 1, 17), (0x06, 0, 0, 60), (0x06, 0, 0, 0)];
    let code = code.map(|(code, jump_true, jump_false, k)| Instruction { code, jump_true, jump_false, k });
    world.stacks[b].packet_mut(sniffer).unwrap().filter = Some(Program::new(code.to_vec()).unwrap());
    world.stacks[b].packet_membership(sniffer, id, PacketMembership::Promiscuous, true).unwrap();
    let s = world.stacks[a].udp_open(Family::V4);
    world.stacks[a].datagram_send(s, &[1; 500], Some(at("10.0.0.2", 7)), SendCall::default()).unwrap();
    world.run(SEC);
    let frame = world.stacks[b].packet_receive(sniffer, false).unwrap();
    assert_eq!((frame.packet.len(), frame.original_len, frame.address.interface), (60, 542, id));
    assert!(world.stacks[b].packet_receive(sniffer, false).is_err(), "ARP and the ICMP answer do not pass");
    assert_eq!(world.stacks[b].interfaces.get(id).unwrap().promiscuous, 1);
    world.stacks[b].packet_close(sniffer);
    assert_eq!((world.stacks[b].interfaces.get(id).unwrap().promiscuous, world.stacks[b].memory_bytes), (0, 0));
    // A protocol of its own, cooked both ways.
    let (x, y) = (world.stacks[a].packet_open(FrameMode::Cooked, 0x88b5), world.stacks[b].packet_open(FrameMode::Cooked, 0x88b5));
    let to = LinkAddress { protocol: 0x88b5, interface: id, mac: MacAddress::BROADCAST, ..LinkAddress::default() };
    assert_eq!(world.stacks[a].packet_send(x, b"own", None), Err(Errno::ENXIO));
    world.stacks[a].packet_send(x, b"own", Some(to)).unwrap();
    world.run(SEC);
    let frame = world.stacks[b].packet_receive(y, false).unwrap();
    assert_eq!((frame.packet.bytes(), frame.address.kind as u8), (&b"own"[..], 1));
    assert_ne!(frame.address.interface, InterfaceId::NONE);
}

#[test]
fn a_router_tells_of_a_better_first_hop() {
    let mut world = World::new();
    let host = world.host();
    // A router with one leg: what it forwards leaves where it came in.
    let router = world.host();
    let (id, _) = world.join((host, &["10.0.0.1/24"]), (router, &["10.0.0.254/24"]), 1, Faults::default());
    world.stacks[router].set_forwarding(Family::V4, true);
    let far: net::Prefix = "10.77.0.0/16".parse().unwrap();
    world.stacks[host].routes.add(TABLE_MAIN, Route::new(far, "10.0.0.254".parse().ok(), id)).unwrap();
    world.stacks[router].routes.add(TABLE_MAIN, Route::new(far, "10.0.0.77".parse().ok(), id)).unwrap();
    let s = world.stacks[host].udp_open(Family::V4);
    world.stacks[host].datagram_send(s, b"x", Some(at("10.77.0.1", 7)), SendCall::default()).unwrap();
    world.run(SEC);
    let (decision, _) = world.stacks[host].route(&net::route::Query::to("10.77.0.1".parse().unwrap())).unwrap();
    assert_eq!(decision.next.to_string(), "10.0.0.77");
    world.run(400 * SEC);
    let (decision, _) = world.stacks[host].route(&net::route::Query::to("10.77.0.1".parse().unwrap())).unwrap();
    assert_eq!(decision.next.to_string(), "10.0.0.254");
}

#[test]
fn a_query_is_answered_in_the_queriers_version() {
    let mut world = World::new();
    let (a, b) = (world.host(), world.host());
    let (id, _) = world.join((a, &["10.0.0.1/24"]), (b, &["10.0.0.2/24"]), 1, Faults::default());
    let group: std::net::IpAddr = "239.1.2.3".parse().unwrap();
    let socket = world.stacks[a].udp_open(Family::V4);
    world.stacks[a].datagram_join(socket, Membership { group, interface: id, mode: FilterMode::Exclude, sources: vec![] }).unwrap();
    world.run(5 * SEC);
    // The querier listens to reports as a member of the group would.
    let raw = world.stacks[b].datagram_open(Kind::Raw(2), Family::V4);
    world.stacks[b].datagram_join(raw, Membership { group, interface: id, mode: FilterMode::Exclude, sources: vec![] }).unwrap();
    let querier = world.stacks[b].datagram_mut(raw).unwrap();
    querier.multicast_interface = id;
    // Or it would answer itself, and the other, having heard that, need not.
    querier.send.multicast_loop = false;
    world.run(5 * SEC);
    while world.stacks[b].datagram_receive(raw, false).is_ok() {}
    let mut query = vec![0x11, 10, 0, 0, 0, 0, 0, 0];
    let check = net::wire::checksum::checksum(&query);
    query[2..4].copy_from_slice(&check.to_be_bytes());
    world.stacks[b].datagram_send(raw, &query, Some(at("224.0.0.1", 0)), SendCall::default()).unwrap();
    world.run(2 * SEC);
    let mut kinds = Vec::new();
    while let Ok(Some(datagram)) = world.stacks[b].datagram_receive(raw, false) {
        if datagram.from.address.to_string() == "10.0.0.1" {
            kinds.push(datagram.payload.bytes()[24]);
        }
    }
    assert_eq!(kinds, [0x16], "one report of version 2");
    world.stacks[a].datagram_close(socket);
    assert!(!world.stacks[a].interfaces.get(id).unwrap().groups.contains_key(&group));
}

#[test]
fn a_router_answers_arp_for_what_is_behind_it_when_told_to() {
    let mut world = World::new();
    let (a, r, b) = (world.host(), world.host(), world.host());
    // The far host believes that everything is on its link.
    let (_, near) = world.join((a, &["10.0.0.1/8"]), (r, &["10.1.0.254/24"]), 1, Faults::default());
    world.join((r, &["10.2.0.254/24"]), (b, &["10.2.0.1/8"]), 2, Faults::default());
    world.stacks[r].set_forwarding(Family::V4, true);
    let host_route = Route::new("10.0.0.1/32".parse().unwrap(), None, near);
    world.stacks[r].routes.add(TABLE_MAIN, host_route).unwrap();
    let s = world.stacks[a].udp_open(Family::V4);
    let t = world.stacks[b].udp_open(Family::V4);
    world.stacks[b].datagram_bind(t, at("10.2.0.1", 7)).unwrap();
    for (proxied, arrives) in [(false, false), (true, true)] {
        let interface = world.stacks[r].interfaces.get_mut(near).unwrap();
        interface.settings.proxy_arp = proxied;
        world.stacks[a].datagram_send(s, b"proxied", Some(at("10.2.0.1", 7)), SendCall::default()).unwrap();
        world.run(100 * SEC);
        assert_eq!(world.stacks[b].datagram_receive(t, false).is_ok(), arrives);
    }
}

#[test]
fn a_source_that_can_not_be_answered_where_it_came_from_is_dropped_by_the_reverse_path_filter() {
    for (mode, arrives) in [(0, true), (1, false), (2, true)] {
        let mut world = World::new();
        let (a, b) = (world.host(), world.host());
        let (_, first) = world.join((a, &["10.1.0.1/24"]), (b, &["10.1.0.2/24"]), 1, Faults::default());
        let (second, _) = world.join((a, &["10.2.0.1/24"]), (b, &["10.2.0.2/24"]), 2, Faults::default());
        world.stacks[b].interfaces.get_mut(first).unwrap().settings.rp_filter = mode;
        // Sent through the first cable with the second's address.
        let s = world.stacks[a].udp_open(Family::V4);
        world.stacks[a].datagram_bind(s, at("10.2.0.1", 0)).unwrap();
        assert_ne!(first, second);
        let t = world.stacks[b].udp_open(Family::V4);
        world.stacks[b].datagram_bind(t, at("10.1.0.2", 7)).unwrap();
        world.stacks[a].datagram_send(s, b"odd", Some(at("10.1.0.2", 7)), SendCall::default()).unwrap();
        world.run(SEC);
        assert_eq!(world.stacks[b].datagram_receive(t, false).is_ok(), arrives, "rp_filter {mode}");
    }
}

#[test]
fn tcp_over_veth_survives_an_interface_that_goes_down_for_a_while() {
    let mut world = World::new();
    let (a, b) = (world.host(), world.host());
    let (left, right) = veth_pair(mac(1), mac(2));
    let id = world.stacks[a].attach("veth0", Box::new(left), &["10.9.0.1/24".parse().unwrap()]).unwrap();
    world.stacks[b].attach("veth0", Box::new(right), &["10.9.0.2/24".parse().unwrap()]).unwrap();
    let listener = world.stacks[b].tcp_open(Family::V4);
    world.stacks[b].tcp_bind(listener, at("10.9.0.2", 80)).unwrap();
    world.stacks[b].tcp_listen(listener, 1).unwrap();
    let client = world.stacks[a].tcp_open(Family::V4);
    let _ = world.stacks[a].tcp_connect(client, at("10.9.0.2", 80));
    world.run(SEC);
    let server = world.stacks[b].tcp_accept(listener).unwrap();
    world.stacks[a].set_up(id, false).unwrap();
    world.stacks[a].tcp_send(client, b"patience", net::tcp::SendCall::default()).unwrap();
    world.run(10 * SEC);
    world.stacks[a].set_up(id, true).unwrap();
    world.run(30 * SEC);
    let mut buffer = [0; 20];
    assert_eq!(world.stacks[b].tcp_receive(server, &mut buffer, net::tcp::ReceiveCall::default()), Ok(8));
}
