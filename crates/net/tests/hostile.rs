//! Whatever arrives, nothing panics, nothing loops, nothing grows without bound: random bytes, damaged real traffic, and malice with a plan.

mod common;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use common::{Faults, MS, Rng, SEC, World, scale};
use net::bpf;
use net::config::Config;
use net::datagram::{Endpoint, Kind, SendCall};
use net::link::{Capabilities, Link, Medium, TransmitError};
use net::packet::{Checksum, Gso};
use net::packet_socket::FrameMode;
use net::prefix::Family;
use net::wire;
use net::{MacAddress, Packet, Stack};

/// A link whose frames are made up.
#[derive(Clone, Default)]
struct Made {
    frames: Arc<Mutex<VecDeque<Packet>>>,
    ip: bool,
}

impl Link for Made {
    fn capabilities(&self) -> Capabilities {
        if self.ip { Capabilities::IP } else { Capabilities::ETHERNET }
    }
    fn mac(&self) -> MacAddress {
        MacAddress([2, 0, 0, 0, 0, 2])
    }
    fn transmit(&mut self, _packet: Packet) -> Result<(), TransmitError> {
        Ok(())
    }
    fn receive(&mut self) -> Option<Packet> {
        self.frames.lock().unwrap().pop_front()
    }
    fn driver(&self) -> &'static str {
        "made"
    }
}

/// A stack with something open of every kind, and forwarding on.
fn target(ip: bool) -> (Stack, Made) {
    let made = Made { ip, ..Made::default() };
    let mut config = Config::default();
    config.tcp.syn_cookies = 2;
    let mut stack = Stack::new(config, [3, 4]);
    stack.set_now(SEC);
    let lo = stack.interfaces.by_name("lo").unwrap().id;
    stack.set_up(lo, true).unwrap();
    stack.attach("eth0", Box::new(made.clone()), &["10.0.0.1/24".parse().unwrap(), "2001:db8::1/64".parse().unwrap()]).unwrap();
    for family in [Family::V4, Family::V6] {
        stack.set_forwarding(family, true);
        let udp = stack.udp_open(family);
        stack.datagram_mut(udp).unwrap().v6_only = true;
        stack.datagram_bind(udp, Endpoint { port: 80, ..Endpoint::any(family) }).unwrap();
        let tcp = stack.tcp_open(family);
        stack.tcp_mut(tcp).unwrap().options.v6_only = true;
        stack.tcp_bind(tcp, Endpoint { port: 80, ..Endpoint::any(family) }).unwrap();
        stack.tcp_listen(tcp, 5).unwrap();
        for protocol in [1, 2, 6, 17, 58] {
            stack.datagram_open(Kind::Raw(protocol), family);
        }
    }
    stack.packet_open(FrameMode::Raw, wire::ethernet::ethertype::ALL);
    (stack, made)
}

/// Every kind of frame that two hosts exchange, recorded from a cable.
fn real_traffic() -> Vec<Vec<u8>> {
    let mut world = World::new();
    let (a, b) = (world.host(), world.host());
    world.join(
        (a, &["10.0.0.2/24", "2001:db8::2/64"]),
        (b, &["10.0.0.1/24", "2001:db8::1/64"]),
        1,
        Faults { delay_ns: MS, ..Faults::default() },
    );
    let recorder = world.stacks[a].packet_open(FrameMode::Raw, wire::ethernet::ethertype::ALL);
    world.stacks[a].packet_mut(recorder).unwrap().receive_limit = 10 << 20;
    for address in ["10.0.0.1", "2001:db8::1"] {
        let to: Endpoint = std::net::SocketAddr::new(address.parse().unwrap(), 80).into();
        let family = Family::of(to.address);
        let listener = world.stacks[b].tcp_open(family);
        world.stacks[b].tcp_bind(listener, to).unwrap();
        world.stacks[b].tcp_listen(listener, 3).unwrap();
        let client = world.stacks[a].tcp_open(family);
        let _ = world.stacks[a].tcp_connect(client, to);
        world.run(SEC);
        world.stacks[a].tcp_send(client, &[7; 5000], net::tcp::SendCall::default()).unwrap();
        let udp = world.stacks[a].udp_open(family);
        for len in [10, 5000] {
            world.stacks[a].datagram_send(udp, &vec![1; len], Some(to), SendCall::default()).unwrap();
        }
        world.run(SEC);
        world.stacks[a].tcp_close(client);
    }
    world.run(5 * SEC);
    let mut frames = Vec::new();
    while let Ok(frame) = world.stacks[a].packet_receive(recorder, false) {
        frames.push(frame.packet.bytes().to_vec());
    }
    assert!(frames.len() > 40, "{}", frames.len());
    frames
}

