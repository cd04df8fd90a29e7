//! The stack against the host's own Linux, through a tap device in a network namespace of its own. Needs root, `ip`, `perl` and `/dev/net/tun`;
//! without them the test says so and passes.
//!
//! No unsafe code is needed: the test runs itself again inside of the namespace (`ip netns exec`) under a line of perl that opens the tap as
//! standard input, the only thing that Rust's standard library can't do without help. In there, std's sockets are Linux's side and
//! descriptor 0 is ours.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use abi::Errno;
use net::SocketId;
use net::config::Config;
use net::datagram::{Endpoint, SendCall as DatagramCall};
use net::link::{Capabilities, Link, Medium, TransmitError};
use net::packet::{Checksum, Gso};
use net::prefix::Family;
use net::tcp::{ReceiveCall, SendCall, State};
use net::{MacAddress, Packet, Stack};

const INSIDE: &str = "UMLAUT_NET_INSIDE";

/// Opens `t0` as descriptor 0, with a virtio header when asked, and becomes the rest of the arguments.
const OPEN_TAP: &str = r#"
    use Fcntl;
    my $flags = 0x1002 | ($ENV{UMLAUT_NET_INSIDE} eq 'offload' ? 0x4000 : 0);
    close(STDIN);
    sysopen(my $tap, '/dev/net/tun', O_RDWR | O_NONBLOCK) or exit 77;
    fileno($tap) == 0 or exit 78;
    my $request = pack('a16 S x22', 't0', $flags);
    ioctl($tap, 0x400454ca, $request) or exit 77;
    if ($flags & 0x4000) { ioctl($tap, 0x400454d0, 0x7 + 0) or exit 77; }
    fcntl($tap, F_SETFD, 0);
    system('ip link set lo up && ip link set t0 up && sysctl -qw net.ipv6.conf.t0.accept_dad=0; ip addr add 10.7.0.1/24 dev t0 && ip addr add fd07::1/64 dev t0 nodad') == 0 or exit 77;
    exec(@ARGV) or exit 79;
"#;

/// The tap as a link. With a virtio header large packets and unfinished checksums pass in both directions.
struct Tap {
    file: File,
    offload: bool,
    /// Frames of a thousand that are lost in each direction, and held back until the next.
    loss: u64,
    state: u64,
    held: Option<Packet>,
}

impl Tap {
    fn chance(&mut self) -> bool {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % 1000 < self.loss
    }
}

impl Link for Tap {
    fn capabilities(&self) -> Capabilities {
        let gso_max_bytes = if self.offload { 65_000 } else { 0 };
        Capabilities { medium: Medium::Ethernet, checksum: self.offload, gso_max_bytes, arp: true, multicast: true }
    }
    fn mac(&self) -> MacAddress {
        MacAddress([2, 0, 0, 0, 7, 2])
    }
    fn transmit(&mut self, packet: Packet) -> Result<(), TransmitError> {
        if self.chance() {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(packet.len() + 10);
        if self.offload {
            let (mut flags, mut start, mut offset) = (0u8, 0u16, 0u16);
            if let Some((at, field)) = packet.partial_checksum() {
                (flags, start, offset) = (1, at as u16, field as u16);
            }
            let (kind, size) = packet.gso.map_or((0, 0), |gso| (if gso.v6 { 4 } else { 1 }, gso.size));
            let tcp = packet.bytes().get(usize::from(start) + 12).map_or(20, |byte| u16::from(byte >> 4) * 4);
            let header_len = if kind == 0 { 0 } else { start + tcp };
            bytes.extend_from_slice(&[flags, kind]);
            for field in [header_len, size, start, offset] {
                bytes.extend_from_slice(&field.to_le_bytes());
            }
        }
        bytes.extend_from_slice(packet.bytes());
        match self.file.write(&bytes) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(TransmitError::Full(packet)),
            Err(_) => Err(TransmitError::Failed(Errno::EIO)),
        }
    }
    fn receive(&mut self) -> Option<Packet> {
        let packet = self.receive_one();
        if packet.is_some() && self.chance() {
            return self.receive_one();
        }
        if packet.is_some() && self.held.is_none() && self.chance() {
            self.held = packet;
            return self.receive_one();
        }
        packet.or_else(|| self.held.take())
    }
    fn driver(&self) -> &'static str {
        "tap"
    }
}

