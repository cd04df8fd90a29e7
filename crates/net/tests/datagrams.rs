//! UDP, ICMP, ARP and ND, fragmentation, path MTU, groups and forwarding between stacks in one process.

mod common;

use abi::Errno;
use common::{Faults, MS, SEC, World};
use net::datagram::{Endpoint, FilterMode, Kind, Membership, SendCall};
use net::interface::InterfaceId;
use net::ip::PathMtu;
use net::prefix::Family;
use net::route::{Route, TABLE_MAIN};
use net::{Ready, SocketId};

fn at(text: &str, port: u16) -> Endpoint {
    Endpoint::new(text.parse().unwrap(), port)
}

fn udp(world: &mut World, host: usize, local: &str, port: u16) -> SocketId {
    let local = at(local, port);
    let id = world.stacks[host].udp_open(Family::of(local.address));
    world.stacks[host].datagram_bind(id, local).unwrap();
    id
}

fn send(world: &mut World, host: usize, id: SocketId, data: &[u8], to: Endpoint) -> Result<usize, Errno> {
    world.stacks[host].datagram_send(id, data, Some(to), SendCall::default())
}

fn receive(world: &mut World, host: usize, id: SocketId) -> Result<(Vec<u8>, Endpoint), Errno> {
    let datagram = world.stacks[host].datagram_receive(id, false)?.expect("not shut down");
    Ok((datagram.payload.bytes().to_vec(), datagram.from))
}

fn two_hosts() -> World {
    let mut world = World::new();
    let (a, b) = (world.host(), world.host());
    world.join((a, &["10.0.0.1/24", "2001:db8::1/64"]), (b, &["10.0.0.2/24", "2001:db8::2/64"]), 1, Faults::default());
    world
}

/// a - router - b, with the second cable's MTU to choose.
fn routed(mtu: u32) -> World {
    let mut world = World::new();
    let (a, router, b) = (world.host(), world.host(), world.host());
    world.join((a, &["10.1.0.1/24", "2001:db8:1::1/64"]), (router, &["10.1.0.254/24", "2001:db8:1::fe/64"]), 1, Faults::default());
    world.join_with(
        (router, &["10.2.0.254/24", "2001:db8:2::fe/64"]),
        (b, &["10.2.0.1/24", "2001:db8:2::1/64"]),
        2,
        Faults::default(),
        net::link::Capabilities::ETHERNET,
        mtu,
    );
    for family in [Family::V4, Family::V6] {
        world.stacks[router].set_forwarding(family, true);
    }
    for (host, v4, v6) in [(a, "10.1.0.254", "2001:db8:1::fe"), (b, "10.2.0.254", "2001:db8:2::fe")] {
        let eth0 = world.stacks[host].interfaces.by_name("eth0").unwrap().id;
        for (prefix, gateway) in [("0.0.0.0/0", v4), ("::/0", v6)] {
            let route = Route::new(prefix.parse().unwrap(), Some(gateway.parse().unwrap()), eth0);
            world.stacks[host].routes.add(TABLE_MAIN, route).unwrap();
        }
    }
    world
}

#[test]
fn a_datagram_crosses_a_cable_in_both_families() {
    for (a, b) in [("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8::2")] {
        let mut world = two_hosts();
        let (s, t) = (udp(&mut world, 0, a, 1000), udp(&mut world, 1, b, 2000));
        send(&mut world, 0, s, b"hello", at(b, 2000)).unwrap();
        world.run(SEC);
        assert_eq!(world.ready.get(&(1, t)).copied(), Some(Ready::IN));
        let (data, from) = receive(&mut world, 1, t).unwrap();
        assert_eq!((&data[..], from), (&b"hello"[..], at(a, 1000)));
        assert_eq!(receive(&mut world, 1, t), Err(Errno::EAGAIN));
        assert_eq!(world.stacks[1].memory_bytes, 0);
    }
}

#[test]
fn the_loopback_needs_no_cable() {
    let mut world = World::new();
    world.host();
    for address in ["127.0.0.1", "127.1.2.3", "::1"] {
        let (s, t) = (udp(&mut world, 0, address, 0), udp(&mut world, 0, address, 2000));
        send(&mut world, 0, s, b"self", at(address, 2000)).unwrap();
        world.step();
        assert_eq!(receive(&mut world, 0, t).unwrap().0, b"self", "{address}");
        world.stacks[0].datagram_close(t);
    }
}

