//! TCP between stacks: byte streams over cables that lose, reorder, duplicate, delay and damage, against what was sent.

mod common;

use abi::Errno;
use common::{Faults, MS, Rng, SEC, World, scale};
use net::SocketId;
use net::config::Config;
use net::datagram::Endpoint;
use net::link::{Capabilities, Medium};
use net::prefix::Family;
use net::tcp::congestion::Algorithm;
use net::tcp::{ReceiveCall, SendCall, State};

fn at(text: &str, port: u16) -> Endpoint {
    Endpoint::new(text.parse().unwrap(), port)
}

fn listen(world: &mut World, host: usize, address: &str, port: u16, backlog: usize) -> SocketId {
    let to = at(address, port);
    let id = world.stacks[host].tcp_open(Family::of(to.address));
    world.stacks[host].tcp_bind(id, to).unwrap();
    world.stacks[host].tcp_listen(id, backlog).unwrap();
    id
}

fn connect(world: &mut World, host: usize, to: Endpoint) -> SocketId {
    let id = world.stacks[host].tcp_open(Family::of(to.address));
    assert_eq!(world.stacks[host].tcp_connect(id, to), Err(Errno::EINPROGRESS));
    id
}

/// A world of two hosts and a connection between them.
fn connected(seed: u64, faults: Faults, a: &str, b: &str) -> (World, SocketId, SocketId) {
    let mut world = World::new();
    let (left, right) = (world.host(), world.host());
    let bits = if a.contains(':') { 64 } else { 24 };
    world.join((left, &[&format!("{a}/{bits}")]), (right, &[&format!("{b}/{bits}")]), seed, faults);
    let listener = listen(&mut world, right, b, 80, 10);
    let client = connect(&mut world, left, at(b, 80));
    let mut server = None;
    assert!(world.run_until(300 * SEC, |w| {
        server = server.or_else(|| w.stacks[right].tcp_accept(listener).ok());
        server.is_some() && w.stacks[left].tcp(client).unwrap().state() == State::Established
    }));
    world.stacks[right].tcp_close(listener);
    (world, client, server.unwrap())
}

/// One direction of a stream against its model: what was accepted for sending, and what has arrived of it.
struct Flow {
    from: (usize, SocketId),
    to: (usize, SocketId),
    total: usize,
    sent: usize,
    arrived: usize,
    seed: u64,
    over: bool,
    rng: Rng,
}

fn byte(seed: u64, at: usize) -> u8 {
    let x = (at as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x >> 56) as u8
}

impl Flow {
    fn new(from: (usize, SocketId), to: (usize, SocketId), total: usize, seed: u64) -> Flow {
        Flow { from, to, total, sent: 0, arrived: 0, seed, over: false, rng: Rng(seed) }
    }

    fn step(&mut self, world: &mut World) {
        while self.sent < self.total {
            let want = (1 + self.rng.below(20_000) as usize).min(self.total - self.sent);
            let data: Vec<u8> = (self.sent..self.sent + want).map(|n| byte(self.seed, n)).collect();
            match world.stacks[self.from.0].tcp_send(self.from.1, &data, SendCall::default()) {
                Ok(count) => self.sent += count,
                Err(Errno::EAGAIN) => break,
                Err(errno) => panic!(
                    "seed {}: sending failed: {errno:?} at {}\n{:?}\n{:?}",
                    self.seed, world.now, world.stacks[0].statistics.tcp, world.stacks[1].statistics.tcp
                ),
            }
            if self.sent == self.total {
                world.stacks[self.from.0].tcp_shutdown(self.from.1, false, true).unwrap();
            }
        }
        let mut buffer = vec![0; 1 + self.rng.below(30_000) as usize];
        while !self.over {
            match world.stacks[self.to.0].tcp_receive(self.to.1, &mut buffer, ReceiveCall::default()) {
                Ok(0) => {
                    assert_eq!(self.arrived, self.total, "the stream ended early");
                    self.over = true;
                }
                Ok(count) => {
                    for (n, got) in buffer[..count].iter().enumerate() {
                        assert_eq!(*got, byte(self.seed, self.arrived + n), "byte {} of seed {}", self.arrived + n, self.seed);
                    }
                    self.arrived += count;
                }
                Err(Errno::EAGAIN) => break,
                Err(errno) => panic!("receiving failed: {errno:?} after {} of {}", self.arrived, self.total),
            }
        }
    }
}

