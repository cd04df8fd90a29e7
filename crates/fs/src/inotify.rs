//! inotify(7): instances, watches, and the queue of events.
//!
//! Always true: a queue holds [`MAX_EVENTS`] events at most, after which one overflow event says that some are missing; an event equal to the last
//! one in the queue is dropped; a watch on an inode keeps the inode alive, and its memory is charged.

use abi::{Errno, SysResult};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use sync::{Events, SpinLock, WaitQueue};
use vfs::{
    Access, Caller, FileOps, Inode, IoctlCaller, LookupFlags, NotifyMask, OpenFile, OpenFlags, PathAt, PollTable, Positioning, Sink, Watch,
};

/// `/proc/sys/fs/inotify/max_queued_events`.
pub static MAX_EVENTS: AtomicUsize = AtomicUsize::new(16384);
/// `/proc/sys/fs/inotify/max_user_watches`, per instance here.
pub static MAX_WATCHES: AtomicUsize = AtomicUsize::new(65536);
/// Bytes of `struct inotify_event` before the name.
const HEADER: usize = 16;
/// Bytes charged for a watch.
const WATCH_COST: usize = 256;
/// Bytes of an event's name, padding included, are a multiple of this.
const ALIGN: usize = 16;
const FIONREAD: u32 = 0x541b;
/// Events that a watch may ask for: `IN_ALL_EVENTS`.
const ALL: NotifyMask = NotifyMask::from_bits_truncate(0xfff);

#[derive(Clone, PartialEq, Eq)]
struct Event {
    wd: i32,
    mask: NotifyMask,
    cookie: u32,
    name: Option<Box<[u8]>>,
}

impl Event {
    fn name_len(&self) -> usize {
        // A name is followed by at least one NUL.
        self.name.as_ref().map_or(0, |name| (name.len() + 1).next_multiple_of(ALIGN))
    }
    fn len_bytes(&self) -> usize {
        HEADER + self.name_len()
    }
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len_bytes());
        bytes.extend_from_slice(&self.wd.to_ne_bytes());
        bytes.extend_from_slice(&self.mask.bits().to_ne_bytes());
        bytes.extend_from_slice(&self.cookie.to_ne_bytes());
        bytes.extend_from_slice(&(self.name_len() as u32).to_ne_bytes());
        bytes.extend_from_slice(self.name.as_deref().unwrap_or_default());
        bytes.resize(self.len_bytes(), 0);
        bytes
    }
}

struct InotifyWatch {
    wd: i32,
    instance: Weak<Inotify>,
    inode: Arc<dyn Inode>,
    /// What is wanted, and IN_ONESHOT and the like.
    mask: AtomicU32,
    _charge: ram::Charge,
}

impl InotifyWatch {
    fn mask(&self) -> NotifyMask {
        NotifyMask::from_bits_truncate(self.mask.load(Ordering::Relaxed))
    }
}

impl Watch for InotifyWatch {
    fn event(&self, mask: NotifyMask, cookie: u32, name: Option<&[u8]>) {
        let Some(instance) = self.instance.upgrade() else { return };
        let gone = mask.contains(NotifyMask::IGNORED);
        let wanted = self.mask();
        if !gone && !mask.intersects(wanted & ALL) {
            return;
        }
        instance.push(Event { wd: self.wd, mask, cookie, name: name.map(Box::from) });
        let once = wanted.contains(NotifyMask::ONESHOT);
        if gone || once {
            instance.forget(self.wd, if gone { Said::Already } else { Said::Now });
        }
    }
}

/// Whether the end of a watch has been told of.
#[derive(PartialEq, Eq)]
enum Said {
    Already,
    Now,
}

/// An inotify instance.
pub struct Inotify {
    ram: &'static ram::Ram,
    watches: SpinLock<Watches>,
    events: SpinLock<VecDeque<Event>>,
    queue: Arc<WaitQueue>,
    this: Weak<Inotify>,
}

#[derive(Default)]
struct Watches {
    by_wd: BTreeMap<i32, Arc<InotifyWatch>>,
    last: i32,
}

/// Opens a new instance. `flags`: O_NONBLOCK.
pub fn inotify(caller: &Caller<'_>, flags: OpenFlags) -> SysResult<Arc<OpenFile>> {
    let ops = Arc::new_cyclic(|this| Inotify {
        ram: caller.vfs.ram(),
        watches: SpinLock::default(),
        events: SpinLock::default(),
        queue: Arc::default(),
        this: this.clone(),
    });
    caller.open_anon("anon_inode:inotify", ops, flags.intersection(OpenFlags::NONBLOCK))
}

