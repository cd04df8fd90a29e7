//! What the user of a TCP socket does: connect, listen, accept, send, receive, shut down, close (tcp(7), RFC 9293 3.10.1 to 3.10.6).

use abi::Errno;

use super::listen::{Listener, initial_sequence, timestamp_offset};
use super::send::SendQueue;
use super::socket::{State, TcpSocket};
use super::{Quad, Tcp};
use crate::core::{Core, Ready, SECOND, SocketId};
use crate::datagram::{Endpoint, loopback_of};
use crate::prefix::Family;
use crate::route::{Query, RouteKind};

/// Options of one send call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SendCall {
    /// `MSG_MORE`: a partial segment waits for more.
    pub more: bool,
    /// `MSG_OOB`: the last byte is urgent.
    pub urgent: bool,
}

/// Options of one receive call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReceiveCall {
    /// `MSG_PEEK`
    pub peek: bool,
    /// `MSG_OOB`: the urgent byte.
    pub urgent: bool,
}

impl Tcp {
    pub(crate) fn open(&mut self, core: &mut Core, family: Family) -> SocketId {
        let id = core.new_socket_id();
        self.sockets.insert(id, TcpSocket::new(id, family, &core.config.tcp));
        self.settle(core, id);
        id
    }

    /// listen(2). Calling it again changes the backlog.
    pub(crate) fn listen(&mut self, core: &mut Core, id: SocketId, backlog: usize) -> Result<(), Errno> {
        let socket = self.sockets.get(&id).ok_or(Errno::EBADF)?;
        if !matches!(socket.state, State::Closed | State::Listen) || socket.quad.is_some() {
            return Err(Errno::EINVAL);
        }
        let backlog = backlog.min(core.config.max_backlog);
        if socket.local.port == 0 {
            let any = Endpoint { port: 0, ..socket.local };
            self.bind(core, id, any)?;
        }
        let Some(socket) = self.sockets.get(&id) else { return Err(Errno::EBADF) };
        let port = socket.local.port;
        if socket.state != State::Listen {
            // Two may be bound by SO_REUSEADDR, but only one listens.
            let rival = self.listeners.get(&port).into_iter().flatten().filter_map(|other| self.sockets.get(other)).any(|other| {
                let shared = other.options.reuse_port && socket.options.reuse_port && other.options.owner == socket.options.owner;
                let (one, two) = ((socket.local.address, socket.options.v6_only), (other.local.address, other.options.v6_only));
                !shared && crate::datagram::overlap(one, two)
            });
            if rival {
                return Err(Errno::EADDRINUSE);
            }
            self.listeners.entry(port).or_default().push(id);
        }
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.state = State::Listen;
            socket.listen.get_or_insert_with(Box::default).backlog = backlog;
        }
        Ok(())
    }

    /// accept(2): EAGAIN when nobody waits, EINVAL when not listening.
    pub(crate) fn accept(&mut self, id: SocketId) -> Result<SocketId, Errno> {
        let socket = self.sockets.get_mut(&id).ok_or(Errno::EBADF)?;
        let listener = socket.listen.as_mut().ok_or(Errno::EINVAL)?;
        listener.take().ok_or(Errno::EAGAIN)
    }

    /// Connections that wait for accept (`tcpi_unacked` of a listener, `ss -l`).
    pub(crate) fn accept_queue_len(&self, id: SocketId) -> usize {
        self.sockets.get(&id).and_then(|socket| socket.listen.as_ref()).map_or(0, |listener| listener.queue_len())
    }

    /// connect(2), which never waits: EINPROGRESS when the SYN is out, EALREADY while it is, EISCONN, or why not.
    pub(crate) fn connect(&mut self, core: &mut Core, id: SocketId, to: Endpoint) -> Result<(), Errno> {
        let socket = self.sockets.get_mut(&id).ok_or(Errno::EBADF)?;
        match socket.state {
            State::SynSent | State::SynReceived => return Err(Errno::EALREADY),
            State::Listen => return Err(Errno::EISCONN),
            State::Closed if socket.quad.is_some() => {
                // A failed attempt: its error first, then a new try.
                if let Some(errno) = socket.error.take() {
                    return Err(errno);
                }
                if socket.iss == socket.snd_una { socket.quad = None } else { return Err(Errno::EISCONN) }
            }
            State::Closed => {}
            _ => return Err(Errno::EISCONN),
        }
        let mut to = to;
        if to.address.is_unspecified() {
            to.address = loopback_of(Family::of(to.address));
        }
        if !socket.speaks(Family::of(to.address)) {
            return Err(Errno::EAFNOSUPPORT);
        }
        if to.address.is_multicast() {
            return Err(Errno::ENETUNREACH);
        }
        let bound = (!socket.local.address.is_unspecified()).then_some(socket.local.address);
        let output = to.interface.some().unwrap_or(socket.options.send.interface);
        let query = Query { src: bound, output, mark: socket.options.send.mark, ..Query::to(to.address) };
        let (decision, source) = core.route(&query)?;
        if matches!(decision.kind, RouteKind::Broadcast | RouteKind::Multicast) {
            return Err(Errno::ENETUNREACH);
        }
        let scope = crate::ip::icmp::scoped(to.address, decision.interface);
        let quad = |port| Quad { local: source, local_port: port, remote: to.address, remote_port: to.port, scope };
        let now_ns = core.now_ns;
        let reuse = core.config.tcp.time_wait_reuse;
        let free = |tcp: &Tcp, port: u16| {
            let quad = quad(port);
            let waiting = tcp.time_waits.get(&quad);
            !tcp.connections.contains_key(&quad) && waiting.is_none_or(|waiting| reuse && waiting.may_be_reused(now_ns))
        };
        let local_port = socket.local.port;
        let port = match local_port {
            0 => {
                let unshared = |tcp: &Tcp, port: u16| free(tcp, port) && !tcp.listeners.contains_key(&port);
                let port = self.free_port(core, unshared).ok_or(Errno::EADDRNOTAVAIL)?;
                self.bound.entry(port).or_default().push(id);
                port
            }
            port if free(self, port) => port,
            _ => return Err(Errno::EADDRNOTAVAIL),
        };
        let quad = quad(port);
        let old = self.time_waits.get(&quad).map(|waiting| (waiting.snd_nxt, waiting.ts_recent, waiting.ts_recent_ns));
        self.forget_time_wait(&quad);
        self.connections.insert(quad, id);
        core.statistics.tcp.active_opens += 1;
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.local = Endpoint { address: source, port, interface: scope };
            socket.begin(core, quad);
            if let Some((snd_nxt, ts_recent, at_ns)) = old {
                socket.iss = snd_nxt + (65_535 + 2);
                (socket.ts_recent, socket.ts_recent_ns) = (ts_recent, at_ns);
                socket.start_sequence();
            }
            socket.send_syn(core);
        }
        self.settle(core, id);
        Err(Errno::EINPROGRESS)
    }

    /// send(2), which never waits: how much was taken, EAGAIN when none could be.
    pub(crate) fn send(&mut self, core: &mut Core, id: SocketId, data: &[u8], call: SendCall) -> Result<usize, Errno> {
        let socket = self.sockets.get_mut(&id).ok_or(Errno::EBADF)?;
        let result = socket.take_to_send(core, data, call);
        self.settle(core, id);
        result
    }

    /// recv(2), which never waits: 0 is the end of the stream, EAGAIN nothing now.
    pub(crate) fn receive(&mut self, core: &mut Core, id: SocketId, out: &mut [u8], call: ReceiveCall) -> Result<usize, Errno> {
        let socket = self.sockets.get_mut(&id).ok_or(Errno::EBADF)?;
        let result = socket.give_received(core, out, call);
        self.settle(core, id);
        result
    }

    /// Options changed: what was held back by Nagle or a cork may go now.
    pub(crate) fn push(&mut self, core: &mut Core, id: SocketId) {
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.push_all = !socket.options.cork;
            socket.flush(core);
            socket.push_all = false;
        }
        self.settle(core, id);
    }

    /// shutdown(2).
    pub(crate) fn shutdown(&mut self, core: &mut Core, id: SocketId, read: bool, write: bool) -> Result<(), Errno> {
        let socket = self.sockets.get_mut(&id).ok_or(Errno::EBADF)?;
        match socket.state {
            State::Closed => return Err(Errno::ENOTCONN),
            State::Listen => {
                if read {
                    self.stop_listening(core, id);
                }
                return Ok(());
            }
            State::SynSent if write => {
                socket.close_now(core);
                self.settle(core, id);
                return Ok(());
            }
            _ => {}
        }
        if read {
            socket.receive_shut = true;
            core.wake(id, socket.ready());
        }
        if write {
            socket.queue_fin(core);
        }
        self.settle(core, id);
        Ok(())
    }

    fn stop_listening(&mut self, core: &mut Core, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        socket.state = State::Closed;
        let port = socket.local.port;
        let waiting = socket.listen.take().map(|mut listener: Box<Listener>| listener.waiting()).unwrap_or_default();
        if let Some(ids) = self.listeners.get_mut(&port) {
            ids.retain(|there| *there != id);
            if ids.is_empty() {
                self.listeners.remove(&port);
            }
        }
        for child in waiting {
            if let Some(child) = self.sockets.get_mut(&child) {
                child.options.linger_s = Some(0);
            }
            self.close(core, child);
        }
        core.wake(id, Ready::IN | Ready::HUP);
        self.settle(core, id);
    }

    /// close(2): the id is gone for its user; the connection ends by itself, or at once with a reset when data was left unread, by a zero
    /// linger, or when there are too many of its kind.
    pub(crate) fn close(&mut self, core: &mut Core, id: SocketId) {
        let Some(socket) = self.sockets.get(&id) else { return };
        if socket.state == State::Listen {
            self.stop_listening(core, id);
        }
        let crowded = self.orphans >= core.config.tcp.max_orphans;
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        if socket.orphan {
            return;
        }
        socket.orphan = true;
        self.orphans += 1;
        socket.close_by_user(core, crowded);
        self.settle(core, id);
        core.forget_ready(id);
    }
}