/// Both directions until both ends have read the end; answers how long it took.
fn exchange(world: &mut World, client: SocketId, server: SocketId, lens: (usize, usize), seed: u64) -> u64 {
    let mut flows = [Flow::new((0, client), (1, server), lens.0, seed), Flow::new((1, server), (0, client), lens.1, seed + 1)];
    let start = world.now;
    for flow in &flows {
        if flow.total == 0 {
            world.stacks[flow.from.0].tcp_shutdown(flow.from.1, false, true).unwrap();
        }
    }
    let done = world.run_until(4000 * SEC, |world| {
        flows.iter_mut().for_each(|flow| flow.step(world));
        flows.iter().all(|flow| flow.over)
    });
    assert!(
        done,
        "seed {seed}: {:?}; client {:?} server {:?}",
        flows.iter().map(|f| (f.sent, f.arrived, f.total)).collect::<Vec<_>>(),
        world.stacks[0].tcp(client).unwrap().info(),
        world.stacks[1].tcp(server).unwrap().info()
    );
    world.now - start
}

fn close_both(world: &mut World, client: SocketId, server: SocketId) {
    world.stacks[0].tcp_close(client);
    world.stacks[1].tcp_close(server);
    world.run(200 * SEC);
    for stack in &world.stacks {
        assert_eq!((stack.tcp_sockets().count(), stack.tcp_time_waits()), (0, 0));
        assert_eq!(stack.memory_bytes, 0);
    }
}

#[test]
fn a_stream_crosses_a_perfect_cable_and_nothing_is_sent_twice() {
    for (a, b) in [("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8::2")] {
        let (mut world, client, server) = connected(1, Faults { delay_ns: 5 * MS, ..Faults::default() }, a, b);
        exchange(&mut world, client, server, (3_000_000, 500_000), 7);
        for stack in &world.stacks {
            assert_eq!(stack.statistics.tcp.retransmitted, 0, "{:?}", stack.statistics.tcp);
        }
        close_both(&mut world, client, server);
    }
}

#[test]
fn the_loopback_carries_a_stream_in_large_packets() {
    let mut world = World::new();
    world.host();
    let listener = listen(&mut world, 0, "127.0.0.1", 80, 1);
    let client = connect(&mut world, 0, at("127.0.0.1", 80));
    world.run(MS);
    let server = world.stacks[0].tcp_accept(listener).unwrap();
    let mut flow = Flow::new((0, client), (0, server), 20_000_000, 3);
    assert!(world.run_until(60 * SEC, |world| {
        flow.step(world);
        flow.over
    }));
    let lo = world.stacks[0].interfaces.by_name("lo").unwrap();
    assert!(lo.statistics.tx_packets < 3000, "{} packets", lo.statistics.tx_packets);
    assert_eq!(world.stacks[0].statistics.tcp.retransmitted, 0);
}

