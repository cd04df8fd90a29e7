//! A world in one process: stacks joined by cables that lose, reorder, duplicate, delay and damage frames by a seed, and a clock that jumps to
//! the next thing that happens.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use net::config::Config;
use net::link::{Capabilities, Link, TransmitError};
use net::{InterfaceId, MacAddress, Packet, Prefix, Stack};

pub const MS: u64 = 1_000_000;
pub const SEC: u64 = 1_000_000_000;

/// How a cable misbehaves; probabilities in thousandths.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub loss: u32,
    pub duplicate: u32,
    pub reorder: u32,
    pub corrupt: u32,
    pub delay_ns: u64,
    pub jitter_ns: u64,
    /// Bits per second; 0 is without limit.
    pub rate: u64,
    /// Bytes that wait for the rate before frames are dropped.
    pub buffer: u64,
    /// Frames are believed to be whole: damage gets past every checksum.
    pub believed: bool,
}

/// A small generator of our own, so that runs repeat (splitmix64).
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }
    pub fn chance(&mut self, thousandths: u32) -> bool {
        self.below(1000) < u64::from(thousandths)
    }
}

pub struct Wire {
    arriving: [BTreeMap<(u64, u64), Packet>; 2],
    busy_until: [u64; 2],
    count: u64,
    pub now: u64,
    pub rng: Rng,
    pub faults: Faults,
    pub cut: bool,
    pub carried: u64,
}

pub type SharedWire = Arc<Mutex<Wire>>;

pub struct Cable {
    pub wire: SharedWire,
    side: usize,
    mac: MacAddress,
    capabilities: Capabilities,
    mtu: u32,
}

pub fn wire(seed: u64, faults: Faults) -> SharedWire {
    Arc::new(Mutex::new(Wire {
        arriving: Default::default(),
        busy_until: [0; 2],
        count: 0,
        now: 0,
        rng: Rng(seed),
        faults,
        cut: false,
        carried: 0,
    }))
}

impl Link for Cable {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }
    fn mac(&self) -> MacAddress {
        self.mac
    }
    fn default_mtu(&self) -> u32 {
        self.mtu
    }
    fn transmit(&mut self, packet: Packet) -> Result<(), TransmitError> {
        let mut wire = self.wire.lock().unwrap();
        let wire = &mut *wire;
        wire.carried += 1;
        let faults = wire.faults;
        if wire.cut || wire.rng.chance(faults.loss) {
            return Ok(());
        }
        let mut at = wire.now + faults.delay_ns + wire.rng.below(faults.jitter_ns);
        if faults.rate > 0 {
            let start = wire.busy_until[self.side].max(wire.now);
            let waiting_bytes = (start - wire.now) * faults.rate / 8 / SEC;
            if waiting_bytes > faults.buffer {
                return Ok(());
            }
            let takes = packet.len() as u64 * 8 * SEC / faults.rate;
            wire.busy_until[self.side] = start + takes;
            at = start + takes + faults.delay_ns + wire.rng.below(faults.jitter_ns);
        }
        if wire.rng.chance(faults.reorder) {
            at += wire.rng.below(20 * MS);
        }
        let mut packet = packet;
        if wire.rng.chance(faults.corrupt) && !packet.is_empty() {
            packet.finish_checksum();
            let at = wire.rng.below(packet.len() as u64) as usize;
            packet.bytes_mut()[at] ^= 1 << wire.rng.below(8);
            if faults.believed {
                packet.checksum = net::packet::Checksum::Verified;
            }
        }
        let other = 1 - self.side;
        let copies = if wire.rng.chance(faults.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            wire.count += 1;
            wire.arriving[other].insert((at, wire.count), packet.clone());
        }
        Ok(())
    }
    fn receive(&mut self) -> Option<Packet> {
        let mut wire = self.wire.lock().unwrap();
        let now = wire.now;
        let entry = wire.arriving[self.side].first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }
    fn driver(&self) -> &'static str {
        "cable"
    }
}

/// Stacks and cables.
#[derive(Default)]
pub struct World {
    pub now: u64,
    pub stacks: Vec<Stack>,
    pub wires: Vec<SharedWire>,
    macs: u8,
    pub ready: BTreeMap<(usize, net::SocketId), net::Ready>,
}

impl World {
    pub fn new() -> World {
        World { now: SEC, ..World::default() }
    }

