//! Messages of datagram and sequenced-packet sockets: `unix_dgram_sendmsg` and `unix_dgram_recvmsg` of Linux.
//!
//! Always true: a message arrives whole or not at all; of one that is longer than its reader's buffer the rest is lost.

use crate::message::{Control, MessageFlags, ReceiveRequest, Received, SendRequest, Ucred};
use crate::patience::Patience;
use crate::protocol::Call;
use crate::socket::Kind;
use crate::unix::endpoint::Endpoint;
use crate::unix::name::Name;
use crate::unix::queue::Note;
use crate::unix::socket::{MAX_DGRAM_QLEN, UnixSocket};
use crate::unix::stream::{SMALL, tell_drained};
use abi::{Errno, SysResult};
use ram::Frame;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use vfs::{OpenFile, Sink, Source};

/// Bytes of the send buffer that a message can't have.
const RESERVED: usize = 32;

/// A message to be copied to its reader.
struct Taken {
    parts: Vec<(Frame, usize, usize)>,
    len: usize,
    cost: usize,
    sender: Option<Arc<Endpoint>>,
    credentials: Option<Ucred>,
    files: Vec<Arc<OpenFile>>,
}

fn is_full(endpoint: &Endpoint) -> bool {
    endpoint.queue.lock().messages > MAX_DGRAM_QLEN.load(Ordering::Relaxed)
}

impl UnixSocket {
    /// Whom a message is for. ENOTCONN, EPERM for a socket that is connected to another, and what looking for a name gives.
    fn target(&self, call: Option<&Call<'_>>, to: Option<&[u8]>) -> SysResult<Arc<Endpoint>> {
        let own = self.endpoint();
        let to = to.filter(|_| own.kind == Kind::Datagram);
        let target = match (to, call) {
            (Some(to), Some(call)) => {
                let name = Name::parse(to)?.ok_or(Errno::EINVAL)?;
                self.find(call, &name)?
            }
            _ => self.peer().ok_or(Errno::ENOTCONN)?,
        };
        let bound_to = target.peer_id.load(Ordering::Acquire);
        if own.kind == Kind::Datagram && bound_to != 0 && bound_to != own.id {
            return Err(Errno::EPERM.into());
        }
        Ok(target)
    }

    /// Why nothing can be sent to `target` any more.
    fn refusal(&self, target: &Arc<Endpoint>) -> Option<Errno> {
        if self.endpoint().kind == Kind::Datagram && target.is_gone() {
            let mut peer = self.peer();
            if peer.take().is_some_and(|peer| Arc::ptr_eq(&peer, target)) {
                self.set_peer(None);
            }
            return Some(Errno::ECONNREFUSED);
        }
        (self.is_send_shut(Some(target)) || target.is_shut()).then_some(Errno::EPIPE)
    }

