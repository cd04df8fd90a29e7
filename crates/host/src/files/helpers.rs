//! Threads for host calls that may block, so that a virtual CPU does not.
//!
//! The caller sleeps as a fiber until its call is done. A thread that may block anyway (a disk's own I/O thread) says so once, and its calls
//! are made where they stand.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use sync::{SpinLock, WaitQueue};

/// More would only queue in the host.
const THREADS: usize = 8;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

#[derive(Default)]
struct Pool {
    queue: Mutex<Queue>,
    work: Condvar,
}

thread_local! {
    static MAY_BLOCK: Cell<bool> = const { Cell::new(false) };
}

/// Lets host calls of this thread block where they stand. For threads that run no fibers.
pub fn this_thread_may_block() {
    MAY_BLOCK.with(|may| may.set(true));
}

/// Whether calls are made where they stand on this thread.
pub(super) fn may_block() -> bool {
    MAY_BLOCK.with(Cell::get)
}

fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(Pool::default)
}

/// Runs `call` on a helper thread and sleeps until it is done.
pub(crate) fn run<R: Send + 'static>(call: impl FnOnce() -> R + Send + 'static) -> R {
    if MAY_BLOCK.with(Cell::get) {
        return call();
    }
    struct Slot<R> {
        result: SpinLock<Option<R>>,
        done: WaitQueue,
    }
    let slot = Arc::new(Slot { result: SpinLock::new(None), done: WaitQueue::new() });
    let theirs = slot.clone();
    let work = sync::Outside::begin();
    let job: Job = Box::new(move || {
        let result = call();
        *theirs.result.lock() = Some(result);
        theirs.done.wake_all();
        drop(work);
    });
    if let Err(job) = submit(job) {
        // The host gives us no thread at all: better slow than never.
        job();
    }
    slot.done.wait_until(|| slot.result.lock().take())
}

fn submit(job: Job) -> Result<(), Job> {
    let pool = pool();
    let mut queue = pool.queue.lock().unwrap_or_else(PoisonError::into_inner);
    if queue.idle <= queue.jobs.len() && queue.threads < THREADS {
        queue.threads += 1;
        let spawned = std::thread::Builder::new().name("host-io".into()).stack_size(128 * 1024).spawn(work);
        if spawned.is_err() {
            queue.threads -= 1;
            if queue.threads == 0 {
                return Err(job);
            }
        }
    }
    queue.jobs.push_back(job);
    drop(queue);
    pool.work.notify_one();
    Ok(())
}

fn work() {
    this_thread_may_block();
    let pool = pool();
    let mut queue = pool.queue.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if let Some(job) = queue.jobs.pop_front() {
            drop(queue);
            job();
            queue = pool.queue.lock().unwrap_or_else(PoisonError::into_inner);
        } else {
            queue.idle += 1;
            queue = pool.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }
}
