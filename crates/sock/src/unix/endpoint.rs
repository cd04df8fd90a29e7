//! The part of a local socket that others may refer to: what waits for its reader, what it has sent that nobody read, its name, its backlog.
//!
//! A peer holds an endpoint and never a socket, and an endpoint holds nobody: so there are no rings of references but those that descriptors in
//! flight make (`rights`).
//!
//! Always true: `sent` is the cost of this socket's pieces in other queues.

use crate::message::{Identity, Ucred};
use crate::options::Options;
use crate::socket::Kind;
use crate::sockets::Sockets;
use crate::unix::name::Name;
use crate::unix::queue::{Lacks, NOTE_COST, Note, PLACES_COST, Piece, Queue};
use crate::unix::rights::Flight;
use crate::unix::socket::UnixSocket;
use abi::{Errno, SysResult};
use std::any::Any;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use sync::{Events, SpinLock, WaitQueue};

/// Bytes charged for a socket: endpoint, options, file operations.
const SOCKET_COST: usize = 2048;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Connections that wait for accept(2).
pub(crate) struct Backlog {
    pub waiting: VecDeque<Arc<UnixSocket>>,
    /// listen(2)'s argument: one more than this may wait.
    pub max: usize,
}

/// Who a socket belonged to when it was connected or began to listen: SO_PEERCRED and SO_PEERGROUPS of the other side.
#[derive(Clone)]
pub(crate) struct Owner {
    pub ucred: Ucred,
    pub groups: Arc<[u32]>,
    pub process: Weak<dyn Any + Send + Sync>,
}

impl Owner {
    pub fn of(who: &Identity) -> Owner {
        Owner { ucred: who.effective(), groups: who.credentials.groups.clone(), process: who.process.clone() }
    }
}

/// See the module.
pub struct Endpoint {
    pub(crate) id: u64,
    pub(crate) ino: AtomicU64,
    pub(crate) kind: Kind,
    pub(crate) sockets: &'static Sockets,
    pub(crate) options: Arc<Options>,
    pub(crate) queue: SpinLock<Queue>,
    /// Readers sleep here, and those who accept.
    pub(crate) readers: WaitQueue,
    pub(crate) readable: Arc<WaitQueue>,
    /// Cost of what this socket sent and nobody has read.
    sent: AtomicUsize,
    /// Senders of this socket sleep here.
    room: WaitQueue,
    pub(crate) writable: Arc<WaitQueue>,
    /// Those sleep here who send to this socket's full queue, or connect to its full backlog.
    pub(crate) drained: Arc<WaitQueue>,
    /// `sk_err`; 0 is none.
    error: AtomicI32,
    name: SpinLock<Option<Arc<Name>>>,
    /// The id of the endpoint that it is connected to; 0 is none.
    pub(crate) peer_id: AtomicU64,
    pub(crate) backlog: SpinLock<Option<Backlog>>,
    pub(crate) owner: OnceLock<Owner>,
    /// Its socket is gone.
    pub(crate) gone: AtomicBool,
    /// Nobody has accepted it yet, so nobody could say whether credentials are wanted.
    pub(crate) is_embryo: AtomicBool,
    _charge: ram::Charge,
}

impl Endpoint {
    pub(crate) fn new(sockets: &'static Sockets, kind: Kind, options: Arc<Options>) -> Result<Arc<Endpoint>, Errno> {
        let endpoint = Arc::new(Endpoint {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            ino: AtomicU64::new(0),
            kind,
            sockets,
            options,
            queue: SpinLock::default(),
            readers: WaitQueue::new(),
            readable: Arc::default(),
            sent: AtomicUsize::new(0),
            room: WaitQueue::new(),
            writable: Arc::default(),
            drained: Arc::default(),
            error: AtomicI32::new(0),
            name: SpinLock::new(None),
            peer_id: AtomicU64::new(0),
            backlog: SpinLock::new(None),
            owner: OnceLock::new(),
            gone: AtomicBool::new(false),
            is_embryo: AtomicBool::new(false),
            _charge: sockets.ram.charge(SOCKET_COST)?,
        });
        sockets.names.add(&endpoint);
        Ok(endpoint)
    }

