//! Descriptors in flight, SCM_RIGHTS of unix(7): counting them by user, and finding those that only wait for each other.
//!
//! A descriptor in a queue keeps its file open. Files of local sockets have queues themselves, so files can keep each other open with no
//! descriptor left to reach them. [`Flight::collect`] finds such: a socket's file all of whose references are in flight, in queues that can be
//! reached only through such files.
//!
//! Always true: what is in flight is counted under the flight's lock, together with its place in a queue; so under that lock a file whose
//! references are all counted can be reached by nobody but a reader of a queue. The flight's lock is taken before a queue's.

use crate::message::Identity;
use crate::socket::Socket;
use crate::sockets::Sockets;
use crate::unix::endpoint::Endpoint;
use crate::unix::socket::UnixSocket;
use abi::Errno;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use sync::{SpinGuard, SpinLock};
use vfs::{Capability, OpenFile};

/// Most descriptors in one message.
pub const SCM_MAX_FD: usize = 253;
/// Bytes charged for a descriptor in flight.
pub(crate) const RIGHT_COST: usize = 128;

/// Descriptors of one message.
pub(crate) struct Rights {
    files: Vec<Arc<OpenFile>>,
    user: u32,
    sockets: &'static Sockets,
    /// Counted.
    flying: bool,
    _charge: ram::Charge,
}

impl Rights {
    /// To be sent by `who`. EINVAL for too many, ETOOMANYREFS when the user has too many in flight.
    pub fn new(sockets: &'static Sockets, who: &Identity, files: Vec<Arc<OpenFile>>) -> Result<Rights, Errno> {
        if files.len() > SCM_MAX_FD {
            return Err(Errno::EINVAL);
        }
        let user = who.credentials.uid;
        let free = who.credentials.has(Capability::SYS_RESOURCE) || who.credentials.has(Capability::SYS_ADMIN);
        let flying = sockets.flight.lock().users.get(&user).copied().unwrap_or(0);
        if flying as u64 > who.nofile && !free {
            return Err(Errno::ETOOMANYREFS);
        }
        let charge = sockets.ram.charge(RIGHT_COST * files.len())?;
        Ok(Rights { files, user, sockets, flying: false, _charge: charge })
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        if self.flying {
            self.sockets.flight.lock().land(self);
        }
        self.sockets.flight.close(std::mem::take(&mut self.files));
    }
}

struct Flying {
    file: Weak<OpenFile>,
    endpoint: Arc<Endpoint>,
    count: usize,
}

/// What is counted.
#[derive(Default)]
pub(crate) struct InFlight {
    /// Files of local sockets, by id.
    files: HashMap<u64, Flying>,
    /// Descriptors of any kind by user.
    users: HashMap<u32, usize>,
}

fn endpoint_of(file: &OpenFile) -> Option<Arc<Endpoint>> {
    Some(Socket::from_file(file).ok()?.protocol::<UnixSocket>()?.endpoint().clone())
}

impl InFlight {
    fn land(&mut self, rights: &mut Rights) {
        rights.flying = false;
        for file in &rights.files {
            if let Some(flying) = self.files.get_mut(&file.id()) {
                flying.count -= 1;
                if flying.count == 0 {
                    self.files.remove(&file.id());
                }
            }
        }
        if let Some(count) = self.users.get_mut(&rights.user) {
            *count -= rights.files.len();
            if *count == 0 {
                self.users.remove(&rights.user);
            }
        }
    }

    /// Takes descriptors out of flight; they are the caller's. Called under the lock of the queue that they were in as well.
    pub fn receive(&mut self, mut rights: Rights) -> Vec<Arc<OpenFile>> {
        if rights.flying {
            self.land(&mut rights);
        }
        std::mem::take(&mut rights.files)
    }
    /// Copies, for MSG_PEEK, with the same locks.
    pub fn peek(&mut self, rights: &Rights) -> Vec<Arc<OpenFile>> {
        rights.files.clone()
    }

    #[cfg(test)]
    pub fn files_in_flight(&self) -> usize {
        self.files.len()
    }

    /// Ids of socket files that lie in an endpoint's queue or in those of connections that wait to be accepted there.
    fn contents(endpoint: &Endpoint) -> Vec<u64> {
        let mut ids = Vec::new();
        let mut look = |endpoint: &Endpoint| {
            let queue = endpoint.queue.lock();
            let rights = queue.pieces.iter().filter_map(|piece| piece.note.as_ref()?.rights.as_ref());
            ids.extend(rights.flat_map(|rights| rights.files.iter().map(|file| file.id())));
        };
        look(endpoint);
        let waiting: Vec<_> = endpoint.backlog.lock().as_ref().map(|b| b.waiting.iter().cloned().collect()).unwrap_or_default();
        waiting.iter().for_each(|socket| look(socket.endpoint()));
        ids
    }

