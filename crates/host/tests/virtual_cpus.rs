//! Fibers on virtual CPUs running guest threads: parallel, fair, and preempted whatever they do.

use abi::arch::Regs;
use host::machine::{HostMachine, start_cpus};
use host::memory::MemoryFile;
use host::stub::Stubs;
use platform::{Exit, GuestSpace, GuestThread, MapCommand, Platform, Protection};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};
use sync::sched::{self, Scheduler};

const PAGE: u64 = 4096;
const CODE: u64 = 0x40_0000;
const RAM_LEN: usize = 16 << 20;
/// `jmp .`
const SPIN: [u8; 2] = [0xeb, 0xfe];
/// `mov eax, 39; syscall; jmp` back.
const CALLS: [u8; 9] = [0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];

struct Machine {
    stubs: &'static Stubs,
    ram: &'static ram::Ram,
    scheduler: &'static Scheduler,
}

fn machine() -> &'static Machine {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    MACHINE.get_or_init(|| {
        let (ready, machine) = mpsc::channel();
        std::thread::spawn(move || {
            let memory = MemoryFile::new(RAM_LEN).unwrap();
            let stubs = Stubs::start(memory.descriptor(), RAM_LEN as u64, 100, host::checks::wished_hand_over().unwrap()).unwrap();
            let ram = ram::Ram::new(memory.into_backing());
            stubs.warm_up().unwrap();
            let scheduler = Scheduler::install(Box::new(HostMachine::new(stubs)), 2).unwrap();
            ready.send(Machine { stubs, ram, scheduler }).unwrap();
            for cpu in start_cpus(scheduler, stubs).unwrap() {
                cpu.join().unwrap();
            }
        });
        machine.recv().unwrap()
    })
}

fn guest(code: &[u8]) -> (Arc<dyn GuestSpace>, Box<dyn GuestThread>) {
    let m = machine();
    let space = m.stubs.new_space().unwrap();
    let text = m.ram.alloc_zeroed().unwrap();
    text.write(0, code);
    let protection = Protection::READ | Protection::EXEC;
    space.map(&[MapCommand::Map { addr: CODE, len: PAGE, pfn: text.into_pfn(), protection }]).unwrap();
    let mut thread = space.new_thread().unwrap();
    let regs = Regs { rip: CODE, flags: Regs::USER_FLAGS, selectors: Regs::USER_SELECTORS, ..Regs::default() };
    thread.set_regs(&regs).unwrap();
    (space, thread)
}

/// A guest that runs on a fiber, and how it ended.
struct Running {
    fiber: sync::Fiber,
    result: mpsc::Receiver<&'static str>,
}

impl Running {
    /// Waits for it to see that it shall stop. One that spins alone on its CPU is not disturbed unless somebody asks.
    fn expect_stopped(self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            machine().scheduler.kick_fiber(&self.fiber);
            match self.result.recv_timeout(Duration::from_millis(20)) {
                Ok(how) => return assert_eq!(how, "stopped"),
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        }
    }
}

/// Runs a guest's code on a fiber until `stop`; counts its calls.
fn run(code: &'static [u8], stop: Arc<AtomicBool>, calls: Arc<AtomicU64>) -> Running {
    let (done, result) = mpsc::channel();
    let (_space, mut thread) = guest(code);
    let body = move || {
        let _space = _space;
        while !stop.load(Ordering::SeqCst) {
            match thread.resume() {
                Exit::Kicked => sync::yield_now(),
                Exit::Syscall { .. } => {
                    calls.fetch_add(1, Ordering::SeqCst);
                    thread.set_result(0);
                    if sched::should_yield() {
                        sync::yield_now();
                    }
                }
                Exit::Gone => return done.send("gone").unwrap(),
                other => panic!("{other:?}"),
            }
        }
        done.send("stopped").unwrap();
    };
    Running { fiber: machine().scheduler.spawn(body).unwrap(), result }
}

#[test]
fn a_guest_that_makes_calls_gets_its_share_beside_guests_that_only_spin() {
    let stop = Arc::new(AtomicBool::new(false));
    let calls = Arc::new(AtomicU64::new(0));
    let ignored = Arc::new(AtomicU64::new(0));
    let spinners: Vec<_> = (0..3).map(|_| run(&SPIN, stop.clone(), ignored.clone())).collect();
    let caller = run(&CALLS, stop.clone(), calls.clone());
    std::thread::sleep(Duration::from_secs(1));
    stop.store(true, Ordering::SeqCst);
    spinners.into_iter().chain([caller]).for_each(Running::expect_stopped);
    // A quarter of two CPUs at some microseconds a call; a first-come-first-served queue would give a few hundred.
    assert!(calls.load(Ordering::SeqCst) > 5_000, "{calls:?}");
}

#[test]
fn sleepers_wake_in_time_while_every_cpu_spins() {
    let stop = Arc::new(AtomicBool::new(false));
    let ignored = Arc::new(AtomicU64::new(0));
    let spinners: Vec<_> = (0..3).map(|_| run(&SPIN, stop.clone(), ignored.clone())).collect();
    let (done, result) = mpsc::channel();
    // A scheduler that makes sleepers wait for slices is late in every round; a host that is busy with others is not.
    let body = move || {
        let median = || {
            let mut late = Vec::new();
            for _ in 0..50 {
                let due = sync::monotonic_ns() + 2_000_000;
                while sync::monotonic_ns() < due {
                    sync::park(Some(due));
                }
                late.push(sync::monotonic_ns() - due);
            }
            late.sort_unstable();
            late[25]
        };
        let rounds: Vec<u64> = std::iter::repeat_with(median)
            .take(40)
            .scan(false, |met, median| (!std::mem::replace(met, median < 4_000_000)).then_some(median))
            .collect();
        done.send(rounds).unwrap();
    };
    machine().scheduler.spawn(body).unwrap();
    let rounds = result.recv_timeout(Duration::from_secs(120)).unwrap();
    stop.store(true, Ordering::SeqCst);
    spinners.into_iter().for_each(Running::expect_stopped);
    assert!(rounds.last().is_some_and(|median| *median < 4_000_000), "a sleeper is late, nanoseconds: {rounds:?}");
}

#[test]
fn ten_thousand_fibers_take_turns_at_a_sleeping_lock() {
    let (fibers, rounds) = (100, 100);
    let counter = Arc::new(sync::Mutex::new(0u64));
    let (done, result) = mpsc::channel();
    for _ in 0..fibers {
        let (counter, done) = (counter.clone(), done.clone());
        let body = move || {
            for _ in 0..rounds {
                let mut value = counter.lock();
                let seen = *value;
                sync::yield_now();
                *value = seen + 1;
            }
            done.send(()).unwrap();
        };
        machine().scheduler.spawn(body).unwrap();
    }
    for _ in 0..fibers {
        result.recv_timeout(Duration::from_secs(30)).unwrap();
    }
    assert_eq!(*counter.lock(), fibers * rounds);
}

#[test]
fn two_spinning_guests_use_two_cpus() {
    let begun = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    let counts: Vec<_> = (0..2).map(|_| Arc::new(AtomicU64::new(0))).collect();
    let guests: Vec<_> = counts.iter().map(|count| run(&CALLS, stop.clone(), count.clone())).collect();
    std::thread::sleep(Duration::from_millis(500));
    stop.store(true, Ordering::SeqCst);
    guests.into_iter().for_each(Running::expect_stopped);
    for count in counts {
        assert!(count.load(Ordering::SeqCst) > 1000, "{count:?} calls in {:?}", begun.elapsed());
    }
}
