//! A stub as the kernel holds it: its command thread, its guest threads, and the pool of stubs that wait to be used again.
//!
//! Always true: a stub goes back to the pool only when every one of its guest threads is stopped in a pending notification (a [`Parked`] value is
//! that proof: only a received notification makes one), nothing of the old guest is mapped in it, and its slots are scrubbed. A thread that
//! reports over a socket is only about to stop when its report comes, so without notifications no stub is used again.
//!
//! And: who is told that a space is gone may give its memory to others, so that is told only when the process is dead.

use super::code;
use super::filter::{self, SocketOf};
use super::layout as l;
use super::listener::{HandOver, Listener, Socket, is_silent};
use super::notify::{self, Answer, Notification};
use super::template::{self, SpawnError, Template, put, put_message, put_program, put_words, word};
use super::thread::{self, Frame, GuestThread, Parked, Pending};
use crate::holes::{self, Hole};
use crate::sys::{self, Mapping};
use abi::Errno;
use platform::{GuestSpace, MapCommand, Platform, Protection, SpaceGone};
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
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
    hand_over: HandOver,
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
    /// It was told to die, or is dead.
    pub(super) gone: AtomicBool,
    /// It was found dead.
    dead: AtomicBool,
    /// Where the frame of its first thread was at its birth, by signals.
    pub(super) birth_frame: AtomicU64,
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
    /// Without notifications: every guest thread's number and socket.
    sockets: Vec<(i32, Arc<UnixDatagram>)>,
}

/// A stub in use: one address space of the guest.
pub struct Space {
    stub: Arc<Stub>,
    /// Nothing is mapped: all was taken away, and nothing was mapped since.
    empty: AtomicBool,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stubs {
    /// Starts the template and the first stub, which shows whether this host lets us, and learns how its signal frames look. Call it on a thread that
    /// lives as long as the machine (stubs die with the thread that made their template), and before the process has other threads. `limit`
    /// is how many guest processes there may be.
    ///
    /// Without a wish, notifications are tried first, and signals where the host lacks what they need.
    pub fn start(ram: &OwnedFd, ram_len: u64, limit: usize, wish: Option<HandOver>) -> Result<&'static Stubs, Errno> {
        let with = |hand_over| {
            let stubs: &'static Stubs = Box::leak(Box::new(Stubs {
                template: Template::start(ram, hand_over)?,
                hand_over,
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
            stubs.learn().inspect_err(|_| sys::kill_process(stubs.template.pid))?;
            Ok(stubs)
        };
        match wish {
            Some(hand_over) => with(hand_over),
            None => with(HandOver::Notify).or_else(|_| with(HandOver::Trap)),
        }
    }

    /// Makes the first stub and looks at a frame of it.
    fn learn(&'static self) -> Result<(), Errno> {
        let first = self.make()?;
        let parked = lock(&first.threads).parked.pop().ok_or(Errno::EAGAIN)?;
        thread::learn_frame(self, &first, parked)?;
        let Some(layout) = self.layout.get().filter(|_| self.hand_over == HandOver::Notify) else {
            // The filter of its thread does not know the frame: it must not run guest code.
            return Ok(());
        };
        // All of its slot was mapped. From here on it is like the others.
        let unmap = [u64::from(abi::raw::general::__NR_munmap), l::SLOTS, layout.first_page() as u64, 0, 0, 0, 0, 0];
        first.run(&[unmap]).map_err(|SpaceGone| Errno::EAGAIN)?;
        self.give_back(first);
        Ok(())
    }

    /// Starts the threads that reap dead stubs and keep the pool filled.
    pub fn warm_up(&'static self) -> Result<(), Errno> {
        let spawn = |name: &str, body: fn(&'static Stubs)| {
            std::thread::Builder::new().name(name.into()).stack_size(256 << 10).spawn(move || body(self)).map_err(|_| Errno::EAGAIN)
        };
        spawn("umlaut-reaper", Stubs::reap)?;
        spawn("umlaut-pool", Stubs::fill_pool)?;
        Ok(())
    }

