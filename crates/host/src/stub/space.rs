//! A stub as the kernel holds it: its command thread, its guest threads, and the pool of stubs that wait to be used again.
//!
//! Always true: a stub goes back to the pool only when every one of its guest threads is stopped in a pending notification (a [`Parked`] value is
//! that proof: only a received notification makes one), nothing of the old guest is mapped in it, and its slots are scrubbed.

use super::layout as l;
use super::notify::{Answer, Listener, Notification};
use super::template::{self, Template, put, word};
use super::thread::{self, Frame, GuestThread, Parked, Pending};
use crate::sys::{self, Mapping};
use abi::Errno;
use platform::{GuestSpace, MapCommand, Platform, Protection, SpaceGone};
use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Slots mapped at once in the kernel.
const CHUNK_SLOTS: usize = 32;
/// Recycled stubs kept for later.
const POOL_MAX: usize = 64;
/// Fresh stubs that the pool's thread keeps ready.
const POOL_READY: usize = 4;

/// Counters of the hand-over, for `/proc/umlaut`.
#[derive(Default)]
pub struct Counters {
    pub stops: AtomicU64,
    pub map_batches: AtomicU64,
    pub map_commands: AtomicU64,
    pub stubs_made: AtomicU64,
    pub stubs_recycled: AtomicU64,
    pub threads_made: AtomicU64,
    pub killed_defiant: AtomicU64,
    pub killed_forged: AtomicU64,
}

/// All stubs.
pub struct Stubs {
    template: Template,
    ram_len: u64,
    /// One spawner at a time sends its listener.
    spawning: Mutex<()>,
    numbers: Mutex<(usize, Vec<usize>)>,
    pool: Mutex<Vec<Arc<Stub>>>,
    pool_wanted: (Mutex<bool>, std::sync::Condvar),
    /// Live stubs by process number, for the reaper.
    live: Mutex<HashMap<i32, std::sync::Weak<Stub>>>,
    pub(super) pristine: OnceLock<Frame>,
    pub(super) layout: OnceLock<thread::FrameLayout>,
    /// Guest processes that may exist at once.
    limit: usize,
    alive: AtomicUsize,
    /// Virtual CPUs' host threads, woken from a silent listener when a stub dies.
    waiters: Mutex<Vec<i32>>,
    pub counters: Counters,
}

/// One stub process.
pub struct Stub {
    number: usize,
    pub(super) pid: i32,
    commands: Mapping,
    chunks: Vec<OnceLock<Mapping>>,
    command_thread: Mutex<CommandThread>,
    threads: Mutex<Threads>,
    sequence: AtomicU32,
    pub(super) gone: AtomicBool,
    stubs: &'static Stubs,
}

struct CommandThread {
    listener: Listener,
    tid: u32,
    pending: u64,
}

#[derive(Default)]
struct Threads {
    made: usize,
    parked: Vec<Parked>,
}

