//! Lives of processes on a machine without a host: birth, waiting, signals, stops, programs, death. A guest program is a closure that gets the
//! running thread.

mod world;

use abi::siginfo::{SIG_DFL, SIG_IGN};
use abi::{CloneFlags, Errno, Restart, SaFlags, SigAction, SigInfo, SigSet, Signal, SysError, WaitFor, WaitOptions, WaitStatus};
use mm::{MapFlags, Mapping};
use platform::Protection;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use task::signal::To;
use task::{CloneRequest, Current, Next, Outcome};
use vfs::{LookupFlags, OpenFlags, OpenHow, PathAt, UserMemory};
use world::{World, until};

/// One load of `body` at `addr`, with an entry point in it.
fn elf(kind: u16, addr: u64, interpreter: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = vec![0u8; 0x3000];
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(16, &kind.to_le_bytes());
    put(18, &62u16.to_le_bytes());
    put(24, &(addr + 0x1000).to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(54, &56u16.to_le_bytes());
    put(56, &(1 + u16::from(interpreter.is_some())).to_le_bytes());
    let mut segment = |at: usize, kind: u32, flags: u32, words: [u64; 6]| {
        put(at, &kind.to_le_bytes());
        put(at + 4, &flags.to_le_bytes());
        for (i, word) in words.iter().enumerate() {
            put(at + 8 + 8 * i, &word.to_le_bytes());
        }
    };
    segment(64, 1, 7, [0, addr, addr, 0x2800, 0x5000, 0x1000]);
    if let Some(path) = interpreter {
        segment(120, 3, 4, [0x300, 0, 0, path.len() as u64 + 1, 0, 1]);
        bytes[0x300..0x300 + path.len()].copy_from_slice(path);
    }
    bytes[0x1000..0x1008].copy_from_slice(b"the text");
    bytes
}

fn exec(current: &mut Current, path: &[u8], arguments: &[&[u8]]) -> Result<(), SysError> {
    current.exec(None, path, arguments.iter().map(|a| a.to_vec()).collect(), vec![b"HOME=/".to_vec()], 0)
}

fn word(current: &Current, addr: u64) -> u64 {
    let mut bytes = [0; 8];
    current.memory().read_exact(addr, &mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

fn text(current: &Current, addr: u64) -> String {
    let mut bytes = [0; 64];
    let n = current.memory().read(addr, &mut bytes).unwrap();
    String::from_utf8_lossy(bytes[..n].split(|b| *b == 0).next().unwrap()).into_owned()
}

fn arguments(current: &mut Current) -> Vec<String> {
    let sp = current.thread().regs().unwrap().rsp;
    (0..word(current, sp)).map(|i| text(current, word(current, sp + 8 + 8 * i))).collect()
}

fn aux(current: &mut Current, kind: u64) -> Option<u64> {
    let mut at = current.thread().regs().unwrap().rsp;
    at += 8 * (word(current, at) + 2);
    while word(current, at) != 0 {
        at += 8;
    }
    at += 8;
    loop {
        match word(current, at) {
            0 => return None,
            k if k == kind => return Some(word(current, at + 8)),
            _ => at += 16,
        }
    }
}

const ANY: WaitFor = WaitFor::Any;
const EXITED: WaitOptions = WaitOptions::EXITED;

#[test]
fn a_child_exits_and_its_parent_learns_how() {
    let mut world = World::new();
    let pid = world.fork(|current| {
        assert_eq!((current.pid(), current.process().parent()), (2, 1));
        current.begin_exit(7);
    });
    assert_eq!(world.wait(ANY, EXITED), (pid, WaitStatus::Exited(7)));
    assert_eq!(world.init.wait(ANY, EXITED).unwrap_err().errno(), Errno::ECHILD);
    assert!(world.init.system().process(pid).is_err());
}

#[test]
fn nohang_does_not_wait() {
    let mut world = World::new();
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().unwrap();
    let theirs = gate.clone();
    world.fork(move |_| drop(theirs.lock()));
    assert_eq!(world.init.wait(ANY, EXITED | WaitOptions::NOHANG), Ok(None));
    drop(held);
    world.wait(ANY, EXITED);
}

#[test]
fn a_child_has_its_own_memory_and_the_registers_of_its_parent_but_for_the_result() {
    let mut world = World::new();
    let rw = Protection::READ | Protection::WRITE;
    let addr = world.init.memory().map(Mapping::anonymous(0, 4096, rw, MapFlags::empty())).unwrap();
    world.init.memory().write_all(addr, b"before").unwrap();
    let mut regs = world.init.thread().regs().unwrap();
    (regs.rip, regs.rax, regs.rbx) = (0x1234, 57, 99);
    world.init.thread().set_regs(&regs).unwrap();
    world.fork(move |current| {
        let regs = current.thread().regs().unwrap();
        assert_eq!((regs.rip, regs.rax, regs.rbx), (0x1234, 0, 99));
        assert_eq!(text(current, addr), "before");
        current.memory().write_all(addr, b"child!").unwrap();
        current.begin_exit(3);
    });
    assert_eq!(world.wait(ANY, EXITED).1, WaitStatus::Exited(3));
    assert_eq!(text(&world.init, addr), "before");
}

#[test]
fn a_thread_clears_its_number_in_memory_and_leaves_no_zombie() {
    let mut world = World::new();
    let rw = Protection::READ | Protection::WRITE;
    let addr = world.init.memory().map(Mapping::anonymous(0, 4096, rw, MapFlags::empty())).unwrap();
    world.will_run(|current| {
        assert_eq!(current.pid(), 1);
        assert_ne!(current.tid(), 1);
    });
    use CloneFlags as F;
    let flags = F::VM | F::FS | F::FILES | F::SIGHAND | F::THREAD | F::PARENT_SETTID | F::CHILD_CLEARTID;
    let request = CloneRequest { flags, exit_signal: None, parent_tid: addr, child_tid: addr, ..CloneRequest::fork() };
    let tid = world.init.clone_task(&request).unwrap();
    let system = world.init.system();
    until(|| system.task(tid).is_err());
    assert_eq!(word(&world.init, addr) as u32, 0);
    assert_eq!(world.init.wait(ANY, EXITED | WaitOptions::ALL).unwrap_err().errno(), Errno::ECHILD);
}

#[test]
fn sigkill_ends_a_sleeping_child_and_nothing_ends_init() {
    let mut world = World::new();
    let pid = world.fork(|_| {
        let slept = sync::WaitQueue::new().wait_interruptible(|| None::<()>);
        assert!(slept.is_err());
    });
    let child = world.init.system().process(pid).unwrap();
    child.send(To::Process, SigInfo::user(Signal::SIGKILL, 1, 0)).unwrap();
    assert_eq!(world.wait(ANY, EXITED), (pid, WaitStatus::Killed(Signal::SIGKILL, false)));
    world.init.process().send(To::Process, SigInfo::user(Signal::SIGKILL, 1, 0)).unwrap();
    assert_eq!(world.init.before_guest(), Next::Resume);
}

#[test]
fn children_of_a_parent_that_ignores_sigchld_become_no_zombies() {
    let mut world = World::new();
    let ignore = SigAction { handler: SIG_IGN, ..SigAction::default() };
    world.init.process().signals().set_action(Signal::SIGCHLD, ignore);
    let pid = world.fork(|_| {});
    assert_eq!(world.init.wait(ANY, EXITED).unwrap_err().errno(), Errno::ECHILD);
    assert!(world.init.system().process(pid).is_err());
}

#[test]
fn a_stopped_child_is_told_of_once_goes_on_and_is_told_of_again() {
    let mut world = World::new();
    let pid = world.fork(|current| {
        // Takes the stop where the run loop would, and then sleeps for its death.
        until(|| sync::current().is_interrupted());
        while current.before_guest() == Next::Resume {
            let _ = sync::WaitQueue::new().wait_interruptible(|| None::<()>);
        }
    });
    let child = world.init.system().process(pid).unwrap();
    let send = |signal| child.send(To::Process, SigInfo::user(signal, 1, 0)).unwrap();
    send(Signal::SIGSTOP);
    let all = EXITED | WaitOptions::STOPPED | WaitOptions::CONTINUED;
    assert_eq!(world.wait(ANY, all), (pid, WaitStatus::Stopped(Signal::SIGSTOP)));
    assert_eq!(world.init.wait(ANY, all | WaitOptions::NOHANG), Ok(None));
    send(Signal::SIGCONT);
    assert_eq!(world.wait(ANY, all), (pid, WaitStatus::Continued));
    send(Signal::SIGTERM);
    assert_eq!(world.wait(ANY, all), (pid, WaitStatus::Killed(Signal::SIGTERM, false)));
}

#[test]
fn a_terminal_stop_does_nothing_to_an_orphaned_group() {
    let mut world = World::new();
    let pid = world.fork(|current| {
        // A session of its own: nobody who could wake it is in it.
        current.system().table().tree.setsid(current.pid()).unwrap();
        current.process().send(To::Process, SigInfo::kernel(Signal::SIGTSTP)).unwrap();
        assert_eq!(current.before_guest(), Next::Resume);
        current.begin_exit(4);
    });
    assert_eq!(world.wait(ANY, EXITED | WaitOptions::STOPPED), (pid, WaitStatus::Exited(4)));
}

#[test]
fn orphans_go_to_init_with_their_death_signal() {
    let mut world = World::new();
    let grandchild = Arc::new(Mutex::new(0));
    let (theirs, ready) = (grandchild.clone(), Arc::new(Mutex::new(false)));
    let is_ready = ready.clone();
    world.will_run(move |current| {
        *theirs.lock().unwrap() = current.clone_task(&CloneRequest::fork()).unwrap();
        until(|| *is_ready.lock().unwrap());
    });
    world.will_run(move |current| {
        current.process().parent_death_signal.store(Signal::SIGUSR1.number(), std::sync::atomic::Ordering::Relaxed);
        *ready.lock().unwrap() = true;
        let _ = sync::WaitQueue::new().wait_interruptible(|| None::<()>);
    });
    let child = world.init.clone_task(&CloneRequest::fork()).unwrap();
    assert_eq!(world.wait(WaitFor::Process(child), EXITED).1, WaitStatus::Exited(0));
    let grandchild = *grandchild.lock().unwrap();
    assert_eq!(world.wait(ANY, EXITED), (grandchild, WaitStatus::Killed(Signal::SIGUSR1, false)));
}

#[test]
fn exit_group_ends_every_thread_with_one_status() {
    let mut world = World::new();
    let gate = Arc::new(Mutex::new(false));
    let theirs = gate.clone();
    world.will_run(move |current| {
        use CloneFlags as F;
        let request = CloneRequest { flags: F::VM | F::FS | F::FILES | F::SIGHAND | F::THREAD, exit_signal: None, ..CloneRequest::fork() };
        current.clone_task(&request).unwrap();
        until(|| *theirs.lock().unwrap());
        current.begin_group_exit(5);
    });
    world.will_run(move |_| {
        *gate.lock().unwrap() = true;
        let _ = sync::WaitQueue::new().wait_interruptible(|| None::<()>);
    });
    let pid = world.init.clone_task(&CloneRequest::fork()).unwrap();
    assert_eq!(world.wait(ANY, EXITED), (pid, WaitStatus::Exited(5)));
}

#[test]
fn vfork_waits_until_the_child_is_gone_and_shares_memory() {
    let mut world = World::new();
    let rw = Protection::READ | Protection::WRITE;
    let addr = world.init.memory().map(Mapping::anonymous(0, 4096, rw, MapFlags::empty())).unwrap();
    world.will_run(move |current| {
        thread::sleep(Duration::from_millis(20));
        current.memory().write_all(addr, b"hello").unwrap();
    });
    let request = CloneRequest { flags: CloneFlags::VM | CloneFlags::VFORK, ..CloneRequest::fork() };
    let pid = world.init.clone_task(&request).unwrap();
    assert_eq!(text(&world.init, addr), "hello");
    assert_eq!(world.wait(ANY, EXITED).0, pid);
}

#[test]
fn a_thread_that_can_not_be_started_leaves_no_trace() {
    let mut world = World::new();
    *world.fail_start.lock().unwrap() = true;
    let before = world.init.system().ram.stats();
    assert_eq!(world.init.clone_task(&CloneRequest::fork()), Err(Errno::EAGAIN.into()));
    assert_eq!(world.init.wait(ANY, EXITED).unwrap_err().errno(), Errno::ECHILD);
    assert_eq!(world.init.system().table().tree.thread_count(), 1);
    assert_eq!(format!("{before:?}"), format!("{:?}", world.init.system().ram.stats()));
}

#[test]
fn there_are_no_more_threads_than_the_machine_allows() {
    let mut world = World::new();
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().unwrap();
    let mut made = 0;
    let refused = loop {
        let theirs = gate.clone();
        world.will_run(move |_| drop(theirs.lock()));
        match world.init.clone_task(&CloneRequest::fork()) {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((made, refused), (19, Errno::EAGAIN.into()));
    drop(held);
    for _ in 0..made {
        world.wait(ANY, EXITED);
    }
}

#[test]
fn a_handler_gets_a_frame_and_sigreturn_undoes_it() {
    let mut world = World::new();
    let rw = Protection::READ | Protection::WRITE;
    let stack = world.init.memory().map(Mapping::anonymous(0, 65536, rw, MapFlags::empty())).unwrap();
    let mut regs = world.init.thread().regs().unwrap();
    (regs.rsp, regs.rip, regs.rbx, regs.rax) = (stack + 65536, 0x40_0002, 42, 0);
    world.init.thread().set_regs(&regs).unwrap();
    let flags = SaFlags::RESTORER.bits();
    let action = SigAction { handler: 0x5000, flags, restorer: 0x6000, mask: SigSet::of(Signal::SIGUSR2).0 };
    world.init.process().signals().set_action(Signal::SIGUSR1, action);
    world.init.process().send(To::Process, SigInfo::user(Signal::SIGUSR1, 5, 6)).unwrap();
    // It comes at the end of a read that was interrupted.
    world.init.finish_call(0, Outcome::Error(SysError::Restart(Restart::IfRestartable)));
    assert_eq!(world.init.before_guest(), Next::Resume);
    let in_handler = world.init.thread().regs().unwrap();
    assert_eq!((in_handler.rip, in_handler.rdi), (0x5000, 10));
    assert_eq!(word(&world.init, in_handler.rsp), 0x6000);
    let blocked = |world: &World| world.init.process().signals().thread(1).unwrap().blocked;
    assert_eq!(blocked(&world), SigSet::of(Signal::SIGUSR1).union(SigSet::of(Signal::SIGUSR2)));
    // The handler returns.
    let returning = abi::arch::Regs { rsp: in_handler.rsp + 8, ..in_handler };
    world.init.thread().set_regs(&returning).unwrap();
    assert_eq!(world.init.signal_return(), Outcome::Registers);
    let back = world.init.thread().regs().unwrap();
    assert_eq!((back.rip, back.rsp, back.rbx), (0x40_0002, regs.rsp, 42));
    assert_eq!(back.rax as i64, -i64::from(Errno::EINTR.raw()));
    assert_eq!(blocked(&world), SigSet::EMPTY);
}

#[test]
fn an_interrupted_call_runs_again_when_no_handler_ran() {
    let mut world = World::new();
    let mut regs = world.init.thread().regs().unwrap();
    for (restart, number) in [(Restart::IfRestartable, 7), (Restart::IfNoHandler, 7), (Restart::Block, 219)] {
        regs.rip = 0x40_0002;
        world.init.thread().set_regs(&regs).unwrap();
        world.init.finish_call(7, Outcome::Error(SysError::Restart(restart)));
        assert_eq!(world.init.before_guest(), Next::Resume);
        let now = world.init.thread().regs().unwrap();
        assert_eq!((now.rip, now.rax), (0x40_0000, number), "{restart:?}");
    }
}

#[test]
fn a_frame_that_can_not_be_written_kills_the_process() {
    let mut world = World::new();
    let pid = world.fork(|current| {
        let action = SigAction { handler: 0x5000, flags: SaFlags::RESTORER.bits(), restorer: 0x6000, mask: 0 };
        for signal in [Signal::SIGUSR1, Signal::SIGSEGV] {
            current.process().signals().set_action(signal, action);
        }
        current.process().send(To::Process, SigInfo::user(Signal::SIGUSR1, 1, 0)).unwrap();
        assert_eq!(current.before_guest(), Next::Exit);
    });
    assert_eq!(world.wait(ANY, EXITED), (pid, WaitStatus::Killed(Signal::SIGSEGV, false)));
}

#[test]
fn a_static_program_is_mapped_and_finds_its_arguments() {
    let mut world = World::new();
    world.file(b"/prog", 0o755, &elf(2, 0x40_0000, None));
    world.fork(|current| {
        exec(current, b"/prog", &[b"prog", b"one"]).unwrap();
        let regs = current.thread().regs().unwrap();
        assert_eq!((regs.rip, regs.rsp % 16), (0x40_1000, 0));
        assert_eq!(text(current, 0x40_1000), "the text");
        assert_eq!(arguments(current), ["prog", "one"]);
        assert_eq!((aux(current, 9), aux(current, 3), aux(current, 23)), (Some(0x40_1000), Some(0x40_0040), Some(0)));
        let execfn = aux(current, 31).unwrap();
        assert_eq!(text(current, execfn), "/prog");
        // Behind the file's bytes there are zeroes, and memory up to the end.
        assert_eq!((word(current, 0x40_2800), word(current, 0x40_4ff8)), (0, 0));
        assert_eq!(&current.task().comm()[..5], b"prog\0");
        assert_eq!(current.process().program(), b"/prog");
        current.begin_exit(1);
    });
    assert_eq!(world.wait(ANY, EXITED).1, WaitStatus::Exited(1));
}

#[test]
fn a_dynamic_program_starts_in_its_interpreter() {
    let mut world = World::new();
    world.file(b"/ld.so", 0o755, &elf(3, 0, None));
    world.file(b"/prog", 0o755, &elf(3, 0, Some(b"/ld.so")));
    world.file(b"/bad", 0o755, &elf(3, 0, Some(b"/text")));
    world.file(b"/text", 0o755, b"this is no program");
    world.fork(|current| {
        assert_eq!(exec(current, b"/bad", &[b"x"]), Err(Errno::ELIBBAD.into()));
        exec(current, b"/prog", &[b"x"]).unwrap();
        let regs = current.thread().regs().unwrap();
        let (base, entry) = (aux(current, 7).unwrap(), aux(current, 9).unwrap());
        assert_eq!(regs.rip, base + 0x1000);
        assert_ne!(regs.rip, entry);
        assert_eq!((text(current, regs.rip), text(current, entry)), ("the text".to_owned(), "the text".to_owned()));
        current.begin_exit(1);
    });
    assert_eq!(world.wait(ANY, EXITED).1, WaitStatus::Exited(1));
}

#[test]
fn a_script_runs_its_interpreter_and_scripts_of_scripts_end() {
    let mut world = World::new();
    world.file(b"/sh", 0o755, &elf(2, 0x40_0000, None));
    world.file(b"/s1", 0o755, b"#! /sh -e  x \n");
    for n in 2..=6 {
        world.file(format!("/s{n}").as_bytes(), 0o755, format!("#!/s{}\n", n - 1).as_bytes());
    }
    world.fork(|current| {
        assert_eq!(exec(current, b"/s6", &[b"argv0"]), Err(Errno::ELOOP.into()));
        exec(current, b"/s2", &[b"argv0", b"a"]).unwrap();
        assert_eq!(arguments(current), ["/sh", "-e  x", "/s1", "/s2", "a"]);
        assert_eq!(&current.task().comm()[..3], b"s2\0");
        exec(current, b"/s5", &[b"argv0"]).unwrap();
        current.begin_exit(1);
    });
    assert_eq!(world.wait(ANY, EXITED).1, WaitStatus::Exited(1));
}

#[test]
fn what_is_no_program_leaves_the_caller_alive() {
    let mut world = World::new();
    world.file(b"/text", 0o755, b"hello");
    world.file(b"/plain", 0o644, &elf(2, 0x40_0000, None));
    world.file(b"/high", 0o755, &elf(2, abi::arch::TASK_SIZE - 0x1000, None));
    world.file(b"/cut", 0o755, &elf(2, 0x40_0000, None)[..70]);
    world.file(b"/busy", 0o755, &elf(2, 0x40_0000, None));
    let before = world.init.thread().regs().unwrap();
    let caller = world.init.caller();
    let writer = caller.open(PathAt::cwd(b"/busy"), OpenHow::new(OpenFlags::WRONLY, 0)).unwrap();
    for (path, errno) in [
        (&b"/text"[..], Errno::ENOEXEC),
        (b"/plain", Errno::EACCES),
        (b"/high", Errno::ENOMEM),
        (b"/cut", Errno::ENOEXEC),
        (b"/", Errno::EACCES),
        (b"/missing", Errno::ENOENT),
        (b"/busy", Errno::ETXTBSY),
    ] {
        assert_eq!(exec(&mut world.init, path, &[b"x"]), Err(errno.into()), "{}", String::from_utf8_lossy(path));
    }
    drop(writer);
    assert_eq!(world.init.thread().regs().unwrap(), before);
    let long = vec![b'x'; 7 << 20];
    assert_eq!(exec(&mut world.init, b"/busy", &[&long]), Err(Errno::E2BIG.into()));
    assert_eq!(exec(&mut world.init, b"/busy", &[b"x"]), Ok(()));
}

#[test]
fn exec_resets_handlers_closes_files_and_ends_the_other_threads() {
    let mut world = World::new();
    world.file(b"/prog", 0o755, &elf(2, 0x40_0000, None));
    world.will_run(|current| {
        let action = SigAction { handler: 0x5000, ..SigAction::default() };
        current.process().signals().set_action(Signal::SIGUSR1, action);
        let caller = current.caller();
        for on_exec in [vfs::OnExec::Keep, vfs::OnExec::Close] {
            let file = caller.open(PathAt::cwd(b"/prog"), OpenHow::new(OpenFlags::empty(), 0)).unwrap();
            current.files().add(file, 100, on_exec).unwrap();
        }
        use CloneFlags as F;
        let flags = F::VM | F::FS | F::FILES | F::SIGHAND | F::THREAD;
        let _ = current.clone_task(&CloneRequest { flags, exit_signal: None, ..CloneRequest::fork() }).unwrap();
        let _ = sync::WaitQueue::new().wait_interruptible(|| None::<()>);
    });
    world.will_run(|current| {
        let leader = current.pid();
        assert_ne!(current.tid(), leader);
        exec(current, b"/prog", &[b"x"]).unwrap();
        assert_eq!((current.tid(), current.process().signals().threads()), (leader, 1));
        assert_eq!(current.files().descriptors(), [0]);
        let action = current.process().signals().actions.lock().get(Signal::SIGUSR1);
        assert_eq!(action.handler, SIG_DFL);
        current.begin_exit(9);
    });
    let pid = world.init.clone_task(&CloneRequest::fork()).unwrap();
    assert_eq!(world.wait(ANY, EXITED), (pid, WaitStatus::Exited(9)));
}

#[test]
fn a_set_user_id_program_runs_as_its_owner_and_is_told_to_be_careful() {
    let mut world = World::new();
    world.file(b"/prog", 0o755, &elf(2, 0x40_0000, None));
    let path = world.init.caller().lookup(PathAt::cwd(b"/prog"), LookupFlags::FOLLOW).unwrap();
    world.init.caller().chmod(&path, 0o4755).unwrap();
    world.fork(|current| {
        let user = task::credentials::setuid(current.credentials(), 1000).unwrap();
        current.set_credentials(user);
        exec(current, b"/prog", &[b"x"]).unwrap();
        let c = current.credentials().clone();
        assert_eq!((c.uid, c.euid, c.suid), (1000, 0, 0));
        assert_eq!((aux(current, 23), aux(current, 12), aux(current, 11)), (Some(1), Some(0), Some(1000)));
        current.begin_exit(1);
    });
    assert_eq!(world.wait(ANY, EXITED).1, WaitStatus::Exited(1));
}

#[test]
fn a_pidfd_is_there_before_the_child_and_ready_when_it_is_dead() {
    let mut world = World::new();
    let rw = Protection::READ | Protection::WRITE;
    let addr = world.init.memory().map(Mapping::anonymous(0, 4096, rw, MapFlags::empty())).unwrap();
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().unwrap();
    let theirs = gate.clone();
    world.will_run(move |_| drop(theirs.lock()));
    let request = CloneRequest { flags: CloneFlags::PIDFD, pidfd: addr, ..CloneRequest::fork() };
    let pid = world.init.clone_task(&request).unwrap();
    let fd = word(&world.init, addr) as i32;
    let file = world.init.files().get(fd).unwrap();
    assert_eq!(world.init.pidfd(fd).unwrap().pid(), pid);
    assert_eq!(file.poll(None), sync::Events::empty());
    assert_eq!(file.ops().fdinfo(&file), format!("Pid:\t{pid}\nNSpid:\t{pid}\n"));
    drop(held);
    until(|| file.poll(None).contains(sync::Events::IN));
    world.wait(ANY, EXITED);
    // The number may mean another process from now on; the descriptor does not.
    assert_eq!(file.ops().fdinfo(&file), "Pid:\t-1\nNSpid:\t-1\n");
}

#[test]
fn a_child_with_mounts_of_its_own_does_not_show_them_to_others() {
    let mut world = World::new();
    world.init.caller().mkdir(PathAt::cwd(b"/mnt"), 0o755).unwrap();
    world.file(b"/mnt/below", 0o644, b"x");
    world.will_run(|current| {
        let ram = current.system().ram;
        let vfs = current.system().vfs;
        let tmpfs = fs::tmpfs::Tmpfs::new(ram, "tmpfs", fs::tmpfs::Options::default()).unwrap();
        let mount = vfs.new_mount(tmpfs, b"none", vfs::MountFlags::empty()).unwrap();
        let target = current.caller().lookup(PathAt::cwd(b"/mnt"), LookupFlags::FOLLOW).unwrap();
        current.caller().attach_new(&mount, &target).unwrap();
        assert!(current.caller().lookup(PathAt::cwd(b"/mnt/below"), LookupFlags::FOLLOW).is_err());
        current.begin_exit(1);
    });
    let request = CloneRequest { flags: CloneFlags::NEWNS, ..CloneRequest::fork() };
    world.init.clone_task(&request).unwrap();
    assert_eq!(world.wait(ANY, EXITED).1, WaitStatus::Exited(1));
    assert!(world.init.caller().lookup(PathAt::cwd(b"/mnt/below"), LookupFlags::FOLLOW).is_ok());
}