impl Tap {
    fn receive_one(&mut self) -> Option<Packet> {
        let mut buffer = vec![0; 70_000];
        let len = self.file.read(&mut buffer).ok()?;
        buffer.truncate(len);
        let mut packet = Packet::from_vec(buffer, if self.offload { 10 } else { 0 });
        if self.offload {
            let header: [u8; 10] = packet_header(&packet)?;
            let field = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
            if header[0] & 1 != 0 {
                packet.set_partial_checksum(field(6).into(), field(8).into());
            } else if header[0] & 2 != 0 {
                packet.checksum = Checksum::Verified;
            }
            packet.gso = match header[1] & 0x7f {
                1 => Some(Gso { v6: false, size: field(4) }),
                4 => Some(Gso { v6: true, size: field(4) }),
                _ => None,
            };
        }
        Some(packet)
    }
}

fn packet_header(packet: &Packet) -> Option<[u8; 10]> {
    let mut whole = packet.clone();
    whole.push(10).try_into().ok()
}

/// The stack with its clock.
struct Machine {
    stack: Stack,
    start: Instant,
}

impl Machine {
    fn new(mode: &str) -> Machine {
        let (offload, loss) = (mode == "offload", if mode == "lossy" { 20 } else { 0 });
        let file = File::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
        let mut stack = Stack::new(Config::default(), [1, 2]);
        stack.set_now(1_000_000_000);
        let prefixes = ["10.7.0.2/24".parse().unwrap(), "fd07::2/64".parse().unwrap()];
        stack.attach("eth0", Box::new(Tap { file, offload, loss, state: 1, held: None }), &prefixes).unwrap();
        Machine { stack, start: Instant::now() }
    }

    fn poll(&mut self) {
        let now_ns = 1_000_000_000 + self.start.elapsed().as_nanos() as u64;
        self.stack.poll(now_ns);
    }

    /// Polls until `done`; a test that takes longer than this hangs.
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Stack) -> bool) {
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            self.poll();
            if done(&mut self.stack) {
                self.poll();
                return;
            }
            assert!(Instant::now() < limit, "{what}: too slow; {:?}", self.stack.statistics.tcp);
            thread::sleep(Duration::from_micros(50));
        }
    }
}

fn pattern(n: usize) -> u8 {
    (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]
}

fn at(address: &str, port: u16) -> Endpoint {
    SocketAddr::new(address.parse().unwrap(), port).into()
}

/// Linux reads all, checks it, then writes as much back and closes.
fn linux_serves(mut stream: TcpStream, len: usize) {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), len);
    assert!(got.iter().enumerate().all(|(n, byte)| *byte == pattern(n)));
    stream.write_all(&got).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
}

/// Our side: writes all, shuts down, reads all back.
fn we_exchange(machine: &mut Machine, id: SocketId, len: usize) {
    let data: Vec<u8> = (0..len).map(pattern).collect();
    let (mut sent, mut got) = (0, 0);
    let mut buffer = vec![0; 1 << 18];
    machine.until("exchange", |stack| {
        while sent < len {
            match stack.tcp_send(id, &data[sent..], SendCall::default()) {
                Ok(count) => sent += count,
                Err(Errno::EAGAIN) => break,
                Err(errno) => panic!("send: {errno:?}"),
            }
            if sent == len {
                stack.tcp_shutdown(id, false, true).unwrap();
            }
        }
        loop {
            match stack.tcp_receive(id, &mut buffer, ReceiveCall::default()) {
                Ok(0) => {
                    assert_eq!(got, len);
                    return true;
                }
                Ok(count) => {
                    assert!(buffer[..count].iter().enumerate().all(|(n, byte)| *byte == pattern(got + n)));
                    got += count;
                }
                Err(Errno::EAGAIN) => return false,
                Err(errno) => panic!("receive: {errno:?} after {got}"),
            }
        }
    });
}

