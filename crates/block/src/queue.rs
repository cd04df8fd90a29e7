//! A device's queue: requests of many tasks on one side, the host threads that do them on the other.
//!
//! Not here: the doing. A [`Queue`] stands in front of another [`BlockDevice`] whose calls may block a host thread; helper threads run
//! [`Queue::serve`], and tasks that wait here park their fiber only.
//!
//! Always true:
//! * requests that overlap, one of them a write, are done in the order they came; others in any order;
//! * a flush begins after every write that had completed when it came, which is all that it promises;
//! * neighbours of the same kind that wait together become one call, of at most [`Limits::merged_bytes`];
//! * at most [`Limits::depth`] requests wait or run: who comes later sleeps first;
//! * every request is answered once, with EIO when the queue is closed before it was done.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use abi::Errno;
use sync::{SpinLock, WaitQueue};

use crate::{BlockDevice, Durability, SECTOR_SIZE};

/// How much a queue holds and merges.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests that wait or run.
    pub depth: usize,
    /// Bytes of one call to the device that was made of several requests. A larger request stays whole.
    pub merged_bytes: usize,
}

impl Default for Limits {
    /// The depth of UML's disks, and half a megabyte.
    fn default() -> Self {
        Limits { depth: 64, merged_bytes: 512 << 10 }
    }
}

/// What a device is asked to do. Buffers belong to the request, so nobody waits in vain for a task that died.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Read this many sectors.
    Read {
        /// First sector.
        sector: u64,
        /// How many.
        sectors: u64,
    },
    /// Write whole sectors.
    Write {
        /// First sector.
        sector: u64,
        /// What to write.
        data: Vec<u8>,
        /// When it counts as done.
        durability: Durability,
    },
    /// Make completed writes durable.
    Flush,
    /// These contents do not matter.
    Discard {
        /// First sector.
        sector: u64,
        /// How many.
        sectors: u64,
    },
    /// Make these read as zeroes.
    WriteZeroes {
        /// First sector.
        sector: u64,
        /// How many.
        sectors: u64,
    },
}

impl Request {
    fn range(&self) -> Range<u64> {
        match self {
            Request::Read { sector, sectors } | Request::Discard { sector, sectors } | Request::WriteZeroes { sector, sectors } => {
                *sector..sector.saturating_add(*sectors)
            }
            Request::Write { sector, data, .. } => *sector..sector.saturating_add((data.len() / SECTOR_SIZE) as u64),
            Request::Flush => 0..0,
        }
    }

    fn changes(&self) -> bool {
        !matches!(self, Request::Read { .. } | Request::Flush)
    }

    fn conflicts(&self, other: &Request) -> bool {
        let (a, b) = (self.range(), other.range());
        (self.changes() || other.changes()) && a.start < b.end && b.start < a.end
    }

    /// Whether both can be one call, `next` directly behind.
    fn joins(&self, next: &Request) -> bool {
        let same_kind = match (self, next) {
            (Request::Read { .. }, Request::Read { .. }) => true,
            (Request::Write { durability: a, .. }, Request::Write { durability: b, .. }) => a == b,
            _ => false,
        };
        same_kind && self.range().end == next.range().start
    }
}

/// What has been done since the device appeared: the fields of Linux's `Documentation/admin-guide/iostats.rst`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Requests, merged ones, sectors and nanoseconds of reads.
    pub reads: Counters,
    /// The same of writes.
    pub writes: Counters,
    /// The same of discards and of zeroing.
    pub discards: Counters,
    /// The same of flushes, which have no sectors.
    pub flushes: Counters,
    /// Requests that wait or run now.
    pub in_flight: usize,
    /// Nanoseconds with anything in flight.
    pub busy_ns: u64,
}

/// One row of [`Statistics`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Requests answered.
    pub requests: u64,
    /// Of these, requests that were part of a neighbour's call.
    pub merged: u64,
    /// Sectors moved.
    pub sectors: u64,
    /// Nanoseconds from submission to answer, summed.
    pub time_ns: u64,
}

struct Waiting {
    id: u64,
    request: Request,
    completion: Arc<Completion>,
    submitted_ns: u64,
}

struct Running {
    id: u64,
    range: Range<u64>,
    changes: bool,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    running: Vec<Running>,
    in_flight: usize,
    next_id: u64,
    closed: bool,
    statistics: Statistics,
    busy_since_ns: u64,
}

/// The answer to a request, once it is there.
#[derive(Default)]
pub struct Completion {
    answer: SpinLock<Option<Result<Vec<u8>, Errno>>>,
    done: WaitQueue,
}

impl Completion {
    /// Sleeps until the request is answered; of a read, with its data. To be called once.
    pub fn wait(&self) -> Result<Vec<u8>, Errno> {
        self.done.wait_until(|| self.answer.lock().take())
    }

    /// Whether an answer waits to be taken.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.answer.lock().is_some()
    }

    fn complete(&self, answer: Result<Vec<u8>, Errno>) {
        *self.answer.lock() = Some(answer);
        self.done.wake_all();
    }
}

