//! Network interfaces: what `eth` and `vec` options say ([`eth`] with one module per transport in
//! [`transport`], [`vec`]), hardware addresses ([`mac`]), and the interface
//! itself ([`Device`]), which carries frames between the machine's stack and a link of the host.
//!
//! What it is not: the stack (`net`), opening sockets and devices of the host (`host`, which `kernel` joins with this), or configuration at run
//! time.
//!
//! Always true: nothing here waits, since the stack calls it with its lock held.

pub mod eth;
pub mod mac;
pub mod transport;
pub mod vec;

use abi::Errno;
use mac::MacChoice;
use net::MacAddress;
use net::link::{Capabilities, Link, Medium, TransmitError};
use net::packet::{Checksum, Gso, Packet};
use platform::{FrameChecksum, FrameSegments, HostFrame, HostLink};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Random bytes for hardware addresses.
pub type Entropy = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// How an interface differs from the next.
pub struct Character {
    /// The driver's name for `ethtool -i`.
    pub driver: &'static str,
    /// The MTU that it starts with.
    pub mtu: u32,
    /// Greatest MTU.
    pub mtu_max: u32,
    /// Its hardware address, or how it gets one.
    pub mac: MacChoice,
}

/// An interface over a link of the host.
pub struct Device {
    link: Arc<dyn HostLink>,
    character: Character,
    mac: MacAddress,
    entropy: Entropy,
}

impl Device {
    /// An interface, down.
    #[must_use]
    pub fn new(link: Arc<dyn HostLink>, character: Character, entropy: Entropy) -> Device {
        let mac = match character.mac {
            MacChoice::Given(mac) => mac,
            MacChoice::FromAddress => MacAddress::ZERO,
        };
        Device { link, character, mac, entropy }
    }
}

fn to_host(packet: Packet) -> HostFrame {
    let checksum = match (packet.checksum, packet.partial_checksum()) {
        (_, Some((start, offset))) => match (u16::try_from(start), u16::try_from(offset)) {
            (Ok(start), Ok(offset)) => FrameChecksum::Partial { start, offset },
            // Headers of 64 KiB are none of ours; the packet will be dropped for its checksum.
            _ => FrameChecksum::InData,
        },
        (Checksum::Verified, None) => FrameChecksum::Verified,
        _ => FrameChecksum::InData,
    };
    let segments = packet.gso.map(|gso| FrameSegments { v6: gso.v6, size: gso.size });
    let (buffer, start) = packet.into_parts();
    HostFrame { buffer, start, checksum, segments }
}

/// A frame that arrived; one that promises a checksum outside of itself has none.
fn from_host(frame: HostFrame) -> Packet {
    let HostFrame { buffer, start, checksum, segments } = frame;
    let mut packet = Packet::from_vec(buffer, start);
    match checksum {
        FrameChecksum::InData => {}
        FrameChecksum::Verified => packet.checksum = Checksum::Verified,
        FrameChecksum::Partial { start, offset } => {
            packet.set_partial_checksum(usize::from(start), usize::from(offset));
        }
    }
    packet.gso = segments.map(|segments| Gso { v6: segments.v6, size: segments.size });
    packet
}

impl Link for Device {
    fn capabilities(&self) -> Capabilities {
        let offload = self.link.offload();
        Capabilities {
            medium: Medium::Ethernet,
            checksum: offload.checksum,
            gso_max_bytes: offload.segment_bytes,
            arp: true,
            multicast: true,
        }
    }

    fn mac(&self) -> MacAddress {
        self.mac
    }

    fn set_mac(&mut self, mac: MacAddress) -> Result<(), Errno> {
        self.mac = mac;
        Ok(())
    }

    fn address_added(&mut self, address: Ipv4Addr) {
        if self.mac == MacAddress::ZERO {
            self.mac = mac::from_ipv4(address);
        }
    }

    fn default_mtu(&self) -> u32 {
        self.character.mtu
    }

    fn mtu_range(&self) -> (u32, u32) {
        (68, self.character.mtu_max)
    }

