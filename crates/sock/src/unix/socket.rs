//! A local socket: its names, connections, shutdown and readiness.
//!
//! What it is not: data (`stream`, `datagram`).
//!
//! Always true: of two endpoints that are connected as streams or sequenced packets, the queue of one is shut exactly when the other may not send;
//! whoever connects holds its own `peer` lock before the other's backlog.

use crate::message::{ReceiveRequest, Received, SendRequest, Ucred};
use crate::options::{self, Options};
use crate::patience::Patience;
use crate::protocol::{Call, How, Protocol};
use crate::socket::{Kind, Socket};
use crate::sockets::Sockets;
use crate::unix::endpoint::{Backlog, Endpoint, Owner};
use crate::unix::name::{Name, family};
use crate::unix::turn::Turn;
use abi::raw::net as raw;
use abi::{Errno, SysError, SysResult};
use std::any::Any;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use sync::{Events, SpinLock};
use vfs::{Access, DeviceNumber, FileKind, IoctlCaller, LookupFlags, Path, PathAt, PollTable, Sink, Source};
use zerocopy::IntoBytes;

/// `/proc/sys/net/unix/max_dgram_qlen`: one more datagram than this may wait.
pub(crate) static MAX_DGRAM_QLEN: AtomicUsize = AtomicUsize::new(10);
/// `/proc/sys/net/core/somaxconn`: most that listen(2) gives.
static SOMAXCONN: AtomicUsize = AtomicUsize::new(4096);
/// Bytes that the next read or the first message has, and bytes that were sent and not read: unix(7) "Ioctls".
const SIOCINQ: u32 = 0x541b;
const SIOCOUTQ: u32 = 0x5411;

/// See the module.
pub(crate) struct UnixSocket {
    endpoint: Arc<Endpoint>,
    peer: SpinLock<Option<Arc<Endpoint>>>,
    pub(crate) turn: Turn,
    /// Keeps the inode of its name.
    path: SpinLock<Option<Path>>,
    /// shutdown(2) of the sending side; a connected stream's is in its peer's queue.
    send_shut: AtomicBool,
}

