//! `dummy`: a device that swallows what it is given, for addresses that need a home.

use abi::Errno;

use super::{Capabilities, Link, Medium, TransmitError};
use crate::packet::Packet;
use crate::wire::MacAddress;

/// The dummy device.
pub struct Dummy {
    mac: MacAddress,
}

impl Dummy {
    /// A dummy with this address.
    #[must_use]
    pub fn new(mac: MacAddress) -> Dummy {
        Dummy { mac }
    }
}

impl Link for Dummy {
    fn capabilities(&self) -> Capabilities {
        Capabilities { medium: Medium::Ethernet, checksum: true, gso_max_bytes: 65_000, arp: false, multicast: true }
    }

    fn mac(&self) -> MacAddress {
        self.mac
    }

    fn set_mac(&mut self, mac: MacAddress) -> Result<(), Errno> {
        self.mac = mac;
        Ok(())
    }

    fn transmit(&mut self, _packet: Packet) -> Result<(), TransmitError> {
        Ok(())
    }

    fn receive(&mut self) -> Option<Packet> {
        None
    }

    fn driver(&self) -> &'static str {
        "dummy"
    }
}