    fn has_carrier(&self) -> bool {
        self.link.is_connected()
    }

    fn open(&mut self) -> Result<(), Errno> {
        self.link.open()?;
        if self.mac == MacAddress::ZERO {
            self.mac = mac::random(&*self.entropy);
        }
        Ok(())
    }

    fn close(&mut self) {
        self.link.close();
    }

    fn transmit(&mut self, packet: Packet) -> Result<(), TransmitError> {
        self.link.send(to_host(packet)).map_err(|frame| TransmitError::Full(from_host(frame)))
    }

    fn receive(&mut self) -> Option<Packet> {
        self.link.receive().map(from_host)
    }

    fn driver(&self) -> &'static str {
        self.character.driver
    }

    fn driver_statistics(&self) -> Vec<(&'static str, u64)> {
        self.link.statistics()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.link.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// A link with room for one frame, which comes back.
    #[derive(Default)]
    struct Mirror(Mutex<Option<HostFrame>>);

    impl HostLink for Mirror {
        fn open(&self) -> Result<(), Errno> {
            Ok(())
        }
        fn close(&self) {}
        fn send(&self, frame: HostFrame) -> Result<(), HostFrame> {
            let mut slot = self.0.lock().unwrap();
            match &*slot {
                Some(_) => Err(frame),
                None => {
                    *slot = Some(frame);
                    Ok(())
                }
            }
        }
        fn receive(&self) -> Option<HostFrame> {
            self.0.lock().unwrap().take()
        }
        fn observe(&self, _: Arc<dyn sync::Observer>) {}
    }

    fn device(mac: MacChoice) -> Device {
        let character = Character { driver: "uml-netdev", mtu: 1500, mtu_max: 1500, mac };
        Device::new(Arc::new(Mirror::default()), character, Arc::new(|bytes| bytes.fill(0xff)))
    }

    #[test]
    fn frames_pass_with_what_is_known_of_their_checksums_and_come_back_when_there_is_no_room() {
        let mut device = device(MacChoice::FromAddress);
        let mut packet = Packet::copy_of(&[7; 60]);
        assert!(packet.set_partial_checksum(34, 16));
        packet.gso = Some(Gso { v6: false, size: 1448 });
        device.transmit(packet.clone()).unwrap();
        let Err(TransmitError::Full(back)) = device.transmit(packet.clone()) else { panic!("there was room") };
        for came in [back, device.receive().unwrap()] {
            assert_eq!((came.bytes(), came.partial_checksum(), came.gso), (packet.bytes(), Some((34, 16)), packet.gso));
        }
        assert!(device.receive().is_none());
    }

    #[test]
    fn a_frame_that_promises_a_checksum_outside_of_itself_has_none() {
        let frame = HostFrame { checksum: FrameChecksum::Partial { start: 50, offset: 16 }, ..HostFrame::copy_of(&[0; 60]) };
        assert_eq!(from_host(frame).partial_checksum(), None);
        let frame = HostFrame { start: 1000, ..HostFrame::copy_of(&[0; 60]) };
        assert!(from_host(frame).is_empty());
    }

    #[test]
    fn the_hardware_address_comes_from_the_first_address_or_is_random_when_there_is_none_at_the_opening() {
        let mut first = device(MacChoice::FromAddress);
        assert_eq!(first.mac(), MacAddress::ZERO);
        first.address_added(Ipv4Addr::new(192, 168, 0, 253));
        first.address_added(Ipv4Addr::new(10, 0, 0, 1));
        first.open().unwrap();
        assert_eq!(first.mac().0, [0xfe, 0xfd, 192, 168, 0, 253]);
        let mut second = device(MacChoice::FromAddress);
        second.open().unwrap();
        second.address_added(Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(second.mac().0, [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff]);
        let given = MacAddress([2, 0, 0, 0, 0, 5]);
        let mut third = device(MacChoice::Given(given));
        third.address_added(Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(third.mac(), given);
    }
}
