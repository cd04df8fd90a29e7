//! Who is next to us: the neighbour table of ARP (RFC 826, RFC 1122 2.3.2) and neighbour discovery (RFC 4861 7.3), with Linux's states
//! (`NUD_*`) and timers.
//!
//! What it is not: packets. The table decides ([`Output`], [`Due`]); `arp` and `nd` build what is sent.
//!
//! Always true: at most `max_neighbours` entries that are not permanent; at most [`QUEUE_LEN`] packets wait for one neighbour.

use core::net::IpAddr;
use std::collections::{BTreeMap, VecDeque};

use crate::interface::InterfaceId;
use crate::packet::Packet;
use crate::timers::Timers;
use crate::wire::MacAddress;

/// Packets that wait for one neighbour (`unres_qlen` counts 101).
pub const QUEUE_LEN: usize = 101;
const SECOND: u64 = 1_000_000_000;
/// `delay_first_probe_time`
const DELAY_NS: u64 = 5 * SECOND;
/// `ucast_solicit`, `mcast_solicit`
const PROBES: u32 = 3;
/// `gc_stale_time`
const STALE_NS: u64 = 60 * SECOND;
/// `locktime`: an entry younger than this is not overwritten by a rival answer.
const LOCK_NS: u64 = SECOND;

/// Reachability of a neighbour, `NUD_*` of rtnetlink(7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Asked, not answered yet.
    Incomplete,
    /// Confirmed of late.
    Reachable,
    /// Known, unconfirmed; used, and then confirmed.
    Stale,
    /// Used while stale; a while for upper layers to confirm it.
    Delay,
    /// Being asked by unicast.
    Probe,
    /// Did not answer.
    Failed,
    /// Set by an administrator.
    Permanent,
}

/// A neighbour on an interface.
pub type Key = (InterfaceId, IpAddr);

/// One neighbour.
#[derive(Clone, Debug)]
pub struct Neighbour {
    /// Reachability.
    pub state: State,
    /// Its hardware address, when known.
    pub mac: MacAddress,
    /// It is a router (IPv6).
    pub router: bool,
    /// When it was last confirmed.
    pub confirmed_ns: u64,
    /// When it was last used.
    pub used_ns: u64,
    /// When the address last changed.
    pub updated_ns: u64,
    probes: u32,
    queue: VecDeque<Packet>,
}

impl Neighbour {
    fn is_valid(&self) -> bool {
        !matches!(self.state, State::Incomplete | State::Failed)
    }
}

/// What to do with a packet for a neighbour.
#[derive(Debug)]
pub enum Output {
    /// Send it to this address.
    Send(Packet, MacAddress),
    /// It waits. With `solicit`, ask the network.
    Queued {
        /// A new question is to be sent.
        solicit: bool,
    },
    /// The table is full.
    Dropped,
}

/// What a timer wants.
#[derive(Debug)]
pub enum Due {
    /// Ask: the neighbour itself when the address is known, else the network.
    Solicit(Key, Option<MacAddress>),
    /// Nobody answered; these packets have no way.
    Unreachable(Key, VecDeque<Packet>),
}

/// How sure an answer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Update {
    /// In answer to a question of ours: it proves reachability.
    pub solicited: bool,
    /// May replace another address.
    pub replace: bool,
    /// May make a new entry.
    pub create: bool,
    /// What it says about being a router.
    pub router: Option<bool>,
}

/// The table.
#[derive(Default)]
pub struct Neighbours {
    table: BTreeMap<Key, Neighbour>,
    timers: Timers<Key>,
    /// Entries that are not permanent, at most.
    pub max: usize,
    /// Reachable time and time between questions by interface, nanoseconds, where not 30 s and 1 s.
    pub periods: BTreeMap<InterfaceId, (u64, u64)>,
}

impl Neighbours {
    fn reachable_ns(&self, id: InterfaceId) -> u64 {
        self.periods.get(&id).map_or(30 * SECOND, |(reachable, _)| *reachable)
    }

    fn retransmit_ns(&self, id: InterfaceId) -> u64 {
        self.periods.get(&id).map_or(SECOND, |(_, retransmit)| *retransmit)
    }