#[test]
fn a_device_that_segments_gets_large_packets_with_unfinished_checksums() {
    let mut world = World::new();
    let (a, b) = (world.host(), world.host());
    let offload = Capabilities { checksum: true, gso_max_bytes: 65_000, medium: Medium::Ethernet, arp: true, multicast: true };
    world.join_with((a, &["10.0.0.1/24"]), (b, &["10.0.0.2/24"]), 1, Faults::default(), offload, 1500);
    let listener = listen(&mut world, b, "10.0.0.2", 80, 1);
    let client = connect(&mut world, a, at("10.0.0.2", 80));
    world.run(SEC);
    let server = world.stacks[b].tcp_accept(listener).unwrap();
    let mut flow = Flow::new((a, client), (b, server), 5_000_000, 3);
    assert!(world.run_until(60 * SEC, |world| {
        flow.step(world);
        flow.over
    }));
    let carried = world.wires[0].lock().unwrap().carried;
    assert!(carried < 1500, "{carried} frames");
}

/// One run: everything about it follows from the seed.
fn faulty_run(seed: u64) {
    let mut rng = Rng(seed.wrapping_mul(77));
    let faults = Faults {
        loss: rng.below(120) as u32,
        duplicate: rng.below(80) as u32,
        reorder: rng.below(150) as u32,
        corrupt: rng.below(20) as u32,
        delay_ns: rng.below(50) * MS,
        jitter_ns: rng.below(3) * MS,
        rate: [0, 10_000_000, 100_000_000][rng.below(3) as usize],
        buffer: 30_000 + rng.below(200_000),
        believed: false,
    };
    let (a, b) = if seed.is_multiple_of(2) { ("10.0.0.1", "10.0.0.2") } else { ("2001:db8::1", "2001:db8::2") };
    let mut world = World::new();
    let mut config = Config::default();
    config.tcp.sack = rng.below(4) != 0;
    config.tcp.timestamps = rng.below(3) != 0;
    config.tcp.window_scaling = rng.below(3) != 0;
    config.tcp.congestion = if rng.below(2) == 0 { Algorithm::Cubic } else { Algorithm::Reno };
    config.tcp.syn_cookies = [1, 2][rng.below(2) as usize];
    config.tcp.retries2 = 40;
    config.tcp.syn_retries = 20;
    let (left, right) = (world.host_with(config.clone()), world.host_with(config));
    let bits = if seed.is_multiple_of(2) { 24 } else { 64 };
    world.join((left, &[&format!("{a}/{bits}")]), (right, &[&format!("{b}/{bits}")]), seed, faults);
    let listener = listen(&mut world, right, b, 80, 10);
    let client = connect(&mut world, left, at(b, 80));
    let lens = (rng.below(60_000) as usize, rng.below(30_000) as usize);
    let mut there = Flow::new((left, client), (right, client), lens.0 + 1, seed);
    let mut back: Option<Flow> = None;
    let done = world.run_until(20_000 * SEC, |world| {
        if back.is_none()
            && let Ok(server) = world.stacks[right].tcp_accept(listener)
        {
            there.to.1 = server;
            back = Some(Flow::new((right, server), (left, client), lens.1 + 1, seed + 1));
        }
        let Some(back) = &mut back else {
            // The client talks first: a cookie is only kept by what the client sends.
            if world.stacks[left].tcp(client).unwrap().state() == State::Established && there.sent == 0 {
                let first = [byte(seed, 0)];
                there.sent = world.stacks[left].tcp_send(client, &first, SendCall::default()).unwrap_or(0);
                if there.sent == there.total {
                    world.stacks[left].tcp_shutdown(client, false, true).unwrap();
                }
            }
            return false;
        };
        there.step(world);
        back.step(world);
        there.over && back.over
    });
    assert!(
        done,
        "seed {seed} {faults:?}: {:?} {:?}; client {:?} {:?}",
        (there.sent, there.arrived, there.total),
        back.map(|f| (f.sent, f.arrived, f.total)),
        world.stacks[0].tcp(client).map(|s| (s.state(), s.info())),
        world.stacks[1].tcp(there.to.1).map(|s| (s.state(), s.info()))
    );
}

#[test]
fn every_byte_arrives_in_order_whatever_the_cable_does() {
    for seed in 1..=scale(1500, 1_000_000) {
        faulty_run(seed);
    }
}