/// A stub in use: one address space of the guest.
pub struct Space {
    stub: Arc<Stub>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stubs {
    /// Starts the template. Call it on a thread that lives as long as the machine (stubs die with the thread that made their template), and before
    /// the process has other threads. `limit` is how many guest processes there may be.
    pub fn start(ram: &OwnedFd, ram_len: u64, limit: usize) -> Result<&'static Stubs, Errno> {
        let stubs: &'static Stubs = Box::leak(Box::new(Stubs {
            template: Template::start(ram)?,
            ram_len,
            spawning: Mutex::new(()),
            numbers: Mutex::new((1, Vec::new())),
            pool: Mutex::new(Vec::new()),
            pool_wanted: (Mutex::new(true), std::sync::Condvar::new()),
            live: Mutex::new(HashMap::new()),
            pristine: OnceLock::new(),
            layout: OnceLock::new(),
            limit: limit.clamp(1, l::STUB_COUNT - 1),
            alive: AtomicUsize::new(0),
            waiters: Mutex::new(Vec::new()),
            counters: Counters::default(),
        }));
        Ok(stubs)
    }

    /// Makes the first stub, which shows whether this host lets us, and learns how its signal frames look; then starts the threads that reap dead
    /// stubs and keep the pool filled.
    pub fn warm_up(&'static self) -> Result<(), Errno> {
        let first = self.make()?;
        let parked = lock(&first.threads).parked.pop().ok_or(Errno::EAGAIN)?;
        thread::learn_frame(self, &first, parked)?;
        self.give_back(first);
        let spawn = |name: &str, body: fn(&'static Stubs)| {
            std::thread::Builder::new().name(name.into()).stack_size(256 << 10).spawn(move || body(self)).map_err(|_| Errno::EAGAIN)
        };
        spawn("umlaut-reaper", Stubs::reap)?;
        spawn("umlaut-pool", Stubs::fill_pool)?;
        Ok(())
    }

    /// Declares the calling host thread one that waits for listeners.
    pub fn register_waiter(&self) {
        // SAFETY: gettid has no arguments.
        lock(&self.waiters).push(unsafe { libc::gettid() });
    }

    /// Where in every stub the host's own `clock_gettime` is, for the guest's vDSO; 0 if nowhere.
    pub fn host_clock_gettime(&self) -> u64 {
        self.template.host_clock_gettime
    }

    /// Number of stub processes there are.
    pub fn alive(&self) -> usize {
        self.alive.load(Ordering::Relaxed)
    }

    fn take(&'static self) -> Result<Arc<Stub>, Errno> {
        loop {
            let (stub, left) = {
                let mut pool = lock(&self.pool);
                let stub = pool.pop();
                (stub, pool.len())
            };
            if left < POOL_READY / 2 {
                *lock(&self.pool_wanted.0) = true;
                self.pool_wanted.1.notify_one();
            }
            match stub {
                Some(stub) if stub.gone.load(Ordering::SeqCst) => drop(stub),
                Some(stub) => return Ok(stub),
                None => return self.make(),
            }
        }
    }

    fn give_back(&self, stub: Arc<Stub>) {
        let mut pool = lock(&self.pool);
        if pool.len() < POOL_MAX {
            pool.push(stub);
        }
    }

    fn fill_pool(&'static self) {
        loop {
            {
                let mut wanted = lock(&self.pool_wanted.0);
                while !*wanted {
                    wanted = self.pool_wanted.1.wait(wanted).unwrap_or_else(PoisonError::into_inner);
                }
                *wanted = false;
            }
            while lock(&self.pool).len() < POOL_READY {
                match self.make() {
                    Ok(stub) => self.give_back(stub),
                    // The host has no room; whoever needs a stub will hear of it.
                    Err(_) => break,
                }
            }
        }
    }

    /// Makes a stub with its command thread and one guest thread.
    fn make(&'static self) -> Result<Arc<Stub>, Errno> {
        if self.alive.fetch_add(1, Ordering::SeqCst) >= self.limit {
            self.alive.fetch_sub(1, Ordering::SeqCst);
            return Err(Errno::EAGAIN);
        }
        let number = {
            let mut numbers = lock(&self.numbers);
            match numbers.1.pop() {
                Some(number) => number,
                None => {
                    numbers.0 += 1;
                    numbers.0 - 1
                }
            }
        };
        let result = self.make_numbered(number);
        if result.is_err() {
            self.alive.fetch_sub(1, Ordering::SeqCst);
            lock(&self.numbers).1.push(number);
        }
        result
    }

    fn make_numbered(&'static self, number: usize) -> Result<Arc<Stub>, Errno> {
        let offset = l::STRIDE * number as u64;
        let commands = Mapping::shared(self.template.control.as_fd(), offset, l::COMMAND_LEN)?;
        word(&commands, l::SPAWN_SEQUENCE).store(0, Ordering::SeqCst);
        let spawning = lock(&self.spawning);
        let pid = self.template.clone_stub(number)?;
        let spawn_first = || {
            let listener = self.spawn(&commands, 1, l::SPAWN_COMMAND_THREAD, 0)?;
            let done = listener.receive()?;
            Ok((listener, done))
        };
        let (listener, done): (Listener, Notification) = match spawn_first() {
            Ok(first) => first,
            Err(errno) => {
                drop(spawning);
                sys::kill_process(pid);
                self.wait_for(pid);
                return Err(errno);
            }
        };
        drop(spawning);
        let stub = Arc::new(Stub {
            number,
            pid,
            commands,
            chunks: (0..l::SLOT_COUNT / CHUNK_SLOTS).map(|_| OnceLock::new()).collect(),
            command_thread: Mutex::new(CommandThread { listener, tid: done.tid, pending: done.id }),
            threads: Mutex::new(Threads::default()),
            sequence: AtomicU32::new(1),
            gone: AtomicBool::new(false),
            stubs: self,
        });
        lock(&self.live).insert(pid, Arc::downgrade(&stub));
        self.counters.stubs_made.fetch_add(1, Ordering::Relaxed);
        let parked = stub.make_thread()?;
        lock(&stub.threads).parked.push(parked);
        Ok(stub)
    }

    /// Asks a stub's spawner for a thread and waits for its listener. The caller holds `spawning`.
    fn spawn(&self, commands: &Mapping, sequence: u32, kind: u64, slot: usize) -> Result<Listener, Errno> {
        let stack = l::SLOTS + (slot * l::SLOT_LEN + l::SLOT_STACK) as u64;
        put(commands, l::SPAWN_KIND, &kind.to_ne_bytes());
        for (i, value) in [stack, 0, (l::SLOT_LEN - l::SLOT_STACK) as u64].iter().enumerate() {
            put(commands, l::SPAWN_STACK + 8 * i, &value.to_ne_bytes());
        }
        let word = word(commands, l::SPAWN_SEQUENCE);
        word.store(sequence, Ordering::SeqCst);
        sys::futex_wake(word.as_ptr());
        Listener::new(self.template.receive_listener()?)
    }

    /// Waits for dead stubs and tells those who wait for their threads.
    fn reap(&'static self) {
        loop {
            let mut status = 0;
            // SAFETY: the status is ours to fill.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL) };
            if pid <= 0 {
                std::thread::sleep(std::time::Duration::from_millis(20));
                continue;
            }
            self.note_death(pid);
        }
    }

    fn wait_for(&self, pid: i32) {
        let mut status = 0;
        // SAFETY: the status is ours to fill. The reaper may have been first, which is no error.
        unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
        self.note_death(pid);
    }

    fn note_death(&self, pid: i32) {
        let stub = lock(&self.live).remove(&pid).and_then(|weak| weak.upgrade());
        if let Some(stub) = stub {
            stub.gone.store(true, Ordering::SeqCst);
            let waiters = lock(&self.waiters).clone();
            for tid in waiters {
                // A thread that has ended needs no waking.
                let _ = sys::tgkill(std::process::id() as i32, tid, crate::machine::WAKE_SIGNAL);
            }
        }
    }
}