#[test]
fn a_long_datagram_is_cut_and_put_together_again() {
    for (a, b) in [("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8::2")] {
        let mut world = two_hosts();
        world.wires[0].lock().unwrap().faults = Faults { reorder: 500, duplicate: 300, ..Faults::default() };
        let (s, t) = (udp(&mut world, 0, a, 0), udp(&mut world, 1, b, 2000));
        let data: Vec<u8> = (0..60_000u32).map(|n| (n * 7) as u8).collect();
        send(&mut world, 0, s, &data, at(b, 2000)).unwrap();
        world.run(SEC);
        assert_eq!(receive(&mut world, 1, t).unwrap().0, data, "{b}");
        assert_eq!(world.stacks[1].reassembly_bytes(), 0);
        assert_eq!(send(&mut world, 0, s, &vec![0; 65_530], at(b, 2000)), Err(Errno::EMSGSIZE));
    }
}

#[test]
fn an_unfinished_datagram_is_forgotten_and_its_sender_told() {
    let mut world = two_hosts();
    let s = udp(&mut world, 0, "10.0.0.1", 0);
    world.stacks[0].datagram_mut(s).unwrap().receive_errors = true;
    udp(&mut world, 1, "10.0.0.2", 2000);
    send(&mut world, 0, s, b"resolve first", at("10.0.0.2", 2000)).unwrap();
    world.run(MS);
    send(&mut world, 0, s, &[1; 3000], at("10.0.0.2", 2000)).unwrap();
    // One of its three pieces is lost.
    world.wires[0].lock().unwrap().drop_one();
    world.run(40 * SEC);
    assert_eq!(world.stacks[1].reassembly_bytes(), 0);
    assert_eq!(world.stacks[1].statistics.ip[0].reassembly_timeouts, 1);
    let report = world.stacks[0].datagram_receive_error(s).unwrap();
    assert_eq!((report.icmp_type, report.icmp_code, report.errno), (11, 1, Errno::EHOSTUNREACH));
}

#[test]
fn nobody_at_the_port_is_connection_refused() {
    for (a, b) in [("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8::2")] {
        let mut world = two_hosts();
        let s = udp(&mut world, 0, a, 0);
        world.stacks[0].datagram_connect(s, Some(at(b, 9))).unwrap();
        world.stacks[0].datagram_send(s, b"?", None, SendCall::default()).unwrap();
        world.run(SEC);
        assert_eq!(receive(&mut world, 0, s), Err(Errno::ECONNREFUSED));
        assert_eq!(receive(&mut world, 0, s), Err(Errno::EAGAIN), "an error is told once");
    }
}

#[test]
fn a_neighbour_that_does_not_answer_is_host_unreachable() {
    for (a, b) in [("10.0.0.1", "10.0.0.9"), ("2001:db8::1", "2001:db8::9")] {
        let mut world = two_hosts();
        let s = udp(&mut world, 0, a, 0);
        world.stacks[0].datagram_mut(s).unwrap().receive_errors = true;
        world.stacks[0].datagram_connect(s, Some(at(b, 9))).unwrap();
        world.stacks[0].datagram_send(s, b"?", None, SendCall::default()).unwrap();
        world.run(10 * SEC);
        assert_eq!(receive(&mut world, 0, s), Err(Errno::EHOSTUNREACH), "{b}");
    }
}

#[test]
fn a_ping_socket_hears_its_own_echo() {
    for (b, request, reply) in [("10.0.0.2", 8u8, 0u8), ("2001:db8::2", 128, 129)] {
        let mut world = two_hosts();
        let family = Family::of(b.parse().unwrap());
        let id = world.stacks[0].datagram_open(Kind::Ping, family);
        let mut echo = vec![request, 0, 0, 0, 0, 0, 0, 1];
        echo.extend_from_slice(b"ping");
        world.stacks[0].datagram_send(id, &echo, Some(at(b, 0)), SendCall::default()).unwrap();
        world.run(SEC);
        let (data, from) = receive(&mut world, 0, id).unwrap();
        assert_eq!((data[0], &data[6..]), (reply, &b"\0\x01ping"[..]));
        assert_eq!(from.address, b.parse::<std::net::IpAddr>().unwrap());
        assert_eq!(world.stacks[0].datagram_send(id, b"not an echo", Some(at(b, 0)), SendCall::default()), Err(Errno::EINVAL));
    }
}

