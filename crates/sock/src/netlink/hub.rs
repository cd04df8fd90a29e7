//! Who listens: the ports of each netlink family, the groups that sockets are in, and delivery to them.
//!
//! Always true: what waits to be read is charged and bounded by the receive buffer; what is beyond that is ENOBUFS for the reader.

use crate::message::Ucred;
use crate::options::Options;
use abi::Errno;
use net::bpf::{Ancillary, Program};
use ram::{Charge, Ram};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use sync::{Events, SpinLock, WaitQueue};

/// Who sent a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sender {
    /// 0 is the kernel.
    pub port: u32,
    /// The group it was sent to; 0 for none.
    pub group: u32,
    pub credentials: Ucred,
}

impl Sender {
    /// The kernel itself, to a group or (0) to one socket.
    pub const fn kernel(group: u32) -> Sender {
        Sender { port: 0, group, credentials: Ucred { pid: 0, uid: 0, gid: 0 } }
    }
}

/// A message that waits.
pub(super) struct Waiting {
    pub data: Vec<u8>,
    pub from: Sender,
    _charge: Option<Charge>,
}

#[derive(Default)]
pub(super) struct Queue {
    pub waiting: VecDeque<Waiting>,
    pub bytes: usize,
    /// Something was lost since the reader last looked.
    pub overrun: bool,
}

/// The receiving side of a socket.
pub(crate) struct Inbox {
    ram: &'static Ram,
    pub(super) options: Arc<Options>,
    pub(super) queue: SpinLock<Queue>,
    pub(super) readers: Arc<WaitQueue>,
    /// Bit n - 1 for group n.
    pub(super) groups: AtomicU64,
    pub(super) filter: SpinLock<Option<Arc<Program>>>,
}

impl Inbox {
    pub(super) fn new(ram: &'static Ram, options: Arc<Options>) -> Arc<Inbox> {
        Arc::new(Inbox {
            ram,
            options,
            queue: SpinLock::default(),
            readers: Arc::default(),
            groups: AtomicU64::new(0),
            filter: SpinLock::default(),
        })
    }

    pub(super) fn deliver(&self, mut data: Vec<u8>, from: Sender) {
        let filter = self.filter.lock().clone();
        if let Some(filter) = filter {
            match filter.run(&data, &Ancillary::default()) {
                0 => return,
                keep => data.truncate(keep as usize),
            }
        }
        let charge = self.ram.charge(data.capacity() + size_of::<Waiting>() * 2);
        {
            let mut queue = self.queue.lock();
            let full = queue.bytes >= self.options.receive_buffer.load(Ordering::Relaxed);
            match charge {
                Ok(charge) if !full => {
                    queue.bytes += data.len();
                    queue.waiting.push_back(Waiting { data, from, _charge: Some(charge) });
                }
                _ => queue.overrun = true,
            }
        }
        self.readers.notify(Events::IN | Events::RDNORM);
    }

    fn is_in(&self, group: u32) -> bool {
        (1..=64).contains(&group) && self.groups.load(Ordering::Relaxed) & 1 << (group - 1) != 0
    }
}

/// All sockets that have a port, by family and port.
#[derive(Default)]
pub(crate) struct Hub(SpinLock<BTreeMap<(i32, u32), Weak<Inbox>>>);

impl Hub {
    /// Takes port `wanted`, or any if it is 0 or (for no choice of the caller's) taken. EADDRINUSE.
    pub(super) fn take(&self, family: i32, wanted: u32, may_choose: bool, inbox: &Arc<Inbox>) -> Result<u32, Errno> {
        let mut sockets = self.0.lock();
        let port = if wanted != 0 && !sockets.contains_key(&(family, wanted)) {
            wanted
        } else if may_choose {
            // `netlink_autobind` goes down from -4097.
            let mut ports = (1..0x7fff_ffff_u32).map(|n| 0xffff_efff_u32.wrapping_sub(n));
            ports.find(|port| !sockets.contains_key(&(family, *port))).ok_or(Errno::EADDRINUSE)?
        } else {
            return Err(Errno::EADDRINUSE);
        };
        sockets.insert((family, port), Arc::downgrade(inbox));
        Ok(port)
    }
    pub(super) fn give_back(&self, family: i32, port: u32) {
        self.0.lock().remove(&(family, port));
    }
    /// To the socket with this port. ECONNREFUSED.
    pub(super) fn unicast(&self, family: i32, port: u32, data: Vec<u8>, from: Sender) -> Result<(), Errno> {
        let inbox = self.0.lock().get(&(family, port)).and_then(Weak::upgrade);
        inbox.ok_or(Errno::ECONNREFUSED)?.deliver(data, from);
        Ok(())
    }
    /// To every socket in the group that `from` names but the sender's own.
    pub(crate) fn multicast(&self, family: i32, data: &[u8], from: Sender) {
        let members: Vec<Arc<Inbox>> = {
            let sockets = self.0.lock();
            let of_family = sockets.range((family, 0)..=(family, u32::MAX));
            of_family.filter(|((_, port), _)| *port != from.port).filter_map(|(_, inbox)| inbox.upgrade()).collect()
        };
        members.iter().filter(|inbox| inbox.is_in(from.group)).for_each(|inbox| inbox.deliver(data.to_vec(), from));
    }
}