    /// Sends a message.
    pub(crate) fn send_message(
        &self,
        call: Option<&Call<'_>>,
        patience: Patience,
        request: SendRequest<'_>,
        source: &mut dyn Source,
    ) -> SysResult<usize> {
        let own = self.endpoint();
        if request.flags.contains(MessageFlags::OOB) {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let datagram = own.kind == Kind::Datagram;
        if datagram && own.options.passes_credentials() {
            self.auto_bind()?;
        }
        let target = self.target(call, request.to)?;
        let credentials = self.credentials_for(&target, request.credentials)?;
        let rights = self.rights_for(request.rights)?;
        let len = source.left();
        if len > own.options.send_buffer.load(Ordering::Relaxed).saturating_sub(RESERVED) {
            return Err(Errno::EMSGSIZE.into());
        }
        if let Some(errno) = self.refusal(&target) {
            return Err(errno.into());
        }
        if !own.has_room() {
            own.wait_room(patience, || self.refusal(&target))?;
        }
        let note = Note { sender: datagram.then(|| own.clone()), credentials, rights, _charge: None };
        // What goes both ways between two is bounded by the send buffer alone.
        let one_way = datagram && target.peer_id.load(Ordering::Acquire) != own.id;
        let wait = || -> SysResult<()> {
            if one_way && is_full(&target) {
                patience.wait(&target.drained, || (!is_full(&target) || target.is_gone() || target.is_shut()).then_some(()))?;
            }
            Ok(())
        };
        if len <= SMALL && note.rights.is_none() {
            let mut buffer = [0u8; SMALL];
            let data = buffer.get_mut(..len).unwrap_or_default();
            if source.take(data)? < len {
                return Err(Errno::EFAULT.into());
            }
            wait()?;
            target.push_small(own, data, true, own.note(note)?)?;
        } else {
            let mut pieces = self.fill(len, source)?;
            if pieces.iter().map(|piece| piece.len).sum::<usize>() < len {
                return Err(Errno::EFAULT.into());
            }
            wait()?;
            if let Some(last) = pieces.last_mut() {
                last.end = true;
            }
            if let Some(first) = pieces.first_mut() {
                first.note = own.note(note)?;
            }
            target.push(own, &mut pieces)?;
        }
        target.tell_readable();
        Ok(len)
    }

    /// Takes the first message out. `None` if there is none.
    fn take_first(&self) -> Option<Taken> {
        let own = self.endpoint();
        let has_rights = {
            let queue = own.queue.lock();
            queue.pieces.front()?.has_rights()
        };
        // The descriptors leave their queue and stop being counted as in flight at once. Another reader may take the message meanwhile, so the
        // next is looked at again.
        let mut gate = has_rights.then(|| own.sockets.flight.lock());
        let mut queue = own.queue.lock();
        if queue.pieces.front()?.has_rights() && gate.is_none() {
            drop(queue);
            return self.take_first();
        }
        let mut message = queue.take_message()?;
        let note = message.first.note.take();
        let mut taken =
            Taken { parts: Vec::new(), len: message.len, cost: message.cost, sender: None, credentials: None, files: Vec::new() };
        if let Some(mut note) = note {
            taken.sender = note.sender.take();
            taken.credentials = note.credentials;
            if let (Some(rights), Some(gate)) = (note.rights.take(), gate.as_mut()) {
                taken.files = gate.receive(rights);
            }
        }
        drop(queue);
        drop(gate);
        taken.parts.push((message.first.frame, message.first.offset, message.first.len));
        taken.parts.extend(message.rest.into_iter().map(|piece| (piece.frame, piece.offset, piece.len)));
        Some(taken)
    }

    /// Looks at the message that is `skip` bytes behind the beginning of the first; answers how far into it that is.
    fn peek_message(&self, mut skip: usize) -> Option<(Taken, usize)> {
        let own = self.endpoint();
        let mut gate = own.sockets.flight.lock();
        let queue = own.queue.lock();
        let mut taken: Option<Taken> = None;
        for piece in &queue.pieces {
            let current = taken.get_or_insert_with(|| Taken {
                parts: Vec::new(),
                len: 0,
                cost: 0,
                sender: piece.note.as_ref().and_then(|note| note.sender.clone()),
                credentials: piece.credentials(),
                files: piece.note.as_ref().and_then(|note| note.rights.as_ref()).map(|rights| gate.peek(rights)).unwrap_or_default(),
            });
            current.parts.push((piece.frame.clone(), piece.offset, piece.len));
            current.len += piece.len;
            if piece.end {
                if skip == 0 || skip < current.len {
                    break;
                }
                skip -= current.len;
                taken = None;
            }
        }
        taken.map(|taken| (taken, skip))
    }

    /// Receives a message.
    pub(crate) fn receive_message(&self, patience: Patience, request: ReceiveRequest, sink: &mut dyn Sink) -> SysResult<Received> {
        let own = self.endpoint();
        if request.flags.contains(MessageFlags::OOB) {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let peer = self.peer();
        if own.kind == Kind::SeqPacket && peer.is_none() {
            return Err(Errno::ENOTCONN.into());
        }
        let peeks = request.flags.contains(MessageFlags::PEEK);
        let look = || {
            if peeks {
                let skip = own.options.peek_offset.load(Ordering::Relaxed).max(0) as usize;
                self.peek_message(skip)
            } else {
                self.take_first().map(|taken| (taken, 0))
            }
        };
        // `unix_dgram_recvmsg`: a datagram socket that may not wait has nothing, whatever was shut.
        let sees_end = patience != Patience::None || own.kind == Kind::SeqPacket;
        let found = patience.wait(&own.readers, || {
            if let Some(errno) = own.take_error() {
                return Some(Err(errno));
            }
            let found = look();
            (found.is_some() || sees_end && own.is_shut()).then_some(Ok(found))
        })??;
        let Some((taken, skip)) = found else { return Ok(Received::default()) };
        let received = self.deliver(taken, skip, peer.as_ref(), request, sink);
        if !own.readers.is_empty() && own.queue.lock().messages > 0 {
            own.readers.wake_one();
        }
        received
    }

    fn deliver(
        &self,
        taken: Taken,
        mut skip: usize,
        peer: Option<&Arc<Endpoint>>,
        request: ReceiveRequest,
        sink: &mut dyn Sink,
    ) -> SysResult<Received> {
        let own = self.endpoint();
        let peeks = request.flags.contains(MessageFlags::PEEK);
        let whole = taken.len - skip.min(taken.len);
        let mut done = 0;
        let mut result = Ok(());
        for (frame, offset, len) in &taken.parts {
            let passed = skip.min(*len);
            skip -= passed;
            let want = (len - passed).min(sink.room());
            match sink.put_frame(frame, offset + passed, want) {
                Ok(n) if n == want => done += n,
                Ok(_) => result = Err(Errno::EFAULT),
                Err(errno) => result = Err(errno),
            }
            if result.is_err() {
                break;
            }
        }
        // The message is gone though it could not be copied.
        if !peeks {
            if let Some(sender) = taken.sender.as_ref().or(peer) {
                sender.was_read(taken.cost);
            }
            if own.kind == Kind::Datagram && !own.drained.is_empty() {
                tell_drained(own);
            }
            self.move_peek_offset(-(taken.len as i32));
        }
        result?;
        if peeks {
            self.move_peek_offset(done as i32);
        }
        let mut received = Received { len: done, ..Received::default() };
        if done < whole {
            received.flags |= MessageFlags::TRUNC;
        }
        if request.flags.contains(MessageFlags::TRUNC) {
            received.len = whole;
        }
        if request.wants_address {
            let sender = taken.sender.as_ref().or(peer);
            received.from = sender.and_then(|sender| sender.name()).map(|name| Name::address(Some(&name)));
        }
        if own.options.passes_credentials() {
            received.control.push(Control::Credentials(taken.credentials.unwrap_or(Ucred::NOBODY)));
        }
        if !taken.files.is_empty() {
            received.control.push(Control::Rights(taken.files));
        }
        Ok(received)
    }
}
