//! The magic SysRq keys: a letter from the management console or `/proc/sysrq-trigger`, and what it does. `Documentation/admin-guide/sysrq.rst`.
//!
//! What it prints goes to the kernel's log. Keys that mean nothing in a machine without a keyboard, a display or more than one kind of processor print
//! the help, as on Linux.

use crate::config::End;
use crate::machine::Ending;
use crate::wiring::INFO;
use abi::{SigInfo, Signal};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use sync::sched::Scheduler;
use task::{System, Task};
use vfs::{MountFlags, UserMemory, Vfs};

/// Emergency: shown whatever the level of the console.
const EMERGENCY: u8 = 0;
/// Words of a stack that are shown, and how far up return addresses are looked for.
const STACK_WORDS: usize = 12;
const STACK_SCAN_BYTES: usize = 4096;
/// Return addresses shown at most.
const FRAMES: usize = 24;

const HELP: &str = "sysrq: HELP : loglevel(0-9) reboot(b) crash(c) terminate-all-tasks(e) memory-full-oom-kill(f) kill-all-tasks(i) thaw-filesystems(j) show-memory-usage(m) nice-all-RT-tasks(n) poweroff(o) show-registers(p) show-all-timers(q) sync(s) show-task-states(t) unmount(u) show-blocked-tasks(w) replay-kernel-logs(R) ";

/// The keys of one machine.
pub struct SysRq {
    system: &'static System,
    vfs: &'static Vfs,
    scheduler: &'static Scheduler,
    ending: Arc<Ending>,
}

impl SysRq {
    pub fn new(system: &'static System, scheduler: &'static Scheduler, ending: Arc<Ending>) -> Arc<SysRq> {
        Arc::new(SysRq { system, vfs: system.vfs, scheduler, ending })
    }

    fn say(&self, text: &str) {
        self.vfs.log.print(INFO, text);
    }

    /// Presses one. May take a while (`s`, `u`); must not be called with a lock held.
    pub fn press(&self, letter: u8) {
        match letter {
            b'0'..=b'9' => {
                self.say("sysrq: Changing Loglevel");
                self.vfs.log.set_console_level(letter - b'0');
                self.say(&format!("Loglevel set to {}", char::from(letter)));
            }
            b'b' => {
                self.say("sysrq: Resetting");
                self.ending.at_once(End::Restart);
            }
            b'c' => {
                self.say("sysrq: Trigger a crash");
                self.ending.panic(&self.vfs.log, "Kernel panic - not syncing: sysrq triggered crash");
            }
            b'e' => {
                self.say("sysrq: Terminate All Tasks");
                self.signal_all(Signal::SIGTERM);
            }
            b'f' => {
                self.say("sysrq: Manual OOM execution");
                if !self.system.kill_somebody() {
                    self.say("Out of memory and no killable processes...");
                }
            }
            b'i' => {
                self.say("sysrq: Kill All Tasks");
                self.signal_all(Signal::SIGKILL);
            }
            b'j' => self.thaw(),
            b'm' => {
                self.say("sysrq: Show Memory");
                self.show_memory();
            }
            b'n' => self.make_nice(),
            b'o' => {
                self.say("sysrq: Power Off");
                self.system.hooks.power(task::system::Power::Off);
            }
            b'p' => {
                self.say("sysrq: Show Regs");
                self.show_processors();
            }
            b'q' => {
                self.say("sysrq: Show clockevent devices & pending hrtimers (no others)");
                self.say(&format!("now at {} nsecs", sync::monotonic_ns()));
                self.say(&format!("pending timers: {}", sync::timers_pending()));
            }
            b's' => {
                self.say("sysrq: Emergency Sync");
                self.vfs.sync_all();
                self.say("Emergency Sync complete");
            }
            b't' => {
                self.say("sysrq: Show State");
                self.show_tasks(|_| true);
            }
            b'u' => self.remount_read_only(),
            b'w' => {
                self.say("sysrq: Show Blocked State");
                self.show_tasks(Task::is_blocked);
            }
            b'R' => {
                self.say("sysrq: Replay kernel logs on consoles");
                let (mut at, end) = self.vfs.log.range();
                while let Some(record) = self.vfs.log.at(at).filter(|record| record.sequence < end) {
                    at = record.sequence + 1;
                    self.vfs.log.show(&record);
                }
            }
            _ => self.say(HELP),
        }
    }

    /// Every process but the first.
    fn signal_all(&self, signal: Signal) {
        let processes = self.system.table().all_processes();
        for process in processes.iter().filter(|process| process.pid() != 1) {
            // One that is dead already needs none.
            let _ = process.send(task::signal::To::Process, SigInfo::kernel(signal));
        }
    }

    fn thaw(&self) {
        self.say("sysrq: Emergency Thaw of all frozen filesystems");
        for superblock in self.vfs.superblocks() {
            if let Err(errno) = superblock.file_system().thaw() {
                self.vfs.log.print(EMERGENCY, &format!("{}: {errno}", superblock.file_system().type_name()));
            }
        }
        self.say("Emergency Thaw complete");
    }

