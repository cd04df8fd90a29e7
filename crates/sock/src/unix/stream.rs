//! Bytes of a stream: `unix_stream_sendmsg` and `unix_stream_read_generic` of Linux.
//!
//! Always true: bytes that came with descriptors are not read together with bytes behind them, nor, when credentials are wanted, bytes of
//! different senders.

use crate::message::{Control, MessageFlags, ReceiveRequest, Received, SendRequest, Ucred};
use crate::patience::Patience;
use crate::unix::endpoint::Endpoint;
use crate::unix::name::Name;
use crate::unix::queue::{Note, Piece};
use crate::unix::rights::Rights;
use crate::unix::socket::UnixSocket;
use abi::{Errno, PAGE_SIZE, SysResult};
use ram::Frame;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use sync::Events;
use vfs::{Capability, OpenFile, Sink, Source};

/// Sends of up to this size go through the stack into a frame that others share.
pub(crate) const SMALL: usize = 512;
/// Bytes handed over at once.
const BATCH: usize = 64 << 10;

/// A piece of the first data that is to be read.
struct Look {
    frame: Frame,
    offset: usize,
    len: usize,
    credentials: Option<Ucred>,
    has_rights: bool,
}

/// What a reader that found nothing waits for.
enum Come {
    Data,
    Error,
    End,
}

impl UnixSocket {
    /// Whom a message to `other` is from: what the sender says, or what anybody wants to know. EPERM for an identity that is not the sender's.
    pub(crate) fn credentials_for(&self, other: &Endpoint, said: Option<Ucred>) -> Result<Option<Ucred>, Errno> {
        let endpoint = self.endpoint();
        if said.is_none() && !endpoint.options.passes_credentials() && !other.wants_credentials() {
            return Ok(None);
        }
        let who = endpoint.sockets.who();
        let Some(said) = said else { return Ok(Some(who.ucred())) };
        let own = &who.credentials;
        let pid_ok = said.pid == who.pid || own.has(Capability::SYS_ADMIN);
        let uid_ok = [own.uid, own.euid, own.suid].contains(&said.uid) || own.has(Capability::SETUID);
        let gid_ok = [own.gid, own.egid, own.sgid].contains(&said.gid) || own.has(Capability::SETGID);
        if pid_ok && uid_ok && gid_ok { Ok(Some(said)) } else { Err(Errno::EPERM) }
    }

    /// Descriptors to be sent.
    pub(crate) fn rights_for(&self, files: Vec<Arc<OpenFile>>) -> Result<Option<Rights>, Errno> {
        if files.is_empty() {
            return Ok(None);
        }
        let sockets = self.endpoint().sockets;
        Rights::new(sockets, &sockets.who(), files).map(Some)
    }

    /// Frames filled with the next `len` bytes, or as many as could be copied.
    pub(crate) fn fill(&self, len: usize, source: &mut dyn Source) -> Result<Vec<Piece>, Errno> {
        let mut frames = Vec::with_capacity(len.div_ceil(PAGE_SIZE));
        self.endpoint().sockets.ram.alloc_many(len.div_ceil(PAGE_SIZE).max(1), false, &mut frames)?;
        let mut pieces: Vec<Piece> = Vec::with_capacity(frames.len());
        let mut left = len;
        for frame in frames {
            let want = left.min(PAGE_SIZE);
            let got = match source.take_to_frame(&frame, 0, want) {
                Ok(got) => got,
                Err(errno) if pieces.is_empty() => return Err(errno),
                Err(_) => break,
            };
            pieces.push(Piece { frame, offset: 0, len: got, end: false, note: None });
            left -= got;
            if got < want {
                break;
            }
        }
        Ok(pieces)
    }

    /// Sends.
    pub(crate) fn send_stream(&self, patience: Patience, request: SendRequest<'_>, source: &mut dyn Source) -> SysResult<usize> {
        if request.flags.contains(MessageFlags::OOB) {
            // As a kernel without CONFIG_AF_UNIX_OOB.
            return Err(Errno::EOPNOTSUPP.into());
        }
        let peer = self.peer();
        if request.to.is_some() {
            return Err(if peer.is_some() { Errno::EISCONN } else { Errno::EOPNOTSUPP }.into());
        }
        let peer = peer.ok_or(Errno::ENOTCONN)?;
        let credentials = self.credentials_for(&peer, request.credentials)?;
        let mut rights = self.rights_for(request.rights)?;
        if peer.is_shut() {
            return Err(Errno::EPIPE.into());
        }
        let mut done = 0;
        while source.left() > 0 {
            match self.send_batch(&peer, patience, credentials, &mut rights, source) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
            peer.tell_readable();
        }
        Ok(done)
    }