/// A queue in front of a device.
pub struct Queue {
    device: Arc<dyn BlockDevice>,
    limits: Limits,
    state: SpinLock<State>,
    /// Helpers wait here for work.
    work: WaitQueue,
    /// Submitters wait here for room.
    room: WaitQueue,
}

impl Queue {
    /// A queue that nobody serves yet.
    #[must_use]
    pub fn new(device: Arc<dyn BlockDevice>, limits: Limits) -> Queue {
        Queue { device, limits, state: SpinLock::default(), work: WaitQueue::new(), room: WaitQueue::new() }
    }

    /// Queues a request, sleeping while the queue is full. ENODEV once it is closed, EIO for one that goes past the end.
    pub fn submit(&self, request: Request) -> Result<Arc<Completion>, Errno> {
        if request.range().end > self.device.sectors() {
            return Err(Errno::EIO);
        }
        let completion = Arc::new(Completion::default());
        let mut request = Some(request);
        self.room.wait_until(|| {
            let mut state = self.state.lock();
            if state.closed {
                return Some(Err(Errno::ENODEV));
            }
            if state.in_flight >= self.limits.depth.max(1) {
                return None;
            }
            let now_ns = sync::monotonic_ns();
            if state.in_flight == 0 {
                state.busy_since_ns = now_ns;
            }
            state.in_flight += 1;
            state.next_id += 1;
            let id = state.next_id;
            if let Some(request) = request.take() {
                state.waiting.push_back(Waiting { id, request, completion: completion.clone(), submitted_ns: now_ns });
            }
            Some(Ok(()))
        })?;
        self.work.wake_one();
        Ok(completion)
    }

    /// A helper thread's life: does requests until the queue is closed and empty.
    pub fn serve(&self) {
        while let Some(batch) = self.work.wait_until(|| {
            let mut state = self.state.lock();
            match state.take_batch(self.limits.merged_bytes) {
                Some(batch) => Some(Some(batch)),
                None if state.closed && state.waiting.is_empty() => Some(None),
                None => None,
            }
        }) {
            self.perform(batch);
        }
    }

    /// Does one call's worth of requests on the caller's thread, if any can be done now.
    pub fn serve_one(&self) -> bool {
        let batch = self.state.lock().take_batch(self.limits.merged_bytes);
        batch.map(|batch| self.perform(batch)).is_some()
    }

    /// Takes no more requests. What waits is still done; helpers then return.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.room.wake_all();
        self.work.wake_all();
    }

    /// Answers everything that waits with EIO: the device is gone.
    pub fn abort(&self) {
        let waiting = {
            let mut state = self.state.lock();
            state.closed = true;
            let waiting = std::mem::take(&mut state.waiting);
            state.in_flight -= waiting.len();
            waiting
        };
        waiting.into_iter().for_each(|waiting| waiting.completion.complete(Err(Errno::EIO)));
        self.room.wake_all();
        self.work.wake_all();
    }

    /// What has been done so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let state = self.state.lock();
        let mut statistics = state.statistics;
        statistics.in_flight = state.in_flight;
        if state.in_flight > 0 {
            statistics.busy_ns += sync::monotonic_ns().saturating_sub(state.busy_since_ns);
        }
        statistics
    }

    fn perform(&self, mut batch: Vec<Waiting>) {
        let answers = match &mut batch[..] {
            [only] => vec![perform(&*self.device, &mut only.request)],
            several => perform_merged(&*self.device, several),
        };
        self.state.lock().finish(&batch);
        for (waiting, answer) in batch.into_iter().zip(answers) {
            waiting.completion.complete(answer);
        }
        self.room.wake_all();
        // What was held back by an overlap may now go.
        self.work.wake_all();
    }

    fn do_and_wait(&self, request: Request) -> Result<Vec<u8>, Errno> {
        self.submit(request)?.wait()
    }
}

impl State {
    /// The first request that nothing before it holds back, with the neighbours behind it that wait too.
    fn take_batch(&mut self, merged_bytes: usize) -> Option<Vec<Waiting>> {
        let first = (0..self.waiting.len()).find(|&at| self.may_go(at))?;
        let mut batch = vec![self.waiting.remove(first)?];
        let mut len_bytes = (batch[0].request.range().end - batch[0].request.range().start) as usize * SECTOR_SIZE;
        self.start(&batch[0]);
        loop {
            let last = &batch[batch.len() - 1].request;
            let Some(at) = (0..self.waiting.len()).find(|&at| last.joins(&self.waiting[at].request) && self.may_go(at)) else { break };
            let range = self.waiting[at].request.range();
            len_bytes += (range.end - range.start) as usize * SECTOR_SIZE;
            if len_bytes > merged_bytes {
                break;
            }
            let Some(next) = self.waiting.remove(at) else { break };
            self.start(&next);
            batch.push(next);
        }
        Some(batch)
    }

    fn start(&mut self, waiting: &Waiting) {
        let (id, range, changes) = (waiting.id, waiting.request.range(), waiting.request.changes());
        self.running.push(Running { id, range, changes });
    }