impl Inotify {
    /// inotify_add_watch(2): the number of the watch.
    pub fn add_watch(&self, caller: &Caller<'_>, path: PathAt<'_>, mask: u32) -> SysResult<i32> {
        let mask = NotifyMask::from_bits_truncate(mask);
        if !mask.intersects(ALL) || mask.contains(NotifyMask::MASK_ADD | NotifyMask::MASK_CREATE) {
            return Err(Errno::EINVAL.into());
        }
        let mut lookup = if mask.contains(NotifyMask::DONT_FOLLOW) { LookupFlags::empty() } else { LookupFlags::FOLLOW };
        if mask.contains(NotifyMask::ONLYDIR) {
            lookup |= LookupFlags::DIRECTORY;
        }
        let path = caller.lookup(path, lookup)?;
        let inode = path.inode().clone();
        inode.permission(caller.credentials, Access::READ)?;
        let kept = mask & (ALL | NotifyMask::ONESHOT | NotifyMask::EXCL_UNLINK);
        if let Some(known) = self.find(&inode) {
            if mask.contains(NotifyMask::MASK_CREATE) {
                return Err(Errno::EEXIST.into());
            }
            let old = if mask.contains(NotifyMask::MASK_ADD) { known.mask() } else { NotifyMask::empty() };
            known.mask.store((old | kept).bits(), Ordering::Relaxed);
            return Ok(known.wd);
        }
        let charge = self.ram.charge(WATCH_COST)?;
        let watch = {
            let mut watches = self.watches.lock();
            if watches.by_wd.len() >= MAX_WATCHES.load(Ordering::Relaxed) || watches.last == i32::MAX {
                return Err(Errno::ENOSPC.into());
            }
            watches.last += 1;
            let wd = watches.last;
            let mask = AtomicU32::new(kept.bits());
            let watch = Arc::new(InotifyWatch { wd, instance: self.this.clone(), inode: inode.clone(), mask, _charge: charge });
            watches.by_wd.insert(wd, watch.clone());
            watch
        };
        let wd = watch.wd;
        inode.attachments().add_watch(watch);
        Ok(wd)
    }

    /// inotify_rm_watch(2). EINVAL.
    pub fn remove_watch(&self, wd: i32) -> Result<(), Errno> {
        if self.forget(wd, Said::Now) { Ok(()) } else { Err(Errno::EINVAL) }
    }

    fn find(&self, inode: &Arc<dyn Inode>) -> Option<Arc<InotifyWatch>> {
        self.watches.lock().by_wd.values().find(|watch| Arc::ptr_eq(&watch.inode, inode)).cloned()
    }

    fn forget(&self, wd: i32, said: Said) -> bool {
        let Some(watch) = self.watches.lock().by_wd.remove(&wd) else { return false };
        let inode = watch.inode.clone();
        let watch: Arc<dyn Watch> = watch;
        inode.attachments().remove_watch(&watch);
        if said == Said::Now {
            self.push(Event { wd, mask: NotifyMask::IGNORED, cookie: 0, name: None });
        }
        true
    }

    fn push(&self, event: Event) {
        {
            let mut events = self.events.lock();
            if events.back() == Some(&event) {
                return;
            }
            let max = MAX_EVENTS.load(Ordering::Relaxed);
            if events.len() > max {
                return;
            }
            let overflow = events.len() == max;
            events.push_back(if overflow { Event { wd: -1, mask: NotifyMask::Q_OVERFLOW, cookie: 0, name: None } } else { event });
        }
        self.queue.notify(Events::IN | Events::RDNORM);
    }

    /// Takes the first event if it fits into `room`. EINVAL if it does not.
    fn take(&self, room: usize) -> Option<Result<Event, Errno>> {
        let mut events = self.events.lock();
        let first = events.front()?;
        if first.len_bytes() > room {
            return Some(Err(Errno::EINVAL));
        }
        events.pop_front().map(Ok)
    }
}

impl FileOps for Inotify {
    fn positioning(&self) -> Positioning {
        Positioning::Stream
    }
    fn read(&self, file: &OpenFile, _: &mut u64, sink: &mut dyn Sink) -> SysResult<usize> {
        let mut done = 0;
        loop {
            let taken = match self.take(sink.room()) {
                Some(taken) => taken,
                None if done > 0 => return Ok(done),
                None if file.is_nonblocking() => return Err(Errno::EAGAIN.into()),
                None => self.queue.wait_interruptible(|| self.take(sink.room()))?,
            };
            match taken {
                Ok(event) => done += sink.put(&event.to_bytes())?,
                Err(_) if done > 0 => return Ok(done),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    fn can_poll(&self) -> bool {
        true
    }
    fn poll(&self, _: &OpenFile, table: Option<&mut PollTable>) -> Events {
        if let Some(table) = table {
            table.listen(&self.queue);
        }
        if self.events.lock().is_empty() { Events::empty() } else { Events::IN | Events::RDNORM }
    }
    fn ioctl(&self, _: &OpenFile, caller: &IoctlCaller<'_>, command: u32, argument: u64) -> SysResult<i64> {
        if command != FIONREAD {
            return Err(Errno::ENOTTY.into());
        }
        let bytes: usize = self.events.lock().iter().map(Event::len_bytes).sum();
        caller.memory.write_all(argument, &(bytes as i32).to_ne_bytes())?;
        Ok(0)
    }
    fn release(&self, _: &OpenFile) {
        let watches = std::mem::take(&mut self.watches.lock().by_wd);
        for (_, watch) in watches {
            let inode = watch.inode.clone();
            let watch: Arc<dyn Watch> = watch;
            inode.attachments().remove_watch(&watch);
        }
    }
    fn fdinfo(&self, _: &OpenFile) -> String {
        let watches: Vec<_> = self.watches.lock().by_wd.values().cloned().collect();
        let line = |watch: &Arc<InotifyWatch>| {
            format!("inotify wd:{:x} ino:{:x} sdev:0 mask:{:x} ignored_mask:0\n", watch.wd, watch.inode.ino(), (watch.mask() & ALL).bits())
        };
        watches.iter().map(line).collect()
    }
}
