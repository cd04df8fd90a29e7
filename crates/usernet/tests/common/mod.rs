//! A guest in this process: the machine's own stack on one end of the cable, the translation on the other, and behind it the real host or a
//! pretended one.
#![allow(dead_code)]

use abi::Errno;
use net::config::Config as StackConfig;
use net::datagram::Endpoint;
use net::prefix::Family;
use net::route::{Route, TABLE_MAIN};
use net::tcp::{ReceiveCall, SendCall};
use net::{InterfaceId, MacAddress, Packet, SocketId, Stack};
use platform::{HostDatagram, HostListener, HostNetwork, HostStream, Reach, SocketReady};
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use sync::Observer;
use usernet::{Config, Engine, PortQueue, port};

pub const MAC: MacAddress = MacAddress([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Guest {
    pub stack: Stack,
    pub engine: Engine,
    pub eth0: InterfaceId,
    queue: PortQueue,
    start: Instant,
    /// Every so many packets of either direction one is lost; 0: none.
    pub lose_every: u32,
    count: u32,
}

/// Options as on a command line: `allow=127.0.0.1:80,mtu=1500`.
pub fn config(options: &str) -> Config {
    let mut config = Config::default();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap();
        config.set(name, value, &|_| Vec::new()).unwrap();
    }
    config
}

impl Guest {
    /// A guest that has its addresses and routes, in front of the real host.
    pub fn new(options: &str) -> Guest {
        Guest::before(config(options), Arc::new(host::network::Network::new().unwrap()))
    }

    pub fn before(config: Config, host: Arc<dyn HostNetwork>) -> Guest {
        let mut guest = Guest::bare(config.clone(), host);
        let eth0 = guest.eth0;
        let prefixes = [format!("{}/{}", config.guest, config.prefix_len), format!("{}/64", config.guest6)];
        for prefix in prefixes {
            guest.stack.add_address_at_once(eth0, net::Address::new(prefix.parse().unwrap())).unwrap();
        }
        for (all, gateway) in [("0.0.0.0/0", IpAddr::V4(config.gateway)), ("::/0", IpAddr::V6(config.gateway6))] {
            guest.stack.routes.add(TABLE_MAIN, Route::new(all.parse().unwrap(), Some(gateway), eth0)).unwrap();
        }
        guest
    }

    /// A guest without addresses.
    pub fn bare(config: Config, host: Arc<dyn HostNetwork>) -> Guest {
        let mtu = config.mtu;
        let mut engine = Engine::new(config, host, [5, 6]);
        engine.set_now(1);
        let (end, queue) = port(usernet::Mac::Given(MAC), mtu, Box::new(|| ()));
        let mut stack = Stack::new(StackConfig::default(), [1, 2]);
        stack.set_now(1);
        let eth0 = stack.attach("eth%d", Box::new(end), &[]).unwrap();
        Guest { stack, engine, eth0, queue, start: Instant::now(), lose_every: 0, count: 0 }
    }

    fn lost(&mut self) -> bool {
        self.count += 1;
        self.lose_every != 0 && self.count.is_multiple_of(self.lose_every)
    }

    /// Moves what can be moved; whether anything did.
    pub fn turn(&mut self) -> bool {
        let now = self.start.elapsed().as_nanos() as u64 + 1;
        self.stack.poll(now);
        let mut packets = VecDeque::new();
        self.queue.take(&mut packets);
        let mut moved = !packets.is_empty();
        for packet in packets {
            if !self.lost() {
                self.engine.input(packet);
            }
        }
        self.engine.serve(now);
        let mut frames = VecDeque::new();
        while let Some(frame) = self.engine.output() {
            moved = true;
            if !self.lost() {
                frames.push_back(frame);
            }
        }
        self.queue.give(&mut frames);
        self.stack.poll(now);
        self.stack.take_ready();
        moved
    }

    /// Turns until `done` says what came of it.
    pub fn until<R>(&mut self, what: &str, mut done: impl FnMut(&mut Guest) -> Option<R>) -> R {
        let start = Instant::now();
        loop {
            let moved = self.turn();
            if let Some(result) = done(self) {
                self.turn();
                return result;
            }
            assert!(start.elapsed() < PATIENCE, "{what}: it never happened");
            if !moved {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
    }

    /// Begins a connection.
    pub fn connect(&mut self, to: SocketAddr) -> SocketId {
        let to = Endpoint::new(to.ip(), to.port());
        let id = self.stack.tcp_open(Family::of(to.address));
        assert_eq!(self.stack.tcp_connect(id, to), Err(Errno::EINPROGRESS));
        id
    }

    /// Waits for a connection; the error if there is none.
    pub fn connected(&mut self, id: SocketId) -> Result<(), Errno> {
        self.until("a connection", |guest| {
            if let Some(errno) = guest.stack.tcp_mut(id)?.take_error() {
                return Some(Err(errno));
            }
            (guest.stack.tcp(id)?.state() == net::tcp::State::Established).then_some(Ok(()))
        })
    }

    pub fn listen(&mut self, at: &str) -> SocketId {
        let at: SocketAddr = at.parse().unwrap();
        let to = Endpoint::new(at.ip(), at.port());
        let id = self.stack.tcp_open(Family::of(to.address));
        self.stack.tcp_bind(id, to).unwrap();
        self.stack.tcp_listen(id, 16).unwrap();
        id
    }

    pub fn accept(&mut self, listener: SocketId) -> SocketId {
        self.until("a connection to accept", |guest| guest.stack.tcp_accept(listener).ok())
    }

    /// Sends everything.
    pub fn send(&mut self, id: SocketId, mut data: &[u8]) {
        self.until("everything sent", |guest| {
            loop {
                if data.is_empty() {
                    return Some(());
                }
                match guest.stack.tcp_send(id, data, SendCall::default()) {
                    Ok(len) => data = &data[len..],
                    Err(Errno::EAGAIN) => return None,
                    Err(errno) => panic!("sending: {errno}"),
                }
            }
        });
    }

    /// What can be received now.
    pub fn receive_some(&mut self, id: SocketId) -> Result<Vec<u8>, Errno> {
        let mut buffer = vec![0; 256 << 10];
        let len = self.stack.tcp_receive(id, &mut buffer, ReceiveCall::default())?;
        buffer.truncate(len);
        Ok(buffer)
    }

    /// Receives until the end, or as much as `len`.
    pub fn receive(&mut self, id: SocketId, len: usize) -> Vec<u8> {
        let mut all = Vec::new();
        self.until("everything received", |guest| {
            match guest.receive_some(id) {
                Ok(part) if part.is_empty() => return Some(()),
                Ok(part) => all.extend_from_slice(&part),
                Err(Errno::EAGAIN) => {}
                Err(errno) => panic!("receiving: {errno}"),
            }
            (all.len() >= len).then_some(())
        });
        all
    }

    /// A frame as a hostile guest may make it.
    pub fn inject(&mut self, frame: &[u8]) {
        self.engine.input(Packet::copy_of(frame));
    }

    /// Frames that the translation has for the guest, not given to it.
    pub fn frames(&mut self) -> Vec<Packet> {
        let now = self.start.elapsed().as_nanos() as u64 + 1;
        self.engine.serve(now);
        std::iter::from_fn(|| self.engine.output()).collect()
    }
}

/// Bytes that show when they are in the wrong place.
pub fn pattern(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as u8
        })
        .collect()
}

/// What a pretended host was asked for.
#[derive(Default)]
pub struct Asked {
    pub streams: Vec<SocketAddr>,
    pub datagrams: Vec<SocketAddr>,
    pub echoes: Vec<IpAddr>,
    pub sent: Vec<(u64, Vec<u8>)>,
    pub arriving: HashMap<u64, VecDeque<Result<Vec<u8>, Errno>>>,
    pub ready: Vec<(u64, SocketReady)>,
    pub tokens: Vec<u64>,
}

/// A host that remembers what it was asked for: every TCP connection is made and takes everything, every datagram goes nowhere.
#[derive(Default)]
pub struct Pretended {
    pub asked: Arc<Mutex<Asked>>,
    /// Its own addresses, besides the loopback.
    pub own: Vec<IpAddr>,
    pub resolvers: Vec<SocketAddr>,
    pub no_ping: bool,
}

struct PretendedStream;

struct PretendedDatagram {
    asked: Arc<Mutex<Asked>>,
    token: u64,
    to: SocketAddr,
}

impl HostStream for PretendedStream {
    fn connected(&self) -> Result<(), Errno> {
        Ok(())
    }
    fn is_local(&self) -> bool {
        false
    }
    fn peek(&mut self, _skip: usize, _buffer: &mut [u8]) -> Result<usize, Errno> {
        Err(Errno::EAGAIN)
    }
    fn consume(&mut self, _len_bytes: usize) -> Result<(), Errno> {
        Ok(())
    }
    fn send(&mut self, data: &[u8]) -> Result<usize, Errno> {
        Ok(data.len())
    }
    fn unacknowledged(&self) -> Result<usize, Errno> {
        Ok(0)
    }
    fn shut_write(&mut self) -> Result<(), Errno> {
        Ok(())
    }
    fn reset(self: Box<Self>) {}
}

impl HostDatagram for PretendedDatagram {
    fn address(&self) -> SocketAddr {
        "192.0.2.1:9".parse().unwrap()
    }
    fn is_local(&self) -> bool {
        false
    }
    fn receive(&self, buffer: &mut [u8]) -> Result<(usize, SocketAddr), Errno> {
        let mut asked = self.asked.lock().unwrap();
        let next = asked.arriving.get_mut(&self.token).and_then(VecDeque::pop_front).ok_or(Errno::EAGAIN)?;
        let data = next?;
        buffer[..data.len()].copy_from_slice(&data);
        Ok((data.len(), self.to))
    }
    fn send(&self, data: &[u8], _to: Option<SocketAddr>) -> Result<(), Errno> {
        self.asked.lock().unwrap().sent.push((self.token, data.to_vec()));
        Ok(())
    }
}

impl Pretended {
    fn datagram(&self, to: SocketAddr, token: u64) -> Result<Box<dyn HostDatagram>, Errno> {
        self.asked.lock().unwrap().tokens.push(token);
        Ok(Box::new(PretendedDatagram { asked: self.asked.clone(), token, to }))
    }
}

impl HostNetwork for Pretended {
    fn connect(&self, to: SocketAddr, _token: u64) -> Result<Box<dyn HostStream>, Errno> {
        self.asked.lock().unwrap().streams.push(to);
        Ok(Box::new(PretendedStream))
    }
    fn listen(&self, _at: SocketAddr, _token: u64) -> Result<Box<dyn HostListener>, Errno> {
        Err(Errno::EACCES)
    }
    fn connect_datagram(&self, to: SocketAddr, token: u64) -> Result<Box<dyn HostDatagram>, Errno> {
        self.asked.lock().unwrap().datagrams.push(to);
        self.datagram(to, token)
    }
    fn bind_datagram(&self, at: SocketAddr, token: u64) -> Result<Box<dyn HostDatagram>, Errno> {
        self.datagram(at, token)
    }
    fn connect_echo(&self, to: IpAddr, token: u64) -> Result<Box<dyn HostDatagram>, Errno> {
        if self.no_ping {
            return Err(Errno::EACCES);
        }
        self.asked.lock().unwrap().echoes.push(to);
        self.datagram(SocketAddr::new(to, 0), token)
    }
    fn reach(&self, to: IpAddr) -> Reach {
        if self.own.contains(&to) || to.is_loopback() { Reach::Local } else { Reach::Remote }
    }
    fn resolvers(&self) -> Vec<SocketAddr> {
        self.resolvers.clone()
    }
    fn take_ready(&self, into: &mut Vec<(u64, SocketReady)>) {
        into.append(&mut self.asked.lock().unwrap().ready);
    }
    fn arm(&self) {}
    fn observe(&self, _observer: Arc<dyn Observer>) {}
}