impl UnixSocket {
    pub fn new(sockets: &'static Sockets, kind: Kind, options: Arc<Options>) -> Result<Arc<UnixSocket>, Errno> {
        Ok(Arc::new(UnixSocket {
            endpoint: Endpoint::new(sockets, kind, options)?,
            peer: SpinLock::new(None),
            turn: Turn::default(),
            path: SpinLock::new(None),
            send_shut: AtomicBool::new(false),
        }))
    }
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }
    pub fn peer(&self) -> Option<Arc<Endpoint>> {
        self.peer.lock().clone()
    }
    fn sockets(&self) -> &'static Sockets {
        self.endpoint.sockets
    }
    pub fn is_datagram(&self) -> bool {
        self.endpoint.kind == Kind::Datagram
    }

    /// Connects two new sockets: socketpair(2).
    pub fn join(a: &UnixSocket, b: &UnixSocket) {
        let owner = Owner::of(&a.sockets().who());
        for (one, other) in [(a, b), (b, a)] {
            // New sockets have no owner yet.
            let _ = one.endpoint.owner.set(owner.clone());
            one.set_peer(Some(other.endpoint.clone()));
        }
    }
    /// Changes the peer and gives the old one.
    pub fn set_peer(&self, peer: Option<Arc<Endpoint>>) -> Option<Arc<Endpoint>> {
        let mut own = self.peer.lock();
        self.endpoint.peer_id.store(peer.as_ref().map_or(0, |peer| peer.id), Ordering::Release);
        std::mem::replace(&mut *own, peer)
    }
    /// Whether nothing can be sent any more.
    pub fn is_send_shut(&self, peer: Option<&Arc<Endpoint>>) -> bool {
        match peer {
            Some(peer) if !self.is_datagram() => peer.is_shut(),
            _ => self.send_shut.load(Ordering::Acquire),
        }
    }

    /// Gives the socket a name that nobody chose, unless it has one.
    pub fn auto_bind(&self) -> Result<(), Errno> {
        if self.endpoint.name().is_some() {
            return Ok(());
        }
        let name = self.sockets().names.auto_bind(self.endpoint.kind, &self.endpoint)?;
        let bound = self.endpoint.set_name(Arc::new(name.clone()));
        if let (Err(_), Name::Abstract(name)) = (bound, &name) {
            // Somebody named it meanwhile.
            self.sockets().names.unbind(self.endpoint.kind, name, &self.endpoint);
        }
        Ok(())
    }

    fn bind_path(&self, call: &Call<'_>, path: &[u8]) -> SysResult<()> {
        let mode = call.file.inode().owner().mode & 0o777;
        let made = call.caller.mknod(PathAt::cwd(path), FileKind::Socket, mode, DeviceNumber::NONE).map_err(|error| match error {
            SysError::Errno(Errno::EEXIST) => Errno::EADDRINUSE.into(),
            error => error,
        })?;
        if let Err(errno) = self.endpoint.set_name(Arc::new(Name::Path(path.to_vec()))) {
            // It has a name, which Linux notices only now.
            let _ = call.caller.unlink(PathAt::cwd(path));
            return Err(errno.into());
        }
        let weak: Weak<dyn Any + Send + Sync> = Arc::downgrade(&(self.endpoint.clone() as Arc<dyn Any + Send + Sync>));
        made.inode().attachments().bind_socket(weak);
        *self.path.lock() = Some(made);
        Ok(())
    }

    /// The socket that has a name. ECONNREFUSED, EPROTOTYPE, EACCES, and what the walk gives.
    pub fn find(&self, call: &Call<'_>, name: &Name) -> SysResult<Arc<Endpoint>> {
        let path = match name {
            Name::Abstract(name) => return Ok(self.sockets().names.find(self.endpoint.kind, name)?),
            Name::Path(path) => call.caller.lookup(PathAt::cwd(path), LookupFlags::FOLLOW)?,
        };
        path.inode().permission(call.caller.credentials, Access::WRITE)?;
        if path.inode().kind() != FileKind::Socket {
            return Err(Errno::ECONNREFUSED.into());
        }
        let socket = path.inode().attachments().socket().ok_or(Errno::ECONNREFUSED)?;
        let other = socket.downcast::<Endpoint>().map_err(|_| Errno::ECONNREFUSED)?;
        if other.is_gone() {
            return Err(Errno::ECONNREFUSED.into());
        }
        if other.kind != self.endpoint.kind {
            return Err(Errno::EPROTOTYPE.into());
        }
        path.touch_accessed();
        Ok(other)
    }

    fn connect_datagram(&self, call: &Call<'_>, address: &[u8]) -> SysResult<()> {
        if u32::from(family(address)?) == raw::AF_UNSPEC {
            self.set_peer(None);
            return Ok(());
        }
        let name = Name::parse(address)?.ok_or(Errno::EINVAL)?;
        if self.endpoint.options.passes_credentials() {
            self.auto_bind()?;
        }
        let other = self.find(call, &name)?;
        let bound_to = other.peer_id.load(Ordering::Acquire);
        if bound_to != 0 && bound_to != self.endpoint.id {
            return Err(Errno::EPERM.into());
        }
        let old = self.set_peer(Some(other.clone()));
        if old.is_some_and(|old| old.id != other.id) {
            // `unix_dgram_disconnected`: what came from the old peer is void.
            let (pieces, _) = self.endpoint.queue.lock().clear();
            self.refund(pieces);
        }
        Ok(())
    }

    fn connect_stream(&self, call: &Call<'_>, address: &[u8], patience: Patience) -> SysResult<()> {
        let name = Name::parse(address)?.ok_or(Errno::EINVAL)?;
        if self.endpoint.options.passes_credentials() {
            self.auto_bind()?;
        }
        let owner = Owner::of(&self.sockets().who());
        loop {
            let other = self.find(call, &name)?;
            let embryo = self.embryo(&other)?;
            if self.enter_backlog(&other, embryo, &owner)? {
                other.tell_readable();
                return Ok(());
            }
            patience.wait(&other.drained, || {
                let backlog = other.backlog.lock();
                backlog.as_ref().is_none_or(|b| b.waiting.len() <= b.max).then_some(())
            })?;
        }
    }

    /// Joins `embryo` and leaves it to be accepted; `false` if too many wait.
    fn enter_backlog(&self, other: &Endpoint, embryo: Arc<UnixSocket>, owner: &Owner) -> Result<bool, Errno> {
        let mut peer = self.peer.lock();
        // Nobody begins to listen while the lock is held. `other` may be this socket's own.
        let is_listening = self.endpoint.is_listening();
        let mut backlog = other.backlog.lock();
        let Some(backlog) = backlog.as_mut().filter(|_| !other.is_shut()) else { return Err(Errno::ECONNREFUSED) };
        if backlog.waiting.len() > backlog.max {
            return Ok(false);
        }
        if peer.is_some() {
            return Err(Errno::EISCONN);
        }
        if is_listening {
            return Err(Errno::EINVAL);
        }
        // It was never connected, so it has no owner.
        let _ = self.endpoint.owner.set(owner.clone());
        self.endpoint.peer_id.store(embryo.endpoint.id, Ordering::Release);
        *peer = Some(embryo.endpoint.clone());
        embryo.set_peer(Some(self.endpoint.clone()));
        backlog.waiting.push_back(embryo);
        Ok(true)
    }

    /// The socket that accept will give, on the side of a listening endpoint.
    fn embryo(&self, listener: &Endpoint) -> Result<Arc<UnixSocket>, Errno> {
        let socket = UnixSocket::new(self.sockets(), listener.kind, Arc::new(Options::default()))?;
        socket.endpoint.is_embryo.store(true, Ordering::Relaxed);
        if let Some(name) = listener.name() {
            socket.endpoint.set_name(name)?;
        }
        if let Some(owner) = listener.owner.get() {
            // New, so it has none.
            let _ = socket.endpoint.owner.set(owner.clone());
        }
        Ok(socket)
    }

    /// Tells the senders of pieces that were dropped.
    fn refund(&self, pieces: VecDeque<crate::unix::queue::Piece>) {
        let peer = self.peer();
        let mut sender: Option<Arc<Endpoint>> = None;
        for mut piece in pieces {
            if let Some(note) = piece.note.as_mut() {
                sender = note.sender.take().or(sender);
            }
            let payer = if self.is_datagram() { sender.as_ref() } else { peer.as_ref() };
            if let Some(payer) = payer {
                payer.was_read(piece.cost());
            }
        }
    }

    fn close(&self) {
        if self.endpoint.gone.swap(true, Ordering::AcqRel) {
            return;
        }
        self.sockets().names.remove(self.endpoint.id);
        if let Some(Name::Abstract(name)) = self.endpoint.name().as_deref() {
            self.sockets().names.unbind(self.endpoint.kind, name, &self.endpoint);
        }
        let ((pieces, tail), unread) = {
            let mut queue = self.endpoint.queue.lock();
            (queue.shut, queue.closed) = (true, true);
            let unread = !queue.pieces.is_empty();
            (queue.clear(), unread)
        };
        drop(tail);
        self.refund(pieces);
        let path = self.path.lock().take();
        drop(path);
        let backlog = self.endpoint.backlog.lock().take();
        for embryo in backlog.into_iter().flat_map(|backlog| backlog.waiting) {
            embryo.close();
        }
        let peer = self.set_peer(None);
        if let Some(peer) = peer.filter(|_| !self.is_datagram()) {
            peer.queue.lock().shut = true;
            if unread || self.endpoint.is_embryo.load(Ordering::Relaxed) {
                peer.set_error(Errno::ECONNRESET);
            }
            peer.tell_shut(Events::IN | Events::RDNORM | Events::OUT | Events::RDHUP | Events::HUP);
        }
        self.endpoint.tell_shut(Events::HUP);
        self.sockets().flight.collect();
    }

    fn first_len(&self) -> usize {
        let queue = self.endpoint.queue.lock();
        if self.endpoint.kind == Kind::Stream {
            return queue.bytes;
        }
        let mut len = 0;
        for piece in &queue.pieces {
            len += piece.len;
            if piece.end {
                break;
            }
        }
        len
    }

    /// SO_PEERCRED's and SO_PEERGROUPS's owner: the peer's, or a listening socket's own.
    pub fn peer_owner(&self) -> Option<Owner> {
        if self.endpoint.is_listening() {
            return self.endpoint.owner.get().cloned();
        }
        self.peer()?.owner.get().cloned()
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        self.close();
    }
}

