//! The cable between the guest's stack and the translation: two queues of packets, each with large segments and unfinished checksums, since nobody
//! in between needs them cut or summed.

use crate::core::Statistics;
use abi::Errno;
use net::link::{Capabilities, Link, Medium, TransmitError};
use net::packet::{Checksum, Packet};
use net::wire::MacAddress;
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Packets that one direction holds.
const LIMIT: usize = 256;
/// Largest packet that the guest may leave uncut.
const GSO_MAX_BYTES: usize = 65_000;

#[derive(Default)]
struct Queues {
    to_engine: VecDeque<Packet>,
    to_stack: VecDeque<Packet>,
    open: bool,
    /// The stack was told that there is no room.
    was_full: bool,
    /// The interface is gone.
    over: bool,
    statistics: Statistics,
}

struct Shared {
    queues: Mutex<Queues>,
    /// Called when the stack has put the first packet into the queue; must not sleep.
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Shared {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        // A poisoned lock only says that somebody oopsed; the queues are whole.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stack's end: an interface's link.
pub struct Port {
    shared: Arc<Shared>,
    mac: Mac,
    mtu: u16,
}

/// How the interface gets its hardware address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mac {
    /// This one.
    Given(MacAddress),
    /// `fe:fd` and its first IPv4 address; this one if it goes up without.
    FromAddress(MacAddress),
}

/// The translation's end.
#[derive(Clone)]
pub struct PortQueue {
    shared: Arc<Shared>,
}

/// Both ends. `wake` is called when packets begin to wait for the translation.
#[must_use]
pub fn port(mac: Mac, mtu: u16, wake: Box<dyn Fn() + Send + Sync>) -> (Port, PortQueue) {
    let shared = Arc::new(Shared { queues: Mutex::default(), wake });
    (Port { shared: Arc::clone(&shared), mac, mtu }, PortQueue { shared })
}

impl PortQueue {
    /// Takes all packets of the guest. `true` if the stack now has to be polled, because it found no room before.
    pub fn take(&self, into: &mut VecDeque<Packet>) -> bool {
        let mut queues = self.shared.queues();
        into.append(&mut queues.to_engine);
        std::mem::take(&mut queues.was_full)
    }

    /// Whether there are packets of the guest.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shared.queues().to_engine.is_empty()
    }

    /// How many packets the stack's side has room for.
    #[must_use]
    pub fn room(&self) -> usize {
        LIMIT.saturating_sub(self.shared.queues().to_stack.len())
    }

    /// Whether the interface is gone for good.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.shared.queues().over
    }

    /// Tells what became of the guest's traffic, for `ethtool -S`.
    pub fn tell(&self, statistics: Statistics) {
        self.shared.queues().statistics = statistics;
    }

    /// Gives the stack packets; it has to be polled after.
    pub fn give(&self, packets: &mut VecDeque<Packet>) {
        let mut queues = self.shared.queues();
        if queues.open {
            queues.to_stack.append(packets);
        } else {
            packets.clear();
        }
    }
}

impl Link for Port {
    fn capabilities(&self) -> Capabilities {
        Capabilities { medium: Medium::Ethernet, checksum: true, gso_max_bytes: GSO_MAX_BYTES, arp: true, multicast: true }
    }

    fn mac(&self) -> MacAddress {
        match self.mac {
            Mac::Given(mac) => mac,
            Mac::FromAddress(_) => MacAddress::ZERO,
        }
    }

    fn set_mac(&mut self, mac: MacAddress) -> Result<(), Errno> {
        self.mac = Mac::Given(mac);
        Ok(())
    }

    fn address_added(&mut self, address: Ipv4Addr) {
        if let Mac::FromAddress(_) = self.mac {
            let [a, b, c, d] = address.octets();
            self.mac = Mac::Given(MacAddress([0xfe, 0xfd, a, b, c, d]));
        }
    }

    fn default_mtu(&self) -> u32 {
        u32::from(self.mtu)
    }

    fn mtu_range(&self) -> (u32, u32) {
        (68, u32::from(crate::config::MTU_MAX))
    }

    fn open(&mut self) -> Result<(), Errno> {
        if let Mac::FromAddress(otherwise) = self.mac {
            self.mac = Mac::Given(otherwise);
        }
        self.shared.queues().open = true;
        Ok(())
    }

    fn close(&mut self) {
        let mut queues = self.shared.queues();
        queues.open = false;
        queues.to_stack.clear();
    }

    fn transmit(&mut self, mut packet: Packet) -> Result<(), TransmitError> {
        if packet.gso.is_none() && packet.checksum == Checksum::Verified {
            // Forwarded: whoever verified it was not us, and a packet socket says so of anything.
            packet.checksum = Checksum::InData;
        }
        let mut queues = self.shared.queues();
        if queues.to_engine.len() >= LIMIT {
            queues.was_full = true;
            return Err(TransmitError::Full(packet));
        }
        let is_first = queues.to_engine.is_empty();
        queues.to_engine.push_back(packet);
        drop(queues);
        if is_first {
            (self.shared.wake)();
        }
        Ok(())
    }

    fn receive(&mut self) -> Option<Packet> {
        self.shared.queues().to_stack.pop_front()
    }

    fn driver(&self) -> &'static str {
        "user"
    }

    fn driver_statistics(&self) -> Vec<(&'static str, u64)> {
        let statistics = self.shared.queues().statistics;
        vec![
            ("flows", statistics.flows),
            ("flows_denied", statistics.denied),
            ("flows_failed", statistics.failed),
            ("frames_ignored", statistics.ignored),
        ]
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.shared.queues().over = true;
        (self.shared.wake)();
    }
}