#[test]
fn a_router_forwards_and_counts_hops() {
    for (a, b) in [("10.1.0.1", "10.2.0.1"), ("2001:db8:1::1", "2001:db8:2::1")] {
        let mut world = routed(1500);
        let (s, t) = (udp(&mut world, 0, a, 0), udp(&mut world, 2, b, 2000));
        send(&mut world, 0, s, b"through", at(b, 2000)).unwrap();
        world.run(SEC);
        let datagram = world.stacks[2].datagram_receive(t, false).unwrap().unwrap();
        assert_eq!((datagram.payload.bytes(), datagram.ttl), (&b"through"[..], 63), "{b}");
        // With one hop only the router answers.
        let socket = world.stacks[0].datagram_mut(s).unwrap();
        (socket.send.ttl, socket.receive_errors) = (Some(1), true);
        send(&mut world, 0, s, b"short", at(b, 2000)).unwrap();
        world.run(SEC);
        assert_eq!(receive(&mut world, 2, t), Err(Errno::EAGAIN));
        assert_eq!(receive(&mut world, 0, s), Err(Errno::EHOSTUNREACH));
    }
}

#[test]
fn the_path_mtu_is_learned_from_the_router() {
    for (a, b) in [("10.1.0.1", "10.2.0.1"), ("2001:db8:1::1", "2001:db8:2::1")] {
        let mut world = routed(1300);
        let (s, t) = (udp(&mut world, 0, a, 0), udp(&mut world, 2, b, 2000));
        let socket = world.stacks[0].datagram_mut(s).unwrap();
        (socket.send.path_mtu, socket.receive_errors) = (PathMtu::Do, true);
        send(&mut world, 0, s, &[1; 1400], at(b, 2000)).unwrap();
        world.run(SEC);
        assert_eq!(world.stacks[0].datagram_receive_error(s).unwrap().info, 1300, "{b}");
        assert_eq!(send(&mut world, 0, s, &[1; 1400], at(b, 2000)), Err(Errno::EMSGSIZE));
        // A sender that lets us fragment gets through now.
        world.stacks[0].datagram_mut(s).unwrap().send.path_mtu = PathMtu::Want;
        send(&mut world, 0, s, &[1; 1400], at(b, 2000)).unwrap();
        world.run(SEC);
        assert_eq!(receive(&mut world, 2, t).unwrap().0.len(), 1400);
        assert_eq!(world.stacks[0].statistics.ip[usize::from(a.contains(':'))].fragments_created, 2);
    }
}

#[test]
fn a_router_fragments_ipv4_that_allows_it() {
    let mut world = routed(1300);
    let (s, t) = (udp(&mut world, 0, "10.1.0.1", 0), udp(&mut world, 2, "10.2.0.1", 2000));
    world.stacks[0].datagram_mut(s).unwrap().send.path_mtu = PathMtu::Dont;
    send(&mut world, 0, s, &[7; 1400], at("10.2.0.1", 2000)).unwrap();
    world.run(SEC);
    assert_eq!(receive(&mut world, 2, t).unwrap().0, vec![7; 1400]);
    assert_eq!(world.stacks[1].statistics.ip[0].fragments_created, 2);
}

#[test]
fn no_route_is_network_unreachable() {
    let mut world = two_hosts();
    let s = udp(&mut world, 0, "0.0.0.0", 0);
    assert_eq!(send(&mut world, 0, s, b"?", at("8.8.8.8", 1)), Err(Errno::ENETUNREACH));
    let s = udp(&mut world, 0, "::", 0);
    assert_eq!(send(&mut world, 0, s, b"?", at("2001:4860::1", 1)), Err(Errno::ENETUNREACH));
}

#[test]
fn a_broadcast_needs_permission_and_reaches_everyone() {
    let mut world = two_hosts();
    let (s, t) = (udp(&mut world, 0, "0.0.0.0", 0), udp(&mut world, 1, "0.0.0.0", 2000));
    for to in ["10.0.0.255", "255.255.255.255"] {
        world.stacks[0].datagram_mut(s).unwrap().broadcast = false;
        let eth0 = world.stacks[0].interfaces.by_name("eth0").unwrap().id;
        world.stacks[0].datagram_mut(s).unwrap().send.interface = eth0;
        assert_eq!(send(&mut world, 0, s, b"all", at(to, 2000)), Err(Errno::EACCES), "{to}");
        world.stacks[0].datagram_mut(s).unwrap().broadcast = true;
        send(&mut world, 0, s, b"all", at(to, 2000)).unwrap();
        world.run(SEC);
        assert_eq!(receive(&mut world, 1, t).unwrap().0, b"all", "{to}");
    }
}