    /// How guest code is stopped and goes on here.
    #[must_use]
    pub fn hand_over(&self) -> HandOver {
        self.hand_over
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
        let begun = self.begin(number);
        let (pid, commands, listener, done) = begun.inspect_err(|_| {
            self.alive.fetch_sub(1, Ordering::SeqCst);
            lock(&self.numbers).1.push(number);
        })?;
        // From here on dropping it gives all back.
        let stub = Arc::new(Stub {
            number,
            pid,
            commands,
            chunks: (0..l::SLOT_COUNT / CHUNK_SLOTS).map(|_| OnceLock::new()).collect(),
            command_thread: Mutex::new(CommandThread { listener, tid: done.tid, pending: done.id }),
            threads: Mutex::new(Threads::default()),
            sequence: AtomicU32::new(1),
            gone: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            birth_frame: AtomicU64::new(0),
            stubs: self,
        });
        lock(&self.live).insert(pid, Arc::downgrade(&stub));
        self.counters.stubs_made.fetch_add(1, Ordering::Relaxed);
        if holes::open(Hole::CommandPage) {
            let protect = [u64::from(abi::raw::general::__NR_mprotect), l::COMMAND, l::COMMAND_LEN as u64, 3, 0, 0, 0, 0];
            stub.run(&[protect]).map_err(|SpaceGone| Errno::EAGAIN)?;
        }
        let parked = stub.make_thread()?;
        lock(&stub.threads).parked.push(parked);
        Ok(stub)
    }

    /// A new process with its command thread, which waits.
    fn begin(&'static self, number: usize) -> Result<(i32, Mapping, Listener, Notification), Errno> {
        let offset = l::STRIDE * number as u64;
        let commands = Mapping::shared(self.template.control.as_fd(), offset, l::COMMAND_LEN)?;
        word(&commands, l::SPAWN_SEQUENCE).store(0, Ordering::SeqCst);
        let spawning = lock(&self.spawning);
        let pid = self.template.clone_stub(number)?;
        let spawn_first = || -> Result<(Listener, Notification), Errno> {
            let descriptor = self.spawn(number, &commands, 1, l::SPAWN_COMMAND_THREAD, 0).map_err(|_| Errno::EAGAIN)?;
            let listener = match self.hand_over {
                HandOver::Notify => Listener::Notify(notify::Listener::new(descriptor)?),
                HandOver::Trap => Listener::Socket(Box::new(Socket::of_commands(descriptor, newest_thread(pid, &[pid])?))),
            };
            let done = listener.receive()?;
            Ok((listener, done))
        };
        match spawn_first() {
            Ok((listener, done)) => Ok((pid, commands, listener, done)),
            Err(errno) => {
                drop(spawning);
                sys::kill_process(pid);
                self.wait_for(pid);
                Err(errno)
            }
        }
    }