fn bounded(stack: &Stack, what: &str) {
    assert!(stack.memory_bytes <= stack.config.memory_max, "{what}: {}", stack.memory_bytes);
    assert!(stack.reassembly_bytes() <= stack.config.reassembly_bytes);
    assert!(stack.neighbours.iter().count() <= stack.config.max_neighbours);
}

#[test]
fn damaged_traffic_harms_nothing() {
    let frames = real_traffic();
    let mut rng = Rng(5);
    for ip in [false, true] {
        let (mut stack, made) = target(ip);
        let mut now = SEC;
        for round in 0..scale(40_000, 20_000_000) {
            let mut bytes = frames[rng.below(frames.len() as u64) as usize].clone();
            for _ in 0..rng.below(6) {
                let at = rng.below(bytes.len() as u64) as usize;
                match rng.below(4) {
                    0 => bytes[at] = rng.next() as u8,
                    1 => bytes[at] ^= 1 << rng.below(8),
                    2 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, rng.next() as u8),
                }
            }
            if ip {
                bytes.drain(..14.min(bytes.len()));
            }
            let mut packet = Packet::from_vec(bytes, 0);
            // Damage behind the checksum only shows when it is believed.
            packet.checksum = [Checksum::InData, Checksum::Verified][rng.below(2) as usize];
            if rng.below(10) == 0 {
                packet.set_partial_checksum(rng.below(80) as usize, rng.below(20) as usize);
                packet.gso = Some(Gso { v6: rng.below(2) == 0, size: rng.below(2000) as u16 });
            }
            made.frames.lock().unwrap().push_back(packet);
            now += rng.below(3 * MS);
            stack.poll(now);
            if round % 1000 == 0 {
                bounded(&stack, "damaged traffic");
                stack.take_ready();
                stack.take_events();
            }
        }
        // It was not all refused at the door.
        let counted = &stack.statistics;
        let reached = [counted.tcp.in_segments, counted.udp[0].in_datagrams, counted.udp[1].in_datagrams, counted.ip[0].reassembled];
        assert!(reached.iter().all(|count| *count > 100), "{reached:?}");
    }
}

#[test]
fn random_bytes_harm_no_parser() {
    let mut rng = Rng(9);
    for _ in 0..scale(200_000, 100_000_000) {
        let len = rng.below(120) as usize;
        let mut bytes: Vec<u8> = (0..len).map(|_| rng.next() as u8).collect();
        // Half of them get past the first test of a version.
        if let Some(first) = bytes.first_mut() {
            *first = [*first, 0x45, 0x46, 0x60][rng.below(4) as usize];
        }
        let _ = wire::ethernet::EthernetHeader::parse(&bytes);
        let _ = wire::arp::ArpPacket::parse(&bytes);
        let _ = wire::ipv4::Ipv4Header::parse(&bytes);
        if let Ok(header) = wire::ipv4::Ipv4Header::parse_quoted(&bytes) {
            assert!(header.options.for_later_fragments().as_slice().len() <= 40);
        }
        let _ = wire::ipv6::Ipv6Header::parse(&bytes);
        if let Ok(walked) = wire::ipv6::walk(&bytes) {
            assert!(walked.offset >= 40);
        }
        if let Ok((header, data_at)) = wire::tcp::TcpHeader::parse(&bytes) {
            assert!(data_at <= bytes.len() && header.options.sack.as_slice().len() <= 4);
        }
        let _ = wire::udp::UdpHeader::parse(&bytes);
        let _ = wire::icmp::IcmpHeader::parse(&bytes);
        let _ = wire::nd::options(&bytes);
        let _ = wire::nd::RouterAdvertisement::parse(&bytes);
        let _ = wire::igmp::parse_igmp_query(&bytes);
        let _ = wire::igmp::parse_mld_query(&bytes);
        let mut packet = Packet::from_vec(bytes, 0);
        packet.gso = Some(Gso { v6: false, size: rng.below(40) as u16 });
        let _ = net::gso::segment(&packet, rng.below(20) as usize);
    }
}

