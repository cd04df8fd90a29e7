//! epoll(7).
//!
//! Each watched file has an item that observes the file's queues. A notification puts the item on the ready list; epoll_wait takes items off, asks
//! their files, and puts level-triggered ones that were ready back at the end. So every file is asked again before it is reported, and an
//! edge-triggered one is reported once per notification at most.
//!
//! Always true: an item is on the ready list at most once; epolls that watch epolls form no circle and no chain longer than [`MAX_NESTING`], so what
//! recurses over them is bounded; an item does not keep its file open.

use abi::{Errno, SysResult};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use sync::{Events, Mutex, Observer, SpinLock, WaitError, WaitQueue};
use vfs::{Caller, FileOps, OpenFile, OpenFlags, PollTable, Positioning};

/// Epolls in a chain (`EP_MAX_NESTS`, and the one that is watched).
const MAX_NESTING: usize = 5;
/// Bytes charged for an item.
const ITEM_COST: usize = 384;

const EXCLUSIVE: u32 = 1 << 28;
const WAKEUP: u32 = 1 << 29;
const ONESHOT: u32 = 1 << 30;
const EDGE: u32 = 1 << 31;

/// `struct epoll_event`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpollEvent {
    /// `EPOLL*`.
    pub events: u32,
    pub data: u64,
}

/// What epoll_ctl(2) does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EpollControl {
    Add(EpollEvent),
    Modify(EpollEvent),
    Delete,
}

type Key = (i32, u64);

/// An epoll instance.
pub struct Epoll {
    ram: &'static ram::Ram,
    items: SpinLock<HashMap<Key, Arc<Item>>>,
    ready: SpinLock<VecDeque<Arc<Item>>>,
    queue: Arc<WaitQueue>,
    /// Epolls that watch this one.
    watchers: SpinLock<Vec<Weak<Epoll>>>,
    this: Weak<Epoll>,
}

struct Item {
    epoll: Weak<Epoll>,
    key: Key,
    file: Weak<OpenFile>,
    wanted: SpinLock<EpollEvent>,
    on_ready_list: AtomicBool,
    table: SpinLock<Option<PollTable>>,
    _charge: ram::Charge,
}

/// Held while an epoll is put into another, so that no circle is closed from two sides.
static NESTING: Mutex<()> = Mutex::new(());

/// Opens a new epoll instance.
pub fn epoll(caller: &Caller<'_>) -> SysResult<Arc<OpenFile>> {
    let ops = Arc::new_cyclic(|this| Epoll {
        ram: caller.vfs.ram(),
        items: SpinLock::default(),
        ready: SpinLock::default(),
        queue: Arc::default(),
        watchers: SpinLock::default(),
        this: this.clone(),
    });
    caller.open_anon("anon_inode:[eventpoll]", ops, OpenFlags::RDWR)
}

impl Observer for Item {
    fn notify(&self, events: Events) {
        let wanted = self.wanted.lock().events;
        if !events.is_empty() && events.bits() & wanted == 0 {
            return;
        }
        if let Some(epoll) = self.epoll.upgrade() {
            let item = epoll.items.lock().get(&self.key).cloned();
            if let Some(item) = item.filter(|item| std::ptr::eq(&raw const **item, self)) {
                epoll.make_ready(item);
            }
        }
    }
}

impl Item {
    /// What the file is ready for, of what is wanted.
    fn look(&self) -> u32 {
        let Some(file) = self.file.upgrade() else { return 0 };
        let ready = file.poll(None).bits();
        ready & self.wanted.lock().events
    }
    fn disarm(&self) {
        self.wanted.lock().events &= EXCLUSIVE | WAKEUP | ONESHOT | EDGE;
    }
}

impl Epoll {
    fn make_ready(&self, item: Arc<Item>) {
        if !item.on_ready_list.swap(true, Ordering::AcqRel) {
            self.ready.lock().push_back(item);
        }
        self.queue.wake_one();
    }