fn we_connect_to_linux(machine: &mut Machine, linux: &str, len: usize) {
    let listener = TcpListener::bind(SocketAddr::new(linux.parse().unwrap(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || linux_serves(listener.accept().unwrap().0, len));
    let id = machine.stack.tcp_open(Family::of(linux.parse().unwrap()));
    let begun = Instant::now();
    assert_eq!(machine.stack.tcp_connect(id, at(linux, port)), Err(Errno::EINPROGRESS));
    we_exchange(machine, id, len);
    server.join().unwrap();
    let info = machine.stack.tcp(id).unwrap().info();
    assert_eq!(info.options, 7, "timestamps, SACK and scaling are agreed on");
    println!("{linux}: {len} bytes there and back in {:?}, {} retransmitted", begun.elapsed(), info.total_retransmitted);
    machine.stack.tcp_close(id);
    machine.until("close", |stack| stack.tcp_sockets().all(|(there, _)| there != id));
}

fn linux_connects_to_us(machine: &mut Machine, ours: &str, len: usize) {
    let listener = machine.stack.tcp_open(Family::of(ours.parse().unwrap()));
    machine.stack.tcp_bind(listener, at(ours, 80)).unwrap();
    machine.stack.tcp_listen(listener, 5).unwrap();
    let to = SocketAddr::new(ours.parse().unwrap(), 80);
    let client = thread::spawn(move || linux_serves(TcpStream::connect_timeout(&to, Duration::from_secs(10)).unwrap(), len));
    let mut child = None;
    machine.until("accept", |stack| {
        child = child.or_else(|| stack.tcp_accept(listener).ok());
        child.is_some()
    });
    let child = child.unwrap();
    we_exchange(machine, child, len);
    client.join().unwrap();
    machine.stack.tcp_close(child);
    machine.stack.tcp_close(listener);
    machine.until("close", |stack| stack.tcp_sockets().count() == 0);
}

fn datagrams_both_ways(machine: &mut Machine, linux: &str, ours: &str) {
    let socket = UdpSocket::bind(SocketAddr::new(linux.parse().unwrap(), 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let port = socket.local_addr().unwrap().port();
    let echo = thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        for _ in 0..3 {
            let (len, from) = socket.recv_from(&mut buffer).unwrap();
            socket.send_to(&buffer[..len], from).unwrap();
        }
    });
    let id = machine.stack.udp_open(Family::of(ours.parse().unwrap()));
    machine.stack.datagram_bind(id, at(ours, 9)).unwrap();
    // The long ones are fragmented here and by Linux.
    for len in [1usize, 3000, 40_000] {
        let data: Vec<u8> = (0..len).map(pattern).collect();
        machine.stack.datagram_send(id, &data, Some(at(linux, port)), DatagramCall::default()).unwrap();
        machine.until("echo", |stack| match stack.datagram_receive(id, false) {
            Ok(Some(datagram)) => {
                assert_eq!(datagram.payload.bytes(), data);
                true
            }
            other => {
                assert_eq!(other.err(), Some(Errno::EAGAIN));
                false
            }
        });
    }
    echo.join().unwrap();
    machine.stack.datagram_close(id);
}

fn refusals(machine: &mut Machine, linux: &str, ours: &str) {
    let family = Family::of(ours.parse().unwrap());
    // Linux refuses us.
    let id = machine.stack.tcp_open(family);
    assert_eq!(machine.stack.tcp_connect(id, at(linux, 1)), Err(Errno::EINPROGRESS));
    machine.until("refusal", |stack| stack.tcp(id).unwrap().state() == State::Closed);
    assert_eq!(machine.stack.tcp_mut(id).unwrap().take_error(), Some(Errno::ECONNREFUSED));
    machine.stack.tcp_close(id);
    let id = machine.stack.udp_open(family);
    machine.stack.datagram_connect(id, Some(at(linux, 1))).unwrap();
    machine.stack.datagram_send(id, b"?", None, DatagramCall::default()).unwrap();
    machine.until("port unreachable", |stack| stack.datagram_receive(id, false).err() == Some(Errno::ECONNREFUSED));
    machine.stack.datagram_close(id);
    // We refuse Linux.
    let to = SocketAddr::new(ours.parse().unwrap(), 2);
    let client = thread::spawn(move || TcpStream::connect_timeout(&to, Duration::from_secs(10)).unwrap_err().kind());
    machine.until("our refusal", |_| client.is_finished());
    assert_eq!(client.join().unwrap(), ErrorKind::ConnectionRefused);
}

/// Linux's own ping, of full size and fragmented.
fn pings(machine: &mut Machine, ours: &str) {
    for size in ["56", "5000"] {
        let Ok(mut child) = Command::new("ping").args(["-c", "2", "-i", "0.2", "-W", "2", "-s", size, ours]).stdout(Stdio::null()).spawn()
        else {
            return;
        };
        machine.until("ping", |_| child.try_wait().unwrap().is_some());
        assert!(child.wait().unwrap().success(), "ping -s {size} {ours}");
    }
}

fn inside(mode: &str) {
    let mut machine = Machine::new(mode);
    if mode == "lossy" {
        for (linux, ours) in [("10.7.0.1", "10.7.0.2"), ("fd07::1", "fd07::2")] {
            we_connect_to_linux(&mut machine, linux, 2_000_000);
            linux_connects_to_us(&mut machine, ours, 2_000_000);
        }
        println!("{:?}", machine.stack.statistics.tcp);
        return;
    }
    for (linux, ours) in [("10.7.0.1", "10.7.0.2"), ("fd07::1", "fd07::2")] {
        datagrams_both_ways(&mut machine, linux, ours);
        refusals(&mut machine, linux, ours);
        pings(&mut machine, ours);
        for len in [1, 10_000, 5_000_000] {
            we_connect_to_linux(&mut machine, linux, len);
            linux_connects_to_us(&mut machine, ours, len);
        }
    }
    assert_eq!(machine.stack.memory_bytes, 0);
}

/// Runs the named test again inside of a new namespace; false when that can't be had here.
fn run_inside(test: &str, mode: &str) -> bool {
    let space = format!("umlaut-{}-{mode}", std::process::id());
    let ip = |args: &[&str]| Command::new("ip").args(args).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !ip(&["netns", "add", &space]) {
        return false;
    }
    let own = std::env::current_exe().unwrap();
    let status = Command::new("ip")
        .args(["netns", "exec", &space, "perl", "-e", OPEN_TAP])
        .arg(own)
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, mode)
        .status();
    ip(&["netns", "del", &space]);
    match status.unwrap().code() {
        Some(77) => false,
        Some(0) => true,
        code => panic!("inside of the namespace: {code:?}"),
    }
}

fn against_linux(test: &str, mode: &str) {
    match std::env::var(INSIDE) {
        Ok(inner) if inner == mode => inside(mode),
        Ok(_) => {}
        Err(_) => {
            if !run_inside(test, mode) {
                println!("skipped: no root, no namespaces or no /dev/net/tun here");
            }
        }
    }
}

#[test]
fn linux_and_we_understand_each_other_over_a_plain_tap() {
    against_linux("linux_and_we_understand_each_other_over_a_plain_tap", "plain");
}

#[test]
fn linux_and_we_understand_each_other_over_a_tap_with_offloads() {
    against_linux("linux_and_we_understand_each_other_over_a_tap_with_offloads", "offload");
}

#[test]
fn linux_and_we_understand_each_other_over_a_tap_that_loses_and_reorders() {
    against_linux("linux_and_we_understand_each_other_over_a_tap_that_loses_and_reorders", "lossy");
}
