//! What all sockets of a machine share: who asks, the abstract names, the descriptors in flight.

use crate::message::Identity;
use crate::socket::{Kind, Socket};
use crate::unix;
use abi::raw::net as raw;
use abi::{Errno, SysResult};
use ram::Ram;
use std::any::Any;
use std::sync::Arc;
use vfs::{AnonKind, Caller, FileKind, OpenFile, OpenFlags, Owner, Vfs};

type Who = dyn Fn() -> Identity + Send + Sync;

/// One per machine.
pub struct Sockets {
    pub(crate) ram: &'static Ram,
    who: Box<Who>,
    pub(crate) names: unix::Names,
    pub(crate) flight: unix::Flight,
}

impl Sockets {
    /// Those of the machine with these files; made when first asked for. `who` tells the task that runs on the calling fiber.
    pub fn of(vfs: &'static Vfs, who: impl Fn() -> Identity + Send + Sync + 'static) -> &'static Sockets {
        let kept: &'static (dyn Any + Send + Sync) = *vfs.sockets.get_or_init(|| {
            let made: &'static Sockets = Box::leak(Box::new(Sockets {
                ram: vfs.ram(),
                who: Box::new(who),
                names: unix::Names::default(),
                flight: unix::Flight::default(),
            }));
            made
        });
        kept.downcast_ref().unwrap_or_else(|| unreachable!("only this function fills the slot"))
    }
    pub(crate) fn who(&self) -> Identity {
        (self.who)()
    }

    /// A new socket of a family: socket(2). EAFNOSUPPORT, ESOCKTNOSUPPORT, EPROTONOSUPPORT.
    pub fn create(&'static self, domain: i32, kind: u32, protocol: i32) -> Result<Arc<Socket>, Errno> {
        match u32::try_from(domain) {
            Ok(raw::AF_UNIX) => unix::create(self, Kind::from_raw(kind)?, protocol),
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
