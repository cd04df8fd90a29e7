//! `lo`: what is sent is received.
//!
//! Packets pass by ownership: no copy, no checksum, no segmentation.

use std::collections::VecDeque;

use super::{Capabilities, Link, Medium, TransmitError};
use crate::packet::{Checksum, Packet};
use crate::wire::MacAddress;

/// Bytes that may be on their way; beyond, the sender's interface queue fills.
const LIMIT_BYTES: usize = 4 << 20;

/// The loopback device.
#[derive(Default)]
pub struct Loopback {
    queue: VecDeque<Packet>,
    bytes: usize,
}

impl Link for Loopback {
    fn capabilities(&self) -> Capabilities {
        Capabilities { medium: Medium::Loopback, checksum: true, gso_max_bytes: 65_000, arp: false, multicast: false }
    }

    fn mac(&self) -> MacAddress {
        MacAddress::ZERO
    }

    fn default_mtu(&self) -> u32 {
        65_536
    }

    fn mtu_range(&self) -> (u32, u32) {
        (68, u32::MAX)
    }

    fn close(&mut self) {
        *self = Loopback::default();
    }

    fn transmit(&mut self, mut packet: Packet) -> Result<(), TransmitError> {
        if self.bytes + packet.cost() > LIMIT_BYTES {
            return Err(TransmitError::Full(packet));
        }
        // Partial stays partial, so that a packet forwarded out of another device can still be finished.
        if packet.checksum == Checksum::InData {
            packet.checksum = Checksum::Verified;
        }
        self.bytes += packet.cost();
        self.queue.push_back(packet);
        Ok(())
    }

    fn receive(&mut self) -> Option<Packet> {
        let packet = self.queue.pop_front()?;
        self.bytes = self.bytes.saturating_sub(packet.cost());
        Some(packet)
    }

    fn driver(&self) -> &'static str {
        "loopback"
    }
}
