//! `veth`: two devices joined by a cable, in one stack or in two (network namespaces).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use abi::Errno;

use super::{Capabilities, Link, Medium, TransmitError};
use crate::packet::{Checksum, Packet};
use crate::wire::MacAddress;

/// Frames that one direction holds.
const LIMIT: usize = 512;

#[derive(Default)]
struct End {
    arrived: VecDeque<Packet>,
    open: bool,
    alive: bool,
}

/// One end of the cable.
pub struct Veth {
    ends: Arc<Mutex<[End; 2]>>,
    side: usize,
    mac: MacAddress,
}

/// Both ends of a new cable.
#[must_use]
pub fn veth_pair(first: MacAddress, second: MacAddress) -> (Veth, Veth) {
    let end = || End { alive: true, ..End::default() };
    let ends = Arc::new(Mutex::new([end(), end()]));
    (Veth { ends: Arc::clone(&ends), side: 0, mac: first }, Veth { ends, side: 1, mac: second })
}

impl Veth {
    fn with<T>(&self, act: impl FnOnce(&mut End, &mut End) -> T) -> T {
        // A poisoned lock only says that another stack oopsed; the queues are whole.
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let [first, second] = &mut *ends;
        if self.side == 0 { act(first, second) } else { act(second, first) }
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        self.with(|own, _| *own = End::default());
    }
}

impl Link for Veth {
    fn capabilities(&self) -> Capabilities {
        Capabilities { medium: Medium::Ethernet, checksum: true, gso_max_bytes: 65_000, arp: true, multicast: true }
    }

    fn mac(&self) -> MacAddress {
        self.mac
    }

    fn set_mac(&mut self, mac: MacAddress) -> Result<(), Errno> {
        self.mac = mac;
        Ok(())
    }

    fn has_carrier(&self) -> bool {
        self.with(|own, peer| own.open && peer.open)
    }

    fn open(&mut self) -> Result<(), Errno> {
        self.with(|own, peer| {
            own.open = true;
            if peer.alive { Ok(()) } else { Err(Errno::ENOTCONN) }
        })
    }

    fn close(&mut self) {
        self.with(|own, _| {
            own.open = false;
            own.arrived.clear();
        });
    }

    fn transmit(&mut self, mut packet: Packet) -> Result<(), TransmitError> {
        if packet.checksum == Checksum::InData {
            packet.checksum = Checksum::Verified;
        }
        self.with(|_, peer| {
            if !peer.open {
                return Err(TransmitError::Failed(Errno::ENETDOWN));
            }
            if peer.arrived.len() >= LIMIT {
                return Err(TransmitError::Full(packet));
            }
            // Marks and priorities belong to the namespace that set them.
            (packet.mark, packet.priority) = (0, 0);
            peer.arrived.push_back(packet);
            Ok(())
        })
    }

    fn receive(&mut self) -> Option<Packet> {
        self.with(|own, _| own.arrived.pop_front())
    }

    fn driver(&self) -> &'static str {
        "veth"
    }

    fn twin(&self) -> Option<usize> {
        Some(Arc::as_ptr(&self.ends) as usize)
    }
}