#[test]
fn random_programs_harm_nothing() {
    let mut rng = Rng(11);
    for _ in 0..scale(50_000, 10_000_000) {
        let code = (0..1 + rng.below(20))
            .map(|_| bpf::Instruction {
                code: (rng.next() & 0xff) as u16,
                jump_true: rng.below(5) as u8,
                jump_false: rng.below(5) as u8,
                k: if rng.below(2) == 0 { rng.below(40) as u32 } else { rng.next() as u32 },
            })
            .collect();
        if let Ok(program) = bpf::Program::new(code) {
            let _ = program.run(&[0x45; 64], &bpf::Ancillary::default());
        }
    }
}

/// Fragments of datagrams that never end, from anyone.
#[test]
fn a_flood_of_fragments_holds_a_bounded_amount() {
    let (mut stack, made) = target(true);
    let mut now = SEC;
    for n in 0..20_000u32 {
        let mut bytes = vec![0u8; 20 + 1400];
        let header = wire::ipv4::Ipv4Header {
            tos: 0,
            total_len: bytes.len() as u16,
            ident: n as u16,
            dont_fragment: false,
            more_fragments: true,
            fragment_offset: ((n % 3) * 1400) as u16,
            ttl: 64,
            protocol: 17,
            src: (0x0a00_0002 + (n >> 16)).into(),
            dst: "10.0.0.1".parse().unwrap(),
            options: wire::ipv4::Options::NONE,
        };
        header.emit(&mut bytes);
        made.frames.lock().unwrap().push_back(Packet::from_vec(bytes, 0));
        now += 1000;
        stack.poll(now);
        assert!(stack.reassembly_bytes() <= stack.config.reassembly_bytes);
    }
    stack.poll(now + 100 * SEC);
    assert_eq!(stack.reassembly_bytes(), 0);
}

/// Router advertisements and neighbours without end.
#[test]
fn a_flood_of_advertisements_makes_a_bounded_number_of_routes_and_neighbours() {
    let made = Made::default();
    let mut stack = Stack::new(Config::default(), [3, 4]);
    stack.set_now(SEC);
    let id = stack.attach("eth0", Box::new(made.clone()), &[]).unwrap();
    let mut now = SEC;
    for n in 0..5000u16 {
        let src: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 7, n);
        let mut message = vec![0u8; wire::nd::RA_OPTIONS];
        message[0] = wire::icmp::v6::ROUTER_ADVERTISEMENT;
        wire::nd::RouterAdvertisement { hop_limit: 64, flags: 0, lifetime_s: 1800, reachable_ms: 0, retransmit_ms: 0 }.emit(&mut message);
        message.extend_from_slice(&wire::nd::link_option(1, MacAddress([2, 1, 0, 0, (n >> 8) as u8, n as u8])));
        let prefix = std::net::Ipv6Addr::new(0x2001, 0xdb8, n, 0, 0, 0, 0, 0);
        let option =
            wire::nd::PrefixInformation { prefix_len: 64, on_link: true, autonomous: true, valid_s: 3600, preferred_s: 1800, prefix };
        message.extend_from_slice(&option.to_bytes());
        let dst: std::net::Ipv6Addr = "ff02::1".parse().unwrap();
        let sum = wire::checksum::Sum::pseudo(src.into(), dst.into(), 58, message.len()).with(&message).finish();
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut packet = Packet::copy_of(&message);
        let payload_len = message.len() as u16;
        wire::ipv6::Ipv6Header { traffic_class: 0, flow_label: 0, payload_len, next_header: 58, hop_limit: 255, src, dst }
            .emit(packet.push(40));
        let header = wire::ethernet::EthernetHeader {
            dst: MacAddress::from_ipv6_group(dst),
            src: MacAddress([2, 9, 9, 9, 9, 9]),
            ethertype: 0x86dd,
        };
        header.emit(packet.push(14));
        made.frames.lock().unwrap().push_back(packet);
        now += MS;
        stack.poll(now);
    }
    let interface = stack.interfaces.get(id).unwrap();
    assert!(interface.addresses.len() <= 20, "{}", interface.addresses.len());
    assert!(stack.routes.iter().count() < 80, "{}", stack.routes.iter().count());
    assert!(interface.addresses.iter().any(|address| address.autoconfigured));
    bounded(&stack, "advertisements");
}