#[test]
fn a_group_is_heard_by_its_members_and_their_source_filters() {
    for (group, a) in [("239.1.2.3", "10.0.0.1"), ("ff15::7", "2001:db8::1")] {
        let mut world = two_hosts();
        let any = if a.contains(':') { "::" } else { "0.0.0.0" };
        let (s, t) = (udp(&mut world, 0, a, 0), udp(&mut world, 1, any, 2000));
        let eth0 = world.stacks[0].interfaces.by_name("eth0").unwrap().id;
        world.stacks[0].datagram_mut(s).unwrap().multicast_interface = eth0;
        send(&mut world, 0, s, b"early", at(group, 2000)).unwrap();
        world.run(SEC);
        assert_eq!(receive(&mut world, 1, t), Err(Errno::EAGAIN), "{group}");
        let member = Membership { group: group.parse().unwrap(), interface: eth0, mode: FilterMode::Exclude, sources: vec![] };
        world.stacks[1].datagram_join(t, member.clone()).unwrap();
        assert_eq!(world.stacks[1].datagram_join(t, member.clone()), Err(Errno::EADDRINUSE));
        send(&mut world, 0, s, b"now", at(group, 2000)).unwrap();
        world.run(SEC);
        assert_eq!(receive(&mut world, 1, t).unwrap().0, b"now");
        world.stacks[1].datagram_set_source(t, member.group, eth0, a.parse().unwrap(), true).unwrap();
        send(&mut world, 0, s, b"blocked", at(group, 2000)).unwrap();
        world.run(SEC);
        assert_eq!(receive(&mut world, 1, t), Err(Errno::EAGAIN));
        world.stacks[1].datagram_close(t);
        assert!(!world.stacks[1].interfaces.get(eth0).unwrap().groups.contains_key(&member.group));
    }
}

#[test]
fn corking_joins_sends_into_one_datagram_and_segmentation_cuts_one() {
    let mut world = two_hosts();
    let (s, t) = (udp(&mut world, 0, "10.0.0.1", 0), udp(&mut world, 1, "10.0.0.2", 2000));
    let to = Some(at("10.0.0.2", 2000));
    let more = SendCall { more: true, ..SendCall::default() };
    world.stacks[0].datagram_send(s, b"one ", to, more).unwrap();
    world.stacks[0].datagram_send(s, b"two ", to, more).unwrap();
    world.stacks[0].datagram_send(s, b"three", to, SendCall::default()).unwrap();
    world.stacks[0].datagram_mut(s).unwrap().corked = true;
    world.stacks[0].datagram_send(s, b"held", to, SendCall::default()).unwrap();
    world.run(SEC);
    assert_eq!(receive(&mut world, 1, t).unwrap().0, b"one two three");
    assert_eq!(receive(&mut world, 1, t), Err(Errno::EAGAIN));
    world.stacks[0].datagram_uncork(s).unwrap();
    world.stacks[0].datagram_send(s, &[1; 250], to, SendCall { segment: 100, ..SendCall::default() }).unwrap();
    world.run(SEC);
    assert_eq!(receive(&mut world, 1, t).unwrap().0, b"held");
    let lens: Vec<usize> = (0..3).map(|_| receive(&mut world, 1, t).unwrap().0.len()).collect();
    assert_eq!(lens, [100, 100, 50]);
    assert_eq!(world.stacks[0].memory_bytes, 0);
}

#[test]
fn ports_conflict_as_linux_has_it() {
    let mut world = two_hosts();
    let stack = &mut world.stacks[0];
    let mut bind = |family, local: Endpoint, setup: &dyn Fn(&mut net::datagram::DatagramSocket)| {
        let id = stack.udp_open(family);
        setup(stack.datagram_mut(id).unwrap());
        stack.datagram_bind(id, local)
    };
    let plain = |_: &mut net::datagram::DatagramSocket| {};
    assert_eq!(bind(Family::V4, at("10.0.0.1", 7), &plain), Ok(()));
    assert_eq!(bind(Family::V4, at("10.0.0.1", 7), &plain), Err(Errno::EADDRINUSE));
    assert_eq!(bind(Family::V4, at("127.0.0.1", 7), &plain), Ok(()), "another address");
    assert_eq!(bind(Family::V4, at("0.0.0.0", 7), &plain), Err(Errno::EADDRINUSE));
    assert_eq!(bind(Family::V6, at("::", 7), &plain), Err(Errno::EADDRINUSE), "dual stack");
    assert_eq!(bind(Family::V6, at("::", 7), &|s| s.v6_only = true), Ok(()));
    assert_eq!(bind(Family::V4, at("10.9.9.9", 8), &plain), Err(Errno::EADDRNOTAVAIL));
    assert_eq!(bind(Family::V4, at("10.0.0.1", 9), &|s| s.reuse_port = true), Ok(()));
    assert_eq!(bind(Family::V4, at("10.0.0.1", 9), &|s| s.reuse_port = true), Ok(()));
    assert_eq!(bind(Family::V4, at("10.0.0.1", 9), &|s| (s.reuse_port, s.owner) = (true, 1)), Err(Errno::EADDRINUSE), "another user");
    assert_eq!(bind(Family::V4, at("2001:db8::1", 10), &plain), Err(Errno::EAFNOSUPPORT));
}