    /// Ids of socket files that nobody can reach.
    fn unreachable(&self) -> HashSet<u64> {
        let mut suspects: HashSet<u64> =
            self.files.iter().filter(|(_, flying)| flying.file.strong_count() == flying.count).map(|(id, _)| *id).collect();
        if suspects.is_empty() {
            return suspects;
        }
        let contents: HashMap<u64, Vec<u64>> =
            suspects.iter().filter_map(|id| Some((*id, Self::contents(&self.files.get(id)?.endpoint)))).collect();
        let mut inside: HashMap<u64, usize> = HashMap::new();
        contents.values().flatten().for_each(|id| *inside.entry(*id).or_default() += 1);
        // A suspect with a reference in some other queue is alive, and what its own queue holds with it.
        let count = |id: &u64| self.files.get(id).map_or(0, |flying| flying.count);
        let mut alive: Vec<u64> = suspects.iter().filter(|id| inside.get(id).copied().unwrap_or(0) < count(id)).copied().collect();
        while let Some(id) = alive.pop() {
            if suspects.remove(&id) {
                alive.extend(contents.get(&id).into_iter().flatten().filter(|id| suspects.contains(id)));
            }
        }
        suspects
    }
}

/// The descriptors in flight of a machine.
#[derive(Default)]
pub struct Flight {
    counted: SpinLock<InFlight>,
    /// Socket files in flight, readable without the lock.
    socket_files: AtomicUsize,
    /// Files to be closed. One closes another when it goes, to any depth, so whoever closes one takes what comes here meanwhile.
    closing: SpinLock<Vec<Arc<OpenFile>>>,
    is_closing: AtomicBool,
    /// Sockets that went since the last search.
    gone: AtomicUsize,
}

impl Flight {
    pub(crate) fn lock(&self) -> SpinGuard<'_, InFlight> {
        self.counted.lock()
    }

    /// Descriptors are put into a queue, whose lock is held too.
    pub(crate) fn launch(gate: &mut InFlight, rights: &mut Rights) -> Result<(), Errno> {
        for file in &rights.files {
            if let Some(endpoint) = endpoint_of(file) {
                let flying = gate.files.entry(file.id()).or_insert_with(|| Flying { file: Arc::downgrade(file), endpoint, count: 0 });
                flying.count += 1;
            }
        }
        *gate.users.entry(rights.user).or_default() += rights.files.len();
        rights.flying = true;
        rights.sockets.flight.socket_files.store(gate.files.len(), Ordering::Relaxed);
        Ok(())
    }

    /// Closes files without going deeper for each that another keeps open.
    fn close(&self, files: Vec<Arc<OpenFile>>) {
        if files.is_empty() {
            return;
        }
        self.closing.lock().extend(files);
        while !self.is_closing.swap(true, Ordering::AcqRel) {
            loop {
                let next = self.closing.lock().pop();
                let Some(file) = next else { break };
                drop(file);
            }
            self.is_closing.store(false, Ordering::Release);
            if self.closing.lock().is_empty() {
                break;
            }
        }
    }

    /// Closes what nobody can reach. Called whenever a local socket goes.
    pub(crate) fn collect(&self) {
        // With many in flight a search is long, so more sockets must go before the next.
        let gone = self.gone.fetch_add(1, Ordering::Relaxed) + 1;
        let flying = self.socket_files.load(Ordering::Relaxed);
        if flying == 0 || gone * 32 < flying {
            return;
        }
        self.gone.store(0, Ordering::Relaxed);
        let mut garbage = Vec::new();
        {
            let mut gate = self.lock();
            let dead = gate.unreachable();
            let endpoints: Vec<Arc<Endpoint>> = dead.iter().filter_map(|id| Some(gate.files.get(id)?.endpoint.clone())).collect();
            for endpoint in endpoints {
                let mut taken = Vec::new();
                let waiting: Vec<_> = endpoint.backlog.lock().as_ref().map(|b| b.waiting.iter().cloned().collect()).unwrap_or_default();
                for endpoint in std::iter::once(&endpoint).chain(waiting.iter().map(|socket| socket.endpoint())) {
                    let mut queue = endpoint.queue.lock();
                    taken.extend(queue.pieces.iter_mut().filter_map(|piece| piece.note.as_mut()?.rights.take()));
                }
                for rights in taken {
                    garbage.extend(gate.receive(rights));
                }
            }
            self.socket_files.store(gate.files.len(), Ordering::Relaxed);
        }
        self.close(garbage);
    }
}