impl Protocol for UnixSocket {
    fn bind(&self, call: &Call<'_>, address: &[u8]) -> SysResult<()> {
        match Name::parse(address)? {
            None => Ok(self.auto_bind()?),
            Some(Name::Abstract(_)) if self.endpoint.name().is_some() => Err(Errno::EINVAL.into()),
            Some(Name::Path(path)) => self.bind_path(call, &path),
            Some(Name::Abstract(name)) => {
                self.sockets().names.bind(self.endpoint.kind, &name, &self.endpoint)?;
                let bound = self.endpoint.set_name(Arc::new(Name::Abstract(name.clone())));
                if bound.is_err() {
                    self.sockets().names.unbind(self.endpoint.kind, &name, &self.endpoint);
                }
                Ok(bound?)
            }
        }
    }
    fn connect(&self, call: &Call<'_>, address: &[u8], patience: Patience) -> SysResult<()> {
        if self.is_datagram() { self.connect_datagram(call, address) } else { self.connect_stream(call, address, patience) }
    }
    fn listen(&self, backlog: i32) -> SysResult<()> {
        if self.is_datagram() {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let owner = Owner::of(&self.sockets().who());
        let peer = self.peer.lock();
        if self.endpoint.name().is_none() || peer.is_some() {
            return Err(Errno::EINVAL.into());
        }
        let max = (backlog as u32 as usize).min(SOMAXCONN.load(Ordering::Relaxed));
        let mut own = self.endpoint.backlog.lock();
        match own.as_mut() {
            Some(backlog) => backlog.max = max,
            None => *own = Some(Backlog { waiting: VecDeque::new(), max }),
        }
        drop(own);
        drop(peer);
        // A second listen keeps the first owner; Linux takes the later, which only differs if the task changed its identity between.
        let _ = self.endpoint.owner.set(owner);
        self.endpoint.drained.wake_all();
        Ok(())
    }
    fn accept(&self, patience: Patience) -> SysResult<Arc<Socket>> {
        if self.is_datagram() {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let socket = patience.wait(&self.endpoint.readers, || {
            let mut backlog = self.endpoint.backlog.lock();
            let Some(backlog) = backlog.as_mut() else { return Some(Err(Errno::EINVAL)) };
            match backlog.waiting.pop_front() {
                Some(socket) => Some(Ok(socket)),
                None if self.endpoint.is_shut() => Some(Err(Errno::EINVAL)),
                None => None,
            }
        })??;
        self.endpoint.drained.notify(Events::OUT);
        if self.endpoint.options.passes_credentials() {
            socket.endpoint.options.pass_credentials.store(true, Ordering::Relaxed);
        }
        socket.endpoint.is_embryo.store(false, Ordering::Relaxed);
        Ok(super::wrap(socket))
    }
    fn name(&self) -> Result<Vec<u8>, Errno> {
        Ok(Name::address(self.endpoint.name().as_deref()))
    }
    fn peer_name(&self) -> Result<Vec<u8>, Errno> {
        let peer = self.peer().ok_or(Errno::ENOTCONN)?;
        Ok(Name::address(peer.name().as_deref()))
    }
    fn shutdown(&self, how: How) -> Result<(), Errno> {
        let peer = self.peer();
        let events = Events::IN | Events::RDNORM | Events::OUT | Events::RDHUP | Events::HUP;
        if how.receives() {
            self.endpoint.queue.lock().shut = true;
        }
        if how.sends() {
            self.send_shut.store(true, Ordering::Release);
        }
        self.endpoint.tell_shut(events);
        if let Some(peer) = peer.filter(|_| !self.is_datagram()) {
            if how.sends() {
                peer.queue.lock().shut = true;
            }
            peer.tell_shut(events);
        }
        Ok(())
    }
    fn send(&self, call: Option<&Call<'_>>, patience: Patience, request: SendRequest<'_>, source: &mut dyn Source) -> SysResult<usize> {
        if self.endpoint.kind == Kind::Stream {
            self.send_stream(patience, request, source)
        } else {
            self.send_message(call, patience, request, source)
        }
    }
    fn receive(&self, patience: Patience, request: ReceiveRequest, sink: &mut dyn Sink) -> SysResult<Received> {
        if self.endpoint.kind == Kind::Stream {
            self.receive_stream(patience, request, sink)
        } else {
            self.receive_message(patience, request, sink)
        }
    }
    fn poll(&self, table: Option<&mut PollTable>) -> Events {
        let peer = self.peer();
        // A datagram socket is writable while its peer takes what it sends, unless the peer sends here too (`unix_dgram_poll`).
        let one_way = peer.as_ref().filter(|peer| self.is_datagram() && peer.peer_id.load(Ordering::Relaxed) != self.endpoint.id);
        if let Some(table) = table {
            table.listen(&self.endpoint.readable);
            table.listen(&self.endpoint.writable);
            if let Some(peer) = one_way {
                table.listen(&peer.drained);
            }
        }
        let mut events = Events::empty();
        if self.endpoint.has_error() {
            events |= Events::ERR;
        }
        let (shut, filled) = {
            let queue = self.endpoint.queue.lock();
            (queue.shut, !queue.pieces.is_empty())
        };
        let backlog = self.endpoint.backlog.lock().as_ref().map(|backlog| !backlog.waiting.is_empty());
        if shut {
            events |= Events::RDHUP | Events::IN | Events::RDNORM;
            if self.is_send_shut(peer.as_ref()) {
                events |= Events::HUP;
            }
        }
        if filled || backlog == Some(true) {
            events |= Events::IN | Events::RDNORM;
        }
        if !self.is_datagram() && peer.is_none() && backlog.is_none() {
            events |= Events::HUP;
        }
        let full = one_way.is_some_and(|peer| peer.queue.lock().messages > MAX_DGRAM_QLEN.load(Ordering::Relaxed));
        if backlog.is_none() && self.endpoint.is_writable() && !full {
            events |= Events::OUT | Events::WRNORM | Events::WRBAND;
        }
        events
    }
    fn set_option(&self, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        if level != raw::SOL_SOCKET as i32 {
            return Err(if level == raw::SOL_TCP as i32 || level == 0 { Errno::EOPNOTSUPP } else { Errno::ENOPROTOOPT });
        }
        match name as u32 {
            raw::SO_PEEK_OFF => self.endpoint.options.peek_offset.store(options::read::<i32>(value)?.max(-1), Ordering::Relaxed),
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }
    fn option(&self, level: i32, name: i32) -> Result<Vec<u8>, Errno> {
        if level != raw::SOL_SOCKET as i32 {
            return Err(Errno::EOPNOTSUPP);
        }
        match name as u32 {
            raw::SO_PEERCRED => {
                let nobody = Ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
                Ok(self.peer_owner().map_or(nobody, |owner| owner.ucred).as_bytes().to_vec())
            }
            raw::SO_PEERGROUPS => Ok(self.peer_owner().ok_or(Errno::ENODATA)?.groups.as_bytes().to_vec()),
            raw::SO_PEEK_OFF => Ok(self.endpoint.options.peek_offset.load(Ordering::Relaxed).to_ne_bytes().to_vec()),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }
    fn take_error(&self) -> Option<Errno> {
        self.endpoint.take_error()
    }
    fn is_listening(&self) -> bool {
        self.endpoint.is_listening()
    }
    fn raises_sigpipe(&self) -> bool {
        self.endpoint.kind == Kind::Stream
    }
    fn ioctl(&self, caller: &IoctlCaller<'_>, command: u32, argument: u64) -> SysResult<i64> {
        let answer = match command {
            SIOCINQ if self.endpoint.is_listening() => return Err(Errno::EINVAL.into()),
            SIOCINQ => self.first_len(),
            SIOCOUTQ => self.endpoint.sent(),
            _ => return Err(Errno::ENOTTY.into()),
        };
        caller.memory.write_all(argument, &(answer as i32).to_ne_bytes())?;
        Ok(0)
    }
    fn release(&self) {
        self.close();
    }
}