    pub(crate) fn name(&self) -> Option<Arc<Name>> {
        self.name.lock().clone()
    }
    /// Takes a name. EINVAL if it has one.
    pub(crate) fn set_name(&self, name: Arc<Name>) -> Result<(), Errno> {
        let mut own = self.name.lock();
        if own.is_some() {
            return Err(Errno::EINVAL);
        }
        *own = Some(name);
        Ok(())
    }
    pub(crate) fn is_listening(&self) -> bool {
        self.backlog.lock().is_some()
    }
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }
    /// Whether its reader is to be told who sends.
    pub(crate) fn wants_credentials(&self) -> bool {
        self.options.passes_credentials() || self.is_embryo.load(Ordering::Relaxed)
    }
    pub(crate) fn is_shut(&self) -> bool {
        self.queue.lock().shut
    }

    /// The pending error, which is none after that.
    pub(crate) fn take_error(&self) -> Option<Errno> {
        if self.error.load(Ordering::Relaxed) == 0 {
            return None;
        }
        Errno::from_raw(self.error.swap(0, Ordering::AcqRel))
    }
    pub(crate) fn has_error(&self) -> bool {
        self.error.load(Ordering::Relaxed) != 0
    }
    pub(crate) fn set_error(&self, errno: Errno) {
        self.error.store(errno.raw(), Ordering::Release);
    }

    fn limit(&self) -> usize {
        self.options.send_buffer.load(Ordering::Relaxed)
    }
    /// Bytes that it has sent and nobody has read, with what they cost.
    pub(crate) fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }
    /// `unix_writable`: three quarters of what it may send are free.
    pub(crate) fn is_writable(&self) -> bool {
        self.sent() * 4 <= self.limit()
    }
    /// Waits until the socket may send, or `over` gives a reason not to.
    pub(crate) fn wait_room(&self, patience: crate::Patience, over: impl Fn() -> Option<Errno>) -> SysResult<()> {
        patience.wait(&self.room, || match over() {
            Some(errno) => Some(Err(errno)),
            None => (self.sent() < self.limit()).then_some(Ok(())),
        })??;
        Ok(())
    }
    pub(crate) fn has_room(&self) -> bool {
        self.sent() < self.limit()
    }
    /// What of this socket's was read, or dropped.
    pub(crate) fn was_read(&self, cost: usize) {
        let before = self.sent.fetch_sub(cost, Ordering::AcqRel);
        let limit = self.limit();
        if before * 4 > limit && (before - cost) * 4 <= limit {
            self.tell_writable();
        }
    }
    /// Wakes who waits for room to send, or for the end.
    pub(crate) fn tell_writable(&self) {
        self.room.wake_all();
        self.writable.notify(Events::OUT | Events::WRNORM | Events::WRBAND);
    }
    /// Wakes a reader: something came.
    pub(crate) fn tell_readable(&self) {
        self.readers.wake_one();
        self.readable.notify(Events::IN | Events::RDNORM);
    }
    /// Wakes everybody: a side was shut, or the socket or its peer is gone.
    pub(crate) fn tell_shut(&self, events: Events) {
        self.readers.wake_all();
        self.room.wake_all();
        self.drained.wake_all();
        self.readable.notify(events);
        self.writable.notify(events);
    }

    fn make_places(&self) -> Result<(), Errno> {
        let charge = self.sockets.ram.charge(PLACES_COST)?;
        self.queue.lock().add_places(charge);
        Ok(())
    }

    /// Puts a few bytes of `sender` (at most a page) into this queue. EPIPE when it is shut, ECONNREFUSED when its socket is gone.
    pub(crate) fn push_small(&self, sender: &Endpoint, data: &[u8], end: bool, mut note: Option<Box<Note>>) -> Result<(), Errno> {
        let mut fresh = None;
        loop {
            let lacks = {
                let mut queue = self.queue.lock();
                self.check_open(&queue)?;
                match queue.append(data, end, &mut note, &mut fresh) {
                    Ok(cost) => {
                        sender.sent.fetch_add(cost, Ordering::AcqRel);
                        return Ok(());
                    }
                    Err(lacks) => lacks,
                }
            };
            match lacks {
                Lacks::Place => self.make_places()?,
                Lacks::Frame => fresh = Some(self.sockets.ram.alloc()?),
            }
        }
    }

    fn check_open(&self, queue: &Queue) -> Result<(), Errno> {
        if queue.closed && self.kind == Kind::Datagram {
            return Err(Errno::ECONNREFUSED);
        }
        if queue.shut || queue.closed { Err(Errno::EPIPE) } else { Ok(()) }
    }

    /// Puts pieces of `sender` into this queue, all or none. Descriptors that go with the first are in flight from then on.
    pub(crate) fn push(&self, sender: &Endpoint, pieces: &mut Vec<Piece>) -> Result<(), Errno> {
        let rights = pieces.first().is_some_and(Piece::has_rights);
        loop {
            {
                let gate = rights.then(|| self.sockets.flight.lock());
                let mut queue = self.queue.lock();
                self.check_open(&queue)?;
                if queue.has_places(pieces.len()) {
                    if let (Some(mut gate), Some(note)) = (gate, pieces.first_mut().and_then(|piece| piece.note.as_mut())) {
                        note.rights.as_mut().map_or(Ok(()), |rights| Flight::launch(&mut gate, rights))?;
                    }
                    let cost: usize = pieces.iter().map(Piece::cost).sum();
                    sender.sent.fetch_add(cost, Ordering::AcqRel);
                    pieces.drain(..).for_each(|piece| queue.push(piece));
                    return Ok(());
                }
            }
            self.make_places()?;
        }
    }

    /// A note of its sender, if there is anything to note.
    pub(crate) fn note(&self, note: Note) -> Result<Option<Box<Note>>, Errno> {
        if note.sender.is_none() && note.credentials.is_none() && note.rights.is_none() {
            return Ok(None);
        }
        let _charge = Some(self.sockets.ram.charge(NOTE_COST)?);
        Ok(Some(Box::new(Note { _charge, ..note })))
    }
}
