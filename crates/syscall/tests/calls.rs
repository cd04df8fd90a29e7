//! System calls by their numbers, on the machine without a host that `task`'s own tests use.

#[path = "../../task/tests/world/mod.rs"]
mod world;

use abi::{Errno, Restart, Signal, SysError};
use mm::{MapFlags, Mapping};
use platform::Protection;
use task::{Current, Next, Outcome};
use vfs::UserMemory;
use world::{World, until};

/// A page of guest memory to pass things in.
fn page(current: &Current) -> u64 {
    let rights = Protection::READ | Protection::WRITE;
    current.memory().map(Mapping::anonymous(0, 4096, rights, MapFlags::empty())).unwrap()
}

fn raw(current: &mut Current, number: u64, args: &[u64]) -> Outcome {
    let mut six = [0; 6];
    six[..args.len()].copy_from_slice(args);
    syscall::call(current, number, six)
}

fn ok(current: &mut Current, number: u64, args: &[u64]) -> u64 {
    match raw(current, number, args) {
        Outcome::Value(value) => value,
        other => panic!("{:?}: {other:?}", syscall::name(number)),
    }
}

fn err(current: &mut Current, number: u64, args: &[u64]) -> Errno {
    match raw(current, number, args) {
        Outcome::Error(SysError::Errno(errno)) => errno,
        other => panic!("{:?}: {other:?}", syscall::name(number)),
    }
}

fn put(current: &Current, addr: u64, words: &[u64]) {
    for (i, word) in words.iter().enumerate() {
        current.memory().write_all(addr + 8 * i as u64, &word.to_le_bytes()).unwrap();
    }
}