#[test]
fn one_percent_of_loss_does_not_stop_a_fast_transfer() {
    let faults = Faults { loss: 10, delay_ns: 10 * MS, rate: 100_000_000, buffer: 250_000, ..Faults::default() };
    let (mut world, client, server) = connected(5, faults, "10.0.0.1", "10.0.0.2");
    let took = exchange(&mut world, client, server, (5_000_000, 0), 9);
    let stats = &world.stacks[0].statistics.tcp;
    assert!(took < 15 * SEC, "{} ms, {stats:?}", took / MS);
    assert!(stats.timeouts < 10, "{stats:?}");
    assert_eq!(stats.dsack_received, 0, "nothing was sent twice for nothing: {stats:?}");
}

#[test]
fn a_full_bottleneck_is_used_well() {
    for algorithm in [Algorithm::Cubic, Algorithm::Reno] {
        let faults = Faults { delay_ns: 10 * MS, rate: 50_000_000, buffer: 125_000, ..Faults::default() };
        let (mut world, client, server) = connected(5, faults, "10.0.0.1", "10.0.0.2");
        world.stacks[0].tcp_mut(client).unwrap().set_congestion(algorithm);
        let took = exchange(&mut world, client, server, (20_000_000, 0), 9);
        // 160 Mbit at 50 Mbit/s are 3.2 seconds, with headers 3.4.
        assert!(took < 4500 * MS, "{algorithm:?}: {} ms, {:?}", took / MS, world.stacks[0].statistics.tcp);
    }
}

#[test]
fn reordering_alone_causes_few_retransmissions() {
    let faults = Faults { delay_ns: 20 * MS, jitter_ns: 4 * MS, ..Faults::default() };
    let (mut world, client, server) = connected(5, faults, "10.0.0.1", "10.0.0.2");
    exchange(&mut world, client, server, (3_000_000, 0), 9);
    let stats = &world.stacks[0].statistics.tcp;
    assert!(stats.retransmitted < 200, "{stats:?}");
}

#[test]
fn a_reader_that_stops_closes_the_window_and_probes_reopen_it() {
    let (mut world, client, server) = connected(1, Faults { delay_ns: MS, ..Faults::default() }, "10.0.0.1", "10.0.0.2");
    let data = vec![5; 100_000];
    let mut sent = 0;
    for _ in 0..100 {
        sent += world.stacks[0].tcp_send(client, &data, SendCall::default()).unwrap_or(0);
        world.run(100 * MS);
    }
    world.run(60 * SEC);
    assert!(world.stacks[0].statistics.tcp.window_probes > 3);
    assert!(world.stacks[1].tcp(server).unwrap().readable() < 200_000);
    // Window updates are lost on the way; only probing finds out.
    world.wires[0].lock().unwrap().cut = true;
    let mut buffer = vec![0; 1 << 20];
    let mut got = world.stacks[1].tcp_receive(server, &mut buffer, ReceiveCall::default()).unwrap();
    world.run(MS);
    world.wires[0].lock().unwrap().cut = false;
    assert!(world.run_until(600 * SEC, |world| {
        got += world.stacks[1].tcp_receive(server, &mut buffer, ReceiveCall::default()).unwrap_or(0);
        got == sent
    }));
}

#[test]
fn nobody_listening_is_connection_refused_and_nobody_there_times_out() {
    let mut world = World::new();
    let (a, b) = (world.host(), world.host());
    world.join((a, &["10.0.0.1/24"]), (b, &["10.0.0.2/24"]), 1, Faults::default());
    let client = connect(&mut world, a, at("10.0.0.2", 81));
    world.run(SEC);
    assert_eq!(world.stacks[a].tcp_mut(client).unwrap().take_error(), Some(Errno::ECONNREFUSED));
    let client = connect(&mut world, a, at("10.0.0.99", 81));
    world.run(200 * SEC);
    assert_eq!(world.stacks[a].tcp_mut(client).unwrap().take_error(), Some(Errno::EHOSTUNREACH));
    world.wires[0].lock().unwrap().cut = true;
    let client = connect(&mut world, a, at("10.0.0.2", 80));
    world.run(100 * SEC);
    assert_eq!(world.stacks[a].tcp(client).unwrap().state(), State::SynSent);
    world.run(100 * SEC);
    assert!(world.stacks[a].tcp_mut(client).unwrap().take_error().is_some());
}