    fn remount_read_only(&self) {
        self.say("sysrq: Emergency Remount R/O");
        self.vfs.sync_all();
        for superblock in self.vfs.superblocks().iter().filter(|superblock| superblock.file_system().device().is_some()) {
            if let Err(errno) = superblock.file_system().remount(MountFlags::RDONLY, b"") {
                self.vfs.log.print(EMERGENCY, &format!("{}: {errno}", superblock.file_system().type_name()));
            }
        }
        self.say("Emergency Remount complete");
    }

    fn make_nice(&self) {
        self.say("sysrq: Nice All RT Tasks");
        for task in self.system.table().all_tasks() {
            if task.policy.load(Ordering::Relaxed) != 0 {
                task.policy.store(0, Ordering::Relaxed);
                task.priority.store(0, Ordering::Relaxed);
            }
        }
    }

    fn show_memory(&self) {
        let stats = self.system.ram.stats();
        let kib = |frames: usize| (frames * abi::PAGE_SIZE) >> 10;
        self.say("Mem-Info:");
        self.say(&format!(
            "Normal free:{}kB present:{}kB managed:{}kB kernel_misc:{}kB offline:{}kB",
            kib(stats.free),
            kib(self.system.ram.frames()),
            kib(stats.total),
            stats.charged_bytes >> 10,
            kib(self.system.ram.frames() - stats.total)
        ));
        let (dirty, cached) = self.vfs.page_caches.stats();
        self.say(&format!("{dirty} dirty pages"));
        self.say(&format!("{cached} total pagecache pages"));
        self.say(&format!("{} pages RAM", self.system.ram.frames()));
        self.say("0 pages HighMem/MovableOnly");
        self.say(&format!("{} pages reserved", self.system.ram.frames() - stats.total));
    }

    fn show_processors(&self) {
        let tasks = self.system.table().all_tasks();
        let running: Vec<_> = tasks.iter().filter(|task| task.in_guest.load(Ordering::Relaxed)).collect();
        self.say(&format!("CPUs: {}, fibers waiting: {}", self.scheduler.cpus(), self.scheduler.waiting()));
        if running.is_empty() {
            self.say("No CPU runs guest code");
        }
        for task in running {
            self.say(&format!(
                "PID: {} Comm: {} in guest code, last call returned to {:#x}",
                task.tid(),
                task.comm_text(),
                task.position().ip
            ));
        }
    }

    fn show_tasks(&self, wanted: impl Fn(&Task) -> bool) {
        let mut tasks = self.system.table().all_tasks();
        tasks.sort_by_key(|task| task.tid());
        for task in tasks.iter().filter(|task| wanted(task)) {
            for line in describe(task) {
                self.say(&line);
            }
        }
    }
}

/// A task's line in `sysrq t`, and where it is.
fn describe(task: &Arc<Task>) -> Vec<String> {
    let process = task.process();
    let state = match (task.position().call, task.is_blocked()) {
        (None, _) => 'R',
        (Some(_), false) => 'S',
        (Some(_), true) => 'D',
    };
    let mut lines = vec![format!(
        "task:{:<15} state:{state} stack:0     pid:{:<5} tgid:{:<5} ppid:{:<6} flags:0x00000000",
        task.comm_text(),
        task.tid(),
        process.pid(),
        process.parent()
    )];
    lines.extend(stack(task));
    lines
}

/// Where a task is: what the kernel does for it, and its user stack, as Linux prints stacks.
pub fn stack(task: &Arc<Task>) -> Vec<String> {
    let position = task.position();
    let mut lines = vec!["Stack:".to_owned()];
    let memory = task.resources().memory;
    let mut words = Vec::new();
    if let (Some(memory), Some(sp)) = (&memory, position.sp) {
        let mut bytes = vec![0; STACK_SCAN_BYTES];
        // As far as the stack goes.
        let len = memory.read(sp, &mut bytes).unwrap_or(0);
        bytes.truncate(len);
        words = bytes.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_le_bytes)).collect();
    }
    for row in words.get(..STACK_WORDS.min(words.len())).unwrap_or_default().chunks(4) {
        lines.push(row.iter().map(|word| format!(" {word:08x}")).collect());
    }
    lines.push("Call Trace:".to_owned());
    lines.push(match position.call {
        Some(number) => format!(" [kernel] {}+0x0/0x0", syscall::name(number).unwrap_or("unknown_call")),
        None if task.in_guest.load(Ordering::Relaxed) => " [running]".to_owned(),
        None => " [kernel] ret_to_user+0x0/0x0".to_owned(),
    });
    let Some(memory) = memory else { return lines };
    let mut code = Vec::new();
    memory.for_each_vma(|vma| {
        if vma.rights.contains(platform::Protection::EXEC) {
            let name = vma.file.as_ref().map(|f| String::from_utf8_lossy(&f.path()).into_owned());
            code.push((vma.start, vma.end, vma.offset, name.or_else(|| vma.name.map(str::to_owned)).unwrap_or_else(|| "anon".into())));
        }
    });
    let show = |address: u64, sure: bool| {
        let (start, _, offset, name) = code.iter().find(|(start, end, ..)| (*start..*end).contains(&address))?;
        Some(format!(" [<{address:08x}>] {}{name}+{:#x}", if sure { "" } else { "? " }, address - start + offset))
    };
    lines.extend(show(position.ip, true));
    // Whatever points into code may be a return address: the mark says that it only may.
    lines.extend(words.iter().filter_map(|word| show(*word, false)).take(FRAMES));
    lines
}