    /// Decides about a packet for `key`.
    pub fn output(&mut self, key: Key, packet: Packet, now_ns: u64) -> Output {
        if !self.table.contains_key(&key) && !self.make_room(now_ns) {
            return Output::Dropped;
        }
        let retransmit_ns = self.retransmit_ns(key.0);
        let entry = self.table.entry(key).or_insert_with(|| Neighbour::new(State::Failed, MacAddress::ZERO, now_ns));
        entry.used_ns = now_ns;
        match entry.state {
            State::Reachable | State::Probe | State::Delay | State::Permanent => Output::Send(packet, entry.mac),
            State::Stale => {
                entry.state = State::Delay;
                self.timers.set(key, Some(now_ns + DELAY_NS));
                Output::Send(packet, entry.mac)
            }
            State::Incomplete => {
                entry.enqueue(packet);
                Output::Queued { solicit: false }
            }
            State::Failed => {
                (entry.state, entry.probes) = (State::Incomplete, 1);
                entry.enqueue(packet);
                self.timers.set(key, Some(now_ns + retransmit_ns));
                Output::Queued { solicit: true }
            }
        }
    }

    /// Makes room for one more entry: forgets the least recently used one that is not needed.
    fn make_room(&mut self, _now_ns: u64) -> bool {
        if self.table.len() < self.max {
            return true;
        }
        let idle = |(_, entry): &(&Key, &Neighbour)| matches!(entry.state, State::Stale | State::Failed | State::Reachable);
        let oldest = self.table.iter().filter(idle).min_by_key(|(_, entry)| entry.used_ns).map(|(key, _)| *key);
        match oldest {
            Some(key) => {
                self.table.remove(&key);
                self.timers.set(key, None);
                true
            }
            None => false,
        }
    }

    /// The neighbour told its address. Answers the packets that waited for it.
    pub fn learn(&mut self, key: Key, mac: MacAddress, update: Update, now_ns: u64) -> VecDeque<Packet> {
        let known = self.table.contains_key(&key);
        if !known && (!update.create || !self.make_room(now_ns)) {
            return VecDeque::new();
        }
        let reachable_ns = self.reachable_ns(key.0);
        let entry = self.table.entry(key).or_insert_with(|| Neighbour::new(State::Incomplete, MacAddress::ZERO, now_ns));
        if let Some(router) = update.router {
            entry.router = router;
        }
        if entry.state == State::Permanent {
            return VecDeque::new();
        }
        let differs = entry.is_valid() && entry.mac != mac;
        if differs && !update.replace {
            // RFC 4861 7.2.5: without the override flag a differing address only makes a reachable entry stale.
            if entry.state == State::Reachable {
                entry.state = State::Stale;
                self.timers.set(key, Some(now_ns + STALE_NS));
            }
            return VecDeque::new();
        }
        if differs && now_ns < entry.updated_ns + LOCK_NS && known && entry.mac.is_unicast() && key.1.is_ipv4() {
            return VecDeque::new();
        }
        let changed = entry.mac != mac || !entry.is_valid();
        if changed {
            (entry.mac, entry.updated_ns) = (mac, now_ns);
        }
        if update.solicited {
            (entry.state, entry.confirmed_ns) = (State::Reachable, now_ns);
            self.timers.set(key, Some(now_ns + reachable_ns));
        } else if changed {
            entry.state = State::Stale;
            self.timers.set(key, Some(now_ns + STALE_NS));
        }
        entry.probes = 0;
        core::mem::take(&mut entry.queue)
    }

    /// An upper layer heard from the neighbour (`MSG_CONFIRM`, an acknowledgement that advances).
    pub fn confirm(&mut self, key: Key, now_ns: u64) {
        let reachable_ns = self.reachable_ns(key.0);
        if let Some(entry) = self.table.get_mut(&key)
            && entry.is_valid()
            && entry.state != State::Permanent
            // Every acknowledgement confirms; once a second is enough.
            && (entry.state != State::Reachable || now_ns >= entry.confirmed_ns + SECOND)
        {
            (entry.state, entry.confirmed_ns, entry.probes) = (State::Reachable, now_ns, 0);
            self.timers.set(key, Some(now_ns + reachable_ns));
        }
    }

    /// Sets an entry for good (`ip neigh add`), or in a given state.
    pub fn set(&mut self, key: Key, mac: MacAddress, state: State, now_ns: u64) -> VecDeque<Packet> {
        let entry = self.table.entry(key).or_insert_with(|| Neighbour::new(state, mac, now_ns));
        (entry.state, entry.mac, entry.updated_ns) = (state, mac, now_ns);
        let queue = core::mem::take(&mut entry.queue);
        self.timers.set(key, (state != State::Permanent).then_some(now_ns + STALE_NS));
        queue
    }

    /// Forgets an entry; answers whether it was there.
    pub fn remove(&mut self, key: Key) -> bool {
        self.timers.set(key, None);
        self.table.remove(&key).is_some()
    }

    /// Forgets what an interface knew.
    pub fn remove_interface(&mut self, id: InterfaceId) {
        let keys: Vec<Key> = self.table.keys().filter(|key| key.0 == id).copied().collect();
        keys.into_iter().for_each(|key| {
            self.remove(key);
        });
    }