#[test]
fn a_cut_cable_ends_in_a_timeout_and_keepalive_notices_it_when_idle() {
    let (mut world, client, server) = connected(1, Faults::default(), "10.0.0.1", "10.0.0.2");
    let options = &mut world.stacks[1].tcp_mut(server).unwrap().options;
    (options.keepalive, options.keepalive_time_s, options.keepalive_interval_s, options.keepalive_probes) = (true, 60, 10, 3);
    world.stacks[1].tcp_push(server);
    world.run(300 * SEC);
    assert!(world.stacks[1].statistics.tcp.keepalives >= 4, "answered probes keep it alive");
    assert_eq!(world.stacks[1].tcp(server).unwrap().state(), State::Established);
    world.wires[0].lock().unwrap().cut = true;
    world.stacks[0].tcp_send(client, b"into the void", SendCall::default()).unwrap();
    world.run(120 * SEC);
    assert_eq!(world.stacks[1].tcp_mut(server).unwrap().take_error(), Some(Errno::ETIMEDOUT));
    world.run(2000 * SEC);
    assert!(world.stacks[0].tcp_mut(client).unwrap().take_error().is_some());
}

#[test]
fn a_flood_of_syns_leaves_room_for_honest_clients_by_cookies() {
    let mut world = World::new();
    let mut config = Config::default();
    config.tcp.max_syn_backlog = 8;
    let (a, b) = (world.host(), world.host_with(config));
    world.join((a, &["10.0.0.1/24"]), (b, &["10.0.0.2/24"]), 1, Faults::default());
    let listener = listen(&mut world, b, "10.0.0.2", 80, 8);
    // Clients whose answers never come: the cable loses what goes back.
    for _ in 0..50 {
        let id = world.stacks[a].tcp_open(Family::V4);
        let _ = world.stacks[a].tcp_connect(id, at("10.0.0.2", 80));
        world.step();
        world.wires[0].lock().unwrap().cut = world.stacks[b].statistics.tcp.in_segments > 0;
        world.run(10_000);
        world.stacks[a].tcp_close(id);
        world.wires[0].lock().unwrap().cut = false;
    }
    let client = connect(&mut world, a, at("10.0.0.2", 80));
    world.run(3 * SEC);
    assert_eq!(world.stacks[a].tcp(client).unwrap().state(), State::Established);
    let mut found = false;
    while let Ok(id) = world.stacks[b].tcp_accept(listener) {
        found |= world.stacks[b].tcp(id).unwrap().remote().is_ok();
    }
    assert!(found);
}

#[test]
fn an_accept_queue_has_room_for_its_backlog_and_one() {
    let mut world = World::new();
    let (a, b) = (world.host(), world.host());
    world.join((a, &["10.0.0.1/24"]), (b, &["10.0.0.2/24"]), 1, Faults::default());
    let listener = listen(&mut world, b, "10.0.0.2", 80, 2);
    for _ in 0..6 {
        connect(&mut world, a, at("10.0.0.2", 80));
        world.run(10 * MS);
    }
    assert_eq!(world.stacks[b].tcp_accept_queue_len(listener), 3);
    assert!(world.stacks[b].statistics.tcp.listen_overflows > 0);
}

