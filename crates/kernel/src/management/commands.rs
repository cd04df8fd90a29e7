//! What the console's commands do to this machine.

use super::ERROR;
use crate::config::End;
use crate::machine::{Ending, Machine};
use crate::sysrq::SysRq;
use crate::vdso::Vdso;
use abi::{Errno, SigInfo, Signal, SysError};
use fs::proc::Proc;
use mconsole::devices::Devices;
use mconsole::server::{self, Output, Refusal};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use sync::sched::Scheduler;
use task::System;
use vfs::{Caller, Credentials, FsContext, MountFlags, MountNamespace, OpenFlags, OpenHow, PathAt, SliceSink, Vfs};

/// Level of what `log` adds to the kernel's log.
const WARNING: u8 = 4;
/// How long work that has begun may go on after `stop`.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// A file of `/proc` is read in pieces of this size.
const READ_LEN: usize = 16 << 10;
/// Of a file of `/proc` at most this much is told, so that one without an end (`kmsg`) does not keep the console for ever.
const PROC_MAX: usize = 16 << 20;

/// The machine as the console's server asks it.
pub struct Commands {
    system: &'static System,
    vfs: &'static Vfs,
    scheduler: &'static Scheduler,
    vdso: Arc<Vdso>,
    devices: Arc<Devices>,
    ending: Arc<Ending>,
    sysrq: Arc<SysRq>,
    /// `/proc`, by a mount of the console's own.
    fs: Arc<FsContext>,
    namespace: Arc<MountNamespace>,
    credentials: Arc<Credentials>,
    /// All work had come to its end when the machine was stopped, and its file systems are frozen.
    frozen: bool,
}

impl Commands {
    pub fn new(machine: &Machine, proc: &Arc<Proc>) -> Result<Commands, Errno> {
        let mount = machine.vfs.new_mount(proc.clone(), b"proc", MountFlags::empty())?;
        let fs = FsContext::new(mount.root_path());
        Ok(Commands {
            system: machine.system,
            vfs: machine.vfs,
            scheduler: machine.scheduler,
            vdso: machine.vdso.clone(),
            devices: machine.configurable.clone(),
            ending: machine.ending.clone(),
            sysrq: machine.sysrq.clone(),
            fs,
            namespace: MountNamespace::new(mount),
            credentials: Arc::new(Credentials::root()),
            frozen: false,
        })
    }

    pub fn log_failure(&self, text: &str) {
        self.vfs.log.print(ERROR, text);
    }

    fn read_proc(&self, path: &[u8], output: Output<'_>) -> Result<(), SysError> {
        let caller =
            Caller { vfs: self.vfs, credentials: &self.credentials, fs: &self.fs, namespace: &self.namespace, file_size_limit: u64::MAX };
        let file = caller.open(PathAt::cwd(path), OpenHow::new(OpenFlags::NONBLOCK, 0))?;
        let (mut buffer, mut total) = (vec![0; READ_LEN], 0);
        loop {
            let mut sink = SliceSink::new(&mut buffer);
            let len = match file.read(&mut sink) {
                Ok(len) => len,
                // A file that one waits at: what is there has been told.
                Err(error) if error.errno() == Errno::EAGAIN => 0,
                Err(error) => return if total == 0 { Err(error) } else { Ok(()) },
            };
            if len == 0 || total >= PROC_MAX {
                return Ok(());
            }
            total += len;
            output(buffer.get(..len).unwrap_or_default());
        }
    }
}

impl server::Machine for Commands {
    fn version(&mut self) -> String {
        let names = self.system.uts.names.lock().clone();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        format!("Linux {} {} {} x86_64", text(&names.node), text(&names.release), text(&names.version))
    }

    fn halt(&mut self) {
        self.ending.at_once(End::Halted);
    }

    fn reboot(&mut self) {
        self.ending.at_once(End::Restart);
    }

    fn configure(&mut self, setting: &[u8]) -> Result<(), Refusal> {
        self.devices.configure(setting)
    }

    fn query(&mut self, device: &[u8]) -> Result<String, Refusal> {
        self.devices.query(device)
    }

    fn remove(&mut self, device: &[u8]) -> Result<(), Refusal> {
        self.devices.remove(device)
    }

    fn sysrq(&mut self, letter: Option<u8>, output: Output<'_>) -> Result<(), Refusal> {
        let (_, mut next) = self.vfs.log.range();
        self.sysrq.press(letter.unwrap_or(b'h'));
        // What was printed meanwhile, a line in a packet; others' lines too, as on the reference's console.
        while let Some(record) = self.vfs.log.at(next) {
            next = record.sequence + 1;
            output(&[&record.text[..], b"\n"].concat());
        }
        Ok(())
    }

    fn ctrl_alt_del(&mut self) {
        if self.system.ctrl_alt_del_restarts.load(Ordering::Relaxed) {
            self.system.hooks.power(task::system::Power::Restart);
        } else if let Ok(init) = self.system.process(1) {
            // An init that died meanwhile has ended the machine.
            let _ = init.send(task::signal::To::Process, SigInfo::kernel(Signal::SIGINT));
        }
    }

    fn stop(&mut self) {
        // Most of what is dirty is written while the machine still runs, so that it stands still the shorter.
        self.vfs.sync_all();
        self.frozen = self.scheduler.freeze(STOP_PATIENCE);
        sync::stop_clock();
        if !self.frozen {
            self.log_failure("mconsole: stopped in the middle of some work: the file systems could not be frozen");
            return;
        }
        for superblock in self.vfs.superblocks() {
            if let Err(errno) = superblock.file_system().freeze() {
                self.log_failure(&format!(
                    "mconsole: a file system ({}) could not be frozen ({errno})",
                    superblock.file_system().type_name()
                ));
            }
        }
        // Block devices that are used as files.
        self.vfs.page_caches.write_back_all();
    }

    fn go(&mut self) {
        if std::mem::take(&mut self.frozen) {
            for superblock in self.vfs.superblocks() {
                if let Err(errno) = superblock.file_system().thaw() {
                    self.log_failure(&format!(
                        "mconsole: a file system ({}) stays read-only ({errno})",
                        superblock.file_system().type_name()
                    ));
                }
            }
        }
        sync::continue_clock();
        self.vdso.clocks_changed();
        self.scheduler.thaw();
    }

    fn log(&mut self, text: &[u8]) {
        self.vfs.log.add(WARNING, 0, text);
    }

    fn proc_file(&mut self, path: &[u8], output: Output<'_>) -> Result<(), Refusal> {
        let mut begun = false;
        let read = self.read_proc(path, &mut |text| {
            begun = true;
            output(text);
        });
        let Err(error) = read else { return Ok(()) };
        match error.errno() {
            errno @ (Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES | Errno::ELOOP | Errno::ENAMETOOLONG | Errno::ENXIO) => {
                self.log_failure(&format!("open /proc/{}: -{}", String::from_utf8_lossy(path), errno.raw()));
                Err(Refusal::new("Failed to open file"))
            }
            _ => Err(Refusal::new("Read of file failed")),
        }
    }

    fn stack(&mut self, pid: i32, output: Output<'_>) -> bool {
        let Ok(task) = self.system.task(pid) else { return false };
        for line in crate::sysrq::stack(&task) {
            self.vfs.log.print(crate::wiring::INFO, &line);
            output(format!("{line}\n").as_bytes());
        }
        true
    }
}
