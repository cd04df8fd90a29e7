//! Starting a machine and waiting for its end.
//!
//! The calling thread makes the template of all stubs, and stubs die with it: it stays until the machine has ended, and does nothing but wait.

use crate::boot;
use crate::cgroupfs::CgroupFs;
use crate::config::{Config, End};
use crate::management;
use crate::sysrq::SysRq;
use crate::vdso::Vdso;
use crate::wiring::{INFO, JobControl, Wiring};
use abi::Errno;
use host::machine::{HostMachine, start_cpus};
use host::memory::MemoryFile;
use host::stub::{Stubs, guest_process_limit};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use sync::Timer;
use sync::sched::Scheduler;
use task::{Limits, System};
use vfs::{KernelLog, Vfs};

/// How the machine's end is told to the thread that waits for it.
pub struct Ending {
    end: SyncSender<End>,
    /// Nothing is written back any more.
    at_once: AtomicBool,
}

impl Ending {
    /// The machine ends. The first who says so counts.
    pub fn end(&self, end: End) {
        // Full or closed: the machine is ending already.
        let _ = self.end.try_send(end);
    }
    /// It ends at once: what has not been written back is lost, as when its plug is pulled.
    pub fn at_once(&self, end: End) {
        self.at_once.store(true, Ordering::SeqCst);
        self.end(end);
    }
    /// It panics, in the words of `text`.
    pub fn panic(&self, log: &KernelLog, text: &str) {
        log.print(0, text);
        self.end(End::Panicked(text.to_owned()));
    }
}

/// A machine that is up, before anything runs in it.
pub struct Machine {
    pub system: &'static System,
    pub vfs: &'static Vfs,
    pub scheduler: &'static Scheduler,
    pub stubs: &'static Stubs,
    pub jobs: Arc<JobControl>,
    /// The files of control groups, once they are there.
    pub cgroups: Arc<OnceLock<Arc<CgroupFs>>>,
    /// What can be configured from outside while it runs: drivers register their kinds at boot.
    pub configurable: Arc<mconsole::devices::Devices>,
    pub vdso: Arc<Vdso>,
    pub ending: Arc<Ending>,
    pub sysrq: Arc<SysRq>,
    /// Its identity on the host.
    pub host: Arc<management::Host>,
}

/// Starts a machine and waits until it has ended. Once in a process.
pub fn start(config: Config) -> End {
    if let Some(sentence) = host::checks::first_missing() {
        return End::NotStarted(sentence);
    }
    host::channel::note_descriptors();
    host::checks::raise_descriptor_limit();
    host::start::keep_freed_memory();
    match bring_up(&config) {
        Ok((machine, end)) => {
            let ended = match boot::boot(&machine, &config) {
                Ok(()) => wait_for_end(&end),
                Err(end) => end,
            };
            shut_down(&machine, &ended);
            match ended {
                End::Restart if config.no_reboot => End::Halted,
                ended => ended,
            }
        }
        Err(sentence) => End::NotStarted(sentence),
    }
}

fn bring_up(config: &Config) -> Result<(Machine, Receiver<End>), String> {
    let memory_error =
        |errno: Errno| format!("guest memory of {} MiB could not be had from the host ({errno}); give less: mem=", config.mem_bytes >> 20);
    let len = usize::try_from(config.mem_bytes).map_err(|_| memory_error(Errno::ENOMEM))?;
    let memory = MemoryFile::new(len).map_err(memory_error)?;
    let process_limit = guest_process_limit();
    let wish = host::checks::wished_hand_over()?;
    let stubs = Stubs::start(memory.descriptor(), config.mem_bytes, process_limit, wish).map_err(host::checks::explain_start)?;
    let ram = ram::Ram::new(memory.into_backing());
    sync::install_clock(Box::new(host::clock::MachineClock::new()));
    stubs.warm_up().map_err(host::checks::explain_start)?;
    let scheduler = Scheduler::install(Box::new(HostMachine::new(stubs)), config.cpus.clamp(1, crate::MAX_CPUS))
        .map_err(|errno| format!("the scheduler could not be started ({errno})"))?;
    start_cpus(scheduler, stubs).map_err(|errno| format!("the virtual processors' threads could not be started ({errno})"))?;

    crate::balance::start(ram).map_err(|errno| format!("a thread could not be started ({errno})"))?;
    let vfs = Vfs::new(ram);
    for remark in &config.remarks {
        vfs.log.print(INFO, remark);
    }
    let vdso = Vdso::new(ram, stubs.host_clock_gettime()).map_err(memory_error)?;
    let (sender, end) = sync_channel(1);
    let cgroups = Arc::new(OnceLock::new());
    let ending = Arc::new(Ending { end: sender, at_once: AtomicBool::new(false) });
    let wiring = Wiring {
        cgroups: cgroups.clone(),
        scheduler,
        vfs,
        vdso: vdso.clone(),
        ending: ending.clone(),
        first_is_command: config.program.search_path,
    };
    let limits = Limits { threads_max: process_limit.max(16), ..Limits::default() };
    let system = System::new(ram, vfs, Arc::new(stubs), Box::new(wiring), limits);
    crate::sigio::install(system);
    sample_load(system);
    let jobs = Arc::new(JobControl::default());
    let _ = jobs.system.set(system);
    let sysrq = SysRq::new(system, scheduler, ending.clone());
    let host = management::Host::prepare(&vfs.log, &config.management);
    Ok((Machine { system, vfs, scheduler, stubs, jobs, cgroups, configurable: Arc::default(), vdso, ending, sysrq, host }, end))
}

/// Waits for the machine to say that it has ended, or for this process to be told to end.
fn wait_for_end(end: &Receiver<End>) -> End {
    loop {
        match end.recv_timeout(Duration::from_secs(3600)) {
            Ok(end) => return end,
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return End::Halted,
        }
    }
}

/// Takes away what the machine has on the host, lets output drain and gives the terminal back. Stubs and threads end with the process.
fn shut_down(machine: &Machine, ended: &End) {
    if let End::Panicked(text) = ended {
        machine.host.notify_panic(text);
    }
    // A stopped machine can end too, and what follows waits for times.
    sync::continue_clock();
    if !machine.ending.at_once.load(Ordering::SeqCst) {
        machine.vfs.sync_all();
    }
    machine.host.remove();
    // A reader that does not read keeps us no longer than this; what it missed is its own affair.
    let _ = host::channel::flush_all(Some(sync::monotonic_ns() + 5_000_000_000));
    host::channel::restore_terminals();
    host::channel::close_windows();
}

/// Takes a sample of the load every few seconds, as long as the machine is there.
fn sample_load(system: &'static System) {
    static SAMPLER: OnceLock<Timer> = OnceLock::new();
    let sampler = SAMPLER.get_or_init(|| {
        Timer::new(move || {
            let running = system.table().all_tasks().iter().filter(|task| task.in_guest.load(Ordering::Relaxed)).count();
            let waiting = sync::sched::scheduler().map_or(0, Scheduler::waiting);
            system.load.sample(running as u64 + u64::from(waiting));
            if let Some(sampler) = SAMPLER.get() {
                sampler.arm(sync::monotonic_ns() + task::load::PERIOD_NS);
            }
        })
    });
    sampler.arm(sync::monotonic_ns() + task::load::PERIOD_NS);
}