    fn send_batch(
        &self,
        peer: &Endpoint,
        patience: Patience,
        credentials: Option<Ucred>,
        rights: &mut Option<Rights>,
        source: &mut dyn Source,
    ) -> SysResult<usize> {
        let own = self.endpoint();
        if !own.has_room() {
            own.wait_room(patience, || peer.is_shut().then_some(Errno::EPIPE))?;
        }
        let len = source.left();
        if len <= SMALL && rights.is_none() {
            let mut buffer = [0u8; SMALL];
            let got = source.take(buffer.get_mut(..len).unwrap_or_default())?;
            let note = own.note(Note { credentials, ..Note::default() })?;
            peer.push_small(own, buffer.get(..got).unwrap_or_default(), false, note)?;
            return Ok(got);
        }
        // Not more than half of what may be sent at all, so that reader and writer take turns.
        let half = own.options.send_buffer.load(Ordering::Relaxed) / 2;
        let mut pieces = self.fill(len.min(BATCH).min(half.max(PAGE_SIZE)), source)?;
        let mut rights = rights.take();
        for piece in &mut pieces {
            piece.note = own.note(Note { credentials, rights: rights.take(), ..Note::default() })?;
        }
        let got = pieces.iter().map(|piece| piece.len).sum();
        peer.push(own, &mut pieces)?;
        Ok(got)
    }

    /// What there is `skip` bytes behind the first.
    fn look(&self, mut skip: usize, room: usize) -> Option<Look> {
        let queue = self.endpoint().queue.lock();
        for piece in &queue.pieces {
            if skip >= piece.len {
                skip -= piece.len;
                continue;
            }
            return Some(Look {
                frame: piece.frame.clone(),
                offset: piece.offset + skip,
                len: (piece.len - skip).min(room),
                credentials: piece.credentials(),
                has_rights: piece.has_rights(),
            });
        }
        None
    }

    /// Takes `n` bytes that were copied. The descriptors that came with the first, if there are any.
    fn take_off(&self, peer: &Endpoint, n: usize, has_rights: bool) -> Vec<Arc<OpenFile>> {
        let own = self.endpoint();
        let mut files = Vec::new();
        let (cost, piece) = {
            let mut gate = has_rights.then(|| own.sockets.flight.lock());
            let mut queue = own.queue.lock();
            if let Some(gate) = &mut gate {
                let rights = queue.pieces.front_mut().and_then(|piece| piece.note.as_mut()?.rights.take());
                files.extend(rights.map(|rights| gate.receive(rights)).into_iter().flatten());
            }
            queue.consume(n)
        };
        drop(piece);
        peer.was_read(cost);
        files
    }

    /// Copies of the descriptors of the piece that is `skip` bytes behind the first.
    fn peek_rights(&self, mut skip: usize) -> Vec<Arc<OpenFile>> {
        let own = self.endpoint();
        let mut gate = own.sockets.flight.lock();
        let queue = own.queue.lock();
        for piece in &queue.pieces {
            if skip >= piece.len {
                skip -= piece.len;
                continue;
            }
            return piece.note.as_ref().and_then(|note| note.rights.as_ref()).map(|rights| gate.peek(rights)).unwrap_or_default();
        }
        Vec::new()
    }