    /// epoll_ctl(2) for descriptor `fd`, which is `file`. EEXIST, ENOENT, EPERM (can't be polled), ELOOP, EINVAL, ENOMEM.
    pub fn control(&self, fd: i32, file: &Arc<OpenFile>, control: EpollControl) -> Result<(), Errno> {
        if !file.ops().can_poll() {
            return Err(Errno::EPERM);
        }
        let target = file.ops().clone().downcast_arc::<Epoll>();
        if target.as_ref().is_some_and(|target| std::ptr::eq(&raw const **target, self)) {
            return Err(Errno::EINVAL);
        }
        let key = (fd, file.id());
        match control {
            EpollControl::Add(event) => {
                check_exclusive(event, target.is_some())?;
                let _nesting = match &target {
                    Some(target) => {
                        let guard = NESTING.lock();
                        self.check_nesting(target)?;
                        Some(guard)
                    }
                    None => None,
                };
                self.add(key, file, event)?;
                if let Some(target) = target {
                    target.watchers.lock().push(self.this.clone());
                }
                Ok(())
            }
            EpollControl::Modify(event) => self.modify(key, event),
            EpollControl::Delete => {
                let item = self.items.lock().remove(&key).ok_or(Errno::ENOENT)?;
                let table = item.table.lock().take();
                drop(table);
                item.disarm();
                if let Some(target) = target {
                    let mut watchers = target.watchers.lock();
                    if let Some(at) = watchers.iter().position(|weak| Weak::ptr_eq(weak, &self.this)) {
                        watchers.swap_remove(at);
                    }
                }
                Ok(())
            }
        }
    }

    fn add(&self, key: Key, file: &Arc<OpenFile>, event: EpollEvent) -> Result<(), Errno> {
        let charge = self.ram.charge(ITEM_COST)?;
        let item = Arc::new(Item {
            epoll: self.this.clone(),
            key,
            file: Arc::downgrade(file),
            wanted: SpinLock::new(with_always(event)),
            on_ready_list: AtomicBool::new(false),
            table: SpinLock::default(),
            _charge: charge,
        });
        self.drop_closed();
        {
            let mut items = self.items.lock();
            if items.contains_key(&key) {
                return Err(Errno::EEXIST);
            }
            items.insert(key, item.clone());
        }
        let mut table = PollTable::new(item.clone());
        let ready = file.poll(Some(&mut table)).bits();
        *item.table.lock() = Some(table);
        if ready & with_always(event).events != 0 {
            self.make_ready(item);
        }
        Ok(())
    }

    fn modify(&self, key: Key, event: EpollEvent) -> Result<(), Errno> {
        let item = self.items.lock().get(&key).cloned().ok_or(Errno::ENOENT)?;
        if event.events & EXCLUSIVE != 0 || item.wanted.lock().events & EXCLUSIVE != 0 {
            return Err(Errno::EINVAL);
        }
        *item.wanted.lock() = with_always(event);
        if item.look() != 0 {
            self.make_ready(item);
        }
        Ok(())
    }

    /// Forgets items whose files are closed, now and then.
    fn drop_closed(&self) {
        let closed: Vec<_> = {
            let mut items = self.items.lock();
            if !items.len().is_power_of_two() {
                return;
            }
            items.extract_if(|_, item| item.file.strong_count() == 0).collect()
        };
        drop(closed);
    }

    /// ELOOP if watching `target` would close a circle or make too long a chain.
    fn check_nesting(self: &Epoll, target: &Arc<Epoll>) -> Result<(), Errno> {
        let below = target.depth_below(self, MAX_NESTING).ok_or(Errno::ELOOP)?;
        let above = self.depth_above(MAX_NESTING).ok_or(Errno::ELOOP)?;
        if below + above + 1 > MAX_NESTING { Err(Errno::ELOOP) } else { Ok(()) }
    }
    /// Longest chain of epolls below; `None` if it meets `avoid` or is longer than `limit`.
    fn depth_below(&self, avoid: &Epoll, limit: usize) -> Option<usize> {
        if std::ptr::eq(self, avoid) || limit == 0 {
            return None;
        }
        let files: Vec<_> = self.items.lock().values().filter_map(|item| item.file.upgrade()).collect();
        let nested = files.iter().filter_map(|file| file.ops().downcast::<Epoll>());
        let mut deepest = 0;
        for epoll in nested {
            deepest = deepest.max(1 + epoll.depth_below(avoid, limit - 1)?);
        }
        Some(deepest)
    }
    fn depth_above(&self, limit: usize) -> Option<usize> {
        if limit == 0 {
            return None;
        }
        let watchers: Vec<_> = self.watchers.lock().iter().filter_map(Weak::upgrade).collect();
        let mut highest = 0;
        for epoll in watchers {
            highest = highest.max(1 + epoll.depth_above(limit - 1)?);
        }
        Some(highest)
    }