fn word(current: &Current, addr: u64) -> u64 {
    let mut bytes = [0; 8];
    current.memory().read_exact(addr, &mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

fn int(current: &Current, addr: u64) -> i32 {
    word(current, addr) as i32
}

const MINUS: fn(i64) -> u64 = |n| n as u64;

#[test]
fn numbers_and_families_of_processes() {
    let mut world = World::new();
    let init = &mut world.init;
    assert_eq!((ok(init, 39, &[]), ok(init, 186, &[]), ok(init, 110, &[])), (1, 1, 0));
    assert_eq!((ok(init, 111, &[]), ok(init, 121, &[0]), ok(init, 124, &[0])), (1, 1, 1));
    assert_eq!(err(init, 121, &[77]), Errno::ESRCH);
    assert_eq!(err(init, 112, &[]), Errno::EPERM);
}

#[test]
fn fork_exit_and_wait4_by_number() {
    let mut world = World::new();
    world.will_run(|current| {
        assert_eq!(ok(current, 110, &[]), 1);
        assert_eq!(raw(current, 231, &[3]), Outcome::Registers);
        assert_eq!(current.before_guest(), Next::Exit);
    });
    let init = &mut world.init;
    let at = page(init);
    let pid = ok(init, 57, &[]);
    assert_eq!(ok(init, 61, &[MINUS(-1), at, 0, 0]), pid);
    assert_eq!(int(init, at), 0x300);
    assert_eq!(err(init, 61, &[MINUS(-1), at, 0, 0]), Errno::ECHILD);
    assert_eq!(err(init, 61, &[MINUS(-1), at, 0x10, 0]), Errno::EINVAL);
}

#[test]
fn clone3_reads_its_structure_with_care() {
    let mut world = World::new();
    let init = &mut world.init;
    let at = page(init);
    assert_eq!(err(init, 435, &[at, 63]), Errno::EINVAL);
    assert_eq!(err(init, 435, &[at, 5000]), Errno::E2BIG);
    assert_eq!(err(init, 435, &[0x10, 64]), Errno::EFAULT);
    put(init, at + 88, &[1]);
    assert_eq!(err(init, 435, &[at, 96]), Errno::E2BIG);
    // A stack without a size.
    put(init, at, &[0, 0, 0, 0, 17, 0x1000, 0, 0]);
    assert_eq!(err(init, 435, &[at, 64]), Errno::EINVAL);
    put(init, at, &[0, 0, 0, 0, 17, 0, 0, 0]);
    let pid = ok(init, 435, &[at, 64]);
    // waitid tells what wait4 tells, in a siginfo.
    assert_eq!(ok(init, 247, &[0, 0, at, 4, 0]), 0);
    assert_eq!((int(init, at), int(init, at + 8), int(init, at + 16)), (17, 1, pid as i32));
}

#[test]
fn signals_are_blocked_queued_looked_at_and_taken() {
    let mut world = World::new();
    let init = &mut world.init;
    let at = page(init);
    let usr1 = 1 << 9;
    put(init, at, &[usr1]);
    assert_eq!(ok(init, 14, &[0, at, at + 8, 8]), 0);
    assert_eq!(err(init, 14, &[0, at, 0, 4]), Errno::EINVAL);
    assert_eq!(err(init, 14, &[9, at, 0, 8]), Errno::EINVAL);
    assert_eq!(ok(init, 62, &[1, 10]), 0);
    assert_eq!(ok(init, 127, &[at + 16, 8]), 0);
    assert_eq!(word(init, at + 16), usr1);
    assert_eq!(ok(init, 128, &[at, at + 128, 0, 8]), 10);
    assert_eq!((int(init, at + 128), int(init, at + 136), int(init, at + 144)), (10, 0, 1));
    // Nothing is left, and a time that has passed is EAGAIN.
    put(init, at + 24, &[0, 1000]);
    assert_eq!(err(init, 128, &[at, 0, at + 24, 8]), Errno::EAGAIN);
    // Nobody may pretend to be the kernel towards others; towards oneself it is allowed.
    put(init, at + 256, &[10, 0x80]);
    assert_eq!(ok(init, 129, &[1, 10, at + 256]), 0);
    assert_eq!(err(init, 62, &[999, 0]), Errno::ESRCH);
    assert_eq!(err(init, 62, &[1, 65]), Errno::EINVAL);
    assert_eq!(err(init, 13, &[9, at + 512, 0, 8]), Errno::EINVAL);
}

#[test]
fn sigsuspend_waits_under_another_mask_and_asks_for_a_handler() {
    let mut world = World::new();
    let init = &mut world.init;
    let at = page(init);
    put(init, at, &[1 << 9, 0]);
    ok(init, 14, &[0, at, 0, 8]);
    ok(init, 62, &[1, 10]);
    // Blocked outside, open inside: it ends at once, and the mask waits for the handler's frame.
    let outcome = raw(init, 130, &[at + 8, 8]);
    assert_eq!(outcome, Outcome::Error(SysError::Restart(Restart::IfNoHandler)));
    let signals = init.process().signals();
    let thread = signals.thread(1).unwrap();
    assert_eq!((thread.blocked.0, thread.saved_mask.map(|m| m.0)), (0, Some(1 << 9)));
}

#[test]
fn a_signalfd_reads_what_is_blocked() {
    let mut world = World::new();
    let init = &mut world.init;
    let at = page(init);
    put(init, at, &[1 << 9]);
    ok(init, 14, &[0, at, 0, 8]);
    let fd = ok(init, 289, &[MINUS(-1), at, 8, 0o4000]);
    assert_eq!(err(init, 0, &[fd, at + 256, 128]), Errno::EAGAIN);
    ok(init, 62, &[1, 10]);
    assert_eq!(ok(init, 0, &[fd, at + 256, 256]), 128);
    assert_eq!((int(init, at + 256), int(init, at + 256 + 12)), (10, 1));
    assert_eq!(err(init, 0, &[fd, at + 256, 100]), Errno::EINVAL);
    assert_eq!(ok(init, 289, &[fd, at, 8, 0]), fd);
    assert_eq!(err(init, 289, &[MINUS(-1), at, 8, 1]), Errno::EINVAL);
}

#[test]
fn alternate_stacks_are_checked() {
    let mut world = World::new();
    let init = &mut world.init;
    let at = page(init);
    assert_eq!(ok(init, 131, &[0, at]), 0);
    assert_eq!(int(init, at + 8), 2);
    put(init, at + 32, &[0x10000, 0, 100]);
    assert_eq!(err(init, 131, &[at + 32, 0]), Errno::ENOMEM);
    put(init, at + 32, &[0x10000, 4, 8192]);
    assert_eq!(err(init, 131, &[at + 32, 0]), Errno::EINVAL);
    put(init, at + 32, &[0x10000, 0, 8192]);
    assert_eq!(ok(init, 131, &[at + 32, 0]), 0);
    assert_eq!(ok(init, 131, &[0, at]), 0);
    assert_eq!((word(init, at), int(init, at + 8), word(init, at + 16)), (0x10000, 0, 8192));
}

#[test]
fn clocks_and_timers() {
    let mut world = World::new();
    let init = &mut world.init;
    let at = page(init);
    for clock in [0, 1, 2, 3, 4, 5, 6, 7, 11] {
        assert_eq!(ok(init, 228, &[clock, at]), 0, "clock {clock}");
        assert_eq!(ok(init, 229, &[clock, at]), 0, "clock {clock}");
    }
    assert_eq!(err(init, 228, &[99, at]), Errno::EINVAL);
    put(init, at, &[0, 1_000_000_000]);
    assert_eq!(err(init, 35, &[at, 0]), Errno::EINVAL);
    put(init, at, &[0, 1_000_000]);
    assert_eq!(ok(init, 35, &[at, 0]), 0);
    assert_eq!(ok(init, 37, &[100]), 0);
    assert_eq!(ok(init, 37, &[0]), 100);
    put(init, at, &[0, 0, 0, 1_000_000]);
    assert_eq!(err(init, 38, &[0, at, 0]), Errno::EINVAL);
    // timer_create with a null event is SIGALRM.
    assert_eq!(ok(init, 222, &[1, 0, at]), 0);
    let id = int(init, at) as u64;
    put(init, at, &[0, 0, 5, 0]);
    assert_eq!(ok(init, 223, &[id, 0, at, 0]), 0);
    assert_eq!(ok(init, 224, &[id, at + 64]), 0);
    assert!((1..=5).contains(&word(init, at + 80)));
    assert_eq!((ok(init, 225, &[id]), ok(init, 226, &[id])), (0, 0));
    assert_eq!(err(init, 226, &[id]), Errno::EINVAL);
}

#[test]
fn the_clock_is_read_and_stepped_by_adjtimex() {
    let mut world = World::new();
    let init = &mut world.init;
    let at = page(init);
    assert_eq!(ok(init, 159, &[at]), 5);
    let before = word(init, at + 72);
    assert!(before > 1_700_000_000);
    // A step of an hour, and back.
    for (step, moved) in [(3600i64, 3600), (-3600, 0)] {
        put(init, at, &[0x100]);
        put(init, at + 72, &[step as u64, 0]);
        assert_eq!(ok(init, 305, &[0, at]), 5);
        assert!((before + moved..before + moved + 60).contains(&word(init, at + 72)));
    }
    assert_eq!(err(init, 305, &[1, at]), Errno::EOPNOTSUPP);
}

#[test]
fn scheduling_attributes_are_kept() {
    let mut world = World::new();
    let init = &mut world.init;
    let at = page(init);
    put(init, at, &[48, 0, 5]);
    assert_eq!(ok(init, 314, &[0, at, 0]), 0);
    assert_eq!(ok(init, 315, &[0, at + 64, 48, 0]), 0);
    assert_eq!((int(init, at + 64), int(init, at + 80)), (48, 5));
    assert_eq!(ok(init, 140, &[0, 0]), 15);
    put(init, at, &[48 | 6 << 32]);
    assert_eq!(err(init, 314, &[0, at, 0]), Errno::EINVAL);
    assert_eq!(err(init, 315, &[0, at, 8, 0]), Errno::EINVAL);
}

#[test]
fn an_interrupted_sleep_goes_on_where_it_was() {
    let mut world = World::new();
    let init = &mut world.init;
    let at = page(init);
    put(init, at, &[0, 30_000_000]);
    sync::current().set_interrupted(true);
    assert_eq!(raw(init, 35, &[at, at + 16]), Outcome::Error(SysError::Restart(Restart::Block)));
    let left = word(init, at + 24);
    assert!(left > 0 && left <= 30_000_000);
    sync::current().set_interrupted(false);
    assert_eq!(ok(init, 219, &[]), 0);
    assert_eq!(err(init, 219, &[]), Errno::EINTR);
}

#[test]
fn limits_are_kept_and_children_inherit_them() {
    let mut world = World::new();
    let init = &mut world.init;
    let at = page(init);
    put(init, at, &[100, 50]);
    assert_eq!(err(init, 160, &[7, at]), Errno::EINVAL);
    put(init, at, &[50, 100]);
    assert_eq!(ok(init, 302, &[0, 7, at, at + 16]), 0);
    assert_eq!((word(init, at + 16), word(init, at + 24)), (1024, 4096));
    assert_eq!(ok(init, 97, &[7, at + 32]), 0);
    assert_eq!((word(init, at + 32), word(init, at + 40)), (50, 100));
    assert_eq!(err(init, 97, &[16, at]), Errno::EINVAL);
}

#[test]
fn identities_follow_the_rules() {
    let mut world = World::new();
    let pid = world.fork(|current| {
        let at = page(current);
        put(current, at, &[0x0000_0005_0000_0004]);
        assert_eq!(ok(current, 116, &[2, at]), 0);
        assert_eq!(ok(current, 115, &[0, 0]), 2);
        assert_eq!(ok(current, 106, &[7]), 0);
        assert_eq!(ok(current, 105, &[1000]), 0);
        assert_eq!((ok(current, 102, &[]), ok(current, 107, &[]), ok(current, 104, &[])), (1000, 1000, 7));
        assert_eq!(err(current, 105, &[0]), Errno::EPERM);
        assert_eq!(err(current, 116, &[0, 0]), Errno::EPERM);
        // capget of version 3: nothing is left.
        put(current, at, &[0x2008_0522]);
        assert_eq!(ok(current, 125, &[at, at + 64]), 0);
        assert_eq!((word(current, at + 64), word(current, at + 80)), (0, 0));
        assert_eq!(err(current, 62, &[1, 0]), Errno::EPERM);
        current.begin_exit(1);
    });
    assert_eq!(world.wait(abi::WaitFor::Process(pid as _), abi::WaitOptions::EXITED).1, abi::WaitStatus::Exited(1));
}

#[test]
fn prctl_keeps_names_and_flags() {
    let mut world = World::new();
    let init = &mut world.init;
    let at = page(init);
    init.memory().write_all(at, b"a name that is too long\0").unwrap();
    assert_eq!(ok(init, 157, &[15, at]), 0);
    assert_eq!(ok(init, 157, &[16, at + 64]), 0);
    let mut name = [0; 16];
    init.memory().read_exact(at + 64, &mut name).unwrap();
    assert_eq!(&name, b"a name that is \0");
    assert_eq!((ok(init, 157, &[38, 1, 0, 0, 0]), ok(init, 157, &[39])), (0, 1));
    assert_eq!(err(init, 157, &[38, 0, 0, 0, 0]), Errno::EINVAL);
    assert_eq!((ok(init, 157, &[36, 1]), ok(init, 157, &[37, at])), (0, 0));
    assert_eq!(int(init, at), 1);
    assert_eq!(err(init, 157, &[9999]), Errno::EINVAL);
}

#[test]
fn a_pidfd_signals_and_waits_for_its_process() {
    let mut world = World::new();
    world.will_run(|_| {
        let _ = sync::WaitQueue::new().wait_interruptible(|| None::<()>);
    });
    let init = &mut world.init;
    let at = page(init);
    let pid = ok(init, 57, &[]);
    let fd = ok(init, 434, &[pid, 0]);
    assert_eq!(err(init, 434, &[999, 0]), Errno::ESRCH);
    assert_eq!(err(init, 434, &[pid, 1]), Errno::EINVAL);
    assert_eq!(ok(init, 424, &[fd, Signal::SIGTERM.number() as u64, 0, 0]), 0);
    assert_eq!(ok(init, 247, &[3, fd, at, 4, 0]), 0);
    assert_eq!((int(init, at + 8), int(init, at + 24)), (2, 15));
    assert_eq!(err(init, 424, &[fd, 15, 0, 0]), Errno::ESRCH);
}

#[test]
fn one_process_reads_another_s_memory() {
    let mut world = World::new();
    let at = page(&world.init);
    world.init.memory().write_all(at + 1024, b"of the parent").unwrap();
    world.fork(move |current| {
        current.memory().write_all(at + 1024, &[0; 16]).unwrap();
        put(current, at, &[at + 1024, 13, at + 1024, 4, at + 1028, 9]);
        assert_eq!(ok(current, 310, &[1, at, 1, at + 16, 2, 0]), 13);
        let mut text = [0; 13];
        current.memory().read_exact(at + 1024, &mut text).unwrap();
        assert_eq!(&text, b"of the parent");
        assert_eq!(err(current, 310, &[1, at, 1, at + 16, 2000, 0]), Errno::EINVAL);
        current.begin_exit(1);
    });
    assert_eq!(world.wait(abi::WaitFor::Any, abi::WaitOptions::EXITED).1, abi::WaitStatus::Exited(1));
}

#[test]
fn what_is_not_there_is_counted_and_answers_as_an_unconfigured_kernel() {
    let mut world = World::new();
    let init = &mut world.init;
    assert_eq!(err(init, 5555, &[]), Errno::ENOSYS);
    assert_eq!(err(init, 321, &[]), Errno::ENOSYS);
    assert_eq!(err(init, u64::MAX, &[]), Errno::ENOSYS);
    until(|| syscall::unimplemented_counts().iter().any(|(number, count)| *number == 5555 && *count > 0));
}

#[test]
fn no_call_with_any_arguments_panics() {
    // The clone family does nothing while a signal waits; everything else that would sleep ends at once then.
    const CLONES: &[u64] = &[56, 57, 58, 435];
    // Ranges of addresses are judged by `mm`, whose own tests go through them; and they would take the page away that is passed here.
    const MAPPINGS: &[u64] = &[9, 10, 11, 12, 25, 26, 27, 28, 149, 150, 216, 325];
    let scale = match std::env::var("UMLAUT_SCALE").as_deref() {
        Ok("full") => 1000,
        Ok(number) => number.parse().unwrap_or(1),
        Err(_) => 1,
    };
    let mut world = World::new();
    *world.fail_start.lock().unwrap() = true;
    let init = &mut world.init;
    let at = page(init);
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..20 * scale {
        for number in (0..470).filter(|n| !MAPPINGS.contains(n)) {
            let mut args = [0; 6];
            for arg in &mut args {
                *arg = match random() % 8 {
                    0 => random(),
                    1 => random() % 16,
                    2 => 0,
                    3 => u64::MAX - random() % 4096,
                    4 => abi::arch::TASK_SIZE - random() % 64,
                    _ => at + random() % 4096,
                };
            }
            sync::current().set_interrupted(!CLONES.contains(&number));
            let _ = syscall::call(init, number, args);
        }
    }
    sync::current().set_interrupted(false);
}