impl TcpSocket {
    /// Makes this a fresh connection to `quad`, about to send its SYN.
    fn begin(&mut self, core: &mut Core, quad: Quad) {
        let config = &core.config.tcp;
        (self.sack, self.timestamps) = (config.sack, config.timestamps);
        (self.quad, self.hashed) = (Some(quad), Some(quad));
        self.route = None;
        self.state = State::SynSent;
        self.fin_queued = false;
        self.soft_error = None;
        self.rtt = super::rtt::Rtt::default();
        self.timers = super::timer::TcpTimers::default();
        self.rcv_scale = self.scale_for(core);
        self.ts_offset = timestamp_offset(core, &quad);
        self.iss = initial_sequence(core, &quad);
        self.peer_mss = u32::from(u16::MAX);
        self.start_sequence();
        let _ = self.decision(core);
    }

    fn start_sequence(&mut self) {
        (self.snd_una, self.snd_nxt) = (self.iss, self.iss);
        self.send = SendQueue::new(self.iss + 1);
        self.small_end = self.iss;
        self.push_end = self.iss + 1;
        self.rack.farthest = self.iss;
        self.recovery.high = self.iss;
    }

    fn take_to_send(&mut self, core: &mut Core, data: &[u8], call: SendCall) -> Result<usize, Errno> {
        if let Some(errno) = self.error.take() {
            return Err(errno);
        }
        match self.state {
            State::SynSent | State::SynReceived => return Err(Errno::EAGAIN),
            State::Established | State::CloseWait if !self.fin_queued => {}
            State::Closed if self.quad.is_none() => return Err(Errno::EPIPE),
            _ => return Err(Errno::EPIPE),
        }
        if data.is_empty() {
            return Ok(0);
        }
        let room = self.options.send_limit.saturating_sub(self.send.cost());
        // The first byte is let in while little is used, so that a small buffer does not stop for ever.
        let room = if room == 0 && self.send.len() == 0 { 1 } else { room };
        let take = data.len().min(room);
        if take == 0 || !core.has_memory(take) {
            return Err(Errno::EAGAIN);
        }
        self.send.push(&data[..take]);
        self.push_end = self.send.end();
        if call.urgent && take == data.len() {
            self.urgent_end = Some(self.send.end());
        }
        let corked = self.options.cork;
        self.options.cork |= call.more;
        self.flush(core);
        self.options.cork = corked;
        Ok(take)
    }