impl Platform for &'static Stubs {
    fn new_space(&self) -> Result<Arc<dyn GuestSpace>, Errno> {
        Ok(Arc::new(Space { stub: self.take()? }))
    }
    fn xstate_len(&self) -> usize {
        self.layout.get().map_or(0, |layout| layout.xstate_len)
    }
    fn processor_aux(&self) -> [(u64, u64); 3] {
        // SAFETY: getauxval reads the process's own vector.
        [libc::AT_HWCAP, libc::AT_HWCAP2, libc::AT_MINSIGSTKSZ].map(|key| (key, unsafe { libc::getauxval(key) }))
    }
}

impl Stub {
    /// The kernel's view of a slot: address of its first byte.
    pub(super) fn slot(&self, slot: usize) -> Result<*mut u8, Errno> {
        let chunk = self.chunks.get(slot / CHUNK_SLOTS).ok_or(Errno::EAGAIN)?;
        let len = CHUNK_SLOTS * l::SLOT_LEN;
        let mapping = match chunk.get() {
            Some(mapping) => mapping,
            None => {
                let offset = l::STRIDE * self.number as u64 + l::SLOTS_IN_STRIDE + (slot / CHUNK_SLOTS * len) as u64;
                let mapping = Mapping::shared(self.stubs.template.control.as_fd(), offset, len)?;
                chunk.get_or_init(|| mapping)
            }
        };
        Ok(mapping.at(slot % CHUNK_SLOTS * l::SLOT_LEN))
    }