#[test]
fn both_sides_can_open_at_once() {
    let mut world = World::new();
    let (a, b) = (world.host(), world.host());
    world.join((a, &["10.0.0.1/24"]), (b, &["10.0.0.2/24"]), 1, Faults { delay_ns: 10 * MS, ..Faults::default() });
    let ids: Vec<SocketId> = [(a, "10.0.0.1", 1000, "10.0.0.2", 2000), (b, "10.0.0.2", 2000, "10.0.0.1", 1000)]
        .map(|(host, own, port, peer, peer_port)| {
            let id = world.stacks[host].tcp_open(Family::V4);
            world.stacks[host].tcp_bind(id, at(own, port)).unwrap();
            assert_eq!(world.stacks[host].tcp_connect(id, at(peer, peer_port)), Err(Errno::EINPROGRESS));
            id
        })
        .into();
    world.run(5 * SEC);
    for (host, id) in ids.iter().enumerate() {
        assert_eq!(world.stacks[host].tcp(*id).unwrap().state(), State::Established);
    }
    exchange(&mut world, ids[0], ids[1], (100_000, 100_000), 4);
}

#[test]
fn a_narrow_path_is_found_and_the_stream_goes_on() {
    for (a, router_a, router_b, b, all) in [
        ("10.1.0.1", "10.1.0.254", "10.2.0.254", "10.2.0.1", "0.0.0.0/0"),
        ("2001:db8:1::1", "2001:db8:1::fe", "2001:db8:2::fe", "2001:db8:2::1", "::/0"),
    ] {
        let mut world = World::new();
        let hosts = [world.host(), world.host(), world.host()];
        let bits = if a.contains(':') { 64 } else { 24 };
        let with = |address: &str| format!("{address}/{bits}");
        let delay = Faults { delay_ns: 5 * MS, ..Faults::default() };
        world.join((hosts[0], &[&with(a)]), (hosts[2], &[&with(router_a)]), 1, delay);
        world.join_with((hosts[2], &[&with(router_b)]), (hosts[1], &[&with(b)]), 2, delay, Capabilities::ETHERNET, 1300);
        let family = Family::of(a.parse().unwrap());
        world.stacks[2].set_forwarding(family, true);
        for (host, gateway) in [(0, router_a), (1, router_b)] {
            let id = world.stacks[host].interfaces.by_name("eth0").unwrap().id;
            // The far end must not announce its small segments, or nothing is left to find out.
            if host == 1 {
                world.stacks[1].set_mtu(id, 1500).unwrap();
            }
            let route = net::route::Route::new(all.parse().unwrap(), gateway.parse().ok(), id);
            world.stacks[host].routes.add(net::route::TABLE_MAIN, route).unwrap();
        }
        let listener = listen(&mut world, 1, b, 80, 1);
        let client = connect(&mut world, 0, at(b, 80));
        world.run(SEC);
        let server = world.stacks[1].tcp_accept(listener).unwrap();
        let took = exchange(&mut world, client, server, (300_000, 0), 5);
        assert!(took < 3 * SEC, "{} ms", took / MS);
        assert_eq!(world.stacks[0].tcp(client).unwrap().info().path_mtu, 1300);
    }
}

#[test]
fn what_is_resent_was_lost_even_where_a_round_trip_is_microseconds_and_segments_overtake_each_other() {
    for (delay_ns, jitter_ns, loss) in [(50_000, 0, 20), (50_000, 20_000, 20), (5 * MS, 0, 20), (50_000, 20_000, 0)] {
        let faults = Faults { loss, delay_ns, jitter_ns, ..Faults::default() };
        let (mut world, client, server) = connected(5, faults, "10.0.0.1", "10.0.0.2");
        exchange(&mut world, client, server, (2_000_000, 0), 9);
        let stats = &world.stacks[0].statistics.tcp;
        assert!(stats.dsack_received <= 2, "{delay_ns} {jitter_ns} {loss}: {stats:?}");
        assert!(stats.timeouts <= 1, "{delay_ns} {jitter_ns} {loss}: {stats:?}");
    }
}