    pub fn host(&mut self) -> usize {
        self.host_with(Config::default())
    }

    pub fn host_with(&mut self, config: Config) -> usize {
        let n = self.stacks.len() as u64;
        let mut stack = Stack::new(config, [n + 1, 77]);
        stack.set_now(self.now);
        let lo = stack.interfaces.by_name("lo").unwrap().id;
        stack.set_up(lo, true).unwrap();
        self.stacks.push(stack);
        self.stacks.len() - 1
    }

    /// Joins two hosts by a cable; each end gets these addresses. Answers the two interfaces.
    pub fn join(&mut self, a: (usize, &[&str]), b: (usize, &[&str]), seed: u64, faults: Faults) -> (InterfaceId, InterfaceId) {
        self.join_with(a, b, seed, faults, Capabilities::ETHERNET, 1500)
    }

    pub fn join_with(
        &mut self,
        a: (usize, &[&str]),
        b: (usize, &[&str]),
        seed: u64,
        faults: Faults,
        capabilities: Capabilities,
        mtu: u32,
    ) -> (InterfaceId, InterfaceId) {
        let wire = wire(seed, faults);
        wire.lock().unwrap().now = self.now;
        self.wires.push(wire.clone());
        let mut ids = Vec::new();
        for (side, (host, addresses)) in [a, b].into_iter().enumerate() {
            self.macs += 1;
            let mac = MacAddress([2, 0, 0, 0, 0, self.macs]);
            let cable = Cable { wire: wire.clone(), side, mac, capabilities, mtu };
            let prefixes: Vec<Prefix> = addresses.iter().map(|text| text.parse().unwrap()).collect();
            ids.push(self.stacks[host].attach("eth%d", Box::new(cable), &prefixes).unwrap());
        }
        (ids[0], ids[1])
    }

    /// Everything that happens now; answers when the next thing does.
    pub fn step(&mut self) -> Option<u64> {
        for wire in &self.wires {
            wire.lock().unwrap().now = self.now;
        }
        let mut next: Option<u64> = None;
        for stack in &mut self.stacks {
            let wanted = stack.poll(self.now);
            next = [next, wanted].into_iter().flatten().min();
        }
        for wire in &self.wires {
            let wire = wire.lock().unwrap();
            let due = wire.arriving.iter().filter_map(|side| side.first_key_value().map(|((at, _), _)| *at)).min();
            next = [next, due].into_iter().flatten().min();
        }
        next
    }

    /// Takes what became ready; it is kept in `ready` for tests to look at.
    fn collect_ready(&mut self) -> bool {
        let mut any = false;
        for (host, stack) in self.stacks.iter_mut().enumerate() {
            for (id, ready) in stack.take_ready() {
                any = true;
                *self.ready.entry((host, id)).or_default() |= ready;
            }
        }
        any
    }

    /// Runs for `ns`, or until nothing more will happen.
    pub fn run(&mut self, ns: u64) {
        self.run_until(ns, |_| false);
    }

    /// Runs for at most `ns`; answers whether `done` became true.
    pub fn run_until(&mut self, ns: u64, mut done: impl FnMut(&mut World) -> bool) -> bool {
        let end = self.now + ns;
        let mut idle_steps = 0;
        loop {
            self.step();
            if done(self) {
                return true;
            }
            // What the caller did, and what it led to, happens at this time still.
            let mut next = self.step();
            if self.collect_ready() {
                next = Some(self.now);
            }
            match next {
                Some(at) if at <= self.now => {
                    idle_steps += 1;
                    assert!(idle_steps < 100_000, "the world does not move on from {}", self.now);
                }
                Some(at) if at <= end => {
                    self.now = at;
                    idle_steps = 0;
                }
                _ => {
                    self.now = end;
                    self.step();
                    return done(self);
                }
            }
        }
    }
}

/// `UMLAUT_SCALE`: `small` runs at scale 1, `full` at the large scale.
pub fn scale(small: u64, full: u64) -> u64 {
    match std::env::var("UMLAUT_SCALE").as_deref() {
        Ok("full") => full,
        Ok(n) => small * n.parse::<u64>().unwrap_or(1),
        Err(_) => small,
    }
}

impl Wire {
    /// Loses the last frame that is on its way.
    pub fn drop_one(&mut self) {
        for side in &mut self.arriving {
            if side.pop_last().is_some() {
                return;
            }
        }
    }
}