    pub(super) fn stubs(&self) -> &'static Stubs {
        self.stubs
    }

    /// Makes one more guest thread, stopped at its birth.
    fn make_thread(&self) -> Result<Parked, Errno> {
        let slot = {
            let mut threads = lock(&self.threads);
            if threads.made >= l::SLOT_COUNT {
                return Err(Errno::EAGAIN);
            }
            threads.made += 1;
            threads.made - 1
        };
        self.slot(slot)?;
        let spawning = lock(&self.stubs.spawning);
        let sequence = self.sequence.fetch_add(1, Ordering::SeqCst) + 1;
        let listener = self.stubs.spawn(&self.commands, sequence, l::SPAWN_GUEST_THREAD, slot);
        drop(spawning);
        let listener = match listener {
            Ok(listener) => listener,
            Err(errno) => {
                // The spawner could not, or did not answer: nothing is known of that thread, so the stub can't be trusted any more.
                self.kill();
                return Err(errno);
            }
        };
        let birth = listener.receive()?;
        self.stubs.counters.threads_made.fetch_add(1, Ordering::Relaxed);
        Ok(Parked {
            slot,
            tid: birth.tid as i32,
            listener,
            pending: Pending::Call { id: birth.id, answer: Answer::Value(0), number: birth.number },
        })
    }

    pub(super) fn park(&self, parked: Parked) {
        lock(&self.threads).parked.push(parked);
    }

    pub(super) fn kill(&self) {
        self.gone.store(true, Ordering::SeqCst);
        sys::kill_process(self.pid);
    }

    /// Runs commands on the command thread.
    fn run(&self, commands: &[[u64; 8]]) -> Result<(), SpaceGone> {
        let mut thread = lock(&self.command_thread);
        for batch in commands.chunks(l::COMMANDS_MAX) {
            if self.gone.load(Ordering::SeqCst) {
                return Err(SpaceGone);
            }
            self.stubs.counters.map_batches.fetch_add(1, Ordering::Relaxed);
            self.stubs.counters.map_commands.fetch_add(batch.len() as u64, Ordering::Relaxed);
            for (i, command) in batch.iter().enumerate() {
                for (j, value) in command.iter().enumerate() {
                    put(&self.commands, l::COMMANDS + 64 * i + 8 * j, &value.to_ne_bytes());
                }
            }
            put(&self.commands, l::COMMAND_COUNT, &(batch.len() as u64).to_ne_bytes());
            std::sync::atomic::fence(Ordering::SeqCst);
            let done = thread.listener.answer(thread.pending, Answer::Value(0)).and_then(|()| self.receive(&thread.listener));
            let done = done.map_err(|_| {
                self.kill();
                SpaceGone
            })?;
            thread.pending = done.id;
            let failed = done.number as u64 != l::NR_COMMANDS_DONE || done.tid != thread.tid || done.args[1] != 0;
            if failed {
                // The host refused to map: it is out of memory or mappings. The guest process can't go on.
                self.kill();
                return Err(SpaceGone);
            }
        }
        Ok(())
    }

    /// The next notification of one of the stub's threads. ESRCH when the stub is gone.
    pub(super) fn receive(&self, listener: &Listener) -> Result<Notification, Errno> {
        loop {
            match listener.receive() {
                Ok(notification) => return Ok(notification),
                Err(_) if self.gone.load(Ordering::SeqCst) => return Err(Errno::ESRCH),
                // A wake-up, or the notification was withdrawn by a signal between the two halves of the call.
                Err(Errno::EINTR) => {}
                Err(Errno::ENOENT) if process_exists(self.pid) => {}
                Err(_) => {
                    self.gone.store(true, Ordering::SeqCst);
                    return Err(Errno::ESRCH);
                }
            }
        }
    }
}

fn process_exists(pid: i32) -> bool {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: WNOWAIT leaves the process to the reaper; the buffer is a siginfo.
    let value =
        unsafe { libc::waitid(libc::P_PID, pid as u32, info.as_mut_ptr(), libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL) };
    // SAFETY: zeroed before the call, so it is initialised whatever the call did; pid 0 means "no change of state".
    value == 0 && unsafe { info.assume_init().si_pid() } == 0
}