    fn give_received(&mut self, core: &mut Core, out: &mut [u8], call: ReceiveCall) -> Result<usize, Errno> {
        if self.state == State::Listen || (self.state == State::Closed && self.quad.is_none()) {
            return Err(Errno::ENOTCONN);
        }
        if call.urgent {
            return self.give_urgent(out, call.peek);
        }
        let count = self.receive.read(out, call.peek, self.options.urgent_inline);
        if count > 0 || out.is_empty() {
            if !call.peek {
                self.tune_receive_buffer(core, count);
                self.update_window(core);
            }
            return Ok(count);
        }
        if let Some(errno) = self.error.take() {
            return Err(errno);
        }
        if self.fin_received || self.receive_shut || self.state == State::Closed {
            return Ok(0);
        }
        Err(Errno::EAGAIN)
    }

    fn give_urgent(&mut self, out: &mut [u8], peek: bool) -> Result<usize, Errno> {
        use super::receive::Urgent;
        if self.options.urgent_inline || matches!(self.receive.urgent, Urgent::None | Urgent::Read(_)) {
            return Err(Errno::EINVAL);
        }
        match self.receive.take_urgent(peek) {
            Some(byte) => {
                if let Some(first) = out.first_mut() {
                    *first = byte;
                }
                Ok(1)
            }
            None if self.fin_received || self.state == State::Closed => Ok(0),
            None => Err(Errno::EAGAIN),
        }
    }