    fn may_go(&self, at: usize) -> bool {
        let request = &self.waiting[at].request;
        let range = request.range();
        let blocked_by_running = self
            .running
            .iter()
            .any(|running| (running.changes || request.changes()) && running.range.start < range.end && range.start < running.range.end);
        !blocked_by_running && !self.waiting.iter().take(at).any(|earlier| earlier.request.conflicts(request))
    }

    fn finish(&mut self, batch: &[Waiting]) {
        let now_ns = sync::monotonic_ns();
        self.running.retain(|running| !batch.iter().any(|waiting| waiting.id == running.id));
        for (index, waiting) in batch.iter().enumerate() {
            let range = waiting.request.range();
            let counters = match waiting.request {
                Request::Read { .. } => &mut self.statistics.reads,
                Request::Write { .. } => &mut self.statistics.writes,
                Request::Flush => &mut self.statistics.flushes,
                Request::Discard { .. } | Request::WriteZeroes { .. } => &mut self.statistics.discards,
            };
            counters.requests += 1;
            counters.merged += u64::from(index > 0);
            counters.sectors += range.end - range.start;
            counters.time_ns += now_ns.saturating_sub(waiting.submitted_ns);
        }
        self.in_flight -= batch.len();
        if self.in_flight == 0 {
            self.statistics.busy_ns += now_ns.saturating_sub(self.busy_since_ns);
        }
    }
}

fn perform(device: &dyn BlockDevice, request: &mut Request) -> Result<Vec<u8>, Errno> {
    let nothing = |()| Vec::new();
    match request {
        Request::Read { sector, sectors } => {
            let mut buffer = vec![0; *sectors as usize * SECTOR_SIZE];
            device.read(*sector, &mut buffer)?;
            Ok(buffer)
        }
        Request::Write { sector, data, durability } => device.write(*sector, data, *durability).map(nothing),
        Request::Flush => device.flush().map(nothing),
        Request::Discard { sector, sectors } => device.discard(*sector, *sectors).map(nothing),
        Request::WriteZeroes { sector, sectors } => device.write_zeroes(*sector, *sectors).map(nothing),
    }
}

/// One call for several; when it fails each is tried alone, so that a bad sector is only its owner's.
fn perform_merged(device: &dyn BlockDevice, batch: &mut [Waiting]) -> Vec<Result<Vec<u8>, Errno>> {
    let sector = batch[0].request.range().start;
    let end = batch[batch.len() - 1].request.range().end;
    let done = match &batch[0].request {
        Request::Write { durability, .. } => {
            let mut joined = Vec::with_capacity((end - sector) as usize * SECTOR_SIZE);
            for waiting in batch.iter() {
                if let Request::Write { data, .. } = &waiting.request {
                    joined.extend_from_slice(data);
                }
            }
            device.write(sector, &joined, *durability).map(|()| vec![Vec::new(); batch.len()])
        }
        _ => perform(device, &mut Request::Read { sector, sectors: end - sector }).map(|buffer| {
            let part = |waiting: &Waiting| {
                let range = waiting.request.range();
                let start = (range.start - sector) as usize * SECTOR_SIZE;
                buffer[start..start + (range.end - range.start) as usize * SECTOR_SIZE].to_vec()
            };
            batch.iter().map(part).collect()
        }),
    };
    match done {
        Ok(answers) => answers.into_iter().map(Ok).collect(),
        Err(_) => batch.iter_mut().map(|waiting| perform(device, &mut waiting.request)).collect(),
    }
}

impl BlockDevice for Queue {
    fn sectors(&self) -> u64 {
        self.device.sectors()
    }
    fn logical_block_size(&self) -> usize {
        self.device.logical_block_size()
    }
    fn is_read_only(&self) -> bool {
        self.device.is_read_only()
    }
    fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        if !buffer.len().is_multiple_of(SECTOR_SIZE) {
            return Err(Errno::EIO);
        }
        let data = self.do_and_wait(Request::Read { sector, sectors: (buffer.len() / SECTOR_SIZE) as u64 })?;
        buffer.copy_from_slice(&data);
        Ok(())
    }
    fn write(&self, sector: u64, data: &[u8], durability: Durability) -> Result<(), Errno> {
        if !data.len().is_multiple_of(SECTOR_SIZE) {
            return Err(Errno::EIO);
        }
        if self.is_read_only() {
            return Err(Errno::EROFS);
        }
        self.do_and_wait(Request::Write { sector, data: data.to_vec(), durability }).map(|_| ())
    }
    fn flush(&self) -> Result<(), Errno> {
        self.do_and_wait(Request::Flush).map(|_| ())
    }
    fn discard(&self, sector: u64, sectors: u64) -> Result<(), Errno> {
        self.do_and_wait(Request::Discard { sector, sectors }).map(|_| ())
    }
    fn write_zeroes(&self, sector: u64, sectors: u64) -> Result<(), Errno> {
        self.do_and_wait(Request::WriteZeroes { sector, sectors }).map(|_| ())
    }
}