    /// Takes up to `max` events. Level-triggered items that are reported go to the end of the list.
    fn take(&self, max: usize) -> Vec<EpollEvent> {
        let mut events = Vec::new();
        let mut again = Vec::new();
        let mut left = self.ready.lock().len();
        while left > 0 && events.len() < max {
            left -= 1;
            let Some(item) = self.ready.lock().pop_front() else { break };
            item.on_ready_list.store(false, Ordering::Release);
            let ready = item.look();
            if ready == 0 {
                continue;
            }
            let wanted = *item.wanted.lock();
            events.push(EpollEvent { events: ready, data: wanted.data });
            if wanted.events & ONESHOT != 0 {
                item.disarm();
            } else if wanted.events & EDGE == 0 {
                again.push(item);
            }
        }
        for item in again {
            if !item.on_ready_list.swap(true, Ordering::AcqRel) {
                self.ready.lock().push_back(item);
            }
        }
        events
    }

    /// epoll_wait(2): up to `max` events; none when the deadline passed. A deadline of 0 does not wait.
    pub fn wait(&self, max: usize, deadline_ns: Option<u64>) -> Result<Vec<EpollEvent>, abi::Interrupted> {
        loop {
            let events = self.take(max);
            if !events.is_empty() {
                // There may be more than this waiter takes.
                if !self.ready.lock().is_empty() {
                    self.queue.wake_one();
                }
                return Ok(events);
            }
            if deadline_ns == Some(0) {
                return Ok(events);
            }
            match self.queue.wait_deadline(deadline_ns, || (!self.ready.lock().is_empty()).then_some(())) {
                Ok(()) => {}
                Err(WaitError::TimedOut) => return Ok(Vec::new()),
                Err(WaitError::Interrupted) => return Err(abi::Interrupted),
            }
        }
    }
}

fn with_always(event: EpollEvent) -> EpollEvent {
    EpollEvent { events: event.events | (Events::ERR | Events::HUP).bits(), ..event }
}

fn check_exclusive(event: EpollEvent, nested: bool) -> Result<(), Errno> {
    let allowed = (Events::IN | Events::OUT | Events::ERR | Events::HUP).bits() | WAKEUP | EDGE | EXCLUSIVE;
    if event.events & EXCLUSIVE != 0 && (nested || event.events & !allowed != 0) { Err(Errno::EINVAL) } else { Ok(()) }
}

impl FileOps for Epoll {
    fn positioning(&self) -> Positioning {
        Positioning::Stream
    }
    fn can_poll(&self) -> bool {
        true
    }
    fn poll(&self, _: &OpenFile, table: Option<&mut PollTable>) -> Events {
        if let Some(table) = table {
            table.listen(&self.queue);
        }
        let ready: Vec<_> = self.ready.lock().iter().cloned().collect();
        if ready.iter().any(|item| item.look() != 0) { Events::IN | Events::RDNORM } else { Events::empty() }
    }
    fn release(&self, _: &OpenFile) {
        let items = std::mem::take(&mut *self.items.lock());
        let ready = std::mem::take(&mut *self.ready.lock());
        drop((items, ready));
    }
    fn fdinfo(&self, _: &OpenFile) -> String {
        let items: Vec<_> = self.items.lock().values().cloned().collect();
        let line = |item: &Arc<Item>| {
            let wanted = *item.wanted.lock();
            format!("tfd: {:8} events: {:8x} data: {:16x}\n", item.key.0, wanted.events, wanted.data)
        };
        items.iter().map(line).collect()
    }
}