    /// The reader keeps up: the buffer may grow to twice what it reads in a round trip (dynamic right-sizing).
    fn tune_receive_buffer(&mut self, core: &Core, count: usize) {
        if self.options.receive_locked || !core.config.tcp.moderate_receive_buffer {
            return;
        }
        self.tuning.read += count as u64;
        let round_ns = if self.rtt.smoothed_ns == 0 { SECOND / 10 } else { self.rtt.smoothed_ns };
        if core.now_ns < self.tuning.since_ns + round_ns {
            return;
        }
        let read = self.tuning.read;
        if read > self.tuning.space {
            let window = 2 * read + 16 * u64::from(self.mss);
            let wanted = usize::try_from(2 * window).unwrap_or(usize::MAX).min(core.config.tcp.receive[2]);
            if wanted > self.options.receive_limit && core.has_memory(wanted - self.options.receive_limit) {
                self.options.receive_limit = wanted;
            }
            self.tuning.space = read;
        }
        (self.tuning.read, self.tuning.since_ns) = (0, core.now_ns);
    }

    /// After a read: tells the peer when the window has opened far (Linux's `tcp_cleanup_rbuf`).
    fn update_window(&mut self, core: &mut Core) {
        if matches!(self.state, State::Closed | State::SynSent) || self.fin_received {
            return;
        }
        let offered = (self.rcv_wup + self.rcv_wnd).since(self.rcv_nxt);
        let space = self.receive_space();
        let full = u32::try_from(self.options.receive_limit / 2).unwrap_or(u32::MAX);
        let opened = offered * 2 <= full && space >= 2 * offered && space >= self.rcv_mss.min(full / 2);
        let owed = self.ack.pending && self.rcv_nxt.since(self.rcv_wup) > self.rcv_mss;
        if opened || owed {
            self.send_ack(core);
        }
    }

    /// No more will be sent.
    fn queue_fin(&mut self, core: &mut Core) {
        if self.fin_queued {
            return;
        }
        self.state = match self.state {
            State::Established | State::SynReceived => State::FinWait1,
            State::CloseWait => State::LastAck,
            other => other,
        };
        self.fin_queued = true;
        self.flush(core);
    }

    fn close_by_user(&mut self, core: &mut Core, crowded: bool) {
        match self.state {
            State::Closed => {}
            State::SynSent => self.close_now(core),
            _ => {
                let unread = self.receive.readable() > 0 && !self.receive_shut;
                let at_once = self.options.linger_s == Some(0);
                if (unread || at_once || crowded) && !matches!(self.state, State::LastAck | State::Closing) {
                    let counters = &mut core.statistics.tcp;
                    *(if at_once { &mut counters.abort_on_linger } else { &mut counters.abort_on_close }) += 1;
                    self.send_reset_now(core);
                    self.close_now(core);
                    return;
                }
                if self.state == State::FinWait2 {
                    match self.options.linger2_s {
                        Some(seconds) => self.timers.fin_wait = Some(core.now_ns + seconds * SECOND),
                        None => self.close_now(core),
                    }
                    return;
                }
                self.queue_fin(core);
            }
        }
    }
}