impl Drop for Stub {
    fn drop(&mut self) {
        sys::kill_process(self.pid);
        lock(&self.stubs.live).remove(&self.pid);
        // Its part of the control file goes back to the host; only then may the number be used again, and only when the process is gone.
        let control = self.stubs.template.control.as_raw_fd();
        let (pid, number, stubs) = (self.pid, self.number, self.stubs);
        let finish = move || {
            let mut status = 0;
            // SAFETY: the status is ours; the reaper may be first, then this answers ECHILD.
            unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
            // SAFETY: no memory is involved; a host without hole punching keeps the pages until we end.
            unsafe {
                libc::fallocate(
                    control,
                    libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                    (l::STRIDE * number as u64) as i64,
                    l::STRIDE as i64,
                )
            };
            lock(&stubs.numbers).1.push(number);
            stubs.alive.fetch_sub(1, Ordering::SeqCst);
        };
        finish();
    }
}

fn bits(protection: Protection) -> u64 {
    u64::from(protection.bits())
}

impl GuestSpace for Space {
    fn map(&self, commands: &[MapCommand]) -> Result<(), SpaceGone> {
        use abi::raw::general as nr;
        let inside = |addr: u64, len: u64| {
            addr.checked_add(len).is_some_and(|end| end <= l::BASE) && addr.is_multiple_of(4096) && len.is_multiple_of(4096)
        };
        let mut words = Vec::with_capacity(commands.len());
        for command in commands {
            words.push(match *command {
                MapCommand::Map { addr, len, pfn, protection } => {
                    let offset = u64::from(pfn) * 4096;
                    assert!(inside(addr, len) && offset + len <= self.stub.stubs.ram_len, "{command:?}");
                    let flags = (libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_POPULATE) as u64;
                    [u64::from(nr::__NR_mmap), addr, len, bits(protection), flags, l::FD_RAM as u64, offset, 0]
                }
                MapCommand::Unmap { addr, len } => {
                    assert!(inside(addr, len), "{command:?}");
                    [u64::from(nr::__NR_munmap), addr, len, 0, 0, 0, 0, 0]
                }
                MapCommand::Protect { addr, len, protection } => {
                    assert!(inside(addr, len), "{command:?}");
                    [u64::from(nr::__NR_mprotect), addr, len, bits(protection), 0, 0, 0, 0]
                }
            });
        }
        self.stub.run(&words)
    }

    fn new_thread(&self) -> Result<Box<dyn platform::GuestThread>, Errno> {
        let parked = lock(&self.stub.threads).parked.pop();
        let parked = match parked {
            Some(parked) => parked,
            None => self.stub.make_thread()?,
        };
        Ok(Box::new(GuestThread::fresh(self.stub.clone(), parked)?))
    }

    fn kill(&self) {
        self.stub.kill();
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let stub = &self.stub;
        if stub.gone.load(Ordering::SeqCst) {
            return;
        }
        // Every thread must be parked: a live one could run the old guest's code in the next guest's memory.
        let all_parked = {
            let threads = lock(&stub.threads);
            threads.parked.len() == threads.made
        };
        let unmapped = stub.run(&[[u64::from(abi::raw::general::__NR_munmap), 0, l::BASE, 0, 0, 0, 0, 0]]);
        if !all_parked || unmapped.is_err() {
            stub.kill();
            return;
        }
        for parked in &lock(&stub.threads).parked {
            if thread::scrub(stub, parked.slot).is_err() {
                stub.kill();
                return;
            }
        }
        stub.stubs.counters.stubs_recycled.fetch_add(1, Ordering::Relaxed);
        stub.stubs.give_back(stub.clone());
    }
}

/// How many guest processes this host lets us have: half of what is left of the user's processes, threads and descriptors.
pub fn guest_process_limit() -> usize {
    let limit = |which| {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the structure is ours to fill.
        if unsafe { libc::getrlimit(which, &raw mut limit) } == 0 { limit.rlim_cur } else { libc::RLIM_INFINITY }
    };
    let pids_max = std::fs::read_to_string("/sys/fs/cgroup/pids.max").ok().and_then(|text| text.trim().parse::<u64>().ok());
    // Three host threads and two descriptors for each guest process; half is left to the user.
    let by_threads = limit(libc::RLIMIT_NPROC).min(pids_max.unwrap_or(u64::MAX)) / 6;
    let by_files = limit(libc::RLIMIT_NOFILE) / 4;
    by_threads.min(by_files).min(l::STUB_COUNT as u64 - 1) as usize
}

pub use template::HAND_OVER_SIGNALS;