    /// Asks a stub's spawner for a thread and waits for its descriptor. The caller holds `spawning`, until the thread has its filter on: the
    /// request is read by the newborn too.
    fn spawn(&self, number: usize, commands: &Mapping, sequence: u32, kind: u64, slot: usize) -> Result<OwnedFd, SpawnError> {
        let home = l::SLOTS + (slot * l::SLOT_LEN) as u64;
        // Before the first frame was seen all of the slot may be needed.
        let mapped = self.layout.get().map_or(0, |layout| layout.first_page());
        let (const_filter, guest) = match kind {
            l::SPAWN_COMMAND_THREAD => (l::COMMAND_FILTER, 0),
            _ => (l::GUEST_FILTER, 1),
        };
        put_words(commands, l::SPAWN_STACK, &[home + l::SLOT_STACK as u64, 0, (l::SLOT_WORDS - l::SLOT_STACK) as u64]);
        put_words(commands, l::SPAWN_MAP_AT, &[home + mapped as u64]);
        put_words(commands, l::SPAWN_MAP_LEN, &[(l::SLOT_LEN - mapped) as u64]);
        put_words(commands, l::SPAWN_MAP_OFFSET, &[l::STRIDE * number as u64 + l::SLOTS_IN_STRIDE + (slot * l::SLOT_LEN + mapped) as u64]);
        let const_home = l::CONST + const_filter as u64;
        match self.hand_over {
            HandOver::Notify => {
                // NEW_LISTENER; for guest threads also WAIT_KILLABLE_RECV.
                let flags = if guest == 1 { 0x28 } else { 8 };
                put_words(commands, l::SPAWN_KIND, &[kind]);
                put_words(commands, l::SPAWN_FILTER_FLAGS, &[flags, const_home, l::CONST + l::MESSAGE as u64, l::FD_LISTENER as u64]);
            }
            HandOver::Trap => {
                let descriptor = l::FD_LISTENER + (guest * (1 + slot)) as i32;
                let (control, filter_home) = (l::COMMAND + l::THREAD_CONTROL as u64, l::COMMAND + l::THREAD_FILTER as u64);
                put_message(commands, l::THREAD_MESSAGE, l::THREAD_CONTROL, control, descriptor + 1);
                let frame = self.layout.get().map(|layout| home + layout.ucontext as u64);
                let program = filter::guest_with_socket(&code::addresses(), SocketOf { descriptor, slot: home, frame });
                assert!(l::THREAD_PROGRAM + 8 * program.len() <= l::COMMAND_LEN);
                put_program(commands, l::THREAD_FILTER, l::THREAD_PROGRAM, l::COMMAND + l::THREAD_PROGRAM as u64, &program);
                let filter_home = if guest == 1 { filter_home } else { const_home };
                put_words(commands, l::SPAWN_KIND, &[kind | l::SPAWN_WITH_SOCKET]);
                put_words(commands, l::SPAWN_PAIR, &[home + l::SLOT_PAIR as u64]);
                put_words(commands, l::SPAWN_FILTER_FLAGS, &[0, filter_home, l::COMMAND + l::THREAD_MESSAGE as u64, descriptor as u64 + 1]);
            }
        }
        let word = word(commands, l::SPAWN_SEQUENCE);
        word.store(sequence, Ordering::SeqCst);
        sys::futex_wake(word.as_ptr());
        self.template.receive_listener()
    }