    /// `sk_peek_offset_fwd` and `sk_peek_offset_bwd`.
    pub(crate) fn move_peek_offset(&self, by: i32) {
        let offset = &self.endpoint().options.peek_offset;
        let _ = offset.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |at| (at >= 0).then(|| at.saturating_add(by).max(0)));
    }

    /// Receives.
    pub(crate) fn receive_stream(&self, patience: Patience, request: ReceiveRequest, sink: &mut dyn Sink) -> SysResult<Received> {
        if request.flags.contains(MessageFlags::OOB) {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let own = self.endpoint();
        let peer = self.peer().ok_or(Errno::EINVAL)?;
        let low = own.options.receive_low.load(Ordering::Relaxed).max(1) as usize;
        let target = if request.flags.contains(MessageFlags::WAITALL) { sink.room() } else { low.min(sink.room()) }.max(1);
        let mut read = Reading::new(self, &peer, request);
        loop {
            {
                let _turn = self.turn.take();
                read.copy(sink)?;
            }
            if read.stopped || read.done >= target || sink.room() == 0 && read.done > 0 {
                break;
            }
            let skip = read.skip;
            let come = || {
                let queue = own.queue.lock();
                if queue.bytes > skip {
                    return Some(Come::Data);
                }
                if own.has_error() {
                    return Some(Come::Error);
                }
                queue.shut.then_some(Come::End)
            };
            match patience.wait(&own.readers, come) {
                Ok(Come::Data) => {}
                Ok(Come::Error) if read.done == 0 => match own.take_error() {
                    Some(errno) => return Err(errno.into()),
                    None => continue,
                },
                Ok(_) => break,
                Err(_) if read.done > 0 => break,
                Err(error) => return Err(error),
            }
            if sink.room() == 0 {
                break;
            }
        }
        if !own.readers.is_empty() && own.queue.lock().bytes > 0 {
            own.readers.wake_one();
        }
        Ok(read.finish())
    }
}

/// A receive that is under way.
struct Reading<'a> {
    socket: &'a UnixSocket,
    peer: &'a Arc<Endpoint>,
    request: ReceiveRequest,
    /// Bytes copied.
    done: usize,
    /// Bytes to pass over: those that a peek has seen.
    skip: usize,
    /// What is next does not belong to what was read.
    stopped: bool,
    wants_credentials: bool,
    credentials: Option<Option<Ucred>>,
    files: Vec<Arc<OpenFile>>,
}

impl<'a> Reading<'a> {
    fn new(socket: &'a UnixSocket, peer: &'a Arc<Endpoint>, request: ReceiveRequest) -> Reading<'a> {
        let options = &socket.endpoint().options;
        let peeks = request.flags.contains(MessageFlags::PEEK);
        Reading {
            socket,
            peer,
            request,
            done: 0,
            skip: if peeks { options.peek_offset.load(Ordering::Relaxed).max(0) as usize } else { 0 },
            stopped: false,
            wants_credentials: options.passes_credentials(),
            credentials: None,
            files: Vec::new(),
        }
    }

    /// Copies what is there, in the reader's turn.
    fn copy(&mut self, sink: &mut dyn Sink) -> Result<(), Errno> {
        while sink.room() > 0 && !self.stopped {
            let Some(look) = self.socket.look(self.skip, sink.room()) else { break };
            if self.wants_credentials && *self.credentials.get_or_insert(look.credentials) != look.credentials {
                self.stopped = true;
                break;
            }
            let copied = sink.put_frame(&look.frame, look.offset, look.len);
            drop(look.frame);
            let n = *copied.as_ref().unwrap_or(&0);
            if n > 0 {
                self.took(n, look.has_rights);
            }
            if n < look.len {
                self.stopped = true;
                return if self.done > 0 { Ok(()) } else { Err(copied.err().unwrap_or(Errno::EFAULT)) };
            }
        }
        Ok(())
    }

    fn took(&mut self, n: usize, has_rights: bool) {
        self.done += n;
        self.stopped |= has_rights;
        if self.request.flags.contains(MessageFlags::PEEK) {
            if has_rights {
                self.files = self.socket.peek_rights(self.skip);
            }
            self.skip += n;
            self.socket.move_peek_offset(n as i32);
        } else {
            let files = self.socket.take_off(self.peer, n, has_rights);
            self.files.extend(files);
            self.socket.move_peek_offset(-(n as i32));
        }
    }

    fn finish(self) -> Received {
        let mut control = Vec::new();
        if self.wants_credentials {
            control.push(Control::Credentials(self.credentials.flatten().unwrap_or(Ucred::NOBODY)));
        }
        if !self.files.is_empty() {
            control.push(Control::Rights(self.files));
        }
        let from = if self.request.wants_address { self.peer.name().map(|name| Name::address(Some(&name))) } else { None };
        Received { len: self.done, flags: MessageFlags::empty(), from, control }
    }
}

/// Tells those who wait to send to a queue that it was full and is not.
pub(crate) fn tell_drained(endpoint: &Endpoint) {
    endpoint.drained.notify(Events::OUT | Events::WRNORM | Events::WRBAND);
}