/// A hundred thousand half-open connections and resets cost nothing that stays.
#[test]
fn a_flood_of_syns_costs_a_bounded_amount() {
    let made = Made { ip: true, ..Made::default() };
    let mut stack = Stack::new(Config::default(), [3, 4]);
    stack.set_now(SEC);
    stack.attach("tun0", Box::new(made.clone()), &["10.0.0.1/8".parse().unwrap()]).unwrap();
    let listener = stack.tcp_open(Family::V4);
    stack.tcp_bind(listener, Endpoint { port: 80, ..Endpoint::any(Family::V4) }).unwrap();
    stack.tcp_listen(listener, 128).unwrap();
    let mut now = SEC;
    for n in 0..scale(30_000, 1_000_000) as u32 {
        let header = wire::tcp::TcpHeader {
            src_port: n as u16,
            dst_port: 80,
            seq: net::tcp::seq::Seq(n),
            flags: wire::tcp::Flags::SYN,
            window: 1000,
            ..wire::tcp::TcpHeader::default()
        };
        let mut packet = Packet::zeroed(20);
        header.emit(packet.bytes_mut());
        packet.checksum = Checksum::Verified;
        let ip = wire::ipv4::Ipv4Header {
            tos: 0,
            total_len: 40,
            ident: 0,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            ttl: 64,
            protocol: 6,
            src: (0x0a01_0000 + n).into(),
            dst: "10.0.0.1".parse().unwrap(),
            options: wire::ipv4::Options::NONE,
        };
        ip.emit(packet.push(20));
        made.frames.lock().unwrap().push_back(packet);
        now += 10_000;
        stack.poll(now);
    }
    assert!(stack.memory_bytes < 100_000, "{}", stack.memory_bytes);
    assert!(stack.statistics.tcp.syn_cookies_sent > 20_000);
    assert_eq!(Medium::Ip, made.capabilities().medium);
}

/// Live connections whose segments are damaged behind the checksum: any state meets any nonsense.
#[test]
fn believed_damage_to_live_connections_harms_nothing() {
    for seed in 1..=scale(300, 200_000) {
        let mut rng = Rng(seed);
        let mut world = World::new();
        let (a, b) = (world.host(), world.host());
        let faults = Faults { corrupt: 250, believed: true, loss: 20, delay_ns: 2 * MS, jitter_ns: MS, ..Faults::default() };
        world.join((a, &["10.0.0.2/24"]), (b, &["10.0.0.1/24"]), seed, faults);
        let to: Endpoint = "10.0.0.1:80".parse::<std::net::SocketAddr>().unwrap().into();
        let listener = world.stacks[b].tcp_open(Family::V4);
        world.stacks[b].tcp_bind(listener, to).unwrap();
        world.stacks[b].tcp_listen(listener, 3).unwrap();
        let mut sockets: Vec<(usize, net::SocketId)> = Vec::new();
        for _ in 0..3 {
            let client = world.stacks[a].tcp_open(Family::V4);
            let _ = world.stacks[a].tcp_connect(client, to);
            sockets.push((a, client));
        }
        let mut buffer = vec![0; 5000];
        for _ in 0..60 {
            world.run(rng.below(30 * MS));
            if let Ok(child) = world.stacks[b].tcp_accept(listener) {
                sockets.push((b, child));
            }
            for &(host, id) in &sockets {
                let stack = &mut world.stacks[host];
                match rng.below(8) {
                    0..=3 => drop(stack.tcp_send(id, &buffer, net::tcp::SendCall { urgent: rng.below(4) == 0, more: rng.below(4) == 0 })),
                    4..=6 => drop(stack.tcp_receive(
                        id,
                        &mut buffer,
                        net::tcp::ReceiveCall { urgent: rng.below(9) == 0, peek: rng.below(9) == 0 },
                    )),
                    _ if rng.below(20) == 0 => drop(stack.tcp_shutdown(id, false, true)),
                    _ => {}
                }
            }
        }
        for (host, id) in sockets {
            world.stacks[host].tcp_close(id);
        }
        world.stacks[b].tcp_close(listener);
        world.run(4000 * SEC);
        for stack in &world.stacks {
            assert_eq!((stack.tcp_sockets().count(), stack.memory_bytes), (0, 0), "seed {seed}");
        }
    }
}