    /// One neighbour.
    #[must_use]
    pub fn get(&self, key: Key) -> Option<&Neighbour> {
        self.table.get(&key)
    }

    /// All, for `ip neigh` and `/proc/net/arp`.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Neighbour)> {
        self.table.iter()
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.timers.next()
    }

    /// What is due now.
    pub fn poll(&mut self, now_ns: u64) -> Vec<Due> {
        let mut due = Vec::new();
        for key in self.timers.take_due(now_ns) {
            let retransmit_ns = self.retransmit_ns(key.0);
            let Some(entry) = self.table.get_mut(&key) else { continue };
            match entry.state {
                State::Reachable => {
                    entry.state = State::Stale;
                    // Used since it was confirmed: go on and confirm it again.
                    self.timers.set(key, Some(now_ns + STALE_NS));
                }
                State::Delay => {
                    (entry.state, entry.probes) = (State::Probe, 1);
                    due.push(Due::Solicit(key, Some(entry.mac)));
                    self.timers.set(key, Some(now_ns + retransmit_ns));
                }
                State::Probe | State::Incomplete if entry.probes < PROBES => {
                    entry.probes += 1;
                    let mac = (entry.state == State::Probe).then_some(entry.mac);
                    due.push(Due::Solicit(key, mac));
                    self.timers.set(key, Some(now_ns + retransmit_ns));
                }
                State::Probe | State::Incomplete => {
                    entry.state = State::Failed;
                    due.push(Due::Unreachable(key, core::mem::take(&mut entry.queue)));
                    self.timers.set(key, Some(now_ns + STALE_NS));
                }
                State::Stale | State::Failed => {
                    self.table.remove(&key);
                }
                State::Permanent => {}
            }
        }
        due
    }
}

impl Neighbour {
    fn new(state: State, mac: MacAddress, now_ns: u64) -> Neighbour {
        Neighbour {
            state,
            mac,
            router: false,
            confirmed_ns: now_ns,
            used_ns: now_ns,
            updated_ns: now_ns,
            probes: 0,
            queue: VecDeque::new(),
        }
    }

    fn enqueue(&mut self, packet: Packet) {
        if self.queue.len() >= QUEUE_LEN {
            self.queue.pop_front();
        }
        self.queue.push_back(packet);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = (InterfaceId(1), IpAddr::V4(core::net::Ipv4Addr::new(10, 0, 0, 2)));
    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);
    const ANSWER: Update = Update { solicited: true, replace: true, create: false, router: None };

    fn table() -> Neighbours {
        Neighbours { max: 4, ..Neighbours::default() }
    }

    #[test]
    fn three_questions_without_an_answer_make_a_neighbour_unreachable() {
        let mut table = table();
        assert!(matches!(table.output(KEY, Packet::zeroed(1), 0), Output::Queued { solicit: true }));
        assert!(matches!(table.output(KEY, Packet::zeroed(1), 0), Output::Queued { solicit: false }));
        assert!(matches!(table.poll(SECOND)[..], [Due::Solicit(KEY, None)]));
        assert!(matches!(table.poll(2 * SECOND)[..], [Due::Solicit(KEY, None)]));
        assert!(matches!(&table.poll(3 * SECOND)[..], [Due::Unreachable(KEY, packets)] if packets.len() == 2));
    }

    #[test]
    fn a_reachable_neighbour_grows_stale_and_is_probed_after_use() {
        let mut table = table();
        table.output(KEY, Packet::zeroed(1), 0);
        assert_eq!(table.learn(KEY, MAC, ANSWER, 1).len(), 1);
        assert_eq!(table.get(KEY).map(|n| n.state), Some(State::Reachable));
        assert!(table.poll(31 * SECOND).is_empty());
        assert_eq!(table.get(KEY).map(|n| n.state), Some(State::Stale));
        assert!(matches!(table.output(KEY, Packet::zeroed(1), 32 * SECOND), Output::Send(_, MAC)));
        assert!(matches!(table.poll(38 * SECOND)[..], [Due::Solicit(KEY, Some(MAC))]));
        table.confirm(KEY, 39 * SECOND);
        assert_eq!(table.get(KEY).map(|n| n.state), Some(State::Reachable));
    }

    #[test]
    fn the_table_stays_bounded_and_an_unasked_answer_makes_no_entry() {
        let mut table = table();
        assert!(table.learn(KEY, MAC, ANSWER, 0).is_empty());
        assert!(table.get(KEY).is_none());
        for n in 0..100u8 {
            table.learn((InterfaceId(1), IpAddr::from([10, 0, 0, n])), MAC, Update { create: true, ..ANSWER }, u64::from(n));
        }
        assert_eq!(table.iter().count(), 4);
    }
}