#[test]
fn a_dual_stack_socket_hears_ipv4() {
    let mut world = two_hosts();
    let (s, t) = (udp(&mut world, 0, "10.0.0.1", 0), udp(&mut world, 1, "::", 2000));
    send(&mut world, 0, s, b"four", at("10.0.0.2", 2000)).unwrap();
    world.run(SEC);
    assert_eq!(receive(&mut world, 1, t).unwrap().0, b"four");
}

#[test]
fn a_receive_queue_is_bounded_and_counts_what_it_drops() {
    let mut world = two_hosts();
    let (s, t) = (udp(&mut world, 0, "10.0.0.1", 0), udp(&mut world, 1, "10.0.0.2", 2000));
    world.stacks[1].datagram_mut(t).unwrap().receive_limit = 20_000;
    for _ in 0..100 {
        send(&mut world, 0, s, &[0; 1000], at("10.0.0.2", 2000)).unwrap();
        world.run(MS);
    }
    assert!(world.stacks[1].memory_bytes <= 20_000);
    assert!(world.stacks[1].datagram(t).unwrap().drops() > 80);
    world.stacks[1].datagram_close(t);
    assert_eq!(world.stacks[1].memory_bytes, 0);
}

#[test]
fn raw_sockets_see_their_protocol_and_send_any() {
    let mut world = two_hosts();
    let (a, b) = (world.stacks[0].datagram_open(Kind::Raw(99), Family::V4), world.stacks[1].datagram_open(Kind::Raw(99), Family::V4));
    world.stacks[0].datagram_send(a, b"raw", Some(at("10.0.0.2", 0)), SendCall::default()).unwrap();
    world.run(SEC);
    let (data, _) = receive(&mut world, 1, b).unwrap();
    assert_eq!((data[0], &data[20..]), (0x45, &b"raw"[..]));
    // Nobody listens to protocol 98, so it is unreachable.
    let c = world.stacks[0].datagram_open(Kind::Raw(98), Family::V4);
    world.stacks[0].datagram_connect(c, Some(at("10.0.0.2", 0))).unwrap();
    world.stacks[0].datagram_send(c, b"raw", None, SendCall::default()).unwrap();
    world.run(SEC);
    assert_eq!(receive(&mut world, 0, c), Err(Errno::ENOPROTOOPT));
}

#[test]
fn link_local_addresses_need_an_interface_and_come_by_themselves() {
    let mut world = World::new();
    let (a, b) = (world.host(), world.host());
    world.join((a, &[]), (b, &[]), 1, Faults::default());
    world.run(3 * SEC);
    let eth0 = world.stacks[b].interfaces.by_name("eth0").unwrap();
    let (id, own) = (eth0.id, eth0.link_local().expect("duplicate detection is over"));
    let (s, t) = (udp(&mut world, a, "::", 0), udp(&mut world, b, "::", 2000));
    assert_eq!(send(&mut world, a, s, b"?", Endpoint::new(own.into(), 2000)), Err(Errno::EINVAL));
    send(&mut world, a, s, b"near", Endpoint { address: own.into(), port: 2000, interface: id }).unwrap();
    world.run(SEC);
    let (data, from) = receive(&mut world, b, t).unwrap();
    assert_eq!((&data[..], from.interface), (&b"near"[..], id));
    assert_ne!(from.interface, InterfaceId::NONE);
}

#[test]
fn two_hosts_with_one_address_notice() {
    let mut world = World::new();
    let (a, b) = (world.host(), world.host());
    let (id, _) = world.join((a, &["2001:db8::1/64"]), (b, &[]), 1, Faults::default());
    let address = net::Address::new("2001:db8::1/64".parse().unwrap());
    world.run(2 * SEC);
    world.stacks[b].add_address(id, address).unwrap();
    world.run(3 * SEC);
    let eth0 = world.stacks[b].interfaces.get(id).unwrap();
    assert!(eth0.addresses.iter().any(|a| a.dad == net::interface::Dad::Duplicate), "{:?}", eth0.addresses);
}
