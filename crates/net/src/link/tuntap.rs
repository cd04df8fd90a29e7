//! `tun` and `tap` inside the machine: a device whose other side is a file that a program reads and writes (Linux `tuntap.rst`).
//!
//! The file, its ioctls and its optional headers are the file layer's; it moves frames through [`TunTapQueue`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use abi::Errno;

use super::{Capabilities, Link, Medium, TransmitError};
use crate::packet::Packet;
use crate::wire::MacAddress;

/// Frames that wait for the reader (`txqueuelen` of a tap) or for the stack.
const LIMIT: usize = 500;

#[derive(Default)]
struct Shared {
    to_program: VecDeque<Packet>,
    to_stack: VecDeque<Packet>,
    up: bool,
    attached: bool,
    offload: bool,
}

fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The device side.
pub struct TunTap {
    shared: Arc<Mutex<Shared>>,
    medium: Medium,
    mac: MacAddress,
}

/// The program's side: what its reads and writes reach.
#[derive(Clone)]
pub struct TunTapQueue {
    shared: Arc<Mutex<Shared>>,
}

impl TunTap {
    /// A `tun` (IP packets), and its program side.
    #[must_use]
    pub fn tun() -> (TunTap, TunTapQueue) {
        TunTap::new(Medium::Ip, MacAddress::ZERO)
    }

    /// A `tap` (Ethernet frames), and its program side.
    #[must_use]
    pub fn tap(mac: MacAddress) -> (TunTap, TunTapQueue) {
        TunTap::new(Medium::Ethernet, mac)
    }

    fn new(medium: Medium, mac: MacAddress) -> (TunTap, TunTapQueue) {
        let shared = Arc::new(Mutex::new(Shared { attached: true, ..Shared::default() }));
        (TunTap { shared: Arc::clone(&shared), medium, mac }, TunTapQueue { shared })
    }
}

impl TunTapQueue {
    /// The next frame for the program, starting at its link header (none for tun); `None` would block.
    pub fn read(&self) -> Option<Packet> {
        lock(&self.shared).to_program.pop_front()
    }

    /// Whether [`TunTapQueue::read`] has something.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        !lock(&self.shared).to_program.is_empty()
    }

    /// A frame from the program. EIO while the interface is down, EAGAIN when the stack is behind.
    pub fn write(&self, packet: Packet) -> Result<(), Errno> {
        let mut shared = lock(&self.shared);
        if !shared.up {
            return Err(Errno::EIO);
        }
        if shared.to_stack.len() >= LIMIT {
            return Err(Errno::EAGAIN);
        }
        shared.to_stack.push_back(packet);
        Ok(())
    }

    /// `TUNSETOFFLOAD`: the program takes partial checksums and segmentable packets (it asked for a virtio header).
    pub fn set_offload(&self, on: bool) {
        lock(&self.shared).offload = on;
    }

    /// The last file is closed: a persistent device stays, without carrier.
    pub fn detach(&self) {
        let mut shared = lock(&self.shared);
        shared.attached = false;
        shared.to_program.clear();
    }

    /// A file is attached again.
    pub fn attach(&self) {
        lock(&self.shared).attached = true;
    }
}

impl Link for TunTap {
    fn capabilities(&self) -> Capabilities {
        let offload = lock(&self.shared).offload;
        Capabilities {
            medium: self.medium,
            checksum: offload,
            gso_max_bytes: if offload { 65_000 } else { 0 },
            arp: self.medium == Medium::Ethernet,
            multicast: true,
        }
    }

    fn mac(&self) -> MacAddress {
        self.mac
    }

    fn set_mac(&mut self, mac: MacAddress) -> Result<(), Errno> {
        if self.medium != Medium::Ethernet {
            return Err(Errno::EOPNOTSUPP);
        }
        self.mac = mac;
        Ok(())
    }

    fn has_carrier(&self) -> bool {
        lock(&self.shared).attached
    }

    fn open(&mut self) -> Result<(), Errno> {
        lock(&self.shared).up = true;
        Ok(())
    }

    fn close(&mut self) {
        let mut shared = lock(&self.shared);
        shared.up = false;
        shared.to_program.clear();
        shared.to_stack.clear();
    }

    fn transmit(&mut self, packet: Packet) -> Result<(), TransmitError> {
        let mut shared = lock(&self.shared);
        if !shared.attached {
            return Err(TransmitError::Failed(Errno::ENETDOWN));
        }
        if shared.to_program.len() >= LIMIT {
            // A tap drops what its reader is too slow for; it does not hold up the stack.
            return Err(TransmitError::Failed(Errno::ENOBUFS));
        }
        shared.to_program.push_back(packet);
        Ok(())
    }

    fn receive(&mut self) -> Option<Packet> {
        lock(&self.shared).to_stack.pop_front()
    }

    fn driver(&self) -> &'static str {
        "tun"
    }
}
