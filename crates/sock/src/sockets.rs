//! What all sockets of a machine share: who asks, the abstract names, the descriptors in flight.

use crate::message::Identity;
use crate::network::Network;
use crate::socket::{Kind, Socket};
use crate::{inet, netlink, packet, unix};
use abi::raw::net as raw;
use abi::{Errno, SysResult};
use net::Family;
use ram::Ram;
use std::any::Any;
use std::sync::{Arc, OnceLock};
use vfs::{AnonKind, Caller, FileKind, OpenFile, OpenFlags, Owner, Vfs};
use zerocopy::IntoBytes;

/// What sockets have to know of the machine around them.
pub trait World: Send + Sync {
    /// The task that runs on the calling fiber.
    fn identity(&self) -> Identity;
    /// Random bytes, good enough for sequence numbers.
    fn random(&self, bytes: &mut [u8]);
    /// What is to be added to the monotonic clock for the time of day, nanoseconds.
    fn realtime_offset_ns(&self) -> u64;
}

/// One per machine.
pub struct Sockets {
    pub(crate) ram: &'static Ram,
    world: Box<dyn World>,
    network: OnceLock<&'static Network>,
    pub(crate) names: unix::Names,
    pub(crate) flight: unix::Flight,
    pub(crate) hub: netlink::Hub,
}

impl Sockets {
    /// Those of the machine with these files; made when first asked for.
    pub fn of(vfs: &'static Vfs, world: impl FnOnce() -> Box<dyn World>) -> &'static Sockets {
        let kept: &'static (dyn Any + Send + Sync) = *vfs.sockets.get_or_init(|| {
            let made: &'static Sockets = Box::leak(Box::new(Sockets {
                ram: vfs.ram(),
                world: world(),
                network: OnceLock::new(),
                names: unix::Names::default(),
                flight: unix::Flight::default(),
                hub: netlink::Hub::default(),
            }));
            vfs.devices.subscribe(Arc::new(netlink::Uevents(made)));
            made
        });
        kept.downcast_ref().unwrap_or_else(|| unreachable!("only this function fills the slot"))
    }
    pub(crate) fn who(&self) -> Identity {
        self.world.identity()
    }
    /// The network, made when first asked for.
    pub fn network(&'static self) -> &'static Network {
        self.network.get_or_init(|| {
            let mut key = [[0; 8]; 2];
            key.iter_mut().for_each(|half| self.world.random(half));
            let network = Network::new(self.ram, key.map(u64::from_ne_bytes));
            let announcer = netlink::Announcer::default();
            network.subscribe(Box::new(move |events| announcer.announce(network, &self.hub, events)));
            network
        })
    }
    /// A time of the monotonic clock as SO_TIMESTAMP (microseconds) or SO_TIMESTAMPNS tells it.
    pub(crate) fn stamp(&self, at_ns: u64, option: u32) -> Vec<u8> {
        let at_ns = at_ns.wrapping_add(self.world.realtime_offset_ns());
        match option {
            raw::SO_TIMESTAMP_OLD | raw::SO_TIMESTAMP_NEW => abi::Timeval::from_ns(at_ns).as_bytes().to_vec(),
            _ => abi::Timespec::from_ns(at_ns).as_bytes().to_vec(),
        }
    }

    /// A new socket of a family: socket(2). EAFNOSUPPORT, ESOCKTNOSUPPORT, EPROTONOSUPPORT.
    pub fn create(&'static self, domain: i32, kind: u32, protocol: i32) -> Result<Arc<Socket>, Errno> {
        match u32::try_from(domain) {
            Ok(raw::AF_UNIX) => unix::create(self, Kind::from_raw(kind)?, protocol),
            Ok(raw::AF_INET) => inet::create(self, Family::V4, Kind::from_raw(kind)?, protocol),
            Ok(raw::AF_INET6) => inet::create(self, Family::V6, Kind::from_raw(kind)?, protocol),
            Ok(raw::AF_PACKET) => packet::create(self, Kind::from_raw(kind)?, protocol),
            Ok(raw::AF_NETLINK) => netlink::create(self, Kind::from_raw(kind)?, protocol),
            _ => Err(Errno::EAFNOSUPPORT),
        }
    }
    /// Two sockets that are connected: socketpair(2). EOPNOTSUPP for families without.
    pub fn pair(&'static self, domain: i32, kind: u32, protocol: i32) -> Result<(Arc<Socket>, Arc<Socket>), Errno> {
        match u32::try_from(domain) {
            Ok(raw::AF_UNIX) => unix::pair(self, Kind::from_raw(kind)?, protocol),
            _ => {
                self.create(domain, kind, protocol)?;
                Err(Errno::EOPNOTSUPP)
            }
        }
    }
    /// A file for a socket.
    pub fn open(caller: &Caller<'_>, socket: Arc<Socket>, flags: OpenFlags) -> SysResult<Arc<OpenFile>> {
        let owner = Owner { mode: 0o777, uid: caller.credentials.fsuid, gid: caller.credentials.fsgid };
        let path = caller.vfs.anon_path(AnonKind::Socket, FileKind::Socket, owner)?;
        socket.set_ino(path.inode().ino());
        caller.open_with(path, socket, OpenFlags::RDWR | flags.intersection(OpenFlags::NONBLOCK))
    }
    /// `/proc/net/unix`.
    #[must_use]
    pub fn unix_table(&self) -> String {
        self.names.table()
    }
}