    /// Whether guest thread `tid` of process `pid` sleeps although it has not reported: without notifications it can wait for a word that will not
    /// come, by jumping to where its handler waits.
    pub(crate) fn sleeps_silently(&self, pid: i32, tid: i32) -> bool {
        if self.hand_over == HandOver::Notify {
            return false;
        }
        let stub = lock(&self.live).get(&pid).and_then(std::sync::Weak::upgrade);
        let socket = stub.and_then(|stub| lock(&stub.threads).sockets.iter().find(|(of, _)| *of == tid).map(|(_, socket)| socket.clone()));
        let Some(socket) = socket else { return false };
        // First that it sleeps, then that there is no report: between a report and the wait it does not sleep.
        thread_state(pid, tid) == Some('S') && is_silent(&socket)
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
            stub.dead.store(true, Ordering::SeqCst);
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
        Ok(Arc::new(Space { stub: self.take()?, empty: AtomicBool::new(true) }))
    }
    fn answers(&self) -> u32 {
        self.template.answers_generation().load(Ordering::SeqCst)
    }
    fn forget_answers(&self) {
        self.template.answers_generation().fetch_add(1, Ordering::SeqCst);
    }
    fn xstate_len(&self) -> usize {
        self.layout.get().map_or(0, |layout| layout.xstate_len)
    }
    fn processor_aux(&self) -> [(u64, u64); 3] {
        // SAFETY: getauxval reads the process's own vector.
        [libc::AT_HWCAP, libc::AT_HWCAP2, libc::AT_MINSIGSTKSZ].map(|key| (key, unsafe { libc::getauxval(key) }))
    }
    fn user_position(&self, host_number: u64) -> Option<(u64, u64)> {
        let (pid, tid) = (host_number >> 32, host_number as u32);
        // "running", or: number, six arguments, stack pointer, instruction pointer. proc(5).
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")).ok()?;
        let mut words = text.split_whitespace().rev().map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok());
        let (ip, sp) = (words.next()??, words.next()??);
        Some((ip, sp))
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
        let spawning = lock(&self.stubs.spawning);
        let slot = lock(&self.threads).made;
        if slot >= l::SLOT_COUNT {
            return Err(Errno::EAGAIN);
        }
        let base = self.slot(slot)?;
        thread::write_socket(base, l::FD_LISTENER + 1 + slot as i32);
        let sequence = self.sequence.fetch_add(1, Ordering::SeqCst) + 1;
        let listener = self.stubs.spawn(self.number, &self.commands, sequence, l::SPAWN_GUEST_THREAD, slot);
        let result = match listener {
            Ok(descriptor) => self.await_birth(slot, descriptor),
            Err(SpawnError::NoThread) => return Err(Errno::EAGAIN),
            Err(SpawnError::Broken) => Err(Errno::EAGAIN),
        };
        drop(spawning);
        // Nothing is known of that thread, so the stub can't be trusted any more.
        result.inspect_err(|_| self.kill())
    }

    fn await_birth(&self, slot: usize, descriptor: OwnedFd) -> Result<Parked, Errno> {
        let listener = match self.stubs.hand_over {
            HandOver::Notify => Listener::Notify(notify::Listener::new(descriptor)?),
            HandOver::Trap => {
                let mut known = vec![self.pid, lock(&self.command_thread).tid as i32];
                known.extend(lock(&self.threads).sockets.iter().map(|(tid, _)| *tid));
                Listener::Socket(Box::new(Socket::of_guest(descriptor, newest_thread(self.pid, &known)?)))
            }
        };
        let birth = self.receive(&listener)?;
        let mut threads = lock(&self.threads);
        threads.made += 1;
        self.stubs.counters.threads_made.fetch_add(1, Ordering::Relaxed);
        let pending = match listener.socket() {
            None => Pending::Call { id: birth.id, answer: Answer::Value(0), number: birth.number },
            Some(socket) => {
                threads.sockets.push((birth.tid as i32, socket.end()));
                self.birth_frame.store(birth.args[1], Ordering::Relaxed);
                Pending::Frame { id: birth.id, regs: Default::default(), dirty: true }
            }
        };
        Ok(Parked { slot, tid: birth.tid as i32, listener, pending })
    }

    pub(super) fn park(&self, parked: Parked) {
        lock(&self.threads).parked.push(parked);
    }

    pub(super) fn kill(&self) {
        self.gone.store(true, Ordering::SeqCst);
        sys::kill_process(self.pid);
    }

    /// Kills it, and waits until none of its threads can run any more.
    fn kill_and_wait(&self) {
        self.kill();
        while !self.dead.load(Ordering::SeqCst) && process_exists(self.pid) {
            std::thread::sleep(std::time::Duration::from_micros(50));
        }
    }

    /// Runs commands on the command thread. When it says that the stub is gone, no thread of it runs any more.
    pub(super) fn run(&self, commands: &[[u64; 8]]) -> Result<(), SpaceGone> {
        self.try_run(commands).inspect_err(|SpaceGone| self.kill_and_wait())
    }

    fn try_run(&self, commands: &[[u64; 8]]) -> Result<(), SpaceGone> {
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
            let pending = thread.pending;
            thread.listener.answer(pending, Answer::Value(0)).map_err(|_| SpaceGone)?;
            let done = self.receive(&thread.listener).map_err(|_| SpaceGone)?;
            thread.pending = done.id;
            let failed = done.number as u64 != l::NR_COMMANDS_DONE || done.tid != thread.tid || done.args[1] != 0;
            if failed {
                // The host refused to map: it is out of memory or mappings. The guest process can't go on.
                return Err(SpaceGone);
            }
        }
        Ok(())
    }

    /// The next notification of one of the stub's threads. ESRCH when the stub is gone, EPROTO when the thread forged it.
    pub(super) fn receive(&self, listener: &Listener) -> Result<Notification, Errno> {
        loop {
            match listener.receive() {
                Ok(notification) => return Ok(notification),
                Err(_) if self.gone.load(Ordering::SeqCst) => return Err(Errno::ESRCH),
                // A wake-up, or the notification was withdrawn by a signal between the two halves of the call.
                Err(Errno::EINTR) => {}
                Err(Errno::ENOENT) if process_exists(self.pid) => {}
                Err(Errno::EPROTO) => return Err(Errno::EPROTO),
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

/// The one thread of a process that is not among those known. Guest code has no part in what the host's `/proc` lists.
fn newest_thread(pid: i32, known: &[i32]) -> Result<u32, Errno> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_err(|_| Errno::ESRCH)?;
    let numbers = threads.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let unknown: Vec<i32> = numbers.filter(|tid| !known.contains(tid)).collect();
    match unknown[..] {
        [tid] => Ok(tid as u32),
        _ => Err(Errno::ESRCH),
    }
}

/// The state of a thread as proc_pid_stat(5) tells it, the letter behind its name.
fn thread_state(pid: i32, tid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

impl Drop for Stub {
    fn drop(&mut self) {
        sys::kill_process(self.pid);
        lock(&self.stubs.live).remove(&self.pid);
        // Its part of the control file goes back to the host; only then may the number be used again, and only when the process is gone.
        let mut status = 0;
        // SAFETY: the status is ours; the reaper may be first, then this answers ECHILD.
        unsafe { libc::waitpid(self.pid, &raw mut status, libc::__WALL) };
        // A host without hole punching keeps the pages until we end.
        let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        let _ = rustix::fs::fallocate(&self.stubs.template.control, flags, l::STRIDE * self.number as u64, l::STRIDE);
        lock(&self.stubs.numbers).1.push(self.number);
        self.stubs.alive.fetch_sub(1, Ordering::SeqCst);
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
        if let [MapCommand::Unmap { addr: addr @ 0..=4096, len }] = *commands
            && addr.checked_add(len) == Some(l::BASE)
        {
            return self.unmap_all();
        }
        self.empty.store(false, Ordering::SeqCst);
        let mut words = Vec::with_capacity(commands.len());
        for command in commands {
            words.push(match *command {
                MapCommand::Map { addr, len, pfn, protection } => {
                    let offset = u64::from(pfn) * 4096;
                    assert!(inside(addr, len) && offset + len <= self.stub.stubs.ram_len, "{command:?}");
                    // What can only be read the host brings in by itself, sixteen pages at a time, and only what is used.
                    let at_once = if protection.contains(Protection::WRITE) { libc::MAP_POPULATE } else { 0 };
                    let flags = (libc::MAP_SHARED | libc::MAP_FIXED | at_once) as u64;
                    [u64::from(nr::__NR_mmap), addr, len, bits(protection), flags, l::FD_RAM as u64, offset, 0]
                }
                MapCommand::Unmap { addr: 4096, .. } if holes::open(Hole::LiveThread) => continue,
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

impl Space {
    /// Takes all away that a guest may have, page 0 included.
    fn unmap_all(&self) -> Result<(), SpaceGone> {
        self.stub.run(&[[u64::from(abi::raw::general::__NR_munmap), 0, l::BASE, 0, 0, 0, 0, 0]])?;
        self.empty.store(true, Ordering::SeqCst);
        Ok(())
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let stub = &self.stub;
        if stub.gone.load(Ordering::SeqCst) {
            return;
        }
        if holes::open(Hole::LiveThread) {
            stub.stubs.give_back(stub.clone());
            return;
        }
        if stub.stubs.hand_over == HandOver::Trap {
            // No thread is proved stopped.
            stub.kill_and_wait();
            return;
        }
        // Every thread must be parked: a live one could run the old guest's code in the next guest's memory.
        let all_parked = {
            let threads = lock(&stub.threads);
            threads.parked.len() == threads.made
        };
        let unmapped = if self.empty.load(Ordering::SeqCst) { Ok(()) } else { self.unmap_all() };
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
